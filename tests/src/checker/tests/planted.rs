//! Hand-made histories: what is legal though it looks odd, and each kind of damage.

use std::time::Duration;

use super::{Register, at, delete, done, put, read, unknown};
use crate::checker::{check, durable, indexes, linear, sessions};
use crate::history::{Act, Call, Expect, Freshness, History, Operation, Outcome, Position};
use crate::seed::generator;
use rand::Rng as _;
use rand::rngs::SmallRng;

fn history(operations: Vec<Operation>) -> History {
    History { operations, ..History::default() }
}

fn passes(operations: Vec<Operation>) {
    check(&history(operations)).unwrap();
}

/// Every judge asked alone would pass but the one whose words these are.
fn fails(operations: Vec<Operation>, words: &str) {
    let why = check(&history(operations.clone())).unwrap_err();
    assert!(why.contains(words), "{why}");
    assert!(linear::check(&operations).is_err(), "the search finds an order for: {why}");
}

#[test]
fn concurrent_operations_may_take_either_order() {
    passes(vec![done(0, 10, put(1)), done(0, 10, put(2)), done(11, 12, read(Some(1)))]);
    passes(vec![done(0, 10, put(1)), done(0, 10, put(2)), done(11, 12, read(Some(2)))]);
    passes(vec![done(0, 10, put(1)), done(2, 3, read(None)), done(4, 5, read(Some(1)))]);
    passes(vec![done(0, 10, put(1)), done(5, 10, delete()), done(10, 11, read(None))]);
    // Ends touch: concurrent.
    passes(vec![done(0, 10, put(1)), done(10, 20, read(None))]);
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never() {
    passes(vec![unknown(0, put(1)), done(5, 6, read(None))]);
    passes(vec![unknown(0, put(1)), done(5, 6, read(None)), done(7, 8, read(Some(1)))]);
    passes(vec![unknown(0, put(1)), done(5, 6, put(2)), done(7, 8, read(Some(1)))]);
    passes(vec![done(0, 1, put(1)), unknown(2, delete()), done(5, 6, read(Some(1))), done(7, 8, read(None))]);
    // But once only.
    fails(
        vec![
            unknown(0, put(1)),
            done(5, 6, read(Some(1))),
            done(7, 8, put(2)),
            done(9, 10, read(Some(2))),
            done(11, 12, read(Some(1))),
        ],
        "not linearizable",
    );
}

#[test]
fn many_open_outcomes_do_not_blow_up() {
    let mut operations: Vec<Operation> = (0..200).map(|n| unknown(n, put(1_000 + n))).collect();
    operations.extend((0..200).map(|n| unknown(n, delete())));
    for n in 0..200 {
        operations.push(done(1_000 + n * 10, 1_001 + n * 10, put(n)));
        operations.push(done(1_003 + n * 10, 1_004 + n * 10, read(Some(n))));
        operations.push(done(1_006 + n * 10, 1_007 + n * 10, read(None)));
    }
    passes(operations);
}

#[test]
fn a_lost_write_is_found() {
    let words = "acknowledged write is lost";
    fails(vec![done(0, 1, put(1)), done(2, 3, read(None))], words);
    fails(vec![done(0, 1, put(1)), done(2, 3, put(2)), done(4, 5, read(Some(1)))], words);
    // A delete before it is no excuse.
    fails(vec![done(0, 1, delete()), done(2, 3, put(1)), done(4, 5, read(None))], words);
}

#[test]
fn a_deleted_record_that_comes_back_is_found() {
    let words = "a deleted record came back";
    fails(vec![done(0, 1, put(1)), done(2, 3, delete()), done(4, 5, read(Some(1)))], words);
    let mut seen_gone = vec![done(0, 1, put(1)), done(2, 3, delete()), done(4, 5, read(None))];
    passes(seen_gone.clone());
    seen_gone.push(done(6, 7, read(Some(1))));
    fails(seen_gone, words);
}

#[test]
fn values_from_nowhere_are_found() {
    fails(vec![done(0, 1, put(1)), done(2, 3, read(Some(9)))], "never written");
    fails(vec![done(0, 1, read(Some(1))), done(2, 3, put(1))], "before it was written");
    let refused = Operation { outcome: Outcome::Failed, ..done(0, 1, put(1)) };
    passes(vec![refused, done(2, 3, read(None))]);
    fails(vec![refused, done(2, 3, read(Some(1)))], "never written");
}

#[test]
fn orders_that_no_two_operations_betray_are_found() {
    // Two readers see two concurrent writes in two orders.
    let split = vec![
        done(0, 100, put(1)),
        done(0, 100, put(2)),
        done(10, 20, read(Some(1))),
        done(30, 40, read(Some(2))),
        done(50, 60, read(Some(1))),
    ];
    assert!(durable::check(&split).is_ok());
    fails(split, "not linearizable");
    // Two deletes of one record, both told that there was one.
    let there = Act::Delete { existed: Some(true) };
    fails(vec![done(0, 1, put(1)), done(2, 3, there), done(2, 3, there)], "not linearizable");
    let none = Act::Delete { existed: Some(false) };
    passes(vec![done(0, 1, put(1)), done(2, 3, there), done(2, 3, none)]);
    // An unknown write explains the second.
    passes(vec![done(0, 1, put(1)), unknown(0, put(2)), done(2, 3, there), done(4, 5, there)]);
}

fn refused(expect: Expect, existed: bool) -> Act {
    Act::Refused { expect, existed }
}

#[test]
fn a_conditional_write_has_found_what_it_wanted() {
    let put_if = |value, expect| Act::UpsertIf(value, expect);
    let first = done(0, 1, put(1));
    // Applied, and the contrary refused.
    passes(vec![done(0, 1, put_if(1, Expect::Absent)), done(2, 3, refused(Expect::Absent, true))]);
    passes(vec![done(0, 1, refused(Expect::Present, false)), done(2, 3, put(1))]);
    passes(vec![first, done(2, 3, put_if(2, Expect::Present)), done(4, 5, read(Some(2)))]);
    passes(vec![first, done(2, 3, put_if(2, Expect::Value(1))), done(4, 5, refused(Expect::Value(1), true))]);
    // Done against its condition.
    fails(vec![first, done(2, 3, put_if(2, Expect::Absent))], "not linearizable");
    fails(vec![done(0, 1, put_if(1, Expect::Present))], "not linearizable");
    fails(vec![first, done(2, 3, put(2)), done(4, 5, put_if(3, Expect::Value(1)))], "not linearizable");
    // Refused for nothing: by its own first try, for instance.
    fails(vec![first, done(2, 3, refused(Expect::Value(1), true))], "not linearizable");
    fails(vec![first, done(2, 3, refused(Expect::Present, false))], "not linearizable");
    fails(vec![first, done(2, 3, refused(Expect::Value(9), false))], "not linearizable");
    // What was refused has changed nothing; of two that want one version, one is refused.
    fails(vec![first, done(2, 3, refused(Expect::Absent, true)), done(4, 5, read(Some(2)))], "never written");
    let both = |second| vec![first, done(2, 9, put_if(2, Expect::Value(1))), done(2, 9, second)];
    passes(both(refused(Expect::Value(1), true)));
    fails(both(put_if(3, Expect::Value(1))), "not linearizable");
    // Open: it may have been done, if it could be.
    let open = |expect| vec![first, unknown(2, put_if(2, expect)), done(4, 5, read(Some(2)))];
    passes(open(Expect::Value(1)));
    passes(open(Expect::Present));
    fails(open(Expect::Absent), "not linearizable");
    passes([&open(Expect::Absent)[..1], &[unknown(2, delete())], &open(Expect::Absent)[1..]].concat());
    // Two open ones, of which the second needs the first.
    let chain = |expect| vec![unknown(0, put(1)), unknown(0, put_if(2, expect)), done(4, 5, read(Some(2)))];
    passes(chain(Expect::Value(1)));
    fails(chain(Expect::Value(7)), "not linearizable");
}

#[test]
fn a_version_of_a_key_that_moved_says_little() {
    let write = |expect| done(4, 5, Act::UpsertIf(3, expect));
    let moved = |last| vec![at(done(0, 1, put(1)), 3, 10), at(done(2, 3, put(2)), 4, 10), last];
    passes(moved(write(Expect::Value(1))));
    passes(moved(done(4, 5, refused(Expect::Value(2), true))));
    fails(moved(write(Expect::Absent)), "not linearizable");
    let stayed = vec![at(done(0, 1, put(1)), 3, 10), at(done(2, 3, put(2)), 3, 11), write(Expect::Value(1))];
    fails(stayed, "not linearizable");
}

/// A batch of keys 7 and 12 is half taken by partition 3 at 50; then 7 moves there, and its half stands at 84.
#[test]
fn an_index_for_two_halves_of_a_call_is_that_of_no_key() {
    let shown = |version, operation| Operation { version: Some(version), ..operation };
    let batch = at(done(0, 9, put(1)), 3, 84);
    let other = |operation| Operation { key: 12, ..operation };
    let operations = vec![
        batch,
        at(shown(84, done(10, 11, read(Some(1)))), 3, 90),
        other(batch),
        other(at(done(4, 5, put(2)), 3, 61)),
        other(at(shown(61, done(10, 11, read(Some(2)))), 3, 90)),
    ];
    let why = check(&history(operations.clone())).unwrap_err();
    assert!(why.contains("shows index 61, and misses 84: key 12"), "{why}");
    check(&History { moved: [7].into(), ..history(operations.clone()) }).unwrap();
    check(&History { moved: [8].into(), ..history(operations) }).unwrap_err();
}

#[test]
fn a_patch_changes_what_is_there_and_nothing_else() {
    let patch = |value| Act::Patch(value, Expect::Present);
    let over = |base, operation| Operation { base: Some(base), ..operation };
    let first = [done(0, 1, put(1)), done(2, 3, patch(2))];
    let with = |more: &[Operation]| [&first[..], more].concat();
    passes(with(&[over(1, done(4, 5, read(Some(2))))]));
    passes(with(&[over(3, done(6, 7, read(Some(3)))), done(4, 5, put(3))]));
    fails(with(&[done(4, 5, read(Some(1)))]), "acknowledged write is lost");
    fails(with(&[done(4, 5, read(None))]), "acknowledged write is lost");
    // Made of two writes.
    fails(with(&[over(2, done(4, 5, read(Some(2))))]), "a record of two writes");
    fails(with(&[over(7, done(4, 5, read(Some(2))))]), "a record of two writes");
    let replaced = [done(0, 1, put(1)), done(2, 3, put(2)), done(4, 5, patch(3))];
    passes([&replaced[..], &[over(2, done(6, 7, read(Some(3))))]].concat());
    let words = "a patch brought back what an upsert had replaced";
    fails([&replaced[..], &[over(1, done(6, 7, read(Some(3))))]].concat(), words);
    // Nothing to patch.
    fails(vec![done(0, 1, patch(1))], "not linearizable");
    let deleted = [first[0], done(2, 3, delete())];
    fails([&deleted[..], &[unknown(4, patch(2)), done(6, 7, read(Some(2)))]].concat(), "not linearizable");
    let back = [unknown(4, patch(2)), over(1, done(6, 7, read(Some(2))))];
    fails([&deleted[..], &back].concat(), "a patch brought back what was deleted");
    // An open upsert that nobody saw but below a patch.
    let below = |base| vec![unknown(0, put(1)), done(2, 3, patch(2)), over(base, done(4, 5, read(Some(2))))];
    passes(below(1));
    fails([&below(1)[..], &[over(2, done(6, 7, read(Some(2))))]].concat(), "a record of two writes");
    let both = [unknown(0, put(1)), unknown(0, put(4)), done(2, 3, patch(2))];
    let seen = [over(1, done(4, 5, read(Some(2)))), over(4, done(6, 7, read(Some(2))))];
    fails([&both[..], &seen].concat(), "not linearizable");
}

#[test]
fn a_record_stays_until_its_time_has_come_and_comes_back_never() {
    let expires = |from, value| unknown(from, Act::Expire(value));
    let first = [done(0, 1, put(1)), expires(50, 1)];
    let with = |more: &[Operation]| [&first[..], more].concat();
    passes(with(&[done(40, 45, read(Some(1))), done(60, 61, read(Some(1))), done(62, 63, read(None))]));
    passes(with(&[done(45, 50, read(None))]));
    fails(with(&[done(40, 45, read(None))]), "acknowledged write is lost");
    fails(with(&[done(60, 61, read(None)), done(62, 63, read(Some(1)))]), "not linearizable");
    // Written anew it has another time, or none; patched it has the same.
    fails(with(&[done(10, 11, put(2)), done(60, 61, read(None))]), "acknowledged write is lost");
    passes(with(&[done(10, 11, put(2)), expires(55, 2), done(60, 61, read(None))]));
    passes(with(&[done(10, 11, put(2)), done(12, 13, put(3)), expires(55, 3), done(60, 61, read(None))]));
    let patched = done(10, 11, Act::Patch(2, Expect::Present));
    passes(with(&[patched, done(60, 61, read(None))]));
    fails(with(&[patched, done(40, 41, read(None))]), "acknowledged write is lost");
    passes(with(&[done(60, 61, Act::UpsertIf(2, Expect::Absent)), done(62, 63, read(Some(2)))]));
    fails(with(&[done(40, 41, Act::UpsertIf(2, Expect::Absent))]), "not linearizable");
}

#[test]
fn what_was_refused_has_met_the_record_of_its_index() {
    let refused = |index, version, existed| Operation {
        version,
        ..at(done(9, 10, refused(Expect::Value(9), existed)), 3, index)
    };
    let with = |last| {
        let writes = [at(done(0, 1, put(1)), 3, 10), at(done(2, 3, Act::Patch(2, Expect::Present)), 3, 20)];
        indexes::check_key(&[&writes[..], &[at(done(4, 5, delete()), 3, 30), last]].concat())
    };
    with(refused(19, Some(10), true)).unwrap();
    with(refused(20, Some(20), true)).unwrap();
    with(refused(31, None, false)).unwrap();
    for (last, words) in [
        (refused(9, Some(10), true), "beyond"),
        (refused(21, Some(10), true), "misses 20"),
        (refused(31, Some(20), true), "misses 30"),
        (refused(21, None, false), "misses a record"),
    ] {
        let why = with(last).unwrap_err();
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn stale_reads_are_legal_as_far_as_they_were_asked_for() {
    let stale =
        |freshness| vec![done(0, 1, put(1)), done(2, 3, put(2)), done(14, 15, Act::Read(Some(1), freshness))];
    passes(stale(Freshness::Any));
    passes(stale(Freshness::Bounded(Duration::from_micros(12))));
    fails(stale(Freshness::Bounded(Duration::from_micros(10))), "acknowledged write is lost");
    fails(stale(Freshness::Linearizable), "acknowledged write is lost");
    let nothing_like_it = vec![done(0, 1, put(1)), done(2, 3, Act::Read(Some(5), Freshness::Any))];
    fails(nothing_like_it, "never written");
}

#[test]
fn a_read_keeps_to_the_index_it_names() {
    let any = |value| Act::Read(value, Freshness::Any);
    let versioned = |index, operation| Operation { version: Some(index), ..operation };
    let writes = || {
        vec![at(done(0, 1, put(1)), 3, 10), at(done(2, 3, put(2)), 3, 20), at(done(4, 5, delete()), 3, 30)]
    };
    let with = |operation| {
        let mut operations = writes();
        operations.push(operation);
        indexes::check_key(&operations)
    };
    for (value, index) in [(None, 9), (Some(1), 10), (Some(1), 19), (Some(2), 29), (None, 30), (None, 99)] {
        with(at(done(9, 10, any(value)), 3, index)).unwrap();
    }
    for (value, index, words) in [
        (Some(1), 9, "beyond"),
        (Some(1), 20, "misses 20"),
        (Some(2), 30, "misses 30"),
        (None, 10, "misses a record"),
    ] {
        let why = with(at(done(9, 10, any(value)), 3, index)).unwrap_err();
        assert!(why.contains(words), "{why}");
    }
    // Another partition's index says nothing.
    with(at(done(9, 10, any(Some(1))), 4, 99)).unwrap();
    let twice = with(at(versioned(11, done(9, 10, any(Some(1)))), 3, 12)).unwrap_err();
    assert!(twice.contains("applied at two log indexes"), "{twice}");
}

fn call(invoked: u64, returned: u64, freshness: Option<Freshness>, token: u64, index: u64) -> Call {
    let position = |index| Position { partition: 3, index };
    Call {
        client: 1,
        what: "call",
        invoked,
        returned,
        outcome: Outcome::Done,
        freshness,
        tokens: vec![position(token)],
        coverage: vec![position(index)],
        error: None,
    }
}

#[test]
fn tokens_and_acknowledged_indexes_are_kept() {
    let write = call(0, 5, None, 0, 50);
    let judge =
        |read| indexes::check_calls(&History { calls: vec![write.clone(), read], ..History::default() });
    judge(call(6, 7, Some(Freshness::Linearizable), 0, 50)).unwrap();
    judge(call(5, 7, Some(Freshness::Linearizable), 0, 49)).unwrap();
    judge(call(6, 7, Some(Freshness::Any), 0, 49)).unwrap();
    judge(call(6, 7, Some(Freshness::Any), 49, 49)).unwrap();
    let stale = judge(call(6, 7, Some(Freshness::Linearizable), 0, 49)).unwrap_err();
    assert!(stale.contains("not linearizable: index 50"), "{stale}");
    let backward = judge(call(6, 7, Some(Freshness::Any), 50, 49)).unwrap_err();
    assert!(backward.contains("below its token 50"), "{backward}");
}

#[test]
fn the_log_only_grows() {
    let judge =
        |calls: [Call; 2]| indexes::check_calls(&History { calls: calls.to_vec(), ..History::default() });
    let linearizable = Some(Freshness::Linearizable);
    // What a stale read named is committed: who asks later for the newest is not below it, who writes later is above.
    let stale = call(0, 5, Some(Freshness::Any), 0, 50);
    judge([stale.clone(), call(6, 7, linearizable, 0, 50)]).unwrap();
    judge([stale.clone(), call(6, 7, None, 0, 51)]).unwrap();
    judge([stale.clone(), call(5, 7, None, 0, 50)]).unwrap();
    let below = judge([stale.clone(), call(6, 7, linearizable, 0, 49)]).unwrap_err();
    assert!(below.contains("not linearizable: index 50"), "{below}");
    let again = judge([stale, call(6, 7, None, 0, 50)]).unwrap_err();
    assert!(again.contains("the log does not grow: index 50"), "{again}");
    let lost = judge([call(0, 5, None, 0, 50), call(6, 7, None, 0, 49)]).unwrap_err();
    assert!(lost.contains("the log does not grow"), "{lost}");
}

#[test]
fn a_session_does_not_go_back() {
    let by = |client, operation: Operation| Operation { client, ..operation };
    let session = |value| Act::Read(value, Freshness::Session);
    let judge = |operations: &[Operation]| sessions::check(operations);
    let written = [by(1, done(0, 1, put(1))), by(1, done(2, 3, put(2)))];
    let with = |more: &[Operation]| judge(&[&written[..], more].concat());
    with(&[by(1, done(4, 5, session(Some(2))))]).unwrap();
    // Another client knew of nothing.
    with(&[by(2, done(4, 5, session(Some(1)))), by(2, done(6, 7, session(None)))]).unwrap_err();
    with(&[by(2, done(4, 5, session(None))), by(2, done(6, 7, session(Some(1))))]).unwrap();
    // Its own write, and what it saw.
    assert!(with(&[by(1, done(4, 5, session(Some(1))))]).unwrap_err().contains("goes back"));
    assert!(with(&[by(1, done(4, 5, session(None)))]).unwrap_err().contains("goes back"));
    let seen = by(2, done(4, 5, read(Some(2))));
    assert!(with(&[seen, by(2, done(6, 7, session(Some(1))))]).unwrap_err().contains("goes back"));
    // Somebody may have deleted it.
    with(&[by(3, unknown(4, delete())), by(1, done(5, 6, session(None)))]).unwrap();
    let deleted = by(1, done(4, 5, delete()));
    assert!(with(&[deleted, by(1, done(6, 7, session(Some(2))))]).unwrap_err().contains("goes back"));
    // What was concurrent may come in either order.
    let concurrent = [by(1, done(0, 9, put(1))), by(2, done(0, 9, put(2)))];
    judge(&[&concurrent[..], &[by(1, done(10, 11, session(Some(2))))]].concat()).unwrap();
    judge(&[&concurrent[..], &[by(2, done(10, 11, session(Some(1))))]].concat()).unwrap();
}

#[test]
fn an_answer_damaged_in_itself_is_found() {
    let torn = History { damage: vec!["a record of two writes".into()], ..History::default() };
    assert!(check(&torn).unwrap_err().contains("two writes"));
}

/// A correct store: each operation takes effect at a moment of its interval. Some answers never arrive.
pub(super) fn simulated(seed: u64) -> Vec<Operation> {
    let mut draw = generator(seed);
    let mut clients = [0; 8];
    let mut moments: Vec<(u64, Operation)> = Vec::new();
    for n in 0..400 {
        let client = draw.random_range(0..clients.len());
        let begin = clients[client] + draw.random_range(1..20);
        let (moment, end) = (begin + draw.random_range(0..30), begin + 30 + draw.random_range(0..10));
        clients[client] = end;
        let act = match draw.random_range(0..21) {
            0..6 => put(n),
            20 => Act::Expire(draw.random_range(0..=n)),
            6 => Act::UpsertIf(n, [Expect::Absent, Expect::Present][draw.random_range(0..2)]),
            7 => Act::UpsertIf(n, Expect::Value(draw.random_range(0..=n))),
            8 | 9 => Act::Patch(n, Expect::Present),
            10 | 11 => delete(),
            _ => read(None),
        };
        let is_expiry = matches!(act, Act::Expire(_));
        let is_answered = !is_expiry && (matches!(act, Act::Read(..)) || draw.random_range(0..12) != 0);
        let operation = if is_answered { done(begin, end, act) } else { unknown(begin, act) };
        // An unanswered one may come much later, or never.
        let late = if is_answered { 0 } else { [0, 500, u64::MAX / 2][draw.random_range(0..3)] };
        moments.push((moment + late, operation));
    }
    moments.sort_by_key(|(moment, _)| *moment);
    let mut register = Register::default();
    let apply = |(_, mut operation): (u64, Operation)| {
        let existed = register != Register::default();
        match &mut operation.act {
            Act::Delete { existed: told } => {
                *told = (operation.outcome == Outcome::Done).then_some(existed);
            }
            Act::Read(seen, _) => (*seen, operation.base) = register.shows(),
            _ => {}
        }
        match (operation.act, register.after(&operation)) {
            (_, Some(after)) => register = after,
            (Act::UpsertIf(_, expect) | Act::Patch(_, expect), None)
                if operation.outcome == Outcome::Done =>
            {
                operation.act = Act::Refused { expect, existed };
            }
            (_, None) => {}
        }
        operation
    };
    moments.into_iter().map(apply).collect()
}

/// Makes one read show a value that an acknowledged write had covered before; none if no read lends itself.
pub(super) fn with_a_lost_write(
    mut operations: Vec<Operation>,
    draw: &mut SmallRng,
) -> Option<Vec<Operation>> {
    let from = draw.random_range(0..operations.len());
    let (n, older) =
        (from..operations.len()).find_map(|n| Some((n, covered(&operations, &operations[n])?)))?;
    (operations[n].act, operations[n].base) = (read(Some(older)), None);
    Some(operations)
}

/// A value older than the one that this read shows, for certain.
fn covered(operations: &[Operation], read: &Operation) -> Option<u64> {
    let Act::Read(Some(current), _) = read.act else { return None };
    let is_before = |o: &&Operation, time| o.outcome == Outcome::Done && o.returned < time;
    let write = operations
        .iter()
        .find(|o| o.act.written() == Some(current))
        .filter(|o| is_before(o, read.invoked))?;
    operations.iter().rev().filter(|o| is_before(o, write.invoked)).find_map(|o| o.act.written())
}

#[test]
fn long_concurrent_histories_pass_and_their_damaged_twins_fail() {
    let mut damaged = 0;
    for seed in 0..16 {
        let operations = simulated(seed);
        passes(operations.clone());
        let mut draw = generator(seed ^ 0xbad);
        if let Some(operations) = with_a_lost_write(operations, &mut draw) {
            fails(operations, ": key 7");
            damaged += 1;
        }
    }
    assert!(damaged >= 10, "{damaged} only");
}
