//! Invariants that no node sees alone, looked at after every step (`node/src/invariants.rs` lists them all).

use std::collections::BTreeMap;

use flotilla_node::raft::Synced;
use flotilla_proto::ids::PartitionId;

use crate::host::Desk;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Witness {
    seen: BTreeMap<(String, PartitionId), Seen>,
}

/// What a replica had synced.
#[derive(Clone, Copy, Debug)]
struct Seen {
    life: u64,
    /// Committed and synced up to here, and up to where before that: the last batch of a log may be lost to a bit that flips in
    /// it, which then looks like a write that was cut short.
    log: u64,
    log_before: u64,
    voted: u64,
}

impl Witness {
    /// Looks at all running nodes.
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn look(&mut self, desk: &Desk) -> Result<(), String> {
        let mut led: BTreeMap<PartitionId, String> = BTreeMap::new();
        for (name, life, node) in desk.running() {
            for group in node.sure_to_lead() {
                if let Some(other) = led.insert(group, name.clone()) {
                    return Err(format!(
                        "invariant one-lease: {other} and {name} are sure to lead group {group}"
                    ));
                }
            }
            let (synced, quarantined) = (node.synced(), node.quarantined());
            // A replica that is given up, or made anew, begins without a past.
            self.seen.retain(|(host, group), seen| {
                let is_open = synced.iter().any(|(open, _)| open == group);
                *host != name || is_open || seen.life != life && !quarantined.contains(group)
            });
            for (group, now) in synced {
                self.compare(&name, life, group, now)?;
            }
        }
        Ok(())
    }

    fn compare(&mut self, name: &str, life: u64, group: PartitionId, now: Synced) -> Result<(), String> {
        let new = Seen { life, log: 0, log_before: 0, voted: 0 };
        let seen = self.seen.entry((name.to_owned(), group)).or_insert(new);
        if seen.life != life {
            if now.at_boot < seen.log_before {
                let (found, had) = (now.at_boot, seen.log_before);
                return Err(format!(
                    "invariant synced-stays: {name} had synced group {group} up to the committed entry {had}, and comes back \
                     with {found}"
                ));
            }
            if now.term < seen.voted {
                let (found, had) = (now.term, seen.voted);
                return Err(format!(
                    "invariant synced-stays: {name} had voted in term {had} of group {group}, and comes back with {found}"
                ));
            }
            *seen = Seen { life, log: seen.log.min(now.at_boot), ..*seen };
        }
        if now.log > seen.log {
            (seen.log_before, seen.log) = (seen.log, now.log);
        }
        seen.voted = seen.voted.max(now.voted);
        Ok(())
    }
}
