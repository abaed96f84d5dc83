//! The requests that a tenant may still make, as far as this router knows.
//!
//! They are counted by the leader of the meta group. A router asks it for a quarter of a second's worth at once and spends
//! those; where none are left, it refuses until the time that it was told. So the limit holds for all routers together,
//! and neither a request nor a refusal asks anybody, most of the time.
//!
//! While the leader does not answer, each router counts by itself: requests are answered, and with several routers there may be
//! several times as many.

use std::time::Duration;

use flotilla_proto::refusal::Refusal;
use flotilla_proto::shard;
use flotilla_proto::shard::meta_client::MetaClient;
use flotilla_proto::tenant::{Bucket, Limit, Limits, slice};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::Member;
use crate::admission::{Deadline, exceeded};
use crate::fanout::{Fanout, Resend};
use crate::line::Line;

/// The leader is given up for this request if it takes longer.
const ASK_MAX: Duration = Duration::from_secs(1);
/// How long a router counts by itself before it asks again.
const ALONE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Purse {
    held: Mutex<Held>,
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Held {
    requests: u64,
    /// There are none before.
    empty_until: Option<Instant>,
    /// What it counts by while the leader is silent, the fixed point of its times, and until when.
    alone: Option<(Bucket, Instant, Instant)>,
    per_minute: u64,
}

impl Held {
    /// Whether a request may go on, or how long it is to wait; none: ask.
    fn take(&mut self, now: Instant) -> Option<Result<(), Duration>> {
        if let Some(left) = self.requests.checked_sub(1) {
            self.requests = left;
            return Some(Ok(()));
        }
        if let Some(until) = self.empty_until.filter(|until| *until > now) {
            return Some(Err(until - now));
        }
        let (bucket, since, until) = self.alone.as_mut()?;
        if *until <= now {
            return None;
        }
        let taken = bucket.take(1, now - *since);
        Some(if taken > 0 { Ok(()) } else { Err(bucket.wait(1)) })
    }

    fn granted(&mut self, answer: &shard::LeaseResponse, now: Instant) {
        self.per_minute = answer.limits.as_ref().map_or(0, |limits| limits.max_requests_per_minute);
        self.requests += answer.granted;
        self.alone = None;
        let wait = Duration::from_millis(answer.retry_after_ms.clamp(1, 60_000));
        self.empty_until = (answer.granted == 0).then(|| now + wait);
    }

    fn counts_alone(&mut self, now: Instant) {
        let (bucket, since) = match self.alone.take() {
            Some((bucket, since, _)) => (bucket, since),
            None => (Bucket::new(self.per_minute, Duration::ZERO), now),
        };
        self.alone = Some((bucket, since, now + ALONE));
    }
}

impl Purse {
    /// Spends one request.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` with the time to wait, if there is none; `DEADLINE_EXCEEDED`.
    pub async fn spend(
        &self,
        member: &Member,
        limits: &Limits,
        fanout: &Fanout,
        by: Deadline,
    ) -> Result<(), Status> {
        let taken = self.held.lock().take(Instant::now());
        let taken = match taken {
            Some(taken) => taken,
            None => self.ask(member, limits, fanout, by).await?,
        };
        taken.map_err(|retry_after| {
            let max = match self.held.lock().per_minute {
                0 => limits.max_requests_per_minute,
                told => told,
            };
            let (tenant, limit) = (member.tenant.clone(), Limit::Requests);
            Refusal::Quota { tenant, limit, max, retry_after }.into()
        })
    }

    /// One asks at a time; who comes meanwhile shares the answer.
    async fn ask(
        &self,
        member: &Member,
        limits: &Limits,
        fanout: &Fanout,
        by: Deadline,
    ) -> Result<Result<(), Duration>, Status> {
        loop {
            let turn = tokio::time::timeout_at(by.at(), self.asking.lock()).await;
            let _turn =
                turn.map_err(|_| exceeded("the time was up while the tenant's requests were counted"))?;
            if let Some(taken) = self.held.lock().take(Instant::now()) {
                return Ok(taken);
            }
            let per_minute = match self.held.lock().per_minute {
                0 => limits.max_requests_per_minute,
                told => told,
            };
            let answer = lease(fanout, member, slice(per_minute), by.at_most(ASK_MAX)).await;
            let now = Instant::now();
            let mut held = self.held.lock();
            match answer {
                Ok(answer) => held.granted(&answer, now),
                Err(status) => {
                    tracing::warn!(error = %status.message(), "nobody counts the requests of tenants: counted here");
                    held.per_minute = per_minute;
                    held.counts_alone(now);
                }
            }
            if let Some(taken) = held.take(now) {
                return Ok(taken);
            }
        }
    }
}

/// Asks the leader of the meta group for so many requests of the tenant's.
pub(super) async fn lease(
    fanout: &Fanout,
    member: &Member,
    wanted: u64,
    by: Deadline,
) -> Result<shard::LeaseResponse, Status> {
    let (tenant, class) = (member.tenant.clone(), member.class.name().to_owned());
    let message = shard::LeaseRequest { tenant, class, wanted };
    let send = |mut meta: MetaClient<Line>, request| async move { meta.lease(request).await };
    by.bound(fanout.meta(by, Resend::Freely, message, send)).await
}

#[cfg(test)]
mod tests {
    use flotilla_proto::convert::limits_to_wire;
    use flotilla_proto::tenant::Class;

    use super::*;

    /// The leader of the meta group, as far as routers see it.
    fn leader(bucket: &mut Bucket, limits: &Limits, wanted: u64, now: Duration) -> shard::LeaseResponse {
        let granted = bucket.take(wanted, now);
        let wait = if granted == 0 { bucket.wait(wanted) } else { Duration::ZERO };
        shard::LeaseResponse {
            granted,
            retry_after_ms: wait.as_millis() as u64,
            limits: Some(limits_to_wire(limits)),
            last_minute: 0,
        }
    }

    /// What routers together admit within a minute in which each is asked every `every`, and how often they ask the leader.
    fn minute(routers: usize, per_minute: u64, every: Duration) -> (u64, u64) {
        let limits = Limits { max_requests_per_minute: per_minute, ..Class::Default.limits() };
        let (start, mut bucket) = (Instant::now(), Bucket::new(per_minute, Duration::ZERO));
        let mut routers: Vec<Held> = (0..routers).map(|_| Held::default()).collect();
        let (mut admitted, mut asked, mut at) = (0, 0, Duration::ZERO);
        while at < Duration::from_secs(60) {
            for held in &mut routers {
                let mut taken = held.take(start + at);
                if taken.is_none() {
                    asked += 1;
                    held.granted(&leader(&mut bucket, &limits, slice(per_minute), at), start + at);
                    taken = held.take(start + at);
                }
                admitted += u64::from(taken == Some(Ok(())));
            }
            at += every;
        }
        (admitted, asked)
    }

    #[test]
    fn however_many_routers_there_are_a_minute_sees_the_limit_within_a_twentieth() {
        for per_minute in [1_000, 10_000] {
            for routers in [1, 2, 5] {
                let (admitted, asked) = minute(routers, per_minute, Duration::from_micros(1_700));
                let allowed = per_minute - per_minute / 20..=per_minute + per_minute / 20;
                assert!(allowed.contains(&admitted), "{admitted} of {per_minute} by {routers}");
                assert!(asked <= 1_000 * routers as u64, "{asked} questions by {routers} of {per_minute}");
            }
        }
    }

    #[test]
    fn a_tenant_within_its_limit_is_not_refused() {
        let (admitted, _) = minute(2, 1_000, Duration::from_millis(150));
        assert_eq!(admitted, 800);
    }

    #[test]
    fn while_the_leader_is_silent_a_router_counts_by_itself_and_asks_again_later() {
        let (start, mut held) = (Instant::now(), Held { per_minute: 600, ..Held::default() });
        held.counts_alone(start);
        let admitted = (0..100).filter(|_| held.take(start) == Some(Ok(()))).count();
        assert_eq!(admitted, 20);
        assert!(matches!(held.take(start), Some(Err(_))));
        assert_eq!(held.take(start + ALONE), None);
        held.counts_alone(start + ALONE);
        assert_eq!(held.take(start + ALONE), Some(Ok(())), "it goes on where it was, not anew");
    }
}
