//! What tenants store, and what is left for each node to take until the next look: the leader's side of
//! [`Quotas`](crate::partition::quota::Quotas).
//!
//! A look counts what the stores hold and what is under way into them. What is left of the limit then is shared among the nodes
//! that answered. Words take time, and may not come: until a node has answered after a word that gives it less, it may still take
//! what it was told before, so that is set aside, and others get more only of what nobody may take. Whatever nodes take before
//! the next look, all of them together stay within the limit.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::ids::{NodeId, PartitionId};
use flotilla_proto::peer;
use flotilla_proto::placement::{PlacementMap, Role};

use crate::service::facts::Said;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Stored {
    nodes: BTreeMap<NodeId, Known>,
}

#[derive(Debug, Default)]
struct Known {
    boot: u64,
    /// What it is told next, or was told without an answer.
    rooms: BTreeMap<String, u64>,
    /// What it was told last, as its answer shows; none: nothing yet.
    heard: Option<BTreeMap<String, u64>>,
    /// What it had accepted when it answered last.
    accepted: BTreeMap<String, u64>,
}

impl Known {
    fn accepted(&self, tenant: &str) -> u64 {
        self.accepted.get(tenant).copied().unwrap_or(0)
    }

    /// What it may take of a tenant whose limit gives each node `share`, at most, if it answered this look or not.
    fn held(&self, tenant: &str, share: u64, answered: bool) -> u64 {
        // Whom the word does not name has a share of the limit.
        let of = |rooms: &BTreeMap<String, u64>| rooms.get(tenant).copied().unwrap_or(share);
        let heard = self.heard.as_ref().map(of);
        let sent = (!answered && !self.rooms.is_empty()).then(|| of(&self.rooms));
        heard.max(sent).unwrap_or(0).saturating_sub(self.accepted(tenant))
    }
}

impl Stored {
    /// What each node is to be told.
    pub fn words(&self) -> BTreeMap<NodeId, peer::StatusRequest> {
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let room =
            |(tenant, max): (&String, &u64)| peer::TenantRoom { tenant: tenant.clone(), accepted_max: *max };
        let word = |known: &Known| peer::StatusRequest {
            boot: known.boot,
            rooms: known.rooms.iter().map(room).collect(),
            nodes,
        };
        self.nodes.iter().map(|(node, known)| (*node, word(known))).collect()
    }

    /// Takes what a look found: of the nodes that were heard of lately, those that answered it, and what each partition stores.
    /// True if somebody waits for a word: it is a new process.
    pub fn look(
        &mut self,
        map: &PlacementMap,
        heard: &BTreeSet<NodeId>,
        said: &BTreeMap<NodeId, Said>,
        bytes: &BTreeMap<PartitionId, u64>,
    ) -> bool {
        let is_shard = |node: &NodeId| map.node(*node).is_some_and(|node| node.role == Role::Shard);
        let heard: BTreeSet<NodeId> = heard.iter().copied().filter(is_shard).collect();
        let said: BTreeMap<NodeId, &Said> =
            said.iter().filter(|(node, _)| heard.contains(node)).map(|(node, said)| (*node, said)).collect();
        let shares = self.nodes.len().max(1) as u64;
        self.nodes.retain(|node, _| heard.contains(node));
        let mut waits = false;
        for (node, said) in &said {
            let known = self.nodes.entry(*node).or_default();
            if known.boot == said.boot {
                known.heard = Some(std::mem::take(&mut known.rooms));
            } else {
                *known = Known { boot: said.boot, ..Known::default() };
                waits = true;
            }
            known.accepted =
                said.writes.iter().map(|writes| (writes.tenant.clone(), writes.accepted)).collect();
        }
        for (tenant, (stored, max)) in by_tenant(map, bytes) {
            let writes = said.values().flat_map(|said| &said.writes).filter(|writes| writes.tenant == tenant);
            let under_way = writes.fold(0, |sum: u64, writes| sum.saturating_add(writes.in_flight));
            let left = max.saturating_sub(stored).saturating_sub(under_way);
            let part = left / said.len().max(1) as u64;
            let (mut held, mut lacking) = (0, 0);
            for (node, known) in &self.nodes {
                let may = known.held(tenant, max / shares, said.contains_key(node));
                held += may;
                lacking += if said.contains_key(node) { part.saturating_sub(may) } else { 0 };
            }
            let free = left.saturating_sub(held);
            for (_, known) in self.nodes.iter_mut().filter(|(node, _)| said.contains_key(node)) {
                let may = known.held(tenant, max / shares, true);
                let lacks = part.saturating_sub(may);
                // Of what is free, as much as of what all lack.
                let more = u128::from(free) * u128::from(lacks) / u128::from(lacking.max(1));
                let may = may.min(part) + u64::try_from(more).unwrap_or(lacks).min(lacks);
                known.rooms.insert(tenant.to_owned(), known.accepted(tenant).saturating_add(may));
            }
        }
        waits
    }
}

