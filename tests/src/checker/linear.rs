//! Is there an order of a key's operations that explains every answer, in which each takes effect within its interval?
//!
//! The search is that of J. M. Wing and C. Gong ("Testing and verifying concurrent objects", 1993) with the memory of
//! configurations of G. Lowe ("Testing for linearizability", Concurrency and Computation 29(4), 2017): choose an operation
//! that no other must precede, apply it to the register, go on; a configuration (which operations are in, what the register
//! holds) that failed once is not tried again. Keys are checked one by one, since a history is linearizable if and only if
//! its restriction to each object is (Herlihy and Wing).
//!
//! The register holds the value that was written last and the base below it: a patch changes the one and keeps the other. A
//! conditional write that was acknowledged goes in only where it holds what the write wanted; one that was refused is a read
//! of the contrary. A record expires while its upsert is the last.
//!
//! Some things keep it small. What reads and fits the register goes in at once, because it changes nothing. A write with
//! unknown outcome need not go in at all, so it goes in only where an operation that may come next does not fit before and
//! does after: put in earlier it would be overwritten or seen before; and of those whose values nobody asks for, one of a kind
//! stands for all. Since no value is written twice, a value that a read has yet to see must not be overwritten. The search
//! ends when all operations with known outcome are in.

use std::collections::{HashMap, HashSet};

use crate::checker::{interval, listed};
use crate::history::{Act, Expect, NEVER, Operation, Outcome, Value};

/// Configurations looked at before the search gives up.
const CONFIGURATIONS_MAX: usize = 2_000_000;
/// Operations in a message on each side of the place where the search got stuck.
const NEAR: usize = 8;

/// Looks for an order of these operations of one key.
///
/// # Errors
/// If there is none, with the place that no order gets past.
pub fn check(operations: &[Operation]) -> Result<(), String> {
    let mut search = Search::over(operations);
    match search.run() {
        Verdict::Linear => Ok(()),
        Verdict::Stuck => Err(search.stuck()),
        Verdict::Undecided => Err(format!(
            "undecided after {CONFIGURATIONS_MAX} configurations: key {} has too many open outcomes",
            operations.first().map_or(0, |o| o.key)
        )),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Linear,
    Stuck,
    Undecided,
}

/// What the register holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    /// What was written last.
    value: Value,
    /// What was upserted last, patched since or not.
    base: Value,
}

/// Which operations are in, and what the register holds then.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration {
    is_in: Vec<u64>,
    state: State,
}

impl Configuration {
    fn has(&self, n: usize) -> bool {
        self.is_in[n / 64] & (1 << (n % 64)) != 0
    }

    /// Numbers below `count` that are not in, ascending.
    fn left(&self, count: usize) -> impl Iterator<Item = usize> {
        let words = self.is_in.iter().enumerate().filter(|(_, word)| **word != u64::MAX);
        let numbers = words.flat_map(|(w, word)| {
            let word = *word;
            (0..64).filter(move |bit| word & (1 << bit) == 0).map(move |bit| w * 64 + bit)
        });
        numbers.take_while(move |n| *n < count)
    }

    fn with(&self, n: usize, state: State) -> Configuration {
        let mut next = Configuration { is_in: self.is_in.clone(), state };
        next.is_in[n / 64] |= 1 << (n % 64);
        next
    }
}

/// An operation with the interval in which it takes effect.
struct Entry {
    begin: u64,
    end: u64,
    operation: Operation,
}

impl Entry {
    fn is_open(&self) -> bool {
        self.end == NEVER
    }
}

/// The act with no value of its own.
fn kind(act: Act) -> Act {
    match act {
        Act::Upsert(_) => Act::Upsert(0),
        Act::UpsertIf(_, expect) => Act::UpsertIf(0, expect),
        Act::Patch(_, expect) => Act::Patch(0, expect),
        other => other,
    }
}

