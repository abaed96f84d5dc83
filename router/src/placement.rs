//! The placement map as this router knows it.
//!
//! One task follows the nodes' `Meta.Watch` and installs each newer map; it goes from node to node with a bounded backoff
//! and never spins. Besides, a node that refuses a stale request hands over the newer placement of that one collection
//! ([`Placement::learn`]), and a caller who cannot wait for the watch asks ([`Placement::refresh`]; many such callers share
//! one question).
//!
//! Invariants: the map's epoch never goes back, nor does a collection's. A [`View`] is frozen: whoever holds one sees one
//! collection at one epoch, whatever arrives meanwhile.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use flotilla_proto::convert::{map_from_wire, placement_from_wire};
use flotilla_proto::ids::{CollectionId, Epoch, NodeId, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, PlacementMap};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::{shard, v1};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::admission::Deadline;
use crate::backoff::Backoff;
use crate::chance::Chance;
use crate::pool::Pool;

const FOLLOW_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
const VIEW_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// A node that does not answer within this is passed over.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// A watch that lasted this long was a good one.
const GOOD_WATCH: Duration = Duration::from_secs(1);
/// How long a caller waits for the watch to bring what it just changed, before it asks.
const WATCH_LAG: Duration = Duration::from_millis(50);

/// The map, and what happens to it.
#[derive(Debug)]
pub struct Placement {
    pool: Arc<Pool>,
    chance: Arc<Chance>,
    seeds: Vec<String>,
    map: ArcSwapOption<PlacementMap>,
    installed: watch::Sender<u64>,
    is_reachable: watch::Sender<bool>,
    asking: Mutex<()>,
}

/// One collection at one epoch.
#[derive(Clone, Debug)]
pub struct View {
    map: Arc<PlacementMap>,
    at: usize,
}

impl Deref for View {
    type Target = CollectionPlacement;
    fn deref(&self) -> &CollectionPlacement {
        &self.map.collections[self.at]
    }
}

impl View {
    /// What a node is told about the caller's view; how fresh the answer must be is added by who asks.
    pub fn target(&self, partition: PartitionId) -> shard::Target {
        let epoch = self.epoch.0;
        shard::Target { collection_id: self.id.to_string(), partition: partition.0, epoch, fresh: None }
    }

    /// Stands for who owns which key: two views of one layout have the same.
    pub fn layout(&self) -> u64 {
        let ids = self.partitions.iter().map(|partition| partition.id.0);
        let numbers = ids.chain(self.slots.iter().map(|slot| u64::from(*slot)));
        // FNV-1a, number by number.
        numbers.fold(0xcbf2_9ce4_8422_2325, |hash, n| (hash ^ n).wrapping_mul(0x0100_0000_01b3))
    }

    /// Where `node` serves.
    pub fn address(&self, node: NodeId) -> Option<&str> {
        self.map.node(node).map(|node| node.address.as_str())
    }

    /// Whether each key belongs to the same partition in both views.
    pub fn has_layout_of(&self, other: &View) -> bool {
        let ids = |view: &View| view.partitions.iter().map(|p| p.id).collect::<Vec<PartitionId>>();
        self.id == other.id && self.slots == other.slots && ids(self) == ids(other)
    }
}

impl Placement {
    /// Nothing known yet; `seeds` are asked first, and whenever no node of the map answers.
    pub(crate) fn new(pool: Arc<Pool>, seeds: Vec<String>, chance: Arc<Chance>) -> Placement {
        Placement {
            pool,
            chance,
            seeds,
            map: ArcSwapOption::empty(),
            installed: watch::Sender::new(0),
            is_reachable: watch::Sender::new(false),
            asking: Mutex::new(()),
        }
    }

    /// The map, if one is known.
    pub fn map(&self) -> Option<Arc<PlacementMap>> {
        self.map.load_full()
    }

    /// Wakes with each map that is installed.
    pub fn installed(&self) -> watch::Receiver<u64> {
        self.installed.subscribe()
    }

