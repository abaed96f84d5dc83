//! Where ranges are split when a collection by ranges grows: at keys that halve, or part more finely, what is there.
//!
//! The keys of a partition are looked at once, in order, and every so many-th is kept: few enough to hold, enough to part
//! them evenly. The partitions with most bytes are split first. Splitting moves nothing: both sides stay where they are.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::convert::{key_of_encoded, key_to_wire};
use flotilla_proto::limits::LIMIT_MAX;
use flotilla_proto::placement::{CollectionPlacement, Partition};
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::Strategy;
use flotilla_proto::shard;

use crate::meta::plan::Facts;
use crate::partition::registry::Registry;
use crate::peers::Peers;

/// Keys kept of a partition, at most.
const SAMPLE: usize = 4_096;
const PAGE_WITHIN: Duration = Duration::from_secs(30);

/// Every so many-th key of those seen, in order.
#[derive(Debug, Default)]
struct Sample {
    keys: Vec<Key>,
    seen: u64,
    /// One in two to this power is kept.
    sparse: u32,
}

impl Sample {
    fn see(&mut self, key: Key) {
        if self.seen.is_multiple_of(1 << self.sparse) {
            self.keys.push(key);
        }
        self.seen += 1;
        if self.keys.len() > SAMPLE {
            let mut n = 0;
            self.keys.retain(|_| {
                n += 1;
                n % 2 == 1
            });
            self.sparse += 1;
        }
    }

    /// The keys that part what was seen evenly into so many.
    fn parts(&self, parts: usize) -> Vec<Key> {
        let at = |n: usize| self.keys.get(n * self.keys.len() / parts).cloned();
        let mut keys: Vec<Key> = (1..parts).filter_map(at).collect();
        keys.dedup();
        keys
    }
}

/// How many ranges each partition should have, so that there are `ranges` in all: the largest parts are split first.
fn shares(placement: &CollectionPlacement, ranges: usize, facts: &Facts) -> BTreeMap<usize, usize> {
    let mut shares: BTreeMap<usize, usize> = BTreeMap::new();
    placement.slots.iter().for_each(|owner| *shares.entry(usize::from(*owner)).or_default() += 1);
    for _ in placement.slots.len()..ranges {
        let bytes = |ordinal: usize| {
            let id = placement.partitions.get(ordinal).map(|partition| partition.id);
            id.and_then(|id| facts.bytes.get(&id)).copied().unwrap_or(0).max(1)
        };
        let part = |(ordinal, share): &(&usize, &mut usize)| bytes(**ordinal) as f64 / **share as f64;
        let largest = shares.iter_mut().max_by(|a, b| part(a).total_cmp(&part(b)));
        if let Some((_, share)) = largest {
            *share += 1;
        }
    }
    shares
}

/// The keys at which ranges have to be split for so many partitions; none with another strategy.
pub(super) async fn choose(
    registry: &Registry,
    peers: &Peers,
    placement: &CollectionPlacement,
    partitions: u32,
    facts: &Facts,
) -> Result<Vec<Key>, Refusal> {
    if !matches!(placement.spec.strategy, Strategy::Range { .. }) {
        return Ok(Vec::new());
    }
    let mut splits = Vec::new();
    for (ordinal, share) in shares(placement, partitions as usize, facts) {
        let has = placement.slots.iter().filter(|owner| usize::from(**owner) == ordinal).count();
        let Some(partition) = placement.partitions.get(ordinal).filter(|_| share > has) else { continue };
        let sample = sample(registry, peers, placement, partition).await?;
        splits.extend(sample.parts(1 + share - has));
    }
    splits.sort();
    Ok(splits)
}

/// Looks at a partition's keys, here or wherever a replica of it answers.
async fn sample(
    registry: &Registry,
    peers: &Peers,
    placement: &CollectionPlacement,
    partition: &Partition,
) -> Result<Sample, Refusal> {
    if let Some(replica) = registry.serving().into_iter().find(|replica| replica.id() == partition.id) {
        let mut sample = Sample::default();
        replica.keys(|key| sample.see(key)).await?;
        return Ok(sample);
    }
    let mut last = Refusal::Unavailable(format!("partition {} has no replica", partition.id));
    for node in &partition.replicas {
        match ask(peers, placement, partition, *node).await {
            Ok(sample) => return Ok(sample),
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn ask(
    peers: &Peers,
    placement: &CollectionPlacement,
    partition: &Partition,
    node: flotilla_proto::ids::NodeId,
) -> Result<Sample, Refusal> {
    let mut shard = peers.shard(node)?;
    let (mut sample, mut after) = (Sample::default(), None);
    loop {
        let target = shard::Target {
            collection_id: placement.id.to_string(),
            partition: partition.id.0,
            epoch: placement.epoch.0,
            fresh: Some(shard::Freshness {
                consistency: flotilla_proto::v1::Consistency::Any.into(),
                ..Default::default()
            }),
        };
        let page = shard::ScanRequest { target: Some(target), limit: LIMIT_MAX, after, ..Default::default() };
        let mut request = tonic::Request::new(page);
        request.set_timeout(PAGE_WITHIN);
        let told = |status: tonic::Status| Refusal::Unavailable(status.message().to_owned());
        let page = shard.scan(request).await.map_err(told)?.into_inner();
        let mut last = None;
        for record in page.records {
            let key = key_of_encoded("record.key", &record)?;
            last = Some(key_to_wire(&key));
            sample.see(key);
        }
        if !page.more || last.is_none() {
            return Ok(sample);
        }
        after = last;
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::{Epoch, NodeId, PartitionId};
    use flotilla_proto::schema::CollectionSpec;

    use super::*;

    #[test]
    fn a_sample_stays_small_and_parts_evenly() {
        let mut sample = Sample::default();
        (0..100_000).for_each(|key| sample.see(Key::Number(key)));
        assert!(sample.keys.len() <= SAMPLE && sample.keys.len() > SAMPLE / 4, "{}", sample.keys.len());
        let parts: Vec<u64> = sample
            .parts(4)
            .into_iter()
            .map(|key| match key {
                Key::Number(n) => n,
                Key::Text(_) => 0,
            })
            .collect();
        let wanted = [25_000, 50_000, 75_000];
        assert!(parts.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) < 200), "{parts:?}");
        assert!(Sample::default().parts(3).is_empty());
    }

    #[test]
    fn the_largest_are_split_first() {
        let splits = vec![Key::Number(10), Key::Number(20)];
        let placement = CollectionPlacement {
            id: uuid::Uuid::nil(),
            spec: CollectionSpec { strategy: Strategy::Range { splits }, ..Default::default() },
            epoch: Epoch(1),
            partitions: (1..=2).map(|id| Partition::new(PartitionId(id), vec![NodeId(1)])).collect(),
            slots: vec![0, 0, 1],
            slot_move: None,
            replaces: Default::default(),
            tenancy: None,
        };
        let mut facts = Facts::default();
        facts.bytes.extend([(PartitionId(1), 100), (PartitionId(2), 900)]);
        assert_eq!(shares(&placement, 6, &facts), BTreeMap::from([(0, 2), (1, 4)]));
        assert_eq!(shares(&placement, 2, &facts), BTreeMap::from([(0, 2), (1, 1)]));
    }
}
