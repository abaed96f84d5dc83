//! The search against one that others wrote: the checker of the crate `todc-utils`, on histories too long to try every order.
//!
//! It knows no open outcomes. An open write is told to it as one that ends after everything else: at the end it changes no
//! answer any more, so that is as good as never; on a condition it does what it can, or nothing. Reads that may be stale are told with the interval that they may have.

use std::collections::BTreeMap;

use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

use super::planted::{simulated, with_a_lost_write};
use super::{Register, delete, done, put, unknown};
use crate::checker::{interval, linear};
use crate::history::{Act, Expect, Freshness, NEVER, Operation, Outcome, Value};
use crate::seed::generator;

/// Histories of a few clients, good ones and their damaged twins.
const HISTORIES: u64 = 400;
/// Operations of each.
const OPERATIONS: u64 = 40;
const CLIENTS: usize = 5;
/// Long histories from the other tests' store.
const LONG: u64 = 6;

/// A register as the other checker wants it.
struct Theirs;

impl Specification for Theirs {
    type State = Register;
    type Operation = Operation;

    fn init() -> Register {
        Register::default()
    }

    fn apply(operation: &Operation, register: &Register) -> (bool, Register) {
        // An open one that does not fit at the end has had no effect.
        let is_open = operation.outcome == Outcome::Unknown;
        register.after(operation).map_or((is_open, *register), |after| (true, after))
    }
}

/// What the other checker says.
fn is_linearizable(operations: &[Operation]) -> bool {
    let is_told = |o: &&Operation| match o.outcome {
        Outcome::Done => true,
        Outcome::Failed => false,
        Outcome::Unknown => o.act.is_write(),
    };
    // Each has a process of its own; where times touch, calls come before answers.
    let mut events: BTreeMap<(u64, bool, usize), Action<Operation>> = BTreeMap::new();
    for (n, operation) in operations.iter().filter(is_told).enumerate() {
        let (begin, end) = interval(operation);
        events.insert((begin, false, n), Action::Call(*operation));
        events.insert((end, true, n), Action::Response(*operation));
    }
    let actions: Vec<_> = events.into_iter().map(|((_, _, n), action)| (n, action)).collect();
    actions.is_empty() || WGLChecker::<Theirs>::is_linearizable(History::from_actions(actions))
}

/// Clients at a correct register: each operation takes effect at a moment of its interval, an open one perhaps never.
fn good(draw: &mut SmallRng) -> Vec<Operation> {
    let mut clients = [0; CLIENTS];
    let mut moments: Vec<(u64, Operation)> = Vec::new();
    for n in 1..=OPERATIONS {
        let client = draw.random_range(0..CLIENTS);
        let begin = clients[client] + draw.random_range(0..6);
        let moment = begin + draw.random_range(0..15);
        let end = moment + draw.random_range(0..15);
        clients[client] = end;
        let known = draw.random_range(1..=n);
        let expect = *[Expect::Absent, Expect::Present, Expect::Value(known)].choose(draw).unwrap();
        let (act, is_open) = match draw.random_range(0..24) {
            0..7 => (put(n), false),
            7 => (put(n), true),
            8..10 => (delete(), false),
            10 => (delete(), true),
            11 => (Act::UpsertIf(n, expect), false),
            12 => (Act::UpsertIf(n, expect), true),
            13 | 14 => (Act::Patch(n, Expect::Present), false),
            15 => (Act::Patch(n, Expect::Present), true),
            _ => (Act::Read(None, Freshness::Linearizable), false),
        };
        let late = if is_open { *[0, 20, NEVER / 2].choose(draw).unwrap() } else { 0 };
        let operation = if is_open { unknown(begin, act) } else { done(begin, end, act) };
        moments.push((moment + late, operation));
    }
    moments.sort_by_key(|(moment, _)| *moment);
    let mut register = Register::default();
    let mut operations: Vec<Operation> = moments.into_iter().map(|(_, operation)| operation).collect();
    for operation in &mut operations {
        let existed = register != Register::default();
        match &mut operation.act {
            Act::Delete { existed: told } => {
                let tells = operation.outcome == Outcome::Done && draw.random();
                *told = tells.then_some(existed);
            }
            Act::Read(seen, _) => (*seen, operation.base) = register.shows(),
            _ => {}
        }
        match (operation.act, register.after(operation)) {
            (_, Some(after)) => register = after,
            (Act::UpsertIf(_, expect) | Act::Patch(_, expect), None)
                if operation.outcome == Outcome::Done =>
            {
                operation.act = Act::Refused { expect, existed };
            }
            (_, None) => {}
        }
    }
    operations
}

/// One answer says something else, or one interval is shorter than it was: the history may be bad now.
fn damaged(mut operations: Vec<Operation>, draw: &mut SmallRng) -> Vec<Operation> {
    let values: Vec<Value> = operations.iter().map(|o| o.act.written()).collect();
    let other = *values.choose(draw).unwrap();
    let done: Vec<usize> =
        (0..operations.len()).filter(|n| operations[*n].outcome == Outcome::Done).collect();
    let operation = &mut operations[*done.choose(draw).unwrap()];
    match &mut operation.act {
        Act::Read(seen, _) => *seen = other,
        Act::Delete { existed } => *existed = existed.map_or(Some(true), |existed| Some(!existed)),
        Act::Refused { existed, .. } if draw.random() => *existed = !*existed,
        Act::Refused { expect, .. } => *expect = other.map_or(Expect::Present, Expect::Value),
        Act::Patch(..) if draw.random() => operation.act = delete(),
        _ if draw.random() => operation.outcome = Outcome::Failed,
        _ => operation.invoked = operation.returned,
    }
    operations
}

/// Both say the same; what?
fn agreed(what: &str, operations: &[Operation]) -> bool {
    let ours = linear::check(operations);
    let theirs = is_linearizable(operations);
    assert_eq!(ours.is_ok(), theirs, "{what}: {ours:?}\n{operations:#?}");
    theirs
}

#[test]
fn the_search_agrees_with_that_of_others() {
    let mut bad = 0;
    for seed in 0..HISTORIES {
        let mut draw = generator(seed ^ 0x70dc);
        let operations = good(&mut draw);
        assert!(agreed(&format!("seed {seed}"), &operations), "a correct register is blamed: seed {seed}");
        let twin = damaged(operations, &mut draw);
        bad += u64::from(!agreed(&format!("seed {seed}, damaged"), &twin));
    }
    assert!(
        (HISTORIES / 4..HISTORIES).contains(&bad),
        "one-sided: {bad} of {HISTORIES} damaged ones are bad"
    );
}

#[test]
fn the_search_agrees_with_that_of_others_on_long_histories() {
    for seed in 0..LONG {
        // Many open outcomes at once are more than the other search can bear.
        let mut operations = simulated(seed);
        operations.retain(|o| o.outcome == Outcome::Done || is_seen(o, &simulated(seed)));
        agreed(&format!("seed {seed}"), &operations);
        if let Some(twin) = with_a_lost_write(operations, &mut generator(seed ^ 0xbad)) {
            assert!(!agreed(&format!("seed {seed}, damaged"), &twin), "a lost write passes: seed {seed}");
        }
    }
}

/// Whether somebody read what this one wrote.
fn is_seen(write: &Operation, operations: &[Operation]) -> bool {
    operations.iter().any(|o| o.act.read().is_some() && o.act.read() == write.act.written())
}
