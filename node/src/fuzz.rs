//! The doors for fuzzing of the node's parsers: one for each, beside the parser that it is of.
//!
//! Compiled for tests and under the feature `fuzz` only. A door takes any bytes and panics if the parser breaks its promise;
//! the targets in `tests/fuzz` call it, and so does the replay of their corpora here. Several of them write what they are
//! given into a folder first, in memory where there is such a place.

// What a door needs to begin with is there, or nothing can be tried.
#![allow(clippy::expect_used)]

pub use crate::index::fuzz::graph;
pub use crate::log::fuzz::{log_record, log_recovery};
pub use crate::machine::fuzz::machine_state;
pub use crate::raft::fuzz::{log_entry, snapshot};
pub use crate::storage::fuzz::{manifest, payload, segment};

/// A folder of its own for one input, in memory where there is such a place; gone when it is dropped.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder for an input")
}

/// Bytes as a source of choices: once they are used up, zeros for ever.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let (head, tail) = self.0.split_at(self.0.len().min(N));
        taken[..head.len()].copy_from_slice(head);
        self.0 = tail;
        taken
    }

    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// At most so many bytes.
    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(self.0.len().min(most));
        self.0 = tail;
        head
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }
}

#[cfg(test)]
mod tests;
