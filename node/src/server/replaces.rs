//! What the leader of a partition does about replacements that nobody else brings to an end.
//!
//! As a rule the router that began one ends it. Where it cannot, the map and the partition's state say what is left to do:
//! take up what was committed, let go of what never will be, and have given up what nothing came for in a long time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{CollectionId, Epoch, PartitionId};
use flotilla_proto::placement::{ReplaceId, Replaces};
use flotilla_proto::refusal::Refusal;
use parking_lot::Mutex;

use crate::env::clock;
use crate::machine::replaces::Seen;
use crate::meta::Meta;
use crate::meta::catalogue::Change;
use crate::meta::catalogue::replaces::Turn;
use crate::partition::{Owned, Replica};

/// A replacement for which nothing comes in so long is given up: whoever began it sends a part, if only an empty one, more
/// often.
const IDLE_MAX: Duration = Duration::from_secs(60);
const SUBMIT_MAX: Duration = Duration::from_secs(5);

/// What is left to do.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    /// To take up what was committed.
    Settle,
    /// To let go of these.
    Forget(Vec<ReplaceId>),
    /// To wait for these.
    Wait(Vec<(ReplaceId, u64)>),
}

/// What is left to do, by the map of this epoch and the partition's state. A map from before a replacement was opened says
/// nothing about it.
fn decide(epoch: Epoch, map: &Replaces, seen: &Seen) -> Work {
    if map.generation > seen.generation {
        return Work::Settle;
    }
    let known = seen.staged.iter().filter(|(_, since, _)| *since <= epoch);
    let over: Vec<ReplaceId> = known.filter(|(id, ..)| !map.is_open(*id)).map(|(id, ..)| *id).collect();
    if !over.is_empty() {
        return Work::Forget(over);
    }
    Work::Wait(seen.staged.iter().map(|(id, _, sequence)| (*id, *sequence)).collect())
}

/// See the module.
pub(super) struct ReplaceKeeper {
    meta: Arc<Meta>,
    /// The last part of each that is waited for, and since when it is the last.
    waits: Mutex<HashMap<(PartitionId, ReplaceId), (u64, clock::Instant)>>,
}

impl ReplaceKeeper {
    /// It has seen nothing yet.
    pub fn new(meta: Arc<Meta>) -> ReplaceKeeper {
        ReplaceKeeper { meta, waits: Mutex::default() }
    }

    /// Forgets what it saw of partitions that are not led here any more.
    pub fn retain(&self, is_led: impl Fn(PartitionId) -> bool) {
        self.waits.lock().retain(|(partition, _), _| is_led(*partition));
    }

    /// Does what is left to do in this partition, which this node leads.
    pub async fn look_after(&self, replica: &Replica) {
        let map = self.meta.map();
        let Some((placement, _)) = map.partition(replica.id()) else { return };
        let seen = replica.ledger().replaces.borrow().clone();
        let done = match decide(map.epoch, &placement.replaces, &seen) {
            Work::Settle => replica.settle(&Owned::of(placement, replica.id())).await,
            Work::Forget(ids) => {
                tracing::info!(partition = replica.id().0, ?ids, "replacements were given up");
                replica.replace_forget(ids).await
            }
            Work::Wait(waiting) => self.close(placement.id, self.idle(replica.id(), &waiting)).await,
        };
        if let Err(why) = done {
            tracing::debug!(partition = replica.id().0, %why, "a replacement waits");
        }
    }

    /// Those for which nothing came in too long a time.
    fn idle(&self, partition: PartitionId, waiting: &[(ReplaceId, u64)]) -> Vec<ReplaceId> {
        let mut waits = self.waits.lock();
        waits.retain(|(of, id), _| *of != partition || waiting.iter().any(|(known, _)| known == id));
        let mut idle = Vec::new();
        for (id, sequence) in waiting {
            let now = (*sequence, clock::now());
            let wait = waits.entry((partition, *id)).or_insert(now);
            if wait.0 != *sequence {
                *wait = now;
            } else if wait.1.elapsed() > IDLE_MAX {
                idle.push(*id);
            }
        }
        idle
    }

    async fn close(&self, collection: CollectionId, ids: Vec<ReplaceId>) -> Result<(), Refusal> {
        for id in ids {
            let change = Change::Replace { collection, id, turn: Turn::Close };
            self.meta.submit(change, SUBMIT_MAX).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_decides_and_an_older_map_does_not() {
        let (a, b) = ((1, 1), (1, 2));
        let seen =
            Seen { generation: 3, staged: vec![(a, Epoch(7), 4), (b, Epoch(9), 2)], ..Seen::default() };
        let mut map = Replaces { generation: 3, committed: vec![(3, (9, 9))], open: vec![(a, 0), (b, 0)] };
        assert_eq!(decide(Epoch(9), &map, &seen), Work::Wait(vec![(a, 4), (b, 2)]));
        map.open.clear();
        assert_eq!(decide(Epoch(8), &map, &seen), Work::Forget(vec![a]));
        assert_eq!(decide(Epoch(9), &map, &seen), Work::Forget(vec![a, b]));
        map.committed.push((4, a));
        map.generation = 4;
        assert_eq!(decide(Epoch(9), &map, &seen), Work::Settle);
    }
}
