//! What a client remembers of its writes, so that its reads see them on any replica.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use flotilla_proto::limits::{COLLECTIONS_MAX, TOKENS_MAX};

use crate::Tokens;

/// The newest token of each partition, by collection.
#[derive(Debug, Default)]
pub(crate) struct Session {
    written: Mutex<HashMap<String, Tokens>>,
}

impl Session {
    /// A write to `collection` was acknowledged with these.
    pub(crate) fn note(&self, collection: &str, tokens: &Tokens) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() >= COLLECTIONS_MAX && !written.contains_key(collection) {
            // More than there can be at one time: those of deleted ones are among them.
            written.clear();
        }
        let known = written.entry(collection.to_owned()).or_default();
        known.merge(tokens);
        if known.iter().count() > TOKENS_MAX {
            // More than a read may carry. Partition ids only grow: the oldest belong to a deleted namesake.
            *known = tokens.clone();
        }
    }

    /// What a read of `collection` must see.
    pub(crate) fn tokens(&self, collection: &str) -> Tokens {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(collection).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1;

    use super::*;

    fn tokens(partition: u64, log_index: u64) -> Tokens {
        let indexes = vec![v1::PartitionIndex { partition, log_index, node: 0 }];
        Tokens::from(&v1::Coverage { indexes, ..Default::default() })
    }

    #[test]
    fn the_newest_token_of_each_partition_is_kept_and_their_number_is_bounded() {
        let session = Session::default();
        session.note("a", &tokens(1, 7));
        session.note("a", &tokens(1, 5));
        assert_eq!(session.tokens("a"), tokens(1, 7));
        assert!(session.tokens("b").is_empty());
        for partition in 0..2 * TOKENS_MAX as u64 {
            session.note("b", &tokens(partition, 1));
            assert!(session.tokens("b").iter().count() <= TOKENS_MAX);
        }
        for collection in 0..2 * COLLECTIONS_MAX {
            session.note(&collection.to_string(), &tokens(1, 1));
        }
        assert!(session.written.lock().unwrap().len() <= COLLECTIONS_MAX);
    }
}
