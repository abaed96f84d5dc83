//! What clients asked and what they were told, with the times of both: the only thing that a checker looks at.
//!
//! A **call** is one request of one client; it becomes one **operation** for each key that it touches, since keys are
//! independent registers. Every write has a value of its own, so a value read names the write that it came from. A patch
//! replaces the value alone: what it leaves as it was, the **base**, names the upsert below it. A call's outcome is what its
//! caller may believe: done, certainly not done, or unknown; an unknown write may take effect at any later time, or never,
//! and its interval does not end.
//!
//! Times are microseconds of one monotonic clock, taken before the request is sent and after the answer is read. Two
//! operations whose times touch count as concurrent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A key of the test.
pub type Key = u64;
/// Keys from here on stand for groups of records that are replaced at once: of none of them is there a record.
pub const GROUP: Key = 1 << 40;
/// What a key has; none: there is no record.
pub type Value = Option<u64>;

/// When an operation with unknown outcome returns.
pub const NEVER: u64 = u64::MAX;

/// What the caller may believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged.
    Done,
    /// It was refused and has no effect.
    Failed,
    /// It may take effect, now or later, or never.
    Unknown,
}

/// How fresh a read was asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Everything acknowledged before the call.
    Linearizable,
    /// Everything acknowledged so long before the call.
    Bounded(Duration),
    /// Whatever there is.
    Any,
    /// Whatever there is, but not behind what this client wrote and saw: its tokens went along.
    Session,
}

/// What a conditional write wants of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// No record.
    Absent,
    /// A record, whichever.
    Present,
    /// The record that the write of this value left, known by its version.
    Value(u64),
}

impl Expect {
    /// Whether this is what a key must have.
    pub fn holds(self, value: Value) -> bool {
        match self {
            Expect::Absent => value.is_none(),
            Expect::Present => value.is_some(),
            Expect::Value(wanted) => value == Some(wanted),
        }
    }
}

/// What was done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// This value was written.
    Upsert(u64),
    /// This value was written, for the key had what it wanted.
    UpsertIf(u64, Expect),
    /// The record that the key had, as it wanted, has this value now, and all else of it stayed.
    Patch(u64, Expect),
    /// A conditional write changed nothing, for the key did not have what it wanted.
    Refused {
        /// What it wanted.
        expect: Expect,
        /// Whether there was a record.
        existed: bool,
    },
    /// The record was deleted; where the answer tells, whether there was one.
    Delete {
        /// Whether there was a record.
        existed: Option<bool>,
    },
    /// The record of the upsert of this value, patched or not, was deleted because its time had come: nobody was told.
    Expire(u64),
    /// This was read.
    Read(Value, Freshness),
}

impl Act {
    /// The value that it leaves, if it takes effect.
    pub fn written(self) -> Value {
        match self {
            Act::Upsert(value) | Act::UpsertIf(value, _) | Act::Patch(value, _) => Some(value),
            Act::Refused { .. } | Act::Delete { .. } | Act::Expire(_) | Act::Read(..) => None,
        }
    }

    /// The value that it saw.
    pub fn read(self) -> Value {
        match self {
            Act::Read(value, _) => value,
            _ => None,
        }
    }

    /// Whether it changes its key, if it takes effect.
    pub fn is_write(self) -> bool {
        self.written().is_some() || matches!(self, Act::Delete { .. } | Act::Expire(_))
    }

    /// Whether there may be a record after it where there was none.
    pub fn creates(self) -> bool {
        matches!(self, Act::Upsert(_) | Act::UpsertIf(_, Expect::Absent))
    }

    /// Whether there is a record at the moment in which it takes effect: after a write, and for all others.
    pub fn is_there(self) -> bool {
        match self {
            Act::Upsert(_) | Act::UpsertIf(..) | Act::Patch(..) => true,
            Act::Refused { existed, .. } => existed,
            Act::Delete { .. } | Act::Expire(_) => false,
            Act::Read(value, _) => value.is_some(),
        }
    }
}

/// A place in a partition's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The partition.
    pub partition: u64,
    /// The log index.
    pub index: u64,
}

