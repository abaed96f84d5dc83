//! Who writes, and how many-th write it is.
//!
//! Servers remember a bounded number of serials per client id, and refuse one that comes far later than its successors. So
//! the writes of one id must not overtake each other: each write under way holds an id of its own and gives it back at its
//! end. There are as many ids as there were writes at once, and the one used last is used next.

use std::sync::{Mutex, PoisonError};

use flotilla_proto::v1::RequestId;

/// The ids that no write holds.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    free: Mutex<Vec<RequestId>>,
}

/// The id that one write holds.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    identity: &'a Identity,
    pub(crate) id: RequestId,
}

impl Identity {
    /// An id that no other write holds. Its client is 0 if the operating system gives no random bytes: the router then
    /// gives one.
    pub(crate) fn take(&self) -> Held<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let last = free.unwrap_or_else(fresh);
        Held { identity: self, id: RequestId { serial: last.serial + 1, ..last } }
    }
}

/// The id before the first of a new client.
pub(crate) fn fresh() -> RequestId {
    RequestId { client: getrandom::u64().unwrap_or(0), serial: 0 }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.identity.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_at_once_have_different_clients_and_writes_in_a_row_different_serials() {
        let identity = Identity::default();
        let (first, second) = (identity.take(), identity.take());
        assert_ne!(first.id.client, second.id.client);
        assert_eq!((first.id.serial, second.id.serial), (1, 1));
        let client = second.id.client;
        drop(second);
        assert_eq!(identity.take().id, RequestId { client, serial: 2 });
    }
}
