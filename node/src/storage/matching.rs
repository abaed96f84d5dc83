//! Which rows of a segment pass a filter, and what a sealed segment remembers of filters that are asked again.
//!
//! A sealed segment's rows never change, so which of them pass a filter never does either: the set is worked out once and kept
//! with the segment's other memory, the [`KEPT`] filters used last. Deletions are taken off in each view, and a filter whose
//! evaluation met damage is not kept, so a remembered set never differs from one worked out anew. A filter that comes
//! again also has the codes of its rows gathered ([`Packed`]), as long as they fit the segment's room for that:
//! [`ROOM_PER_ROW`] bytes for each of its rows.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use flotilla_proto::filter::Compiled;
use parking_lot::Mutex;

use super::Fault;
use crate::index::{Bitset, Packed};

/// Filters that a segment remembers.
const KEPT: usize = 32;
/// Bytes of gathered codes for each row of the segment, all filters together.
const ROOM_PER_ROW: usize = 64;
/// From this use on a filter's codes are gathered.
const USES_TO_PACK: u64 = 2;

/// The live rows of a segment that pass a filter.
#[derive(Clone, Debug)]
pub struct Matching {
    rows: Arc<Bitset>,
    known: Option<Arc<Known>>,
}

impl From<Bitset> for Matching {
    fn from(rows: Bitset) -> Matching {
        Matching { rows: Arc::new(rows), known: None }
    }
}

impl Deref for Matching {
    type Target = Bitset;

    fn deref(&self) -> &Bitset {
        &self.rows
    }
}

impl Matching {
    /// Those of a remembered filter that are not dead.
    pub(super) fn live(known: Arc<Known>, dead: Option<&Bitset>) -> Matching {
        let rows = match dead {
            None => Arc::clone(&known.rows),
            Some(dead) => {
                let mut rows = (*known.rows).clone();
                rows.and_not(dead);
                Arc::new(rows)
            }
        };
        Matching { rows, known: Some(known) }
    }

    /// Only those of `shown`.
    pub fn within(self, shown: &Bitset) -> Matching {
        let mut rows = (*self.rows).clone();
        rows.and(shown);
        Matching { rows: Arc::new(rows), known: self.known }
    }

    /// Whether the filter was asked before, so that its codes are gathered where there is room.
    pub fn is_repeated(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.uses.load(Ordering::Relaxed) >= USES_TO_PACK)
    }

    /// The gathered codes of one vector, for at least these rows; `None` where they were not worth it or do not fit. `pack` gathers
    /// those of a set of rows.
    pub(super) fn packed(
        &self,
        ordinal: usize,
        pack: impl FnOnce(&Bitset) -> Option<Packed>,
    ) -> Option<&Packed> {
        let known = self.known.as_ref().filter(|_| self.is_repeated())?;
        let place = known.packed.get(ordinal)?;
        if let Some(packed) = place.get() {
            return Some(&packed.0);
        }
        let packed = Taken::of(pack(&known.rows)?, &known.room)?;
        Some(&place.get_or_init(|| packed).0)
    }
}

/// A filter that a segment remembers.
#[derive(Debug)]
pub(super) struct Known {
    /// All rows that pass, dead ones included.
    rows: Arc<Bitset>,
    uses: AtomicU64,
    /// By the vector's ordinal.
    packed: Box<[OnceLock<Taken>]>,
    room: Arc<Room>,
}

/// Bytes that gathered codes may still take.
#[derive(Debug)]
struct Room(AtomicUsize);

/// Gathered codes; they give their room back.
#[derive(Debug)]
struct Taken(Packed, Arc<Room>);

impl Taken {
    fn of(packed: Packed, room: &Arc<Room>) -> Option<Taken> {
        let less = |left: usize| left.checked_sub(packed.bytes());
        room.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Taken(packed, Arc::clone(room)))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.1.0.fetch_add(self.0.bytes(), Ordering::Relaxed);
    }
}

/// The filters that a sealed segment remembers.
#[derive(Debug)]
pub(super) struct Filters {
    rows: usize,
    /// By their fingerprints; the one used last at the end.
    kept: Mutex<Vec<(u64, Compiled, Arc<Known>)>>,
    vectors: usize,
    room: Arc<Room>,
}

impl Filters {
    /// None yet, of a segment of so many rows and vectors.
    pub fn new(rows: u32, vectors: usize) -> Filters {
        let room = Arc::new(Room(AtomicUsize::new(rows as usize * ROOM_PER_ROW)));
        Filters { rows: rows as usize, kept: Mutex::default(), vectors, room }
    }

