//! A client that hands on its commit tokens reads its own writes and never goes back, whichever replica answers.
//!
//! Judged by values, so that it also holds while keys move between partitions, whose indexes do not compare. What a client
//! wrote or saw of a key is a floor for its later session reads of that key: a value that was certainly written before the
//! floor is older than it, whatever the order of what was concurrent.

use std::collections::BTreeMap;

use crate::checker::{interval, listed, may_remove};
use crate::history::{Act, Freshness, Operation, Outcome};

/// Looks at the session reads of one key.
///
/// # Errors
/// The first that shows less than its client knew.
pub fn check(operations: &[Operation]) -> Result<(), String> {
    let writes: BTreeMap<u64, &Operation> =
        operations.iter().filter_map(|o| Some((o.act.written()?, o))).collect();
    let mut floors: BTreeMap<u64, Vec<Known>> = BTreeMap::new();
    for operation in operations.iter().filter(|o| o.outcome == Outcome::Done) {
        let known = floors.entry(operation.client).or_default();
        match operation.act {
            Act::Upsert(_) | Act::UpsertIf(..) | Act::Patch(..) | Act::Delete { .. } => {
                known.push(Known { floor: operation, by: operation });
            }
            Act::Refused { .. } | Act::Expire(_) => {}
            Act::Read(value, freshness) => {
                if freshness == Freshness::Session {
                    not_below(operation, known, &writes, operations)?;
                }
                if matches!(freshness, Freshness::Session | Freshness::Linearizable) {
                    let seen = value.and_then(|value| writes.get(&value).copied());
                    known.extend(seen.map(|floor| Known { floor, by: operation }));
                }
            }
        }
    }
    Ok(())
}

/// A write that a client knows of, and the operation that taught it: the write itself, or a read.
struct Known<'a> {
    floor: &'a Operation,
    by: &'a Operation,
}

/// The read shows nothing that came certainly before a write in `known`.
fn not_below(
    read: &Operation,
    known: &[Known],
    writes: &BTreeMap<u64, &Operation>,
    operations: &[Operation],
) -> Result<(), String> {
    let Act::Read(value, _) = read.act else { return Ok(()) };
    let shown = value.and_then(|value| writes.get(&value).copied());
    let removes = |floor: &Operation| {
        let is_delete = |o: &&Operation| may_remove(o, floor, writes) && o.outcome != Outcome::Failed;
        let mut deletes = operations.iter().filter(is_delete);
        deletes.any(|o| interval(o).1 >= floor.invoked && o.invoked <= read.returned)
    };
    let is_passed = |Known { floor, .. }: &&Known| match (shown, floor.act) {
        (Some(shown), _) => interval(shown).1 < floor.invoked,
        // A delete is no news to who sees nothing.
        (None, act) => act.is_there() && value.is_none() && !removes(floor),
    };
    match known.iter().find(is_passed) {
        Some(Known { floor, by }) => Err(format!(
            "a session goes back: key {}: client {} knew of the first by the second, and then:{}",
            read.key,
            read.client,
            listed([*floor, *by, read].into_iter().chain(shown))
        )),
        None => Ok(()),
    }
}
