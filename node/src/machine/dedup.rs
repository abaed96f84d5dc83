//! The deduplication window: a request that comes twice is applied once, and answered as the first time.
//!
//! For each client the replies to its latest [`SERIALS_PER_CLIENT`] requests are kept, in any order of arrival, and for at
//! most [`CLIENTS`] clients, the longest silent one (by log index) going first. A serial at or below what was already
//! forgotten of its client is rejected: whether it was applied cannot be told any more. The window is part of the
//! machine's state: it is a function of the log alone and is written with the manifest.
//!
//! 2026-11-21: it is not in the derived store. A window that runs ahead of the manifest would take replayed requests for
//! repetitions of themselves; as of the manifest, replay rebuilds it exactly.

use std::collections::{BTreeMap, HashMap};

use flotilla_proto::ids::LogIndex;
use serde::{Deserialize, Serialize};

use super::command::RequestId;
use super::{Rejection, Reply};

/// Clients remembered, at most.
const CLIENTS: usize = 4_096;
/// Requests remembered of each client, at most.
const SERIALS_PER_CLIENT: usize = 256;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Client {
    last_index: LogIndex,
    forgotten: u64,
    /// serial -> (records affected, log index)
    done: BTreeMap<u64, (u64, LogIndex)>,
}

/// The window.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Window {
    clients: HashMap<u64, Client>,
    /// log index of a client's latest request -> client
    by_index: BTreeMap<LogIndex, u64>,
}

impl Window {
    /// The reply to `request` if it was seen before.
    pub fn seen(&self, request: RequestId) -> Option<Reply> {
        let client = self.clients.get(&request.client)?;
        match client.done.get(&request.serial) {
            Some(&(affected, log_index)) => Some(Reply::Written { affected, log_index }),
            None if request.serial <= client.forgotten => Some(Reply::Rejected(Rejection::TooOld {
                serial: request.serial,
                forgotten: client.forgotten,
            })),
            None => None,
        }
    }

    /// Remembers what `request`, applied at `index`, was answered.
    pub fn record(&mut self, request: RequestId, index: LogIndex, affected: u64) {
        let client = self.clients.entry(request.client).or_default();
        self.by_index.remove(&client.last_index);
        client.last_index = index;
        client.done.insert(request.serial, (affected, index));
        if client.done.len() > SERIALS_PER_CLIENT
            && let Some((serial, _)) = client.done.pop_first()
        {
            client.forgotten = client.forgotten.max(serial);
        }
        self.by_index.insert(index, request.client);
        if self.clients.len() > CLIENTS
            && let Some((_, silent)) = self.by_index.pop_first()
        {
            self.clients.remove(&silent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(client: u64, serial: u64) -> RequestId {
        RequestId { client, serial }
    }

    #[test]
    fn a_request_is_answered_as_the_first_time_in_any_order() {
        let mut window = Window::default();
        window.record(id(1, 6), 10, 3);
        window.record(id(1, 5), 11, 4);
        assert_eq!(window.seen(id(1, 6)), Some(Reply::Written { affected: 3, log_index: 10 }));
        assert_eq!(window.seen(id(1, 5)), Some(Reply::Written { affected: 4, log_index: 11 }));
        assert_eq!(window.seen(id(1, 7)), None);
        assert_eq!(window.seen(id(2, 5)), None);
    }

    #[test]
    fn a_forgotten_serial_is_rejected_and_never_applied_again() {
        let mut window = Window::default();
        for serial in 1..=SERIALS_PER_CLIENT as u64 + 2 {
            window.record(id(1, serial), serial, 1);
        }
        assert_eq!(
            window.seen(id(1, 2)),
            Some(Reply::Rejected(Rejection::TooOld { serial: 2, forgotten: 2 }))
        );
        assert!(matches!(window.seen(id(1, 3)), Some(Reply::Written { .. })));
    }

    #[test]
    fn the_longest_silent_client_goes_first_and_the_window_stays_bounded() {
        let mut window = Window::default();
        for client in 0..CLIENTS as u64 + 10 {
            window.record(id(client, 1), client + 1, 1);
        }
        assert_eq!(window.clients.len(), CLIENTS);
        assert_eq!(window.by_index.len(), CLIENTS);
        assert_eq!(window.seen(id(9, 1)), None);
        assert!(window.seen(id(10, 1)).is_some());
    }
}