    /// Whether a map is known and a node answered lately.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.is_reachable.subscribe()
    }

    /// The map, as soon as one is known.
    pub async fn known(&self, deadline: Deadline) -> Result<Arc<PlacementMap>, Status> {
        let unknown = || Refusal::Unavailable("no node has told the placement map yet".into()).into();
        self.wait_until(deadline, |_| true).await.map_err(|_| unknown())
    }

    /// The map, as soon as it is at `epoch` or later.
    pub async fn wait_for(&self, epoch: Epoch, deadline: Deadline) -> Result<(), Status> {
        self.catch_up(deadline, |map| map.epoch >= epoch).await
    }

    /// Waits until the map satisfies `wanted`: by the watch, and by asking when the watch is late.
    pub async fn catch_up(
        &self,
        deadline: Deadline,
        wanted: impl Fn(&PlacementMap) -> bool,
    ) -> Result<(), Status> {
        let mut backoff = Backoff::new(WATCH_LAG, VIEW_PAUSE.1);
        loop {
            let soon = deadline.at_most(backoff.pause(&self.chance));
            match self.wait_until(soon, &wanted).await {
                Ok(_) => return Ok(()),
                Err(late) if deadline.left().is_zero() => return Err(late),
                Err(_) => self.refresh(deadline).await.unwrap_or_else(|e| {
                    tracing::debug!(error = %e.message(), "asking for the placement map failed");
                }),
            }
        }
    }

    async fn wait_until(
        &self,
        deadline: Deadline,
        wanted: impl Fn(&PlacementMap) -> bool,
    ) -> Result<Arc<PlacementMap>, Status> {
        let mut installed = self.installed();
        loop {
            installed.borrow_and_update();
            if let Some(map) = self.map().filter(|map| wanted(map)) {
                return Ok(map);
            }
            if !matches!(tokio::time::timeout_at(deadline.at(), installed.changed()).await, Ok(Ok(()))) {
                return Err(crate::admission::exceeded("the placement map did not arrive in time"));
            }
        }
    }

    /// The collection of this name as of now.
    pub async fn view(&self, name: &str, deadline: Deadline) -> Result<View, Status> {
        let map = match self.map() {
            Some(map) => map,
            None => self.known(deadline).await?,
        };
        match map.collections.iter().position(|c| c.spec.name == name) {
            Some(at) => Ok(View { map, at }),
            None => Err(Refusal::NotFound("collection", name.to_owned()).into()),
        }
    }

    /// The views of a request that starts over when a node calls its view stale.
    pub fn views<'a>(&'a self, name: &'a str, deadline: Deadline) -> Views<'a> {
        let backoff = Backoff::new(VIEW_PAUSE.0, VIEW_PAUSE.1);
        Views { placement: self, name, deadline, last: None, backoff }
    }

    /// Takes a whole map, if it is newer. Collections learnt since stay.
    pub fn install(&self, map: PlacementMap) {
        let newer = |known: &Option<Arc<PlacementMap>>| match known {
            None => Some(map.clone()),
            Some(known) if known.epoch >= map.epoch => None,
            Some(known) => {
                let mut map = map.clone();
                let learnt = known.collections.iter().filter(|c| c.epoch > map.epoch).cloned();
                learnt.collect::<Vec<_>>().into_iter().for_each(|c| put(&mut map, c));
                Some(map)
            }
        };
        self.change(newer);
    }

    /// Takes one collection's newer placement out of a refusal.
    ///
    /// # Errors
    /// If it contradicts itself.
    pub fn learn(&self, placement: v1::CollectionPlacement) -> Result<(), Status> {
        let learnt = placement_from_wire(placement)?;
        self.change(|known| {
            let mut map = PlacementMap::clone(known.as_ref()?);
            if map.collection(&learnt.spec.name).is_some_and(|known| known.epoch >= learnt.epoch) {
                return None;
            }
            put(&mut map, learnt.clone());
            Some(map)
        });
        Ok(())
    }

    /// Replaces the map by what `next` makes of it and wakes who waits.
    fn change(&self, next: impl Fn(&Option<Arc<PlacementMap>>) -> Option<PlacementMap>) {
        let mut changed = false;
        self.map.rcu(|known| match next(known) {
            Some(map) => {
                changed = true;
                Some(Arc::new(map))
            }
            None => {
                changed = false;
                known.clone()
            }
        });
        if changed {
            self.installed.send_modify(|count| *count += 1);
        }
    }

    /// Where to ask: the nodes that vote in the meta group, the other nodes of the map, then the seeds.
    pub fn addresses(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(map) = self.map() {
            let (meta, others): (Vec<_>, Vec<_>) = map.nodes.iter().partition(|n| map.meta.contains(&n.id));
            all.extend(meta.into_iter().chain(others).map(|node| node.address.clone()));
        }
        all.extend(self.seeds.iter().cloned());
        let mut seen = std::collections::HashSet::new();
        all.retain(|address| seen.insert(address.clone()));
        all
    }

    /// Asks the nodes, one after the other, for the map. Callers who come meanwhile share the answer.
    ///
    /// # Errors
    /// `UNAVAILABLE` if none answers.
    pub async fn refresh(&self, deadline: Deadline) -> Result<(), Status> {
        let before = *self.installed.borrow();
        let Ok(_turn) = tokio::time::timeout_at(deadline.at(), self.asking.lock()).await else {
            return Err(crate::admission::exceeded("the time was up while asking for the map"));
        };
        if *self.installed.borrow() != before {
            return Ok(());
        }
        let mut last = Refusal::Unavailable("no node is known".into()).into();
        for address in self.addresses() {
            match deadline.at_most(ANSWER_MAX).bound(self.ask(&address)).await {
                Ok(map) => {
                    self.install(map);
                    return Ok(());
                }
                Err(status) => last = status,
            }
        }
        Err(last)
    }

    async fn ask(&self, address: &str) -> Result<PlacementMap, Status> {
        let answer = self.pool.meta(address)?.describe(v1::DescribeRequest {}).await?.into_inner();
        let map = answer.placement.ok_or_else(|| Status::internal("the node's answer holds no map"))?;
        Ok(map_from_wire(map)?)
    }

    /// Follows the nodes' maps for ever. The task of it is aborted with the router.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut backoff = Backoff::new(FOLLOW_PAUSE.0, FOLLOW_PAUSE.1);
        loop {
            let mut is_heard = false;
            for address in self.addresses() {
                let started = Instant::now();
                if let Err(status) = self.follow_one(&address, &mut is_heard).await {
                    tracing::debug!(node = address, error = %status.message(), "the map's watch ended");
                }
                if started.elapsed() > GOOD_WATCH && is_heard {
                    backoff.reset();
                }
                if is_heard {
                    break;
                }
            }
            self.is_reachable.send_if_modified(|was| std::mem::replace(was, is_heard) != is_heard);
            tokio::time::sleep(backoff.pause(&self.chance)).await;
        }
    }

    async fn follow_one(&self, address: &str, is_heard: &mut bool) -> Result<(), Status> {
        let mut meta = self.pool.meta(address)?;
        let soon = Deadline::after(ANSWER_MAX);
        let mut maps = soon.bound(meta.watch(v1::WatchRequest { after_epoch: 0 })).await?.into_inner();
        let mut next = soon.bound(maps.message()).await?;
        while let Some(map) = next {
            self.install(map_from_wire(map)?);
            *is_heard = true;
            self.is_reachable.send_if_modified(|was| !std::mem::replace(was, true));
            next = maps.message().await?;
        }
        Ok(())
    }
}

