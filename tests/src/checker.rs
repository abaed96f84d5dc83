//! Judges of a [`History`]: each names one promise, and says what breaks it with the operations that show it.
//!
//! - [`scans`]: a scan returns no key twice, and all in order.
//! - [`durable`]: nothing is read that was never written, no acknowledged write is lost, no deleted record comes back.
//! - [`indexes`]: a read shows exactly what stands in the log up to the index that it names; a linearizable read names an
//!   index not below any write acknowledged before it, and a read with commit tokens one not below them (so that a client
//!   that hands on what it saw reads monotonically).
//! - [`sessions`]: the same for each key by its values, which holds across partitions too.
//! - [`linear`]: for each key there is an order of its operations that explains every answer and contradicts no clock.
//!
//! The last implies most of the others; they stand before it because they say in one line what is wrong. The checkers are
//! sound: they hold against a correct system whatever its timing. What they cannot see is an unknown write that nobody read.

pub mod durable;
pub mod indexes;
pub mod linear;
pub mod scans;
pub mod sessions;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::history::{Act, Freshness, History, NEVER, Operation, Outcome};

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
    scans::check(history)?;
    indexes::check_calls(history)?;
    let keys = history.by_key();
    for operations in keys.values() {
        durable::check(operations)?;
        indexes::check_key(operations)?;
        sessions::check(operations)?;
    }
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

/// The interval in which an operation takes effect: a read that may be stale may have happened earlier.
fn interval(operation: &Operation) -> (u64, u64) {
    let begin = match operation.act {
        Act::Read(_, Freshness::Any | Freshness::Session) => 0,
        Act::Read(_, Freshness::Bounded(lag)) => {
            operation.invoked.saturating_sub(u64::try_from(lag.as_micros()).unwrap_or(NEVER))
        }
        _ => operation.invoked,
    };
    (begin, if operation.outcome == Outcome::Unknown { NEVER } else { operation.returned })
}

/// Operations of one key, as lines of a message.
fn listed<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> String {
    operations.into_iter().map(|operation| format!("\n  {operation}")).collect()
}
