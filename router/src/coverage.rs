//! What an answer is made of: which partitions answered, at which log index and on which node, and which did not.

use std::collections::BTreeMap;

use flotilla_proto::ids::{LogIndex, NodeId, PartitionId};
use flotilla_proto::v1;
use tonic::Status;

use crate::fanout::Answer;
use crate::planted;

/// The coverage of an answer, as it comes together.
#[derive(Clone, Debug, Default)]
pub struct Covered {
    answered: BTreeMap<PartitionId, (LogIndex, NodeId)>,
    missing: BTreeMap<PartitionId, Status>,
}

impl Covered {
    /// `partition` answered at `index`, on `node`. Of several answers the oldest counts.
    pub fn answered(&mut self, partition: PartitionId, index: LogIndex, node: NodeId) {
        let known = self.answered.entry(partition).or_insert((index, node));
        if index < known.0 {
            *known = (index, node);
        }
    }

    /// `partition` acknowledged a write at `index`, on `node`. Of several the newest counts: who reads at it sees all of them.
    pub fn acknowledged(&mut self, partition: PartitionId, index: LogIndex, node: NodeId) {
        let known = self.answered.entry(partition).or_insert((index, node));
        if index > known.0 {
            *known = (index, node);
        }
    }

    /// `partition` did not answer, or not for all that was asked of it.
    pub fn missed(&mut self, partition: PartitionId, why: &Status) {
        if planted::hides_missing() {
            return;
        }
        self.missing.entry(partition).or_insert_with(|| why.clone());
    }

    /// Takes the end of a call to `partition` down, and gives its answer on.
    pub fn take<T>(
        &mut self,
        partition: PartitionId,
        end: Result<Answer<T>, Status>,
        index: impl FnOnce(&T) -> LogIndex,
    ) -> Option<Answer<T>> {
        match end {
            Ok(answer) => {
                self.answered(partition, index(&answer.value), answer.node);
                Some(answer)
            }
            Err(why) => {
                self.missed(partition, &why);
                None
            }
        }
    }

    /// Whether a partition is missing.
    pub fn is_partial(&self) -> bool {
        !self.missing.is_empty()
    }

    /// For the wire, by partition.
    ///
    /// # Errors
    /// If nobody answered: that is no answer. The status is that of a partition.
    pub fn told(mut self) -> Result<v1::Coverage, Status> {
        match self.missing.first_entry() {
            Some(first) if self.answered.is_empty() => Err(first.remove()),
            _ => Ok(self.into_wire()),
        }
    }

    fn into_wire(self) -> v1::Coverage {
        let Covered { answered, missing } = self;
        let indexes: Vec<v1::PartitionIndex> = answered
            .into_iter()
            .filter(|(partition, _)| !missing.contains_key(partition))
            .map(|(partition, (log_index, node))| v1::PartitionIndex {
                partition: partition.0,
                log_index,
                node: node.0,
            })
            .collect();
        let missing: Vec<v1::MissingPartition> = missing
            .into_iter()
            .map(|(partition, why)| v1::MissingPartition {
                partition: partition.0,
                reason: why.message().to_owned(),
            })
            .collect();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        v1::Coverage {
            partitions_asked: count(indexes.len() + missing.len()),
            partitions_answered: count(indexes.len()),
            indexes,
            missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_answered_in_part_is_missing() {
        let mut covered = Covered::default();
        covered.answered(PartitionId(2), 9, NodeId(1));
        covered.answered(PartitionId(2), 7, NodeId(3));
        covered.answered(PartitionId(1), 5, NodeId(1));
        covered.missed(PartitionId(1), &Status::unavailable("gone"));
        covered.missed(PartitionId(1), &Status::unavailable("still gone"));
        assert!(covered.is_partial());
        let wire = covered.told().unwrap();
        assert_eq!((wire.partitions_asked, wire.partitions_answered), (2, 1));
        assert_eq!((wire.indexes[0].partition, wire.indexes[0].log_index, wire.indexes[0].node), (2, 7, 3));
        assert_eq!((wire.missing[0].partition, wire.missing[0].reason.as_str()), (1, "gone"));
    }

    #[test]
    fn of_two_parts_of_a_write_that_one_partition_took_the_newer_is_the_token() {
        let mut covered = Covered::default();
        covered.acknowledged(PartitionId(2), 50, NodeId(1));
        covered.acknowledged(PartitionId(2), 84, NodeId(3));
        covered.acknowledged(PartitionId(2), 7, NodeId(1));
        let wire = covered.told().unwrap();
        assert_eq!((wire.indexes[0].log_index, wire.indexes[0].node), (84, 3));
    }

    #[test]
    fn an_answer_of_nobody_is_none() {
        let mut covered = Covered::default();
        assert_eq!(covered.clone().told().unwrap(), v1::Coverage::default());
        covered.missed(PartitionId(1), &Status::unavailable("gone"));
        assert_eq!(covered.told().unwrap_err().message(), "gone");
    }
}
