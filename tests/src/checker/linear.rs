//! Is there an order of a key's operations that explains every answer, in which each takes effect within its interval?
//!
//! The search is that of J. M. Wing and C. Gong ("Testing and verifying concurrent objects", 1993) with the memory of
//! configurations of G. Lowe ("Testing for linearizability", Concurrency and Computation 29(4), 2017): choose an operation
//! that no other must precede, apply it to the register, go on; a configuration (which operations are in, what the register
//! holds) that failed once is not tried again. Keys are checked one by one, since a history is linearizable if and only if
//! its restriction to each object is (Herlihy and Wing).
//!
//! Some things keep it small. A read that fits the register goes in at once, because it changes nothing. A write with
//! unknown outcome need not go in at all, so it goes in only right before an operation that needs it and may come next: put
//! in earlier it would be overwritten or seen before; and where any open write would do, one stands for all. Since no value
//! is written twice, a value that a read has yet to see must not be overwritten. The search ends when all operations with
//! known outcome are in.

use std::collections::{HashMap, HashSet};

use crate::checker::{interval, listed};
use crate::history::{Act, NEVER, Operation, Outcome, Value};

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

/// Which operations are in, and what the register holds then.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration {
    is_in: Vec<u64>,
    value: Value,
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

    fn with(&self, n: usize, value: Value) -> Configuration {
        let mut next = Configuration { is_in: self.is_in.clone(), value };
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

struct Search {
    /// By begin.
    entries: Vec<Entry>,
    /// Which of them saw a value.
    reads: HashMap<u64, Vec<usize>>,
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
        for (n, entry) in entries.iter().enumerate() {
            if let Act::Read(Some(value), _) = entry.operation.act {
                reads.entry(value).or_default().push(n);
            }
        }
        Search { entries, reads, deepest: (0, None) }
    }

    fn run(&mut self) -> Verdict {
        let words = self.entries.len().div_ceil(64);
        let mut tried = HashSet::new();
        let mut open = vec![Configuration { is_in: vec![0; words], value: None }];
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
            open.extend(next.into_iter().map(|(n, value)| configuration.with(n, value)));
        }
        Verdict::Stuck
    }

    /// Adds every read that fits, until none does.
    fn with_reads(&self, mut configuration: Configuration) -> Configuration {
        loop {
            let frontier = self.frontier(&configuration).unwrap_or(NEVER);
            let fits = |n: &usize| {
                let Act::Read(value, _) = self.entries[*n].operation.act else { return false };
                value == configuration.value
            };
            let fitting: Vec<usize> = self.outside(&configuration, frontier).filter(fits).collect();
            if fitting.is_empty() {
                return configuration;
            }
            for n in fitting {
                configuration = configuration.with(n, configuration.value);
            }
        }
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

    /// Writes that may go in next, with the value they leave.
    fn writes(&self, configuration: &Configuration, frontier: u64) -> Vec<(usize, Value)> {
        let next: Vec<usize> = self.outside(configuration, frontier).collect();
        let needs = |value: Value| next.iter().any(|n| self.needs(*n, value));
        let (mut is_deleted, mut is_filled) = (false, false);
        let mut found = Vec::new();
        for n in &next {
            let entry = &self.entries[*n];
            match entry.operation.act {
                Act::Upsert(value) if entry.is_open() => {
                    if needs(Some(value)) {
                        found.push((*n, Some(value)));
                    } else if !is_filled && configuration.value.is_none() && !self.is_read(value) {
                        let wants_any = |n: &usize| self.existed(*n) == Some(true);
                        is_filled = true;
                        found.extend(next.iter().any(wants_any).then_some((*n, Some(value))));
                    }
                }
                Act::Delete { .. } if entry.is_open() => {
                    let is_wanted = !is_deleted && configuration.value.is_some() && needs(None);
                    found.extend(is_wanted.then_some((*n, None)));
                    is_deleted = true;
                }
                Act::Upsert(value) => found.push((*n, Some(value))),
                Act::Delete { existed: Some(existed) } if existed != configuration.value.is_some() => {}
                Act::Delete { .. } => found.push((*n, None)),
                Act::Read(..) => {}
            }
        }
        found
    }

    /// Whether an operation can only go in while the register holds exactly this.
    fn needs(&self, n: usize, value: Value) -> bool {
        match self.entries[n].operation.act {
            Act::Read(seen, _) => seen == value,
            Act::Delete { existed } => existed == Some(false) && value.is_none(),
            Act::Upsert(_) => false,
        }
    }

    fn existed(&self, n: usize) -> Option<bool> {
        match self.entries[n].operation.act {
            Act::Delete { existed } => existed,
            _ => None,
        }
    }

    /// Whether anybody saw this value.
    fn is_read(&self, value: u64) -> bool {
        self.reads.contains_key(&value)
    }

    /// Whether the next write, whichever it is, takes away for good what a read still has to see.
    fn is_dead(&self, configuration: &Configuration) -> bool {
        let reads = configuration.value.and_then(|value| self.reads.get(&value));
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
