//! A frozen state of the partition for one read.
//!
//! A view is the set of segments and the log index that belong together, taken in one step. It keeps what it holds
//! alive (chunks in memory, maps of files, even after their folders' names are gone) until it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::Key;

use super::{Digest, Fault, Presence, SegmentView};

/// A segment of a view, with the number by which the store knows it.
#[derive(Clone)]
pub(super) struct Part {
    /// The store's number of it.
    pub number: u64,
    /// The segment, bound to the view's log index.
    pub segment: Arc<dyn SegmentView>,
}

/// What views see from some moment on.
pub(super) struct Published {
    /// No other state of any partition in this process has it.
    pub serial: u64,
    /// The log index.
    pub at: LogIndex,
    /// The rolling digest there.
    pub digest: Digest,
    /// The segments, oldest first.
    pub parts: Vec<Part>,
    /// Whose rows they are.
    pub presence: Arc<Presence>,
}

/// The number of the next state.
pub(super) fn next_serial() -> u64 {
    static STATES: AtomicU64 = AtomicU64::new(1);
    STATES.fetch_add(1, Ordering::Relaxed)
}

impl Published {
    /// The same state, with `gone` replaced by `come`.
    pub fn replaced(&self, gone: &[u64], come: Option<Part>) -> Published {
        let place = self.parts.iter().position(|part| gone.contains(&part.number));
        let mut parts: Vec<Part> =
            self.parts.iter().filter(|part| !gone.contains(&part.number)).cloned().collect();
        if let Some(part) = come {
            parts.insert(place.unwrap_or(parts.len()).min(parts.len()), part);
        }
        let presence = Arc::clone(&self.presence);
        Published { serial: next_serial(), at: self.at, digest: self.digest, parts, presence }
    }
}

/// A frozen state of the partition. Cheap to take and to copy.
#[derive(Clone)]
pub struct View {
    /// The log index it sees: every command up to it and none after.
    pub at: LogIndex,
    published: Arc<Published>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("at", &self.at).field("segments", &self.len()).finish()
    }
}

impl View {
    pub(super) fn of(published: Arc<Published>) -> View {
        View { at: published.at, published }
    }

    /// A number that no other state in this process has: of two views with it, all that can be seen is the same, and where it stands.
    pub fn serial(&self) -> u64 {
        self.published.serial
    }

    /// Whose rows they are.
    pub fn presence(&self) -> &Presence {
        &self.published.presence
    }

    /// The rolling digest of its rows: see [`super::digest`].
    pub fn digest(&self) -> Digest {
        self.published.digest
    }

    /// The segments. A segment's ordinal is its place here; it holds for this view only.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &dyn SegmentView> {
        self.published.parts.iter().map(|part| &*part.segment)
    }

    /// The segment with this ordinal.
    pub fn segment(&self, ordinal: usize) -> Option<&dyn SegmentView> {
        self.published.parts.get(ordinal).map(|part| &*part.segment)
    }

    /// How many segments there are.
    pub fn len(&self) -> usize {
        self.published.parts.len()
    }

    /// Whether there is no segment.
    pub fn is_empty(&self) -> bool {
        self.published.parts.is_empty()
    }

    /// Live records.
    pub fn live(&self) -> u64 {
        self.segments().map(|segment| u64::from(segment.live())).sum()
    }

    /// The live row of `key`: (segment ordinal, row). The newest segments are asked first.
    pub fn find(&self, key: &Key) -> Result<Option<(usize, u32)>, Fault> {
        for (ordinal, part) in self.published.parts.iter().enumerate().rev() {
            if let Some(row) = part.segment.find(key)? {
                return Ok(Some((ordinal, row)));
            }
        }
        Ok(None)
    }
}
