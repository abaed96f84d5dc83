//! What was refused of requests that were decided record by record, so that a request that comes again hears it again.
//!
//! How many records a request wrote is a number and stands with the request ([`super`]). Which ones it did not is a list,
//! and most requests have none: lists are kept here, by request, in at most [`BYTES_MAX`] of memory for each window. Beyond,
//! the longest kept one (by log index) goes; that there was one stays known as long as the request itself, so that it is
//! never answered as if all had been written.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::ids::LogIndex;
use serde::{Deserialize, Serialize};

use crate::machine::command::RequestId;

/// Bytes of the lists of one window, at most.
const BYTES_MAX: usize = 2 << 20;
/// What a list's entry takes beside its texts, about.
const ENTRY_BYTES: usize = 64;

/// A record that a request left as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its key, as bytes.
    pub key: Vec<u8>,
    /// Which of the request's records of this key, from 0.
    pub nth: u32,
    /// The version of the record that is there; 0: there is none.
    pub version: LogIndex,
    /// Why.
    pub reason: String,
}

impl Refused {
    fn bytes(&self) -> usize {
        self.key.len() + self.reason.len() + ENTRY_BYTES
    }
}

/// What was refused of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// These.
    pub named: Vec<Refused>,
    /// And so many more.
    pub unnamed: u64,
}

impl Refusals {
    fn bytes(&self) -> usize {
        self.named.iter().map(Refused::bytes).sum::<usize>() + ENTRY_BYTES
    }

    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.unnamed == 0
    }
}

/// A request and what was refused of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    client: u64,
    serial: u64,
    index: LogIndex,
    /// `None`: it is forgotten.
    refused: Option<Refusals>,
}

/// The lists of a window: see the module.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Lists {
    /// By client and serial; with the log index of the answer. `None`: forgotten.
    lists: BTreeMap<(u64, u64), (LogIndex, Option<Refusals>)>,
    /// Those that are not forgotten, by log index.
    by_index: BTreeSet<(LogIndex, (u64, u64))>,
    bytes: usize,
}

/// Of a request of which nothing was refused.
static NOTHING: Refusals = Refusals { named: Vec::new(), unnamed: 0 };

impl Lists {
    /// What was refused of this request: nothing, these, or `None` if that is forgotten.
    pub fn of(&self, request: RequestId) -> Option<&Refusals> {
        match self.lists.get(&(request.client, request.serial)) {
            None => Some(&NOTHING),
            Some((_, refused)) => refused.as_ref(),
        }
    }

    /// Keeps what was refused of a request that was answered at `index`.
    pub fn keep(&mut self, request: (u64, u64), index: LogIndex, refused: Option<Refusals>) {
        self.forget(request);
        if let Some(list) = &refused {
            self.bytes += list.bytes();
            self.by_index.insert((index, request));
        }
        self.lists.insert(request, (index, refused));
        while self.bytes > BYTES_MAX
            && let Some((_, oldest)) = self.by_index.pop_first()
        {
            let list = self.lists.get_mut(&oldest).and_then(|(_, list)| list.take());
            self.bytes -= list.map_or(0, |list| list.bytes()).min(self.bytes);
        }
    }

    /// The request itself is forgotten.
    pub fn forget(&mut self, request: (u64, u64)) {
        if let Some((index, Some(list))) = self.lists.remove(&request) {
            self.by_index.remove(&(index, request));
            self.bytes -= list.bytes().min(self.bytes);
        }
    }

    /// The client is forgotten.
    pub fn forget_client(&mut self, client: u64) {
        let gone: Vec<(u64, u64)> =
            self.lists.range((client, 0)..=(client, u64::MAX)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|request| self.forget(request));
    }

    /// All of it, to be written down or carried along with slots.
    pub fn told(&self) -> Vec<Told> {
        let told = |(&(client, serial), (index, refused)): (&(u64, u64), &(LogIndex, Option<Refusals>))| {
            Told { client, serial, index: *index, refused: refused.clone() }
        };
        self.lists.iter().map(told).collect()
    }

    /// What [`Lists::told`] said.
    pub fn read(told: Vec<Told>) -> Lists {
        let mut lists = Lists::default();
        told.into_iter().for_each(|told| lists.keep(told.request(), told.index, told.refused));
        lists
    }
}

impl Told {
    /// Client and serial.
    pub(super) fn request(&self) -> (u64, u64) {
        (self.client, self.serial)
    }

    /// What was refused; `None` if it is forgotten.
    pub(super) fn into_refused(self) -> Option<Refusals> {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: u8, bytes: usize) -> Refusals {
        let one = Refused { key: vec![key; bytes], nth: 0, version: 3, reason: String::new() };
        Refusals { named: vec![one], unnamed: 0 }
    }

    fn id(client: u64, serial: u64) -> RequestId {
        RequestId { client, serial }
    }

    #[test]
    fn beyond_the_bound_the_oldest_list_goes_and_is_known_to_be_gone() {
        let mut lists = Lists::default();
        let third = BYTES_MAX / 3;
        for serial in 1..=4 {
            lists.keep((1, serial), 10 + serial, Some(refused(serial as u8, third)));
        }
        assert!(lists.bytes <= BYTES_MAX);
        assert_eq!(lists.of(id(1, 1)), None);
        assert_eq!(lists.of(id(1, 2)), None);
        assert_eq!(lists.of(id(1, 4)), Some(&refused(4, third)));
        assert_eq!(lists.of(id(1, 5)), Some(&NOTHING));
        let again = Lists::read(lists.told());
        assert_eq!(again, lists);
        lists.forget((1, 4));
        lists.forget_client(1);
        assert_eq!(lists, Lists::default());
    }
}
