//! Groups of a fake node, the obvious way.

use std::collections::BTreeMap;

use flotilla_proto::convert::{key_from_wire, value_from_wire, value_to_wire};
use flotilla_proto::group::{GroupBy, GroupKey};
use flotilla_proto::record::{Key, Record};
use flotilla_proto::{shard, v1};

/// The nearest groups of `hits`, which are in order: at most (hits of each, groups), and only these if any is named.
pub(super) fn naive(
    by: &GroupBy,
    records: &[Record],
    hits: Vec<shard::PartialHit>,
    (size, limit): (usize, usize),
    only: &[v1::Value],
) -> Vec<shard::PartialGroup> {
    let records: BTreeMap<&Key, &Record> = records.iter().map(|record| (&record.key, record)).collect();
    let only: Vec<GroupKey> =
        only.iter().map(|value| by.key(&value_from_wire("only", value.clone()).unwrap()).unwrap()).collect();
    let mut groups: Vec<(GroupKey, shard::PartialGroup)> = Vec::new();
    for hit in hits {
        let record = records[&key_from_wire("hit", hit.key.clone()).unwrap()];
        for (key, value) in by.groups(&record.payload) {
            if !only.is_empty() && !only.contains(&key) {
                continue;
            }
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, group)) => group.hits.push(hit.clone()),
                None => {
                    let value = Some(value_to_wire(&value));
                    groups.push((key, shard::PartialGroup { value, hits: vec![hit.clone()] }));
                }
            }
        }
    }
    groups
        .into_iter()
        .take(limit)
        .map(|(_, mut group)| {
            group.hits.truncate(size);
            group
        })
        .collect()
}