    /// What is known of a filter; `evaluate` works out its rows, where nothing is.
    pub fn get(
        &self,
        filter: &Compiled,
        evaluate: impl FnOnce() -> Result<Bitset, Fault>,
    ) -> Result<Arc<Known>, Fault> {
        let print = filter.fingerprint();
        if let Some(known) = self.find(print, filter) {
            return Ok(known);
        }
        let known = Arc::new(Known {
            rows: Arc::new(evaluate()?),
            uses: AtomicU64::new(1),
            packed: (0..self.vectors).map(|_| OnceLock::new()).collect(),
            room: Arc::clone(&self.room),
        });
        if is_worth_keeping(filter) {
            let mut kept = self.kept.lock();
            kept.retain(|(known, other, _)| *known != print || other != filter);
            if kept.len() >= KEPT {
                kept.remove(0);
            }
            kept.push((print, filter.clone(), Arc::clone(&known)));
        }
        Ok(known)
    }

    /// Bytes of what is remembered: a bit for each row and filter, and the gathered codes.
    pub fn bytes(&self) -> usize {
        let packed = (self.rows * ROOM_PER_ROW).saturating_sub(self.room.0.load(Ordering::Relaxed));
        self.kept.lock().len() * self.rows / 8 + packed
    }

    /// Remembers none any more.
    pub fn forget(&self) {
        self.kept.lock().clear();
    }

    fn find(&self, print: u64, filter: &Compiled) -> Option<Arc<Known>> {
        let mut kept = self.kept.lock();
        let at = kept.iter().position(|(known, other, _)| *known == print && other == filter)?;
        let found = kept.remove(at);
        let known = Arc::clone(&found.2);
        kept.push(found);
        known.uses.fetch_add(1, Ordering::Relaxed);
        Some(known)
    }
}

/// Lists of keys are long, hardly ever the same, and quickly looked up.
fn is_worth_keeping(filter: &Compiled) -> bool {
    match filter {
        Compiled::All(parts) | Compiled::Any(parts) => parts.iter().all(is_worth_keeping),
        Compiled::Not(part) => is_worth_keeping(part),
        Compiled::Leaf(_) => true,
        Compiled::Keys(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::filter::Filter;
    use flotilla_proto::record::Value;
    use flotilla_proto::schema::CollectionSpec;

    use super::*;

    fn filter(value: i64) -> Compiled {
        Compiled::new(&Filter::Equal("a".into(), Value::from(value)), &CollectionSpec::default()).unwrap()
    }

    fn find(filters: &Filters, filter: &Compiled) -> Option<Arc<Known>> {
        filters.find(filter.fingerprint(), filter)
    }

    fn rows() -> Result<Bitset, Fault> {
        Ok(Bitset::with_rows(100, [3, 5, 8]))
    }

    #[test]
    fn a_filter_is_evaluated_once_and_dead_rows_are_taken_off_each_time() {
        let filters = Filters::new(100, 1);
        let first = filters.get(&filter(1), rows).unwrap();
        assert!(!Matching::live(first, None).is_repeated());
        let again = filters.get(&filter(1), || panic!("it is known")).unwrap();
        let dead = Bitset::with_rows(100, [5, 9]);
        let live = Matching::live(again, Some(&dead));
        assert!(live.is_repeated());
        assert_eq!(live.iter().collect::<Vec<_>>(), [3, 8]);
        let shown = live.within(&Bitset::with_rows(100, [8, 9]));
        assert_eq!(shown.iter().collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn a_fault_and_lists_of_keys_are_not_kept_and_the_longest_unused_goes_first() {
        let filters = Filters::new(100, 1);
        assert!(filters.get(&filter(1), || Err(Fault::Cancelled)).is_err());
        filters.get(&filter(1), rows).unwrap();
        filters.get(&Compiled::Keys(vec![]), rows).unwrap();
        assert!(find(&filters, &Compiled::Keys(vec![])).is_none());
        for value in 2..=KEPT as i64 {
            filters.get(&filter(value), rows).unwrap();
        }
        assert!(find(&filters, &filter(1)).is_some(), "it fits, and is now the one used last");
        filters.get(&filter(99), rows).unwrap();
        assert!(find(&filters, &filter(1)).is_some() && find(&filters, &filter(2)).is_none());
        assert_eq!(filters.kept.lock().len(), KEPT);
    }
}
