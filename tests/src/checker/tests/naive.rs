//! The search against the definition: every subset of the open operations, in every order.

use rand::Rng as _;
use rand::rngs::SmallRng;

use super::Register;
use super::{done, unknown};
use crate::checker::{interval, linear};
use crate::history::{Act, Expect, Freshness, Operation, Outcome};
use crate::seed::generator;

/// Histories per run; most have 5 or 6 operations.
const HISTORIES: u64 = 6_000;
const OPERATIONS_MAX: usize = 6;
const TIMES: u64 = 12;
const VALUES: u64 = 3;

/// Whether some order of the operations, the open ones optional, explains all answers: straight from the definition.
fn is_linearizable(left: &[Operation], register: Register) -> bool {
    if left.iter().all(|o| o.outcome != Outcome::Done) {
        return true;
    }
    (0..left.len()).any(|n| {
        let (begin, _) = interval(&left[n]);
        let is_preceded = left.iter().any(|other| interval(other).1 < begin);
        let Some(next) = register.after(&left[n]).filter(|_| !is_preceded) else { return false };
        let mut rest = left.to_vec();
        rest.remove(n);
        is_linearizable(&rest, next)
    })
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
        let mut write = || {
            next += 1;
            next
        };
        let known = draw.random_range(1..=VALUES);
        let expect = [Expect::Absent, Expect::Present, Expect::Value(known)][draw.random_range(0..3)];
        let act = match draw.random_range(0..15) {
            0..4 => Act::Upsert(write()),
            4 | 5 => Act::Delete { existed: [None, Some(true), Some(false)][draw.random_range(0..3)] },
            6 => Act::UpsertIf(write(), expect),
            7 => Act::Patch(write(), if expect == Expect::Absent { Expect::Present } else { expect }),
            8 => Act::Refused { expect, existed: draw.random() },
            9 => Act::Expire(known),
            _ => Act::Read(seen, fresh),
        };
        let open = match act {
            Act::Delete { .. } => Act::Delete { existed: None },
            other => other,
        };
        let is_open = draw.random_range(0..4) == 0 || matches!(act, Act::Expire(_));
        let base = seen.map(|seen| if draw.random() { seen } else { draw.random_range(1..=VALUES) });
        let told = Operation { base: base.filter(|_| act.read().is_some()), ..done(begin, end, act) };
        operations.push(if is_open { unknown(begin, open) } else { told });
    }
    operations
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..HISTORIES {
        let operations = any(&mut generator(seed));
        let told: Vec<Operation> =
            operations.iter().filter(|o| o.outcome == Outcome::Done || o.act.is_write()).copied().collect();
        let expected = is_linearizable(&told, Register::default());
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
        let told: Vec<Operation> =
            operations.iter().filter(|o| o.outcome == Outcome::Done || o.act.is_write()).copied().collect();
        if let Err(why) = crate::checker::durable::check(&operations) {
            assert!(!is_linearizable(&told, Register::default()), "seed {seed}: {why}\n{operations:#?}");
            blamed += 1;
        }
    }
    assert!(blamed > HISTORIES / 20, "{blamed} only");
}