struct Search {
    /// By begin.
    entries: Vec<Entry>,
    /// Which of them saw a value.
    reads: HashMap<u64, Vec<usize>>,
    /// What was seen to lie below a patch.
    bases: HashMap<u64, u64>,
    /// Values that somebody asks for: they were seen, lie below a patch, or a condition names them.
    wanted: HashSet<u64>,
    /// The most operations that were in at once, and the first to return of those that were not.
    deepest: (usize, Option<usize>),
}

impl Search {
    fn over(operations: &[Operation]) -> Search {
        let is_told = |o: &&Operation| match (o.outcome, o.act) {
            (Outcome::Failed, _) | (Outcome::Unknown, Act::Read(..)) => false,
            (Outcome::Done | Outcome::Unknown, _) => true,
        };
        let mut entries: Vec<Entry> = operations
            .iter()
            .filter(is_told)
            .map(|operation| {
                let (begin, end) = interval(operation);
                Entry { begin, end, operation: *operation }
            })
            .collect();
        entries.sort_by_key(|entry| (entry.begin, entry.end));
        let mut reads: HashMap<u64, Vec<usize>> = HashMap::new();
        let (mut bases, mut wanted) = (HashMap::new(), HashSet::new());
        for (n, entry) in entries.iter().enumerate() {
            let Operation { act, base, .. } = entry.operation;
            match act {
                Act::Read(Some(value), _) => {
                    reads.entry(value).or_default().push(n);
                    wanted.extend([value].into_iter().chain(base));
                    bases.extend(base.filter(|base| *base != value).map(|base| (value, base)));
                }
                Act::UpsertIf(_, Expect::Value(value))
                | Act::Patch(_, Expect::Value(value))
                | Act::Refused { expect: Expect::Value(value), .. } => drop(wanted.insert(value)),
                _ => {}
            }
        }
        Search { entries, reads, bases, wanted, deepest: (0, None) }
    }

    fn run(&mut self) -> Verdict {
        let words = self.entries.len().div_ceil(64);
        let mut tried = HashSet::new();
        let mut open = vec![Configuration { is_in: vec![0; words], state: State::default() }];
        while let Some(configuration) = open.pop() {
            let configuration = self.with_reads(configuration);
            let Some(frontier) = self.frontier(&configuration) else { return Verdict::Linear };
            self.remember(&configuration);
            if self.is_dead(&configuration) || !tried.insert(configuration.clone()) {
                continue;
            }
            if tried.len() > CONFIGURATIONS_MAX {
                return Verdict::Undecided;
            }
            // Deep first, and of several writes the one that returned first: most often the order it happened in.
            let mut next = self.writes(&configuration, frontier);
            next.sort_by_key(|(n, _)| std::cmp::Reverse((self.entries[*n].end, self.entries[*n].begin)));
            open.extend(next.into_iter().map(|(n, state)| configuration.with(n, state)));
        }
        Verdict::Stuck
    }

    /// Adds everything that reads and fits, until nothing does.
    fn with_reads(&self, mut configuration: Configuration) -> Configuration {
        loop {
            let frontier = self.frontier(&configuration).unwrap_or(NEVER);
            let fits = |n: &usize| {
                !self.entries[*n].operation.act.is_write() && self.after(*n, configuration.state).is_some()
            };
            let fitting: Vec<usize> = self.outside(&configuration, frontier).filter(fits).collect();
            if fitting.is_empty() {
                return configuration;
            }
            for n in fitting {
                configuration = configuration.with(n, configuration.state);
            }
        }
    }

    /// The register after an operation; none if its answer does not fit.
    fn after(&self, n: usize, state: State) -> Option<State> {
        let operation = &self.entries[n].operation;
        let is_there = state.value.is_some();
        let (fits, after) = match operation.act {
            Act::Upsert(value) => (true, State { value: Some(value), base: Some(value) }),
            Act::UpsertIf(value, expect) => {
                (expect.holds(state.value), State { value: Some(value), base: Some(value) })
            }
            Act::Patch(value, expect) => {
                let known = self.bases.get(&value);
                let fits = is_there && expect.holds(state.value);
                (
                    fits && known.is_none_or(|base| state.base == Some(*base)),
                    State { value: Some(value), ..state },
                )
            }
            Act::Refused { expect, existed } => (existed == is_there && !expect.holds(state.value), state),
            Act::Delete { existed } => (existed.is_none_or(|existed| existed == is_there), State::default()),
            Act::Expire(value) => (state.base == Some(value), State::default()),
            Act::Read(value, _) => {
                (value == state.value && operation.base.is_none_or(|base| state.base == Some(base)), state)
            }
        };
        fits.then_some(after)
    }

