//! How many bytes tenants may still write through this node.
//!
//! What a tenant stores in all its partitions is added up by the leader of the meta group every few seconds. So that what is written
//! between two of its looks does not go beyond the limit, it tells each node how much that one may take until the next: a part of
//! what is left (`server/stored.rs`). Both sides speak of totals since this process began, so that what is told late or twice
//! does no harm: `accepted` is what was taken, `accepted_max` what it may become.
//!
//! A tenant that the leader did not know yet, because it had no collection, may write a node's share of its whole limit. Before
//! the first word of a leader nobody knows what there is, and writes of tenants wait for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::peer;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::tenant::{Limit, Tenancy};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::env::{clock, random};

/// How long a write waits for the first word.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// When there may be more.
const NEXT_LOOK: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Quotas {
    boot: u64,
    tenants: Mutex<HashMap<String, Quota>>,
    /// Among how many nodes limits are shared; 0: nobody said so yet.
    nodes: watch::Sender<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Quota {
    accepted: u64,
    in_flight: u64,
    accepted_max: Option<u64>,
}

impl Default for Quotas {
    fn default() -> Quotas {
        // 0 is what a leader says to whom it does not know.
        let boot = random::u64().max(1);
        Quotas { boot, tenants: Mutex::default(), nodes: watch::Sender::new(0) }
    }
}

/// Bytes on their way into a store; under way until it is dropped.
#[derive(Debug)]
pub struct Reserved {
    quotas: Arc<Quotas>,
    tenant: String,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(quota) = self.quotas.tenants.lock().get_mut(&self.tenant) {
            quota.in_flight = quota.in_flight.saturating_sub(self.bytes);
        }
    }
}

impl Quotas {
    /// Takes so many bytes for a write of the tenant's.
    ///
    /// # Errors
    /// The tenant's limit, if they are more than are left for this node until the next look; `UNAVAILABLE` if nobody said in time
    /// what is left.
    pub async fn reserve(self: &Arc<Quotas>, tenancy: &Tenancy, bytes: u64) -> Result<Reserved, Refusal> {
        let mut nodes = self.nodes.subscribe();
        let deadline = (clock::now() + TOLD_WITHIN).to_tokio();
        let nodes = match tokio::time::timeout_at(deadline, nodes.wait_for(|nodes| *nodes > 0)).await {
            Ok(Ok(nodes)) => *nodes,
            Ok(Err(_)) | Err(_) => {
                let tenant = &tenancy.tenant;
                return Err(Refusal::Unavailable(format!(
                    "nobody has told yet what tenant `{tenant}` stores"
                )));
            }
        };
        let mut tenants = self.tenants.lock();
        let quota = tenants.entry(tenancy.tenant.clone()).or_default();
        let max = quota.accepted_max.unwrap_or(tenancy.limits.max_storage_bytes / nodes);
        let accepted = quota.accepted.saturating_add(bytes);
        if accepted > max {
            // By the next look there may be more for this node: something was deleted, or others wrote less.
            let (tenant, max) = (tenancy.tenant.clone(), tenancy.limits.max_storage_bytes);
            return Err(Refusal::Quota { tenant, limit: Limit::Storage, max, retry_after: NEXT_LOOK });
        }
        (quota.accepted, quota.in_flight) = (accepted, quota.in_flight.saturating_add(bytes));
        Ok(Reserved { quotas: self.clone(), tenant: tenancy.tenant.clone(), bytes })
    }

    /// What a leader says; of another process of this node, it says nothing.
    pub fn told(&self, request: &peer::StatusRequest) {
        if request.boot != self.boot {
            return;
        }
        let rooms: BTreeMap<&str, u64> =
            request.rooms.iter().map(|room| (room.tenant.as_str(), room.accepted_max)).collect();
        let mut tenants = self.tenants.lock();
        // Who was known and is not any more has nothing left.
        tenants.retain(|tenant, quota| {
            quota.accepted_max.is_none() || quota.in_flight > 0 || rooms.contains_key(tenant.as_str())
        });
        for (tenant, accepted_max) in rooms {
            tenants.entry(tenant.to_owned()).or_default().accepted_max = Some(accepted_max);
        }
        drop(tenants);
        self.nodes.send_replace(u64::from(request.nodes.max(1)));
    }

    /// Which process this is, and what was taken here of each tenant. To be asked before the stores are: what is no longer under way
    /// is in them by then.
    pub fn tell(&self) -> (u64, Vec<peer::TenantWrites>) {
        let tenants = self.tenants.lock();
        let writes = tenants.iter().map(|(tenant, quota)| peer::TenantWrites {
            tenant: tenant.clone(),
            accepted: quota.accepted,
            in_flight: quota.in_flight,
        });
        (self.boot, writes.collect())
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::tenant::{Class, Isolation, Limits};
    use futures::FutureExt as _;

    use super::*;

    fn tenancy(max_storage_bytes: u64) -> Tenancy {
        let limits = Limits { max_storage_bytes, ..Class::Default.limits() };
        Tenancy {
            tenant: "acme".into(),
            class: Class::Default,
            isolation: Isolation::Collection,
            limits,
            is_full: false,
        }
    }

    fn says(quotas: &Quotas, nodes: u32, rooms: &[(&str, u64)]) -> peer::StatusRequest {
        let room = |(tenant, accepted_max): &(&str, u64)| peer::TenantRoom {
            tenant: (*tenant).to_owned(),
            accepted_max: *accepted_max,
        };
        peer::StatusRequest { boot: quotas.boot, nodes, rooms: rooms.iter().map(room).collect() }
    }

    #[tokio::test]
    async fn nothing_is_taken_before_somebody_says_what_is_left() {
        let quotas = Arc::new(Quotas::default());
        assert!(quotas.reserve(&tenancy(100), 1).now_or_never().is_none(), "it waits");
        // Of another process of this node.
        quotas.told(&peer::StatusRequest { boot: quotas.boot + 1, nodes: 1, rooms: vec![] });
        assert!(quotas.reserve(&tenancy(100), 1).now_or_never().is_none());
        quotas.told(&says(&quotas, 2, &[]));
        // A new tenant has this node's half.
        let half = quotas.reserve(&tenancy(100), 50).await.unwrap();
        assert!(matches!(quotas.reserve(&tenancy(100), 1).await, Err(Refusal::Quota { .. })));
        assert_eq!(quotas.tell().1[0].in_flight, 50);
        drop(half);
        assert_eq!((quotas.tell().1[0].in_flight, quotas.tell().1[0].accepted), (0, 50));
    }

    #[tokio::test]
    async fn as_much_is_taken_as_was_told_however_often() {
        let quotas = Arc::new(Quotas::default());
        quotas.told(&says(&quotas, 1, &[("acme", 30)]));
        quotas.reserve(&tenancy(1_000), 30).await.unwrap();
        quotas.told(&says(&quotas, 1, &[("acme", 30)]));
        assert!(quotas.reserve(&tenancy(1_000), 1).await.is_err(), "the same word again is no more room");
        quotas.told(&says(&quotas, 1, &[("acme", 40)]));
        quotas.reserve(&tenancy(1_000), 10).await.unwrap();
        // It has no collection any more, and then one again.
        quotas.told(&says(&quotas, 1, &[]));
        assert!(quotas.tell().1.is_empty());
        quotas.reserve(&tenancy(1_000), 1_000).await.unwrap();
    }
}
