//! Answers over the whole collection: acknowledged ⊆ seen ⊆ possibly written, and no key twice.
//!
//! A scan, an exact search with room for every key, an aggregation by key and a count are judged key by key: each key is there or not at some
//! moment of the answer's interval, not all at one moment. A key **must** be seen where some answer before showed it there
//! (an acknowledged write, or a read of it) and no delete can have removed it since. It **must not** be seen where nobody
//! can have written it yet, or where some answer before showed it gone and no upsert can have brought it back since: what
//! changes only what is there, a patch or an update, brings nothing back. What lies between may be either. A count lies
//! between the number of those that must be seen and of those that may.
//!
//! Sound whatever the timing: an open write counts as possible for ever, until a read shows that it has taken effect.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::{interval, listed, span};
use crate::history::{Act, GROUP, Key, NEVER, Operation, Outcome, Seen, SetAnswer};

/// Looks at every answer over the whole collection, with the operations of each key.
///
/// # Errors
/// The first answer that misses a key, shows one that cannot be there or shows it twice, or counts too few or too many.
pub fn check(answers: &[SetAnswer], keys: &BTreeMap<Key, Vec<Operation>>) -> Result<(), String> {
    let records = keys.range(..GROUP);
    let lives: BTreeMap<Key, Life> = records.map(|(key, ops)| (*key, Life::told_by(ops))).collect();
    for answer in answers {
        match &answer.seen {
            Seen::Scan(seen) | Seen::Search(seen) | Seen::Groups(seen) => seen_keys(answer, seen, &lives)?,
            Seen::Count(count) => counted(answer, *count, &lives)?,
        }
    }
    Ok(())
}

fn seen_keys(answer: &SetAnswer, seen: &[Key], lives: &BTreeMap<Key, Life>) -> Result<(), String> {
    let mut once = BTreeSet::new();
    if let Some(twice) = seen.iter().find(|key| !once.insert(**key)) {
        return Err(format!("returned twice: key {twice} in the {answer}"));
    }
    let (begin, end) = span(answer);
    for (key, life) in lives {
        match (life.at(begin, end), once.contains(key)) {
            (Presence::Certain(witness), false) => {
                let shown = listed([witness]);
                return Err(format!("an acknowledged record is missing: key {key} in the {answer}:{shown}"));
            }
            (Presence::Impossible(witness), true) => {
                let shown = listed(witness);
                return Err(format!("a record that cannot be there: key {key} in the {answer}:{shown}"));
            }
            _ => {}
        }
    }
    match once.iter().find(|key| !lives.contains_key(key)) {
        Some(ghost) => Err(format!("a record that cannot be there: nobody touched key {ghost}: {answer}")),
        None => Ok(()),
    }
}

fn counted(answer: &SetAnswer, count: u64, lives: &BTreeMap<Key, Life>) -> Result<(), String> {
    let (begin, end) = span(answer);
    let (mut at_least, mut at_most) = (0, 0);
    for life in lives.values() {
        match life.at(begin, end) {
            Presence::Certain(_) => (at_least, at_most) = (at_least + 1, at_most + 1),
            Presence::Possible => at_most += 1,
            Presence::Impossible(_) => {}
        }
    }
    if (at_least..=at_most).contains(&count) {
        return Ok(());
    }
    Err(format!("a wrong count: {at_least} to {at_most} records can be there: {answer}"))
}

/// Whether a record can be there, with the operation that says so.
enum Presence<'a> {
    /// It is.
    Certain(&'a Operation),
    /// It may be.
    Possible,
    /// It is not; no witness: nobody had written it yet.
    Impossible(Option<&'a Operation>),
}

/// The moment of a fact lies in this interval.
#[derive(Clone, Copy)]
struct Between {
    begin: u64,
    end: u64,
}

/// What is known of a key: when it was certainly there or gone, and what can have changed that.
struct Life<'a> {
    there: Facts<'a>,
    gone: Facts<'a>,
    upserts: Vec<Between>,
    deletes: Vec<Between>,
}

impl<'a> Life<'a> {
    fn told_by(operations: &'a [Operation]) -> Life<'a> {
        let first_seen = first_seen(operations);
        let (mut there, mut gone, mut upserts, mut deletes) = (vec![], vec![], vec![], vec![]);
        for operation in operations.iter().filter(|o| o.outcome != Outcome::Failed) {
            let (begin, end) = interval(operation);
            let is_done = operation.outcome == Outcome::Done;
            if let Some(value) = operation.act.written().filter(|_| operation.act.creates()) {
                let seen = first_seen.get(&value).copied().unwrap_or(NEVER);
                upserts.push(Between { begin, end: end.min(seen) });
            }
            if matches!(operation.act, Act::Delete { .. } | Act::Expire(_)) {
                deletes.push(Between { begin, end });
            }
            if is_done {
                let facts = if operation.act.is_there() { &mut there } else { &mut gone };
                facts.push((Between { begin, end }, operation));
            }
        }
        Life { there: Facts::of(there), gone: Facts::of(gone), upserts, deletes }
    }

    /// Whether the key is there at a moment from `begin` to `end`.
    fn at(&self, begin: u64, end: u64) -> Presence<'a> {
        let since =
            |fact: Between, writes: &[Between]| writes.iter().any(|w| w.end >= fact.begin && w.begin <= end);
        if let Some((fact, witness)) = self.there.newest_before(begin)
            && !since(fact, &self.deletes)
        {
            return Presence::Certain(witness);
        }
        if !self.upserts.iter().any(|upsert| upsert.begin <= end) {
            return Presence::Impossible(None);
        }
        match self.gone.newest_before(begin) {
            Some((fact, witness)) if !since(fact, &self.upserts) => Presence::Impossible(Some(witness)),
            _ => Presence::Possible,
        }
    }
}

/// When each value was first known to be written: an open write takes effect once, so no later than that.
fn first_seen(operations: &[Operation]) -> BTreeMap<u64, u64> {
    let mut first = BTreeMap::new();
    for operation in operations.iter().filter(|o| o.outcome == Outcome::Done) {
        for value in operation.act.read().into_iter().chain(operation.base) {
            let seen = first.entry(value).or_insert(NEVER);
            *seen = operation.returned.min(*seen);
        }
    }
    first
}

/// Facts of one kind, by end; each carries the one with the latest begin so far: what excludes most.
struct Facts<'a>(Vec<(u64, Between, &'a Operation)>);

impl<'a> Facts<'a> {
    fn of(mut facts: Vec<(Between, &'a Operation)>) -> Facts<'a> {
        facts.sort_by_key(|(fact, _)| fact.end);
        let mut newest: Option<(Between, &Operation)> = None;
        let carried = facts.into_iter().map(|(fact, operation)| {
            let best = newest.filter(|(best, _)| best.begin >= fact.begin).unwrap_or((fact, operation));
            newest = Some(best);
            (fact.end, best.0, best.1)
        });
        Facts(carried.collect())
    }

    fn newest_before(&self, time: u64) -> Option<(Between, &'a Operation)> {
        let before = self.0.partition_point(|(end, ..)| *end < time);
        let (_, fact, operation) = self.0.get(before.checked_sub(1)?)?;
        Some((*fact, operation))
    }
}
