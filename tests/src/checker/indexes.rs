//! Answers name log indexes, and keep to them.
//!
//! The writes of one key in one partition are ordered by their log index, with no guessing from clocks. So a read that names
//! index j shows the last write at or below j and nothing above it, on the leader and on every replica, however stale. Where
//! a write was not acknowledged, its index is learnt from the version of a record that shows it; a write that was applied
//! twice, once more than its caller asked for, stands at two.
//!
//! What an answer names is committed. So whatever any answer named, a later linearizable read is not below it, and a later
//! write is above it.

use std::collections::BTreeMap;

use crate::checker::listed;
use crate::history::{Act, Freshness, History, Operation, Outcome, Position};

/// Looks at the coverage of every call: a partition's log only grows, whoever asks.
///
/// # Errors
/// The first read below one of its tokens, or linearizable and below what was acknowledged or shown before it; the first
/// write that is not above all that was.
pub fn check_calls(history: &History) -> Result<(), String> {
    let mut named: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for call in history.calls.iter().filter(|c| c.outcome == Outcome::Done) {
        for Position { partition, index } in &call.coverage {
            named.entry(*partition).or_default().push((call.returned, *index));
        }
    }
    named.values_mut().for_each(highest_so_far);
    for call in history.calls.iter().filter(|c| c.outcome == Outcome::Done) {
        for at in &call.coverage {
            let token = call.tokens.iter().filter(|t| t.partition == at.partition).map(|t| t.index).max();
            if let Some(token) = token.filter(|token| *token > at.index) {
                return Err(format!("below its token {token}: answered at {at:?}: {call}"));
            }
            let answers = named.get(&at.partition).map_or(&[][..], Vec::as_slice);
            let before = answers.partition_point(|(returned, _)| *returned < call.invoked);
            let newest = before.checked_sub(1).map_or(0, |last| answers[last].1);
            match call.freshness {
                Some(Freshness::Linearizable) if newest > at.index => {
                    return Err(format!(
                        "not linearizable: index {newest} was acknowledged or shown before, answered at {at:?}: \
                         {call}"
                    ));
                }
                None if newest >= at.index => {
                    return Err(format!(
                        "the log does not grow: index {newest} was acknowledged or shown before, written at {at:?}: \
                         {call}"
                    ));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Sorts by time, and has each index be the highest up to its time.
fn highest_so_far(answers: &mut Vec<(u64, u64)>) {
    answers.sort_unstable();
    let mut highest = 0;
    for (_, index) in answers {
        highest = highest.max(*index);
        *index = highest;
    }
}

/// Looks at the reads of one key.
///
/// # Errors
/// The first read that shows something else than its index says. A key that was seen in two partitions is left out: its
/// indexes do not compare.
pub fn check_key(operations: &[Operation]) -> Result<(), String> {
    let done = || operations.iter().filter(|o| o.outcome == Outcome::Done);
    let mut partitions: Vec<u64> = done().filter_map(|o| Some(o.position?.partition)).collect();
    partitions.dedup();
    let [_] = partitions[..] else { return Ok(()) };
    let places = places(operations)?;
    let is_write = |o: &&Operation| o.act.is_write();
    let placed = done().filter(is_write).filter_map(|o| Some((o.position?.index, o)));
    let mut log: BTreeMap<u64, &Operation> = placed.collect();
    for write in operations.iter().filter(is_write) {
        if let Some(value) = write.act.written()
            && let Some(index) = places.get(&value)
        {
            log.insert(*index, write);
        }
    }
    let is_whole = operations
        .iter()
        .filter(|o| matches!(o.act, Act::Delete { .. } | Act::Expire(_)) && o.outcome != Outcome::Failed)
        .all(|o| o.outcome == Outcome::Done && o.position.is_some());
    for read in done() {
        let Some(at) = read.position else { continue };
        let index = match read.act {
            Act::Read(value, _) => value.and_then(|value| places.get(&value).copied()),
            // What was refused has met a record, or none.
            Act::Refused { .. } => read.version,
            _ => continue,
        };
        let last = log.range(..=at.index).next_back();
        match (index, last) {
            (Some(index), _) if index > at.index => {
                return Err(format!(
                    "shows index {index}, beyond its own: key {}:{}",
                    read.key,
                    listed([read])
                ));
            }
            (Some(index), Some((newer, write))) if *newer > index => {
                return Err(format!(
                    "shows index {index}, and misses {newer}: key {}:{}",
                    read.key,
                    listed([*write, read])
                ));
            }
            (None, Some((_, write))) if !read.act.is_there() && is_whole && write.act.is_there() => {
                return Err(format!("misses a record: key {}:{}", read.key, listed([*write, read])));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The log index of each value, from its acknowledgement or from a read of it.
fn places(operations: &[Operation]) -> Result<BTreeMap<u64, u64>, String> {
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    for operation in operations.iter().filter(|o| o.outcome == Outcome::Done) {
        let (value, index) = match operation.act {
            // Where the read names no partition, its version may count in another one's log.
            Act::Read(Some(value), _) => (value, operation.position.and(operation.version)),
            act => match act.written() {
                Some(value) => (value, operation.position.map(|at| at.index)),
                None => continue,
            },
        };
        let Some(index) = index else { continue };
        let known = *places.entry(value).or_insert(index);
        if known != index {
            let shows = |o: &&Operation| o.act.written().or(o.act.read()) == Some(value);
            return Err(format!(
                "one write, applied at two log indexes, {known} and {index}: key {}:{}",
                operation.key,
                listed(operations.iter().filter(shows).take(8))
            ));
        }
    }
    Ok(places)
}
