//! The search against the definition: every subset of the open operations, in every order.

use rand::Rng as _;
use rand::rngs::SmallRng;

use super::{done, unknown};
use crate::checker::{interval, linear};
use crate::history::{Act, Freshness, Operation, Outcome, Value};
use crate::seed::generator;

/// Histories per run; most have 5 or 6 operations.
const HISTORIES: u64 = 6_000;
const OPERATIONS_MAX: usize = 6;
const TIMES: u64 = 12;
const VALUES: u64 = 3;

/// Whether some order of the operations, the open ones optional, explains all answers: straight from the definition.
fn is_linearizable(left: &[Operation], value: Value) -> bool {
    if left.iter().all(|o| o.outcome != Outcome::Done) {
        return true;
    }
    (0..left.len()).any(|n| {
        let (begin, _) = interval(&left[n]);
        let is_preceded = left.iter().any(|other| interval(other).1 < begin);
        let Some(next) = applied(value, left[n].act).filter(|_| !is_preceded) else { return false };
        let mut rest = left.to_vec();
        rest.remove(n);
        is_linearizable(&rest, next)
    })
}

/// The register after an operation; none if its answer does not fit.
fn applied(value: Value, act: Act) -> Option<Value> {
    match act {
        Act::Upsert(written) => Some(Some(written)),
        Act::Delete { existed } => existed.is_none_or(|existed| existed == value.is_some()).then_some(None),
        Act::Read(seen, _) => (seen == value).then_some(value),
    }
}

/// Any history, good or bad: values are written once each, reads show anything.
fn any(draw: &mut SmallRng) -> Vec<Operation> {
    let count = draw.random_range(2..=OPERATIONS_MAX);
    let mut next = 0;
    let mut operations = Vec::new();
    for _ in 0..count {
        let begin = draw.random_range(0..TIMES);
        let end = draw.random_range(begin..=TIMES);
        let seen = Some(draw.random_range(0..=VALUES)).filter(|value| *value > 0);
        let fresh = match draw.random_range(0..8) {
            0 => Freshness::Any,
            1 => Freshness::Bounded(std::time::Duration::from_micros(4)),
            _ => Freshness::Linearizable,
        };
        let act = match draw.random_range(0..10) {
            0..4 => {
                next += 1;
                Act::Upsert(next)
            }
            4 | 5 => Act::Delete { existed: [None, Some(true), Some(false)][draw.random_range(0..3)] },
            _ => Act::Read(seen, fresh),
        };
        let open = match act {
            Act::Delete { .. } => Act::Delete { existed: None },
            other => other,
        };
        let is_open = draw.random_range(0..4) == 0;
        operations.push(if is_open { unknown(begin, open) } else { done(begin, end, act) });
    }
    operations
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..HISTORIES {
        let operations = any(&mut generator(seed));
        let told: Vec<Operation> = operations
            .iter()
            .filter(|o| o.outcome == Outcome::Done || !matches!(o.act, Act::Read(..)))
            .copied()
            .collect();
        let expected = is_linearizable(&told, None);
        let found = linear::check(&operations);
        assert_eq!(found.is_ok(), expected, "seed {seed}: {found:?}\n{operations:#?}");
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > HISTORIES / 10 && bad > HISTORIES / 10, "one-sided: {good} good, {bad} bad");
}

/// The necessary conditions never blame what the definition explains.
#[test]
fn the_plain_rules_blame_no_good_history() {
    let mut blamed = 0;
    for seed in 0..HISTORIES {
        let operations = any(&mut generator(seed ^ 0xd00d));
        let told: Vec<Operation> = operations
            .iter()
            .filter(|o| o.outcome == Outcome::Done || !matches!(o.act, Act::Read(..)))
            .copied()
            .collect();
        if let Err(why) = crate::checker::durable::check(&operations) {
            assert!(!is_linearizable(&told, None), "seed {seed}: {why}\n{operations:#?}");
            blamed += 1;
        }
    }
    assert!(blamed > HISTORIES / 20, "{blamed} only");
}
