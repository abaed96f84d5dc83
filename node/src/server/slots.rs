//! A keeper of slots for each partition that this node leads: started when it begins to lead, stopped when it no longer does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::PartitionId;
use flotilla_proto::placement::CollectionPlacement;
use flotilla_proto::refusal::Refusal;
use parking_lot::Mutex;

use crate::env::clock;
use crate::meta::Meta;
use crate::meta::catalogue::Change;
use crate::partition::Replica;
use crate::partition::hand::Neighbour;
use crate::partition::registry::Registry;
use crate::peers::Peers;
use crate::worker::slots::{Keeper, Kept, Pace, Progress, Reach};

/// How often a move's progress is told.
const REPORT_EVERY: Duration = Duration::from_millis(500);
const SUBMIT_MAX: Duration = Duration::from_secs(5);

/// What keepers reach from this node.
struct Here {
    registry: Arc<Registry>,
    meta: Arc<Meta>,
    peers: Arc<Peers>,
}

impl Reach for Here {
    type Taker = Neighbour;

    fn taker(&self, collection: &CollectionPlacement, id: PartitionId) -> Neighbour {
        Neighbour::new(self.registry.clone(), self.peers.clone(), collection, id)
    }

    async fn commit(&self, _: &CollectionPlacement, id: u64) -> Result<(), Refusal> {
        let through = Change::EndMove { id, failure: None };
        self.meta.submit(through, SUBMIT_MAX).await.map(drop)
    }

    async fn room(&self, bytes: usize) {
        self.registry.throttle().take(bytes).await;
    }
}

/// A keeper at work, and over which replica.
struct Running {
    replica: Arc<Replica>,
    kept: Kept,
    told: Progress,
    told_at: Option<clock::Instant>,
}

/// See the module.
pub(super) struct SlotKeepers {
    reach: Arc<Here>,
    pace: Pace,
    running: Mutex<HashMap<PartitionId, Running>>,
}

impl SlotKeepers {
    /// None yet.
    pub fn new(registry: Arc<Registry>, meta: Arc<Meta>, peers: Arc<Peers>, pace: Pace) -> SlotKeepers {
        SlotKeepers { reach: Arc::new(Here { registry, meta, peers }), pace, running: Mutex::default() }
    }

    /// These replicas lead, and no others do.
    pub async fn look_after(&self, led: &[Arc<Replica>]) {
        for progress in self.keep(led) {
            let Progress { id, share, phase, .. } = progress;
            let permille = (share * 1000.0) as u16;
            let report = Change::Report { id, permille, note: phase.to_owned() };
            if let Err(why) = self.reach.meta.submit(report, SUBMIT_MAX).await {
                tracing::debug!(%why, "a move's progress is not told");
            }
        }
    }

    /// Starts and stops keepers; what is to be told comes back.
    fn keep(&self, led: &[Arc<Replica>]) -> Vec<Progress> {
        let mut running = self.running.lock();
        // A replica that was opened anew is another one.
        running.retain(|_, keeper| led.iter().any(|replica| Arc::ptr_eq(replica, &keeper.replica)));
        let mut due = Vec::new();
        for replica in led {
            let keeper = running.entry(replica.id()).or_insert_with(|| {
                let keeper = Keeper::new(replica.clone(), self.reach.clone()).with_pace(self.pace);
                let kept = keeper.start(self.reach.meta.watch());
                Running { replica: replica.clone(), kept, told: Progress::default(), told_at: None }
            });
            let now = keeper.kept.progress();
            let is_late = keeper.told_at.is_none_or(|at| at.elapsed() >= REPORT_EVERY);
            if now.id != 0 && now != keeper.told && is_late {
                (keeper.told, keeper.told_at) = (now.clone(), Some(clock::now()));
                due.push(now);
            }
        }
        due
    }
}
