//! Which replica is asked next. Pure.
//!
//! Each replica is asked once per round, healthy ones first, and never while it is still being asked. A replica that another
//! one named as the leader goes before the rest.

use flotilla_proto::ids::NodeId;

/// The replicas of one call.
#[derive(Debug)]
pub(super) struct Route {
    order: Vec<NodeId>,
    named: Option<NodeId>,
    asked: Vec<NodeId>,
    running: Vec<NodeId>,
    damaged: Vec<NodeId>,
}

impl Route {
    /// By this order.
    pub(super) fn new(order: Vec<NodeId>) -> Route {
        Route { order, named: None, asked: Vec::new(), running: Vec::new(), damaged: Vec::new() }
    }

    fn is_free(&self, node: &NodeId) -> bool {
        !self.asked.contains(node) && !self.running.contains(node)
    }

    /// The next replica to ask; none if the round is over. It counts as asked, and as running until [`Route::ended`].
    pub(super) fn next(&mut self, is_healthy: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let free = || self.named.iter().chain(&self.order).copied().filter(|node| self.is_free(node));
        let next = free().find(|node| is_healthy(*node)).or_else(|| free().next())?;
        self.asked.push(next);
        self.running.push(next);
        Some(next)
    }

    /// Whether a healthy replica is left to ask in this round.
    pub(super) fn has_spare(&self, is_healthy: impl Fn(NodeId) -> bool) -> bool {
        self.order.iter().any(|node| self.is_free(node) && is_healthy(*node))
    }

    /// Whether there is no replica that is not being asked already.
    pub(super) fn is_exhausted(&self) -> bool {
        self.order.iter().chain(&self.named).all(|node| self.running.contains(node))
    }

    /// Whether nobody is being asked.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// The replicas being asked.
    pub(super) fn running(&self) -> &[NodeId] {
        &self.running
    }

    /// A replica answered or failed.
    pub(super) fn ended(&mut self, node: NodeId) {
        self.running.retain(|other| *other != node);
    }

    /// A replica that does not lead named the one that does, if it knows it.
    pub(super) fn named(&mut self, leader: Option<NodeId>) {
        self.named = leader;
    }

    /// A replica cannot answer: its data is damaged. Returns whether that goes for all of them.
    pub(super) fn damaged(&mut self, node: NodeId) -> bool {
        self.damaged.push(node);
        self.order.iter().all(|node| self.damaged.contains(node))
    }

    /// Whether the replica that others call the leader is damaged.
    pub(super) fn is_leader_damaged(&self) -> bool {
        self.named.is_some_and(|node| self.damaged.contains(&node))
    }

    /// Starts the next round.
    pub(super) fn restart(&mut self) {
        self.asked.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(nodes: &[u64]) -> Route {
        Route::new(nodes.iter().map(|node| NodeId(*node)).collect())
    }

    fn round(route: &mut Route, is_healthy: impl Fn(NodeId) -> bool) -> Vec<u64> {
        std::iter::from_fn(|| route.next(&is_healthy)).map(|node| node.0).collect()
    }

    #[test]
    fn each_replica_is_asked_once_per_round_the_healthy_first() {
        let mut route = route(&[1, 2, 3]);
        assert_eq!(round(&mut route, |node| node.0 != 1), [2, 3, 1]);
        route.restart();
        assert!(route.is_exhausted());
        route.ended(NodeId(3));
        assert_eq!(round(&mut route, |_| true), [3], "those still being asked are left alone");
    }

    #[test]
    fn a_named_leader_goes_first_even_if_the_map_does_not_know_it() {
        let mut route = route(&[1, 2, 3]);
        assert_eq!(route.next(|_| true), Some(NodeId(1)));
        route.ended(NodeId(1));
        route.named(Some(NodeId(9)));
        assert_eq!(round(&mut route, |_| true), [9, 2, 3]);
        [9, 2, 3].iter().for_each(|node| route.ended(NodeId(*node)));
        route.named(Some(NodeId(3)));
        route.restart();
        assert_eq!(round(&mut route, |_| true), [3, 1, 2]);
    }

    #[test]
    fn a_spare_is_healthy_and_free() {
        let mut route = route(&[1, 2]);
        route.next(|_| true);
        assert!(route.has_spare(|_| true) && !route.has_spare(|node| node.0 == 1));
        route.next(|_| true);
        assert!(!route.has_spare(|_| true));
    }

    #[test]
    fn damage_is_told_when_it_is_everywhere_or_at_the_leader() {
        let mut route = route(&[1, 2]);
        assert!(!route.damaged(NodeId(1)));
        assert!(!route.is_leader_damaged());
        route.named(Some(NodeId(1)));
        assert!(route.is_leader_damaged());
        assert!(route.damaged(NodeId(2)));
    }
}
