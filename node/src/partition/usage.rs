//! What a replica holds in memory, and how it lets go of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::refusal::Refusal;

use super::Replica;
use crate::room::{Purpose, Usage};

/// What a read under way takes at least.
const SCRATCH_LEAST: u64 = 256 << 10;
/// Records for each byte of a read under way: what it has seen, a bit for each.
const SCRATCH_RECORDS: u64 = 8;

/// A read that computes, counted until it is dropped.
pub(super) struct Computing(Arc<AtomicU64>);

impl Computing {
    /// One more.
    pub fn new(count: &Arc<AtomicU64>) -> Computing {
        count.fetch_add(1, Ordering::Relaxed);
        Computing(count.clone())
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Replica {
    /// Bytes of memory by purpose.
    pub fn usage(&self) -> Usage {
        let reads = self.computing.load(Ordering::Relaxed);
        let each = SCRATCH_LEAST + self.store.status().records / SCRATCH_RECORDS;
        self.store
            .usage()
            .with(Purpose::Scratch, reads * each)
            .with(Purpose::Caches, self.answers.bytes_of(self.id))
    }

    /// Bytes of the segment that grows.
    pub fn growing_bytes(&self) -> u64 {
        self.store.growing_bytes()
    }

    /// Has the growing rows sealed, few as they may be.
    ///
    /// # Errors
    /// If the group has stopped.
    pub async fn seal_early(&self) -> Result<(), Refusal> {
        self.worker.seal_early().await
    }

    /// Gives up what is being built or merged; it is begun anew when there is memory.
    pub fn give_up_builds(&self) {
        self.worker.give_up_builds();
    }

    /// Forgets what its segments keep because it may be asked again.
    pub fn drop_caches(&self) {
        self.store.drop_caches();
    }

    /// Lets go of states that answered longer ago than this; of those of scans too, if `all`: their pages will show newer ones.
    pub fn let_go_of_views(&self, age_max: Duration, all: bool) {
        self.views.let_go(age_max, all);
    }
}
