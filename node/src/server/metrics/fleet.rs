//! Figures of the number of shard nodes: how many there should be, must be, and whether one may go.
//!
//! The first is known to the leader of the meta group only, and only it tells it. The others follow from the map, which every node
//! knows; one that is cut off tells what held before.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts};

use crate::meta::Meta;
use crate::meta::catalogue::fleet;

/// See the module.
pub(super) struct Fleet {
    meta: Arc<Meta>,
    desired: IntGaugeVec,
    floor: IntGauge,
    is_safe: IntGauge,
}

impl Fleet {
    /// Over this node's meta group; none if a name is not one.
    pub fn new(meta: Arc<Meta>) -> Option<Fleet> {
        let options = |name: &str, help: &str| Opts::new(format!("flotilla_{name}"), help);
        let help = "shard nodes that there should be, and why; told by the leader of the meta group";
        let desired = IntGaugeVec::new(options("desired_shard_nodes", help), &["reason"]).ok()?;
        let help = "shard nodes, counted by ordinals, with fewer of which something would be lost";
        let floor = IntGauge::with_opts(options("shard_nodes_floor", help)).ok()?;
        let help = "1 while the shard node of the highest ordinal is drained and may end for good";
        let is_safe = IntGauge::with_opts(options("scale_in_safe", help)).ok()?;
        Some(Fleet { meta, desired, floor, is_safe })
    }

    fn all(&self) -> [&dyn Collector; 3] {
        [&self.desired, &self.floor, &self.is_safe]
    }

    /// What is described.
    pub fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    /// The figures of this moment.
    pub fn collect(&self) -> Vec<MetricFamily> {
        self.desired.reset();
        if let Some(decision) = self.meta.advised() {
            self.desired.with_label_values(&[decision.reason.word()]).set(decision.nodes.into());
        }
        let map = self.meta.map();
        self.floor.set(fleet::floor(&map).into());
        self.is_safe.set(fleet::is_scale_in_safe(&map).into());
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}