/// What one call did to one key.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Whose call it was.
    pub client: u64,
    /// The key.
    pub key: Key,
    /// What it did, or saw.
    pub act: Act,
    /// What the client may believe.
    pub outcome: Outcome,
    /// Before it was sent.
    pub invoked: u64,
    /// After it was answered; [`NEVER`] if the outcome is unknown.
    pub returned: u64,
    /// Where an acknowledged write stands in the log, or at which index a read was answered: known where one partition
    /// alone answered the call.
    pub position: Option<Position>,
    /// Of a record read, or met by a write that was refused: its version, which is the log index of its write.
    pub version: Option<u64>,
    /// Of a record read: the value of the upsert whose record it is, patched or not.
    pub base: Option<u64>,
}

/// One request and what came of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who called.
    pub client: u64,
    /// Which verb.
    pub what: &'static str,
    /// Before it was sent.
    pub invoked: u64,
    /// After it was answered, well or badly.
    pub returned: u64,
    /// What the client may believe.
    pub outcome: Outcome,
    /// Of a read: how fresh it was asked to be.
    pub freshness: Option<Freshness>,
    /// The commit tokens sent.
    pub tokens: Vec<Position>,
    /// The indexes in the answer.
    pub coverage: Vec<Position>,
    /// Why it was not acknowledged.
    pub error: Option<String>,
}

/// What an answer that speaks of the whole collection said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A scan through all pages: these keys.
    Scan(Vec<Key>),
    /// An exact search with room for every key: these keys.
    Search(Vec<Key>),
    /// An aggregation by key: these keys, each as often as it was counted.
    Groups(Vec<Key>),
    /// A count of everything: so many.
    Count(u64),
}

/// One answer over the whole collection.
#[derive(Clone, Debug)]
pub struct SetAnswer {
    /// Who asked.
    pub client: u64,
    /// Before it was asked: of a scan, before its first page.
    pub invoked: u64,
    /// After it was answered: of a scan, after its last page.
    pub returned: u64,
    /// How fresh it was asked to be.
    pub freshness: Freshness,
    /// What it said.
    pub seen: Seen,
}

/// Everything that the clients of one test saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Requests, in the order in which they ended.
    pub calls: Vec<Call>,
    /// What they did, key by key.
    pub operations: Vec<Operation>,
    /// Answers over the whole collection that came to their end.
    pub sets: Vec<SetAnswer>,
    /// Answers that are wrong in themselves, whatever else happened: a record made of two writes, a key not asked for.
    pub damage: Vec<String>,
    /// Keys whose slots moved: log indexes of theirs count in the logs of several partitions.
    pub moved: BTreeSet<Key>,
}

impl History {
    /// The operations of each key, by time of invocation.
    pub fn by_key(&self) -> BTreeMap<Key, Vec<Operation>> {
        let mut keys: BTreeMap<Key, Vec<Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry(operation.key).or_default().push(*operation);
        }
        keys.values_mut().for_each(|operations| operations.sort_by_key(|o| (o.invoked, o.returned)));
        keys
    }

    /// Calls that were not acknowledged.
    pub fn failures(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| call.outcome != Outcome::Done)
    }

    /// How many calls were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.calls.len() - self.failures().count()
    }

    /// How many calls of each verb were acknowledged, and how many records a condition was refused for.
    pub fn verbs(&self) -> BTreeMap<&'static str, u64> {
        let mut verbs = BTreeMap::new();
        let done = self.calls.iter().filter(|call| call.outcome == Outcome::Done).map(|call| call.what);
        let is_refused = |o: &&Operation| o.outcome == Outcome::Done && matches!(o.act, Act::Refused { .. });
        let refused = self.operations.iter().filter(is_refused).map(|_| "refused");
        done.chain(refused).for_each(|verb| *verbs.entry(verb).or_default() += 1);
        verbs
    }

    /// The longest time in which no call that passes was acknowledged, and when it began.
    pub fn longest_gap(&self, passes: impl Fn(&Call) -> bool) -> (Duration, u64) {
        let done = self.calls.iter().filter(|call| call.outcome == Outcome::Done && passes(call));
        let mut ends: Vec<u64> = done.map(|call| call.returned).collect();
        ends.sort_unstable();
        let gaps = ends.windows(2).map(|pair| (pair[1] - pair[0], pair[0]));
        let (micros, since) = gaps.max().unwrap_or_default();
        (Duration::from_micros(micros), since)
    }

    /// Adds what another record of the same clock holds.
    pub fn extend(&mut self, more: History) {
        self.calls.extend(more.calls);
        self.operations.extend(more.operations);
        self.sets.extend(more.sets);
        self.damage.extend(more.damage);
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { client, what, invoked, returned, outcome, .. } = self;
        write!(f, "{what} of client {client} at {} to {}: {outcome:?}", Time(*invoked), Time(*returned))?;
        self.error.iter().try_for_each(|why| write!(f, ": {why}"))
    }
}