/// What each tenant stores, and may store.
pub(super) fn by_tenant<'a>(
    map: &'a PlacementMap,
    bytes: &BTreeMap<PartitionId, u64>,
) -> BTreeMap<&'a str, (u64, u64)> {
    let mut stored: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for collection in &map.collections {
        let Some(tenancy) = &collection.tenancy else { continue };
        let held: u64 = collection.partitions.iter().filter_map(|p| bytes.get(&p.id)).sum();
        let (sum, max) = stored.entry(&tenancy.tenant).or_default();
        (*sum, *max) = (sum.saturating_add(held), tenancy.limits.max_storage_bytes);
    }
    stored
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::Epoch;
    use flotilla_proto::placement::{CollectionPlacement, Node, Partition};
    use flotilla_proto::tenant::{Class, Isolation, Limits, Tenancy};
    use uuid::Uuid;

    use super::*;

    const LIMIT: u64 = 900;

    /// Three nodes, and a collection of one tenant.
    fn map() -> PlacementMap {
        let limits = Limits { max_storage_bytes: LIMIT, ..Class::Default.limits() };
        let tenancy = Tenancy {
            tenant: "acme".into(),
            class: Class::Default,
            isolation: Isolation::Collection,
            limits,
            is_full: false,
        };
        let partitions = vec![Partition { id: PartitionId(1), ..Default::default() }];
        let collection = CollectionPlacement {
            id: Uuid::from_u128(9),
            spec: Default::default(),
            epoch: Epoch(1),
            partitions,
            slots: vec![0],
            slot_move: None,
            replaces: Default::default(),
            tenancy: Some(tenancy),
        };
        let node = |id| Node::new(NodeId(id), Uuid::from_u128(id.into()), "inproc");
        PlacementMap {
            nodes: (1..=3).map(node).collect(),
            collections: vec![collection],
            ..Default::default()
        }
    }

    /// A node that takes some of what it may, or all of it.
    #[derive(Default)]
    struct Greedy {
        boot: u64,
        accepted: u64,
        accepted_max: u64,
    }

    impl Greedy {
        fn said(&self) -> Said {
            let writes = peer::TenantWrites { tenant: "acme".into(), accepted: self.accepted, in_flight: 0 };
            Said { boot: self.boot, writes: vec![writes] }
        }

        fn told(&mut self, word: &peer::StatusRequest) {
            if word.boot == self.boot {
                self.accepted_max = word.rooms[0].accepted_max;
            }
        }

        /// Bytes that it takes now.
        fn takes(&mut self, share: u64) -> u64 {
            let takes = (self.accepted_max.saturating_sub(self.accepted) * share).div_ceil(100);
            self.accepted += takes;
            takes
        }
    }

    #[test]
    fn however_greedy_the_nodes_are_and_whoever_is_silent_all_of_it_stays_within_the_limit() {
        for draw in 0..200_u64 {
            let (map, mut stored, mut sum) = (map(), Stored::default(), 0);
            let mut nodes: BTreeMap<NodeId, Greedy> =
                (1..=3).map(|id| (NodeId(id), Greedy { boot: id, ..Greedy::default() })).collect();
            let heard: BTreeSet<NodeId> = nodes.keys().copied().collect();
            for look in 0..40_u64 {
                let words = stored.words();
                let mut said = BTreeMap::new();
                for (id, node) in &mut nodes {
                    // Now and then one hears and says nothing, and one begins anew.
                    let chance = (draw * 31 + look * 7 + id.0 * 13) % 11;
                    if chance == 0 {
                        continue;
                    }
                    if chance == 1 {
                        *node = Greedy { boot: node.boot + 10, ..Greedy::default() };
                    }
                    words.get(id).into_iter().for_each(|word| node.told(word));
                    said.insert(*id, node.said());
                }
                stored.look(&map, &heard, &said, &[(PartitionId(1), sum)].into());
                for (id, node) in &mut nodes {
                    sum += node.takes((draw + look * 17 + id.0 * 29) % 101);
                }
                assert!(sum <= LIMIT, "{sum} at look {look} of draw {draw}");
            }
            assert!(sum > LIMIT * 9 / 10, "{sum} of draw {draw}: what may be taken is");
        }
    }

    #[test]
    fn who_is_new_gets_a_word_soon() {
        let (map, mut stored, heard) = (map(), Stored::default(), [NodeId(1)].into());
        let said = |boot| [(NodeId(1), Said { boot, writes: vec![] })].into();
        assert!(stored.look(&map, &heard, &said(7), &BTreeMap::new()));
        assert_eq!(stored.words()[&NodeId(1)].rooms[0].accepted_max, LIMIT);
        assert!(!stored.look(&map, &heard, &said(7), &BTreeMap::new()));
        assert_eq!(stored.words()[&NodeId(1)].rooms[0].accepted_max, LIMIT);
        assert!(stored.look(&map, &heard, &said(8), &BTreeMap::new()), "another process");
        assert_eq!(stored.words()[&NodeId(1)].boot, 8);
    }
}
