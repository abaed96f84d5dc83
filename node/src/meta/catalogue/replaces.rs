//! Replacements of generations, as the map decides them.
//!
//! A replacement is **opened**, then every partition holds back what comes for it, then it is **committed**: the collection
//! is of a new generation and so of a new epoch, and every partition takes up what it held back before it answers at that
//! epoch. Whoever read at the epoch before is refused by a partition that has taken it up, and reads anew. So nobody sees
//! half of it, whatever is slow.
//!
//! One that was not committed is **closed**: by whoever began it, by a partition that waited too long, or because the
//! collection's fields or slots changed, for which what is held back was not made. Only the newest are remembered. A commit
//! says which generation all partitions have reached, so that none is forgotten that one of them has still to take up.

use flotilla_proto::ids::CollectionId;
use flotilla_proto::limits::{REPLACES_KEPT_MAX, REPLACES_OPEN_MAX};
use flotilla_proto::placement::ReplaceId;
use serde::{Deserialize, Serialize};

use super::{Catalogue, Outcome, Refused};

/// One that was opened so long ago gives way to a new one if there are too many.
const OLD_MS: u64 = 3_600_000;

/// A turn of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Turn {
    /// It begins.
    Open {
        /// When, in milliseconds since 1970, by whoever asks.
        now_ms: u64,
    },
    /// It is whole in every partition.
    Commit {
        /// The generation that every partition has reached.
        settled: u64,
    },
    /// It will not be committed.
    Close,
}

impl Catalogue {
    /// Takes a turn of the replacement. Each may be asked for again: one that was committed answers with its generation.
    pub(super) fn replace(
        &mut self,
        collection: CollectionId,
        id: ReplaceId,
        turn: Turn,
    ) -> Result<Outcome, Refused> {
        let at = self.map.collections.iter().position(|placement| placement.id == collection);
        let at = at.ok_or_else(|| Refused::NoCollection(collection.to_string()))?;
        let placement = &mut self.map.collections[at];
        let (epoch, replaces) = (placement.epoch, &mut placement.replaces);
        if let Some(generation) = replaces.begun_by(id) {
            return Ok(Outcome::Replaced { epoch, generation });
        }
        match turn {
            Turn::Open { .. } if replaces.is_open(id) => {
                return Ok(Outcome::Replaced { epoch: self.map.epoch, generation: 0 });
            }
            Turn::Open { now_ms } => {
                if replaces.open.len() >= REPLACES_OPEN_MAX {
                    replaces.open.retain(|(_, opened)| now_ms.saturating_sub(*opened) < OLD_MS);
                }
                if replaces.open.len() >= REPLACES_OPEN_MAX {
                    let why = format!("{REPLACES_OPEN_MAX} replacements of the collection are under way");
                    return Err(Refused::Full(why));
                }
                replaces.open.push((id, now_ms));
            }
            Turn::Commit { settled } => {
                if !replaces.is_open(id) {
                    let why =
                        "the replacement was given up: the collection changed meanwhile, or it took too long";
                    return Err(Refused::Stale(why.to_owned()));
                }
                let is_full = replaces.committed.len() >= REPLACES_KEPT_MAX;
                if is_full && replaces.committed.first().is_some_and(|(oldest, _)| *oldest <= settled) {
                    replaces.committed.remove(0);
                } else if is_full {
                    let why = format!("a partition has {REPLACES_KEPT_MAX} replacements still to take up");
                    return Err(Refused::Full(why));
                }
                replaces.open.retain(|(open, _)| *open != id);
                replaces.generation += 1;
                replaces.committed.push((replaces.generation, id));
                let generation = replaces.generation;
                let epoch = self.next_epoch();
                self.map.collections[at].epoch = epoch;
                return Ok(Outcome::Replaced { epoch, generation });
            }
            Turn::Close => replaces.open.retain(|(open, _)| *open != id),
        }
        Ok(Outcome::Replaced { epoch: self.next_epoch(), generation: 0 })
    }
}
