//! Identities for writes that bring none, so that every write can be sent again and is applied once.
//!
//! Nodes remember a bounded number of serials per client, and refuse a serial that came far later than its successors. So a
//! client's writes must not overtake each other: each write under way holds an identity of its own and gives it back at its
//! end. There are as many as there were writes at once, and the latest used is used next.

use flotilla_proto::v1::RequestId;
use parking_lot::Mutex;

use crate::chance::Chance;

/// The identities that no write holds.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    free: Mutex<Vec<RequestId>>,
}

/// An identity that one write holds.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    ids: &'a Ids,
    /// The write's id.
    pub(crate) id: RequestId,
}

impl Ids {
    /// An identity of this router that no other write holds.
    pub(crate) fn take(&self, chance: &Chance) -> Held<'_> {
        let free = self.free.lock().pop();
        let new = || RequestId { client: chance.number().max(1), serial: 0 };
        let last = free.unwrap_or_else(new);
        Held { ids: self, id: RequestId { serial: last.serial + 1, ..last } }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.ids.free.lock().push(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_writes_share_an_id_and_serials_grow_by_one() {
        let (ids, chance) = (Ids::default(), Chance::new(Some(1)));
        let (first, second) = (ids.take(&chance), ids.take(&chance));
        let clients = (first.id.client, second.id.client);
        assert!(clients.0 != clients.1 && clients.0 != 0);
        assert_eq!((first.id.serial, second.id.serial), (1, 1));
        drop(first);
        let third = ids.take(&chance);
        assert_eq!((third.id.client, third.id.serial), (clients.0, 2));
    }
}
