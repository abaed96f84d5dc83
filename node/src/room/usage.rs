//! The accountant's figures: bytes of memory by what they are for.
//!
//! Each part tells what it holds, as well as it knows: rows by the sizes of their values and what indexes them, a graph under way by
//! what its kind takes for each row. What the allocator keeps for itself is nobody's. Mapped files are not counted, as they are
//! not in the [pressure](super::Room::pressure).

use std::ops::AddAssign;

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Values of vectors that are not sealed yet.
    Vectors,
    /// Graphs under way.
    Graph,
    /// Payloads and keys that are not sealed yet, and what is remembered of each sealed row.
    Payload,
    /// Entries of the log.
    Log,
    /// Reads under way.
    Scratch,
    /// What is kept because it may be asked again.
    Caches,
}

/// Every purpose.
pub const PURPOSES: [Purpose; 6] =
    [Purpose::Vectors, Purpose::Graph, Purpose::Payload, Purpose::Log, Purpose::Scratch, Purpose::Caches];

impl Purpose {
    /// As metrics name it.
    pub fn word(self) -> &'static str {
        match self {
            Purpose::Vectors => "vectors",
            Purpose::Graph => "graph",
            Purpose::Payload => "payload",
            Purpose::Log => "log",
            Purpose::Scratch => "scratch",
            Purpose::Caches => "caches",
        }
    }
}

/// Bytes for each purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage([u64; PURPOSES.len()]);

impl Usage {
    /// So many bytes more.
    #[must_use]
    pub fn with(mut self, purpose: Purpose, bytes: u64) -> Usage {
        self.0[purpose as usize] += bytes;
        self
    }

    /// Bytes for everything.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Bytes for this.
    pub fn of(&self, purpose: Purpose) -> u64 {
        self.0[purpose as usize]
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, bytes)| *sum += bytes);
    }
}
