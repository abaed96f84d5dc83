//! What a partition owns, by the map of one epoch, and what of its rows a read at that epoch may show.
//!
//! A request fixes one epoch of its collection, so all partitions that answer it agree on who owns which slot. A partition
//! may hold rows of slots that it does not own at that epoch (they come, or go): those are hidden. And it may not hold
//! what it owns at that epoch, because it has given it away since, or has not got it yet: then the request is refused as
//! stale, and the router asks again by the newer map. What of the two it is stands in the state that is read
//! ([`Presence`](crate::storage::Presence)), so it needs no clock and no luck. The same goes for generations: a state of a
//! later one than the caller's is refused, one of an earlier is brought up first ([`replace`](super::replace)).

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_proto::area::Area;
use flotilla_proto::ids::{Epoch, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, Replaces};
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::tenant::{Tenancy, share};

use crate::env::clock::{self, Instant};
use crate::query::Curtain;
use crate::storage::View;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Of the collection's placement.
    pub epoch: Epoch,
    /// The keys.
    pub area: Area,
    /// The replacements of generations that the collection had by then.
    pub replaces: Arc<Replaces>,
    /// Whose the collection is, if it is a tenant's.
    pub tenancy: Option<Arc<Tenancy>>,
    /// The partition's share of the records that the tenant may have in the collection.
    pub records_max: Option<u64>,
}

impl Owned {
    /// What `placement` says of the partition.
    pub fn of(placement: &CollectionPlacement, partition: PartitionId) -> Owned {
        let replaces = Arc::new(placement.replaces.clone());
        Owned {
            epoch: placement.epoch,
            area: placement.area(partition),
            replaces,
            tenancy: placement.tenancy.clone().map(Arc::new),
            records_max: share(placement, partition),
        }
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
    place: ArcSwap<Place>,
    curtain: ArcSwap<Curtain>,
}

/// What the replica owns, and what that replaced.
#[derive(Clone, Default)]
struct Place {
    owned: Arc<Owned>,
    /// Since when this process knows that it owns that. What it owned when it was last here, it does not know.
    since: Option<Instant>,
    /// What it owned once. A replica that lags does not know yet that it gave it away.
    lost: Area,
}

impl Seat {
    /// Takes a newer placement.
    pub fn take(&self, owned: Owned) {
        let former = self.place.load_full();
        if former.owned.epoch >= owned.epoch {
            return;
        }
        let mut place = (*former).clone();
        let is_first = former.owned.epoch == Epoch(0);
        if is_first || former.owned.area != owned.area {
            place.since = Some(clock::now());
        }
        if !is_first && former.owned.area != owned.area {
            place.lost = former.lost.or(&former.owned.area).without(&owned.area);
        }
        place.owned = Arc::new(owned);
        self.place.store(Arc::new(place));
    }

    /// As another replica of the partition sat.
    pub fn take_after(&self, former: &Seat) {
        self.place.store(former.place.load_full());
    }

    /// By the newest placement.
    pub fn owned(&self) -> Arc<Owned> {
        self.place.load().owned.clone()
    }

    /// Since when this process knows that the replica owns what it does. One that has applied everything that was acknowledged
    /// by then has what came, and knows what it gave away.
    pub fn since(&self) -> Option<Instant> {
        self.place.load().since
    }

    /// What hides the view's rows from an owner of `owned`, if any must be.
    pub fn curtain(&self, view: &View, owned: &Owned) -> Result<Option<Arc<Curtain>>, Refusal> {
        let presence = view.presence();
        let mut hidden = presence.hidden(&owned.area).map_err(|_| owned.stale())?;
        let lost = &self.place.load().lost;
        if !lost.is_within(&presence.absent) {
            hidden = hidden.or(&lost.without(&presence.absent).without(&owned.area));
        }
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
