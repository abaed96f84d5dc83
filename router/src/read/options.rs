//! Where and how fresh to read: the request's `read`, checked in one place.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::ids::{LogIndex, PartitionId};
use flotilla_proto::limits::{LAG_MS_MAX, TOKENS_MAX};
use flotilla_proto::refusal::Violation;
use flotilla_proto::schema::at_most;
use flotilla_proto::v1::{Consistency, Partial, ReadPreference};
use flotilla_proto::{shard, v1};

use crate::admission::Deadline;

/// What a partition that may be missing leaves of the time, so that the answer without it still arrives.
const LEFT_PART: u32 = 5;
const LEFT_MAX: Duration = Duration::from_millis(250);

/// A checked `ReadOptions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Which replicas are asked first.
    pub preference: Preference,
    consistency: Consistency,
    max_lag_ms: u64,
    at_least: BTreeMap<PartitionId, LogIndex>,
    /// Whether an answer may lack a partition.
    pub allows_partial: bool,
}

/// Which replicas a read asks first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// The leader.
    #[default]
    Leader,
    /// Followers and learners.
    Replica,
    /// Whichever answers fastest.
    Nearest,
}

impl Default for ReadOptions {
    /// Linearizable, by the leader, all partitions.
    fn default() -> ReadOptions {
        ReadOptions {
            preference: Preference::Leader,
            consistency: Consistency::Linearizable,
            max_lag_ms: 0,
            at_least: BTreeMap::new(),
            allows_partial: false,
        }
    }
}

impl ReadOptions {
    /// Checks what a request says.
    ///
    /// # Errors
    /// A violation that names the field, its limit and its value.
    pub fn new(read: Option<&v1::ReadOptions>) -> Result<ReadOptions, Violation> {
        let Some(read) = read else { return Ok(ReadOptions::default()) };
        let preference = match ReadPreference::try_from(read.preference) {
            Ok(ReadPreference::Unspecified | ReadPreference::Leader) => Preference::Leader,
            Ok(ReadPreference::Replica) => Preference::Replica,
            Ok(ReadPreference::Nearest) => Preference::Nearest,
            Err(_) => return Err(unknown("read.preference", 3, read.preference)),
        };
        let consistency = match Consistency::try_from(read.consistency) {
            Ok(Consistency::Unspecified) => Consistency::Linearizable,
            Ok(consistency) => consistency,
            Err(_) => return Err(unknown("read.consistency", 3, read.consistency)),
        };
        let allows_partial = match Partial::try_from(read.partial) {
            Ok(partial) => partial == Partial::Allow,
            Err(_) => return Err(unknown("read.partial", 2, read.partial)),
        };
        let max_lag_ms = max_lag_ms(consistency, read.max_lag_ms)?;
        at_most("read.tokens", "tokens", TOKENS_MAX, read.tokens.len())?;
        let mut at_least = BTreeMap::new();
        for token in &read.tokens {
            let known = at_least.entry(PartitionId(token.partition)).or_insert(0);
            *known = token.log_index.max(*known);
        }
        Ok(ReadOptions { preference, consistency, max_lag_ms, at_least, allows_partial })
    }

    /// Whatever a replica has, the leader's first, without the partitions that keep silent: for figures.
    pub fn whole_or_part() -> ReadOptions {
        ReadOptions { consistency: Consistency::Any, allows_partial: true, ..ReadOptions::default() }
    }

    /// The same, but no partition may be missing.
    pub fn whole(&self) -> ReadOptions {
        ReadOptions { allows_partial: false, ..self.clone() }
    }

    /// Whether only the leader can answer.
    pub fn is_linearizable(&self) -> bool {
        self.consistency == Consistency::Linearizable
    }

    /// How fresh a replica of `partition` must be.
    pub fn fresh(&self, partition: PartitionId) -> shard::Freshness {
        shard::Freshness {
            consistency: self.consistency.into(),
            max_lag_ms: self.max_lag_ms,
            at_least: self.at_least.get(&partition).copied().unwrap_or(0),
        }
    }

    /// Until when a partition may answer: the whole time, or a little less if the answer can do without it.
    pub fn deadline(&self, whole: Deadline) -> Deadline {
        if !self.allows_partial {
            return whole;
        }
        let left = whole.left();
        whole.at_most(left - (left / LEFT_PART).min(LEFT_MAX))
    }
}

fn unknown(field: &str, max: i32, got: i32) -> Violation {
    Violation::range(field, 0, max, got)
}

fn max_lag_ms(consistency: Consistency, asked: u64) -> Result<u64, Violation> {
    match (consistency, asked) {
        // None: the node's own bound.
        (Consistency::Bounded, 0..=LAG_MS_MAX) => Ok(asked),
        (Consistency::Bounded, _) => Err(Violation::range("read.max_lag_ms", 1, LAG_MS_MAX, asked)),
        (_, 0) => Ok(0),
        _ => {
            let why = format!("is {asked}, and goes with consistency bounded only");
            Err(Violation::new("read.max_lag_ms", why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(read: v1::ReadOptions) -> String {
        ReadOptions::new(Some(&read)).unwrap_err().to_string()
    }

    #[test]
    fn without_options_a_read_is_linearizable_and_whole() {
        assert_eq!(ReadOptions::new(None), Ok(ReadOptions::default()));
        assert_eq!(ReadOptions::new(Some(&v1::ReadOptions::default())), Ok(ReadOptions::default()));
        let whole = Deadline::after(Duration::from_secs(1));
        assert_eq!(ReadOptions::default().deadline(whole).at(), whole.at());
    }

    #[test]
    fn tokens_stand_for_their_partition_and_the_newest_counts() {
        let token = |partition, log_index| v1::PartitionIndex { partition, log_index, node: 0 };
        let read = v1::ReadOptions {
            consistency: Consistency::Bounded.into(),
            tokens: vec![token(1, 7), token(2, 3), token(1, 5)],
            partial: Partial::Allow.into(),
            ..Default::default()
        };
        let options = ReadOptions::new(Some(&read)).unwrap();
        let fresh = options.fresh(PartitionId(1));
        assert_eq!((fresh.at_least, fresh.max_lag_ms), (7, 0));
        assert_eq!(options.fresh(PartitionId(9)).at_least, 0);
        let whole = Deadline::after(Duration::from_secs(1));
        assert!(options.deadline(whole).at() <= whole.at() - Duration::from_millis(190));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_limit_and_value() {
        let read = v1::ReadOptions::default;
        assert_eq!(
            refused(v1::ReadOptions { preference: 9, ..read() }),
            "read.preference: must be 0 to 3, got 9"
        );
        assert_eq!(
            refused(v1::ReadOptions { consistency: -1, ..read() }),
            "read.consistency: must be 0 to 3, got -1"
        );
        assert_eq!(refused(v1::ReadOptions { partial: 3, ..read() }), "read.partial: must be 0 to 2, got 3");
        assert_eq!(
            refused(v1::ReadOptions { max_lag_ms: 5, ..read() }),
            "read.max_lag_ms: is 5, and goes with consistency bounded only"
        );
        let late = v1::ReadOptions { max_lag_ms: LAG_MS_MAX + 1, consistency: 2, ..read() };
        assert_eq!(refused(late), "read.max_lag_ms: must be 1 to 3600000, got 3600001");
        let many = v1::ReadOptions { tokens: vec![<_>::default(); TOKENS_MAX + 1], ..read() };
        assert_eq!(refused(many), "read.tokens: 1025 tokens, the limit is 1024");
    }
}
