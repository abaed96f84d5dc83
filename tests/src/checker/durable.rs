//! No acknowledged write is lost, no deleted record comes back, nothing is read that nobody wrote.
//!
//! Necessary conditions, each with a plain witness: for a read, the write whose value it shows and the acknowledged write
//! that stands between the two in real time, or that ought to be visible and is not.

use std::collections::BTreeMap;

use crate::checker::{interval, listed, may_remove};
use crate::history::{Act, Operation, Outcome};

/// Looks at the reads of one key.
///
/// # Errors
/// The first read that cannot be, with the operations that show it.
pub fn check(operations: &[Operation]) -> Result<(), String> {
    let writes: Vec<&Operation> = operations.iter().filter(|o| is_effective_write(o)).collect();
    let by_value: BTreeMap<u64, &Operation> = writes.iter().filter_map(|w| Some((written(w)?, *w))).collect();
    for read in operations {
        match (read.act, read.outcome) {
            (Act::Read(Some(value), _), Outcome::Done) => {
                shown(read, value, &by_value, &writes)?;
                lies_on_its_base(read, value, &by_value, &writes)?;
            }
            (Act::Read(None, _), Outcome::Done) => absent(read, &by_value, &writes)?,
            _ => {}
        }
    }
    Ok(())
}

fn is_effective_write(operation: &Operation) -> bool {
    operation.act.is_write() && operation.outcome != Outcome::Failed
}

fn written(operation: &Operation) -> Option<u64> {
    operation.act.written()
}

/// A read shows a value: somebody wrote it, and no acknowledged write has covered it for certain.
fn shown(
    read: &Operation,
    value: u64,
    by_value: &BTreeMap<u64, &Operation>,
    writes: &[&Operation],
) -> Result<(), String> {
    let (begin, end) = interval(read);
    let Some(&write) = by_value.get(&value) else {
        return Err(format!("never written (or refused): key {} has {value:x}:{}", read.key, listed([read])));
    };
    if write.invoked > end {
        return Err(format!("read before it was written: key {}:{}", read.key, listed([read, write])));
    }
    let Some(cover) = covered(write, begin, writes, |_| true) else { return Ok(()) };
    let what = match cover.act {
        Act::Delete { .. } => "a deleted record came back",
        _ => "an acknowledged write is lost: an older value is read after it",
    };
    Err(format!("{what}: key {}:{}", read.key, listed([write, cover, read])))
}

/// What a patch left as it was is that of an upsert which nothing has covered for certain; an upsert leaves nothing.
fn lies_on_its_base(
    read: &Operation,
    value: u64,
    by_value: &BTreeMap<u64, &Operation>,
    writes: &[&Operation],
) -> Result<(), String> {
    let (Some(base), Some(&top)) = (read.base, by_value.get(&value)) else { return Ok(()) };
    let is_patch = |o: &Operation| matches!(o.act, Act::Patch(..));
    let below = by_value.get(&base).copied().filter(|below| !is_patch(below));
    let Some(below) = below.filter(|_| is_patch(top) != (base == value)) else {
        return Err(format!("a record of two writes: key {}:{}", read.key, listed([top, read])));
    };
    let Some(cover) = covered(below, interval(read).0, writes, |o| !is_patch(o)) else { return Ok(()) };
    let what = match cover.act {
        Act::Delete { .. } => "a patch brought back what was deleted",
        _ => "a patch brought back what an upsert had replaced",
    };
    Err(format!("{what}: key {}:{}", read.key, listed([below, cover, top, read])))
}

/// The newest acknowledged write of those that pass which certainly came after this one, and before that time.
fn covered<'a>(
    write: &Operation,
    before: u64,
    writes: &[&'a Operation],
    passes: impl Fn(&Operation) -> bool,
) -> Option<&'a Operation> {
    let covers = |other: &&Operation| {
        other.outcome == Outcome::Done && other.returned < before && interval(write).1 < other.invoked
    };
    writes.iter().copied().filter(|other| covers(other) && passes(other)).max_by_key(|o| o.invoked)
}

/// A read shows nothing: no acknowledged upsert stands that no delete can have removed.
fn absent(
    read: &Operation,
    by_value: &BTreeMap<u64, &Operation>,
    writes: &[&Operation],
) -> Result<(), String> {
    let (begin, end) = interval(read);
    let may_remove = |write: &Operation| {
        let removes = |o: &&&Operation| may_remove(o, write, by_value);
        let in_reach = |o: &&Operation| interval(o).1 >= write.invoked && o.invoked <= end;
        writes.iter().filter(removes).any(in_reach)
    };
    let before = |o: &&&Operation| {
        written(o).is_some() && o.outcome == Outcome::Done && o.returned < begin && !may_remove(o)
    };
    match writes.iter().find(before) {
        Some(upsert) => Err(format!(
            "an acknowledged write is lost: nothing is read, and no delete explains it: key {}:{}",
            read.key,
            listed([*upsert, read])
        )),
        None => Ok(()),
    }
}