/// Puts `placement` in the place of its namesake.
fn put(map: &mut PlacementMap, placement: CollectionPlacement) {
    match map.collections.binary_search_by(|c| c.spec.name.cmp(&placement.spec.name)) {
        Ok(at) => map.collections[at] = placement,
        Err(_) => {
            map.collections.retain(|c| c.spec.name != placement.spec.name);
            map.collections.push(placement);
            map.collections.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        }
    }
}

/// The views that one request works by, each newer than the one before.
#[derive(Debug)]
pub struct Views<'a> {
    placement: &'a Placement,
    name: &'a str,
    deadline: Deadline,
    last: Option<(CollectionId, u64)>,
    backoff: Backoff,
}

impl Views<'_> {
    /// The next view to try. If none newer is known, asks for one, with a pause from the second time on.
    pub async fn next(&mut self) -> Result<View, Status> {
        let mut view = self.placement.view(self.name, self.deadline).await?;
        if self.last == Some(stamp(&view)) {
            if let Err(status) = self.placement.refresh(self.deadline).await {
                tracing::debug!(error = %status.message(), "asking for the placement map failed");
            }
            view = self.placement.view(self.name, self.deadline).await?;
        }
        if self.last == Some(stamp(&view)) {
            tokio::time::sleep(self.backoff.pause(&self.placement.chance).min(self.deadline.left())).await;
            view = self.placement.view(self.name, self.deadline).await?;
        }
        if self.deadline.left().is_zero() {
            return Err(crate::admission::exceeded("the time was up while the placement changed"));
        }
        self.last = Some(stamp(&view));
        Ok(view)
    }
}

fn stamp(view: &View) -> (CollectionId, u64) {
    (view.id, view.map.epoch.max(view.epoch).0)
}
