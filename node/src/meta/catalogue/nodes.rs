//! Who is a member.

use flotilla_proto::ids::NodeId;
use flotilla_proto::limits::NODES_MAX;
use flotilla_proto::placement::{Node, NodeState, Role};

use super::{Catalogue, Outcome, Refused};

impl Catalogue {
    /// A node without an id gets one; a known identity keeps its own. A node that left, an ordinal that another one
    /// holds, and an identity under another id are refused.
    pub(super) fn introduce(&mut self, mut node: Node) -> Result<Outcome, Refused> {
        if let Some(id) = self.gone.get(&node.uuid) {
            let why = format!("node {id} has left the cluster; its folder cannot come back");
            return Err(Refused::Invalid("node.uuid".into(), why));
        }
        let known = self.map.nodes.iter().find(|known| known.uuid == node.uuid);
        if let Some(holder) =
            self.map.nodes.iter().find(|known| {
                node.ordinal.is_some() && known.ordinal == node.ordinal && known.uuid != node.uuid
            })
        {
            let why = format!(
                "ordinal {} belongs to node {} with another volume; replace that node first",
                node.ordinal.unwrap_or_default(),
                holder.id
            );
            return Err(Refused::Invalid("node.ordinal".into(), why));
        }
        match known {
            Some(known) if node.id.0 != 0 && known.id != node.id => {
                let why = format!("the identity {} belongs to node {}", node.uuid, known.id);
                return Err(Refused::Invalid("node.uuid".into(), why));
            }
            Some(known) => {
                (node.id, node.state, node.role) = (known.id, known.state, known.role);
                if *known == node {
                    return Ok(Outcome::Node(node.id));
                }
            }
            None if self.map.nodes.len() >= NODES_MAX => {
                return Err(Refused::Full(format!("{NODES_MAX} nodes are members, and that is the limit")));
            }
            None if node.id.0 != 0 && node.id.0 < self.next_node => {
                let why = format!("node {} is not a member, or has another identity", node.id);
                return Err(Refused::Invalid("node.id".into(), why));
            }
            None => {
                node.id = NodeId(node.id.0.max(self.next_node));
                self.next_node = node.id.0 + 1;
            }
        }
        let id = node.id;
        let is_learner = node.role == Role::Replica;
        self.map.nodes.retain(|known| known.id != id);
        self.map.nodes.push(node);
        self.map.nodes.sort_by_key(|node| node.id);
        let epoch = self.next_epoch();
        if is_learner {
            for collection in &mut self.map.collections {
                for partition in &mut collection.partitions {
                    if !partition.learners.contains(&id) {
                        partition.learners.push(id);
                        collection.epoch = epoch;
                    }
                }
            }
        }
        Ok(Outcome::Node(id))
    }

    pub(super) fn set_state(&mut self, node: NodeId, state: NodeState) -> Result<Outcome, Refused> {
        let found = self.map.nodes.iter_mut().find(|known| known.id == node);
        let found = found.ok_or(Refused::NoNode(node.0))?;
        if found.state != state {
            found.state = state;
            self.next_epoch();
        }
        Ok(Outcome::Epoch(self.map.epoch))
    }

    /// Only a node without voting replicas leaves; learners go with it.
    pub(super) fn remove(&mut self, node: NodeId) -> Result<Outcome, Refused> {
        let found = self.map.node(node).ok_or(Refused::NoNode(node.0))?;
        let uuid = found.uuid;
        let is_held = |(_, p): &(_, &flotilla_proto::placement::Partition)| {
            p.replicas.contains(&node)
                || p.change.is_some_and(|c| c.add == Some(node) || c.remove == Some(node))
        };
        let held = self.map.partitions().filter(is_held).count();
        if held > 0 {
            let why = format!("node {node} still has {held} voting replicas; drain or replace it first");
            return Err(Refused::Invalid("remove".into(), why));
        }
        if self.map.meta.contains(&node) {
            let why = format!("node {node} still votes in the meta group; another takes over within seconds");
            return Err(Refused::Stale(why));
        }
        self.map.nodes.retain(|known| known.id != node);
        self.gone.insert(uuid, node);
        self.fleet.forget(node);
        let epoch = self.next_epoch();
        for collection in &mut self.map.collections {
            for partition in &mut collection.partitions {
                if partition.learners.contains(&node) {
                    partition.learners.retain(|learner| *learner != node);
                    collection.epoch = epoch;
                }
            }
        }
        Ok(Outcome::Epoch(epoch))
    }

    pub(super) fn set_voters(&mut self, voters: Vec<NodeId>) -> Result<Outcome, Refused> {
        if let Some(unknown) = voters.iter().find(|node| self.map.node(**node).is_none()) {
            return Err(Refused::NoNode(unknown.0));
        }
        if voters != self.map.meta {
            self.map.meta = voters;
            self.next_epoch();
        }
        Ok(Outcome::Epoch(self.map.epoch))
    }

    /// Who should vote in the meta group: the first three shard nodes that stay, or one while there are not three.
    /// `alive` tells who was heard of lately; a voter that was not stays as long as nobody can stand in.
    pub fn voters_wanted(&self, alive: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let open: Vec<NodeId> =
            self.map.nodes.iter().filter(|node| node.is_open()).map(|node| node.id).collect();
        let size = if open.len() >= 3 { 3 } else { 1 };
        let mut wanted: Vec<NodeId> = self
            .map
            .meta
            .iter()
            .copied()
            .filter(|node| open.contains(node) && alive(*node))
            .take(size)
            .collect();
        for node in open.iter().copied().filter(|node| alive(*node)).chain(self.map.meta.iter().copied()) {
            if wanted.len() < size && !wanted.contains(&node) {
                wanted.push(node);
            }
        }
        wanted.sort_unstable();
        if wanted.len() < size { self.map.meta.clone() } else { wanted }
    }
}
