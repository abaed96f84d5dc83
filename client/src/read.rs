//! Where and how fresh to read. Each read may say; what it does not say is the client's, and what the client does not say is
//! the server's: by the master, and linearizable.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::ids::{LogIndex, PartitionId};
use flotilla_proto::v1;

/// Which replicas a read asks first; another one answers if those do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadPreference {
    /// The one that takes the writes.
    #[default]
    Master,
    /// The others. Unless the read says how fresh its answer must be, it may lag by five seconds.
    Replica,
    /// Whichever answered fastest lately. May lag likewise.
    Nearest,
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Everything acknowledged before the call; only a master can answer.
    Linearizable,
    /// Everything acknowledged longer than this before the call: 1 ms to 1 h.
    Bounded(Duration),
    /// Whatever the replica has.
    Any,
}

/// Commit tokens: how far each partition was when it acknowledged a write. A read that carries them sees these writes,
/// whichever replica answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens(BTreeMap<PartitionId, LogIndex>);

impl Tokens {
    /// Adds other tokens; of two of one partition, the newer stays.
    pub fn merge(&mut self, other: &Tokens) {
        for (partition, index) in &other.0 {
            let known = self.0.entry(*partition).or_default();
            *known = (*known).max(*index);
        }
    }

    /// How far each partition must be.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, LogIndex)> {
        self.0.iter().map(|(partition, index)| (*partition, *index))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&v1::Coverage> for Tokens {
    fn from(coverage: &v1::Coverage) -> Tokens {
        Tokens(coverage.indexes.iter().map(|i| (PartitionId(i.partition), i.log_index)).collect())
    }
}

/// Where and how fresh to read.
///
/// ```
/// use std::time::Duration;
/// use flotilla_client::{Consistency, Read, ReadPreference};
///
/// let read = Read::new()
///     .preference(ReadPreference::Replica)
///     .consistency(Consistency::Bounded(Duration::from_secs(1)))
///     .allow_partial(true);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    preference: Option<ReadPreference>,
    consistency: Option<Consistency>,
    allow_partial: Option<bool>,
    tokens: Tokens,
}

impl Read {
    /// Nothing said.
    pub fn new() -> Read {
        Read::default()
    }

    /// Asks these replicas first.
    pub fn preference(mut self, preference: ReadPreference) -> Read {
        self.preference = Some(preference);
        self
    }

    /// The answer must be so fresh.
    pub fn consistency(mut self, consistency: Consistency) -> Read {
        self.consistency = Some(consistency);
        self
    }

    /// The answer must see the writes that gave these tokens.
    pub fn after(mut self, tokens: &Tokens) -> Read {
        self.tokens.merge(tokens);
        self
    }

    /// Whether the answer may lack partitions that do not answer in time; its coverage then names them. By default it may
    /// not, and the call fails.
    pub fn allow_partial(mut self, is_allowed: bool) -> Read {
        self.allow_partial = Some(is_allowed);
        self
    }

    /// What this says, and what `other` says where this is silent.
    pub(crate) fn or(mut self, other: &Read) -> Read {
        self.preference = self.preference.or(other.preference);
        self.consistency = self.consistency.or(other.consistency);
        self.allow_partial = self.allow_partial.or(other.allow_partial);
        self.after(&other.tokens)
    }

    /// Which replicas it prefers.
    pub(crate) fn preferred(&self) -> ReadPreference {
        self.preference.unwrap_or_default()
    }

    pub(crate) fn to_wire(&self) -> v1::ReadOptions {
        let preference = match self.preferred() {
            ReadPreference::Master => v1::ReadPreference::Leader,
            ReadPreference::Replica => v1::ReadPreference::Replica,
            ReadPreference::Nearest => v1::ReadPreference::Nearest,
        };
        let (consistency, max_lag_ms) = match self.consistency {
            // Only a master can be linearizable: who prefers a replica does not mean that.
            None if preference != v1::ReadPreference::Leader => (v1::Consistency::Bounded, 0),
            None | Some(Consistency::Linearizable) => (v1::Consistency::Linearizable, 0),
            Some(Consistency::Bounded(lag)) => {
                (v1::Consistency::Bounded, u64::try_from(lag.as_millis()).unwrap_or(u64::MAX).max(1))
            }
            Some(Consistency::Any) => (v1::Consistency::Any, 0),
        };
        let token = |(partition, log_index): (PartitionId, LogIndex)| v1::PartitionIndex {
            partition: partition.0,
            log_index,
            node: 0,
        };
        let partial = if self.allow_partial == Some(true) { v1::Partial::Allow } else { v1::Partial::Deny };
        v1::ReadOptions {
            preference: preference.into(),
            consistency: consistency.into(),
            max_lag_ms,
            // A linearizable answer sees every acknowledged write anyway.
            tokens: match consistency {
                v1::Consistency::Linearizable => Vec::new(),
                _ => self.tokens.iter().map(token).collect(),
            },
            partial: partial.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(of: &[(u64, u64)]) -> Tokens {
        Tokens(of.iter().map(|(partition, index)| (PartitionId(*partition), *index)).collect())
    }

    #[test]
    fn a_read_says_more_than_its_client_and_its_client_more_than_nobody() {
        let client = Read::new().preference(ReadPreference::Replica).allow_partial(true);
        let said = Read::new().consistency(Consistency::Any).after(&tokens(&[(1, 5)])).or(&client).to_wire();
        assert_eq!(said.preference(), v1::ReadPreference::Replica);
        assert_eq!((said.consistency(), said.partial()), (v1::Consistency::Any, v1::Partial::Allow));
        assert_eq!((said.tokens[0].partition, said.tokens[0].log_index), (1, 5));
        let said = Read::new().allow_partial(false).or(&client).to_wire();
        assert_eq!((said.consistency(), said.max_lag_ms), (v1::Consistency::Bounded, 0));
        assert_eq!(said.partial(), v1::Partial::Deny);
        let said = Read::new().to_wire();
        assert_eq!(said.consistency(), v1::Consistency::Linearizable);
        assert_eq!(said.preference(), v1::ReadPreference::Leader);
    }

    #[test]
    fn a_bound_is_never_taken_for_none() {
        let lag = |lag| Read::new().consistency(Consistency::Bounded(lag)).to_wire().max_lag_ms;
        assert_eq!((lag(Duration::ZERO), lag(Duration::from_micros(1_500))), (1, 1));
        assert_eq!(lag(Duration::MAX), u64::MAX);
    }

    #[test]
    fn of_two_tokens_the_newer_stays() {
        let mut all = tokens(&[(1, 5), (2, 9)]);
        all.merge(&tokens(&[(1, 7), (2, 3), (3, 1)]));
        assert_eq!(all, tokens(&[(1, 7), (2, 9), (3, 1)]));
        assert!(!all.is_empty() && Tokens::default().is_empty());
    }
}
