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
            let _turn = turn.map_err(|_| exceeded("the time was up while the tenant's requests were counted"))?;
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