    /// The first return among operations that have to go in and are not: none of those that begin later may go before.
    fn frontier(&self, configuration: &Configuration) -> Option<u64> {
        let mut first = None;
        for n in configuration.left(self.entries.len()) {
            let entry = &self.entries[n];
            if first.is_some_and(|first| entry.begin > first) {
                break;
            }
            if !entry.is_open() {
                first = Some(first.map_or(entry.end, |first: u64| first.min(entry.end)));
            }
        }
        first
    }

    /// Operations that are not in and that nothing must precede.
    fn outside<'a>(
        &'a self,
        configuration: &'a Configuration,
        frontier: u64,
    ) -> impl Iterator<Item = usize> + 'a {
        configuration.left(self.entries.len()).take_while(move |n| self.entries[*n].begin <= frontier)
    }

    /// Writes that may go in next, with what they leave.
    fn writes(&self, configuration: &Configuration, frontier: u64) -> Vec<(usize, State)> {
        let next: Vec<usize> = self.outside(configuration, frontier).collect();
        let mut stand: Vec<Act> = Vec::new();
        let mut found = Vec::new();
        for n in &next {
            let entry = &self.entries[*n];
            let act = entry.operation.act;
            let Some(after) = self.after(*n, configuration.state).filter(|_| act.is_write()) else {
                continue;
            };
            if entry.is_open() {
                let is_wanted = act.written().is_some_and(|value| self.wanted.contains(&value));
                let is_known = !is_wanted && stand.contains(&kind(act));
                if is_known || !next.iter().any(|m| m != n && self.helps(*m, configuration.state, after)) {
                    continue;
                }
                stand.extend((!is_wanted).then(|| kind(act)));
            }
            found.push((*n, after));
        }
        found
    }

    /// Whether an operation comes out otherwise after a write than before it, so that somebody could tell.
    fn helps(&self, n: usize, before: State, after: State) -> bool {
        let is_below = matches!(self.entries[n].operation.act, Act::Patch(..))
            && before.base != after.base
            && after.base.is_some_and(|base| self.wanted.contains(&base));
        self.after(n, after).is_some() && (is_below || self.after(n, before).is_none())
    }

    /// Whether the next write, whichever it is, takes away for good what a read still has to see.
    fn is_dead(&self, configuration: &Configuration) -> bool {
        let reads = configuration.state.value.and_then(|value| self.reads.get(&value));
        reads.is_some_and(|reads| reads.iter().any(|n| !configuration.has(*n)))
    }

    /// For the message: how far the search came.
    fn remember(&mut self, configuration: &Configuration) {
        let depth = configuration.is_in.iter().map(|word| word.count_ones() as usize).sum();
        if depth > self.deepest.0 || self.deepest.1.is_none() {
            let left = configuration.left(self.entries.len());
            self.deepest = (depth, left.min_by_key(|n| self.entries[*n].end));
        }
    }

    fn stuck(&self) -> String {
        let (depth, Some(at)) = self.deepest else { return "not linearizable".to_owned() };
        let operation = &self.entries[at].operation;
        let mut near: Vec<&Operation> = self.entries.iter().map(|entry| &entry.operation).collect();
        near.sort_by_key(|o| (o.invoked, o.returned));
        let place = near.iter().position(|o| std::ptr::eq(*o, operation)).unwrap_or(0);
        let near = &near[place.saturating_sub(NEAR)..(place + NEAR).min(near.len())];
        format!(
            "not linearizable: of {} operations of key {} at most {depth} can be ordered; no order gets past\n  \
             {operation}\nnear it:{}",
            self.entries.len(),
            operation.key,
            listed(near.iter().copied())
        )
    }
}
