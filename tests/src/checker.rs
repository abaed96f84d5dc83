//! Judges of a [`History`]: each names one promise, and says what breaks it with the operations that show it.
//!
//! - [`durable`]: nothing is read that was never written, no acknowledged write is lost, no deleted record comes back.
//! - [`indexes`]: a read shows exactly what stands in the log up to the index that it names; a linearizable read names an
//!   index not below any write acknowledged before it, and a read with commit tokens one not below them (so that a client
//!   that hands on what it saw reads monotonically).
//! - [`sets`]: a scan, an exact search, an aggregation and a count of everything miss nothing that is certainly there, show
//!   nothing that cannot be, and no key twice.
//! - [`sessions`]: the same for each key by its values, which holds across partitions too.
//! - [`linear`]: for each key there is an order of its operations that explains every answer and contradicts no clock: what
//!   a conditional write did or did not do among them.
//!
//! The last implies most of the others; they stand before it because they say in one line what is wrong. The checkers are
//! sound: they hold against a correct system whatever its timing. What they cannot see is an unknown write that nobody read.

pub mod durable;
pub mod indexes;
pub mod linear;
pub mod sessions;
pub mod sets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{Act, Expect, Freshness, History, Key, NEVER, Operation, Outcome, SetAnswer};

/// What a history was found to hold, once it passed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Keys touched.
    pub keys: usize,
    /// Calls acknowledged.
    pub acknowledged: usize,
    /// Calls that failed, or may have.
    pub unacknowledged: usize,
    /// Operations on single keys.
    pub operations: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { keys, acknowledged, unacknowledged, operations } = self;
        write!(
            f,
            "{acknowledged} calls acknowledged, {unacknowledged} not; {operations} operations on {keys} keys"
        )
    }
}

/// Asks every judge.
///
/// # Errors
/// The first promise that is broken, and by what.
pub fn check(history: &History) -> Result<Tally, String> {
    if let Some(damage) = history.damage.first() {
        return Err(format!("{damage} ({} such answers)", history.damage.len()));
    }
    indexes::check_calls(history)?;
    let mut keys = history.by_key();
    without_places_that_moved(history, &mut keys);
    for operations in keys.values() {
        durable::check(operations)?;
        indexes::check_key(operations)?;
        sessions::check(operations)?;
    }
    sets::check(&history.sets, &keys)?;
    for operations in keys.values() {
        linear::check(operations)?;
    }
    Ok(Tally {
        keys: keys.len(),
        acknowledged: history.acknowledged(),
        unacknowledged: history.failures().count(),
        operations: history.operations.len(),
    })
}

/// A version counts in the log of one partition: of a key that moved, it may by chance be that of another record. What wanted a
/// version then wanted a record, for all that is known; and what was refused is not known to have met another one.
///
/// A call that names such a key may have been split while it moved, and one partition have taken two parts of it: what it answers
/// is an index for both, and is that of no other key either.
fn without_places_that_moved(history: &History, keys: &mut BTreeMap<Key, Vec<Operation>>) {
    let of_moved = history.operations.iter().filter(|operation| history.moved.contains(&operation.key));
    let split: BTreeSet<(u64, u64)> = of_moved.map(|o| (o.client, o.invoked)).collect();
    for (key, operations) in keys {
        let partitions: BTreeSet<u64> =
            operations.iter().filter_map(|operation| Some(operation.position?.partition)).collect();
        if partitions.len() > 1 || history.moved.contains(key) {
            without_versions(operations);
        }
        for operation in operations.iter_mut().filter(|o| split.contains(&(o.client, o.invoked))) {
            operation.position = None;
        }
    }
}

fn without_versions(operations: &mut [Operation]) {
    for operation in operations {
        match &mut operation.act {
            Act::UpsertIf(_, expect @ Expect::Value(_)) | Act::Patch(_, expect @ Expect::Value(_)) => {
                *expect = Expect::Present;
            }
            Act::Refused { expect: expect @ Expect::Value(_), existed } => {
                *expect = if *existed { Expect::Absent } else { Expect::Present };
            }
            _ => {}
        }
    }
}

/// The interval in which an operation takes effect: a read that may be stale may have happened earlier.
fn interval(operation: &Operation) -> (u64, u64) {
    let begin = match operation.act {
        Act::Read(_, freshness) => earliest(operation.invoked, freshness),
        _ => operation.invoked,
    };
    (begin, if operation.outcome == Outcome::Unknown { NEVER } else { operation.returned })
}

/// Whether an operation may have removed what this write left, or what came after it: a record whose upsert certainly came before
/// the write cannot expire after it, unless the write is a patch of it.
fn may_remove(operation: &Operation, write: &Operation, writes: &BTreeMap<u64, &Operation>) -> bool {
    match operation.act {
        Act::Delete { .. } => true,
        Act::Expire(value) => {
            let is_before = writes.get(&value).is_some_and(|expired| interval(expired).1 < write.invoked);
            !is_before || matches!(write.act, Act::Patch(..))
        }
        _ => false,
    }
}

/// The interval of which an answer over the whole collection speaks, key by key.
fn span(answer: &SetAnswer) -> (u64, u64) {
    (earliest(answer.invoked, answer.freshness), answer.returned)
}

/// The time from which a read asked for now may be.
fn earliest(invoked: u64, freshness: Freshness) -> u64 {
    match freshness {
        Freshness::Linearizable => invoked,
        Freshness::Any | Freshness::Session => 0,
        Freshness::Bounded(lag) => invoked.saturating_sub(u64::try_from(lag.as_micros()).unwrap_or(NEVER)),
    }
}

/// Operations of one key, as lines of a message.
fn listed<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> String {
    operations.into_iter().map(|operation| format!("\n  {operation}")).collect()
}
