//! What a store holds in memory, for the node's accountant, and what of it can be let go of.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Store;
use crate::room::{Purpose, Usage};
use crate::storage::sealed::Sealed;

/// Bytes that are remembered of each row of a sealed segment: when it was deleted.
const MARK_BYTES: u64 = 8;

/// Bytes of graphs under way.
#[derive(Debug, Default)]
pub(super) struct UnderWay(AtomicU64);

/// A graph under way, counted until it is dropped.
pub(super) struct Building<'a>(&'a UnderWay, u64);

impl UnderWay {
    /// Counts the graph that is built over this segment's rows.
    pub fn begin(&self, segment: &Sealed) -> Building<'_> {
        let bytes = segment.build_bytes();
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Building(self, bytes)
    }
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Store {
    /// Bytes of memory by purpose.
    pub fn usage(&self) -> Usage {
        let state = self.state.lock();
        let mut usage = Usage::default().with(Purpose::Graph, self.under_way.0.load(Ordering::Relaxed));
        for rows in state.frozen.iter().map(|frozen| &frozen.rows).chain([&state.growing]) {
            let vectors = rows.vector_bytes() as u64;
            usage += Usage::default()
                .with(Purpose::Vectors, vectors)
                .with(Purpose::Payload, (rows.bytes() as u64).saturating_sub(vectors));
        }
        for segment in &state.sealed {
            usage += Usage::default()
                .with(Purpose::Payload, u64::from(segment.rows()) * MARK_BYTES)
                .with(Purpose::Caches, segment.cached_bytes());
        }
        usage
    }

    /// Bytes of the segment that grows.
    pub fn growing_bytes(&self) -> u64 {
        self.state.lock().growing.bytes() as u64
    }

    /// Forgets what was kept because it may be asked again.
    pub fn drop_caches(&self) {
        let sealed = self.state.lock().sealed.clone();
        sealed.iter().for_each(|segment| segment.drop_caches());
    }
}
