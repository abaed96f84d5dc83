//! What a partition owns, by the map of one epoch, and what of its rows a read at that epoch may show.
//!
//! A request fixes one epoch of its collection, so all partitions that answer it agree on who owns which slot. A partition
//! may hold rows of slots that it does not own at that epoch (they come, or go): those are hidden. And it may not hold
//! what it owns at that epoch, because it has given it away since, or has not got it yet: then the request is refused as
//! stale, and the router asks again by the newer map. What of the two it is stands in the state that is read
//! ([`Presence`](crate::storage::Presence)), so it needs no clock and no luck.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_proto::area::Area;
use flotilla_proto::ids::{Epoch, PartitionId};
use flotilla_proto::placement::CollectionPlacement;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Refusal;

use crate::query::Curtain;
use crate::storage::View;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Of the collection's placement.
    pub epoch: Epoch,
    /// The keys.
    pub area: Area,
}

impl Owned {
    /// What `placement` says of the partition.
    pub fn of(placement: &CollectionPlacement, partition: PartitionId) -> Owned {
        Owned { epoch: placement.epoch, area: placement.area(partition) }
    }

    /// The refusal of a request that this does not fit any more.
    pub fn stale(&self) -> Refusal {
        Refusal::StaleEpoch { seen: self.epoch.0, current: self.epoch.0 + 1, placement: None }
    }

    /// Refuses keys that are not the partition's.
    pub fn check<'a>(&self, mut keys: impl Iterator<Item = &'a [u8]>) -> Result<(), Refusal> {
        if keys.all(|key| self.area.contains(key)) { Ok(()) } else { Err(self.stale()) }
    }

    /// The keys among `keys` that must not be shown.
    pub(super) fn hidden(&self, view: &View, keys: &[Key]) -> Result<BTreeSet<Key>, Refusal> {
        let presence = view.presence();
        if presence.absent.is_empty() && presence.strange.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut hidden = BTreeSet::new();
        for key in keys {
            let bytes = key.to_bytes();
            match (self.area.contains(&bytes), presence.absent.contains(&bytes)) {
                (true, true) => return Err(self.stale()),
                (true, false) => {}
                (false, _) => {
                    hidden.insert(key.clone());
                }
            }
        }
        Ok(hidden)
    }
}

/// Where a replica sits: what it owns now, and the curtain that was drawn last.
#[derive(Default)]
pub(super) struct Seat {
    owned: ArcSwap<Owned>,
    curtain: ArcSwap<Curtain>,
}

impl Seat {
    /// Takes a newer placement.
    pub fn take(&self, owned: Owned) {
        if self.owned.load().epoch < owned.epoch {
            self.owned.store(Arc::new(owned));
        }
    }

    /// By the newest placement.
    pub fn owned(&self) -> Arc<Owned> {
        self.owned.load_full()
    }

    /// What hides the view's rows from an owner of `owned`, if any must be.
    pub fn curtain(&self, view: &View, owned: &Owned) -> Result<Option<Arc<Curtain>>, Refusal> {
        let hidden = view.presence().hidden(&owned.area).map_err(|_| owned.stale())?;
        if hidden.is_empty() {
            return Ok(None);
        }
        let last = self.curtain.load_full();
        if *last.hidden() == hidden {
            return Ok(Some(last));
        }
        let drawn = Arc::new(Curtain::new(hidden));
        self.curtain.store(drawn.clone());
        Ok(Some(drawn))
    }
}
