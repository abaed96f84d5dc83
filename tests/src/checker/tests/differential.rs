//! The search against one that others wrote: the checker of the crate `todc-utils`, on histories too long to try every order.
//!
//! It knows no open outcomes. An open write is told to it as one that ends after everything else: at the end it changes no
//! answer any more, so that is as good as never. Reads that may be stale are told with the interval that they may have.

use std::collections::BTreeMap;

use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

use super::planted::{simulated, with_a_lost_write};
use super::{delete, done, put, unknown};
use crate::checker::{interval, linear};
use crate::history::{Act, Freshness, NEVER, Operation, Outcome, Value};
use crate::seed::generator;

/// Histories of a few clients, good ones and their damaged twins.
const HISTORIES: u64 = 400;
/// Operations of each.
const OPERATIONS: u64 = 40;
const CLIENTS: usize = 5;
/// Long histories from the other tests' store.
const LONG: u64 = 6;

/// A register that holds a value or nothing.
struct Register;

impl Specification for Register {
    type State = Value;
    type Operation = Act;

    fn init() -> Value {
        None
    }

    fn apply(act: &Act, value: &Value) -> (bool, Value) {
        match *act {
            Act::Upsert(written) => (true, Some(written)),
            Act::Delete { existed: None } => (true, None),
            Act::Delete { existed: Some(existed) } if existed == value.is_some() => (true, None),
            Act::Delete { .. } => (false, *value),
            Act::Read(seen, _) => (seen == *value, *value),
        }
    }
}

/// What the other checker says.
fn is_linearizable(operations: &[Operation]) -> bool {
    let is_told = |o: &&Operation| match (o.outcome, o.act) {
        (Outcome::Failed, _) | (Outcome::Unknown, Act::Read(..)) => false,
        (Outcome::Done | Outcome::Unknown, _) => true,
    };
    // Each has a process of its own; where times touch, calls come before answers.
    let mut events: BTreeMap<(u64, bool, usize), Action<Act>> = BTreeMap::new();
    for (n, operation) in operations.iter().filter(is_told).enumerate() {
        let (begin, end) = interval(operation);
        events.insert((begin, false, n), Action::Call(operation.act));
        events.insert((end, true, n), Action::Response(operation.act));
    }
    let actions: Vec<_> = events.into_iter().map(|((_, _, n), action)| (n, action)).collect();
    actions.is_empty() || WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
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
        let (act, is_open) = match draw.random_range(0..20) {
            0..7 => (put(n), false),
            7 => (put(n), true),
            8..10 => (delete(), false),
            10 => (delete(), true),
            _ => (Act::Read(None, Freshness::Linearizable), false),
        };
        let late = if is_open { *[0, 20, NEVER / 2].choose(draw).unwrap() } else { 0 };
        let operation = if is_open { unknown(begin, act) } else { done(begin, end, act) };
        moments.push((moment + late, operation));
    }
    moments.sort_by_key(|(moment, _)| *moment);
    let mut value = None;
    let mut operations: Vec<Operation> = moments.into_iter().map(|(_, operation)| operation).collect();
    for operation in &mut operations {
        match &mut operation.act {
            Act::Upsert(written) => value = Some(*written),
            Act::Delete { existed } => {
                let tells = operation.outcome == Outcome::Done && draw.random();
                *existed = tells.then_some(value.is_some());
                value = None;
            }
            Act::Read(seen, _) => *seen = value,
        }
    }
    operations
}

/// One answer says something else, or one interval is shorter than it was: the history may be bad now.
fn damaged(mut operations: Vec<Operation>, draw: &mut SmallRng) -> Vec<Operation> {
    let values: Vec<Value> = operations.iter().map(|o| written(o.act)).collect();
    let other = *values.choose(draw).unwrap();
    let done: Vec<usize> =
        (0..operations.len()).filter(|n| operations[*n].outcome == Outcome::Done).collect();
    let operation = &mut operations[*done.choose(draw).unwrap()];
    match &mut operation.act {
        Act::Read(seen, _) => *seen = other,
        Act::Delete { existed } => *existed = existed.map_or(Some(true), |existed| Some(!existed)),
        Act::Upsert(_) if draw.random() => operation.outcome = Outcome::Failed,
        Act::Upsert(_) => operation.invoked = operation.returned,
    }
    operations
}

fn written(act: Act) -> Value {
    match act {
        Act::Upsert(value) => Some(value),
        _ => None,
    }
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
    operations.iter().any(|o| matches!(o.act, Act::Read(Some(value), _) if Some(value) == written(write.act)))
}