impl fmt::Display for SetAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SetAnswer { client, invoked, returned, freshness, seen } = self;
        let (verb, count) = match seen {
            Seen::Scan(keys) => ("scan", keys.len() as u64),
            Seen::Search(keys) => ("search", keys.len() as u64),
            Seen::Groups(keys) => ("aggregation", keys.len() as u64),
            Seen::Count(count) => ("count", *count),
        };
        let (from, to) = (Time(*invoked), Time(*returned));
        write!(f, "{verb} of client {client} at {from} to {to} ({freshness:?}): {count} keys")
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, key, act, outcome, invoked, returned, .. } = self;
        write!(f, "{} to {} client {client} key {key}: ", Time(*invoked), Time(*returned))?;
        match act {
            Act::Upsert(value) => write!(f, "upsert {value:x}")?,
            Act::UpsertIf(value, expect) => write!(f, "upsert {value:x} if {expect}")?,
            Act::Patch(value, expect) => write!(f, "patch {value:x} if {expect}")?,
            Act::Refused { expect, existed: true } => write!(f, "refused, for there was one: if {expect}")?,
            Act::Refused { expect, existed: false } => write!(f, "refused, for there was none: if {expect}")?,
            Act::Delete { existed: None } => write!(f, "delete")?,
            Act::Delete { existed: Some(true) } => write!(f, "delete, there was one")?,
            Act::Delete { existed: Some(false) } => write!(f, "delete, there was none")?,
            Act::Expire(value) => write!(f, "expiry of {value:x}")?,
            Act::Read(Some(value), fresh) => write!(f, "read {value:x} ({fresh:?})")?,
            Act::Read(None, fresh) => write!(f, "read nothing ({fresh:?})")?,
        }
        if let Some(Position { partition, index }) = self.position {
            write!(f, " @{partition}:{index}")?;
        }
        self.version.iter().try_for_each(|version| write!(f, " version {version}"))?;
        let base = self.base.filter(|base| act.read() != Some(*base));
        base.iter().try_for_each(|base| write!(f, " over {base:x}"))?;
        if *outcome == Outcome::Done { Ok(()) } else { write!(f, " [{outcome:?}]") }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expect::Absent => f.write_str("there is none"),
            Expect::Present => f.write_str("there is one"),
            Expect::Value(value) => write!(f, "it is {value:x}"),
        }
    }
}

/// A time as a reader wants it.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NEVER => f.write_str("?"),
            micros => write!(f, "{}.{:06}", micros / 1_000_000, micros % 1_000_000),
        }
    }
}

/// Where clients write their history down.
#[derive(Debug)]
pub struct Recorder {
    begin: Instant,
    clients: AtomicU64,
    history: Mutex<History>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder { begin: Instant::now(), clients: AtomicU64::new(0), history: Mutex::default() }
    }
}

impl Recorder {
    /// The time.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(NEVER - 1)
    }

    /// A number for a client, given once.
    pub fn client(&self) -> u64 {
        self.clients.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Changes the record.
    pub fn note<T>(&self, change: impl FnOnce(&mut History) -> T) -> T {
        change(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything so far.
    pub fn history(&self) -> History {
        self.note(|history| history.clone())
    }
}
