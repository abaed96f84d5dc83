//! The judge of sets: what is legal though it looks odd, each kind of damage, and a correct store under concurrency.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{Register, delete, done, put, read, unknown};
use crate::checker::sets;
use crate::history::{Act, Expect, Freshness, History, Key, Operation, Outcome, Seen, SetAnswer};
use crate::seed::generator;

fn on(key: Key, operation: Operation) -> Operation {
    Operation { key, ..operation }
}

fn answer(invoked: u64, returned: u64, seen: Seen) -> SetAnswer {
    SetAnswer { client: 1, invoked, returned, freshness: Freshness::Linearizable, seen }
}

fn judge(operations: &[Operation], answer: SetAnswer) -> Result<(), String> {
    let history = History { operations: operations.to_vec(), ..History::default() };
    sets::check(&[answer], &history.by_key())
}

/// The answer and its count pass, or both fail: the first with these words.
fn is(operations: &[Operation], keys: &[Key], words: Option<&str>) {
    for seen in [Seen::Scan, Seen::Search, Seen::Groups].map(|seen| seen(keys.to_vec())) {
        match (judge(operations, answer(100, 110, seen)), words) {
            (Ok(()), None) => {}
            (Err(why), Some(words)) => assert!(why.contains(words), "{why}"),
            (other, _) => panic!("{other:?}, expected {words:?}"),
        }
    }
    let counted = judge(operations, answer(100, 110, Seen::Count(keys.len() as u64)));
    assert_eq!(counted.is_ok(), words.is_none(), "{counted:?}");
}

#[test]
fn what_is_certainly_there_is_seen() {
    let missing = Some("an acknowledged record is missing: key 2");
    let two = [on(1, done(0, 1, put(1))), on(2, done(2, 3, put(2)))];
    is(&two, &[1, 2], None);
    is(&two, &[1], missing);
    let with = |more: Operation| [&two[..], &[on(2, more)]].concat();
    // A delete under way, one with an unknown outcome, and one that was over.
    is(&with(done(105, 120, delete())), &[1], None);
    is(&with(unknown(50, delete())), &[1], None);
    is(&with(done(111, 120, delete())), &[1], missing);
    is(&[on(1, done(0, 1, put(1))), on(2, done(0, 1, delete())), two[1]], &[1], missing);
    // An upsert that nobody acknowledged, but somebody saw.
    let seen = [two[0], on(2, unknown(2, put(2))), on(2, done(50, 60, read(Some(2))))];
    is(&seen, &[1], missing);
    is(&seen[..2], &[1], None);
    is(&seen[..2], &[1, 2], None);
}

#[test]
fn what_cannot_be_there_is_not_seen() {
    let ghost = Some("a record that cannot be there");
    let one = on(1, done(0, 1, put(1)));
    is(&[one], &[1, 2], ghost);
    is(&[one, on(2, done(111, 112, put(2)))], &[1, 2], ghost);
    is(&[one, on(2, Operation { outcome: Outcome::Failed, ..done(2, 3, put(2)) })], &[1, 2], ghost);
    let gone = [one, on(2, done(2, 3, put(2))), on(2, done(4, 5, delete()))];
    is(&gone, &[1], None);
    is(&gone, &[1, 2], ghost);
    is(&[&gone[..], &[on(2, unknown(6, put(3)))]].concat(), &[1, 2], None);
    // What was read once has happened, and happens no more.
    let late = [on(2, unknown(6, put(3))), on(2, done(7, 8, read(Some(3)))), on(2, done(9, 10, delete()))];
    is(&[&gone[..], &late].concat(), &[1, 2], ghost);
    // A read that saw nothing tells as much as a delete.
    is(
        &[one, on(2, done(2, 3, put(2))), on(2, unknown(2, delete())), on(2, done(50, 51, read(None)))],
        &[1, 2],
        ghost,
    );
}

#[test]
fn what_changes_only_what_is_there_brings_nothing_back() {
    let ghost = Some("a record that cannot be there");
    let gone = [on(1, done(0, 1, put(1))), on(2, done(2, 3, put(2))), on(2, done(4, 5, delete()))];
    let with = |act| [&gone[..], &[on(2, unknown(6, act))]].concat();
    is(&with(Act::Patch(3, Expect::Present)), &[1, 2], ghost);
    is(&with(Act::UpsertIf(3, Expect::Present)), &[1, 2], ghost);
    is(&with(Act::UpsertIf(3, Expect::Absent)), &[1, 2], None);
    is(&with(Act::Patch(3, Expect::Present)), &[1], None);
    // What expires may be there, until it was seen gone.
    let expires = [on(1, done(0, 1, put(1))), on(2, done(2, 3, put(2))), on(2, unknown(4, Act::Expire(2)))];
    is(&expires, &[1], None);
    is(&expires, &[1, 2], None);
    is(&[&expires[..2], &[on(2, unknown(111, Act::Expire(2)))]].concat(), &[1], Some("is missing: key 2"));
    is(&[&expires[..], &[on(2, done(50, 51, read(None)))]].concat(), &[1, 2], ghost);
    // What was refused tells what it met.
    let met = |existed| on(2, done(60, 70, Act::Refused { expect: Expect::Value(9), existed }));
    let open = [gone[0], on(2, unknown(2, put(2))), on(2, unknown(2, delete()))];
    is(&[&open[..2], &[met(true)]].concat(), &[1], Some("an acknowledged record is missing: key 2"));
    is(&[&open[..1], &[met(false)]].concat(), &[1, 2], ghost);
}

#[test]
fn no_key_is_seen_twice_and_counts_are_right() {
    let two = [on(1, done(0, 1, put(1))), on(2, done(2, 3, put(2)))];
    for keys in [vec![1, 1, 2], vec![1, 2, 1]] {
        let why = judge(&two, answer(9, 10, Seen::Search(keys))).unwrap_err();
        assert!(why.contains("returned twice: key 1"), "{why}");
    }
    let open = [two[0], two[1], on(3, unknown(4, put(3)))];
    for (count, is_right) in [(1, false), (2, true), (3, true), (4, false)] {
        let judged = judge(&open, answer(9, 10, Seen::Count(count)));
        assert_eq!(judged.is_ok(), is_right, "{count}: {judged:?}");
        assert!(is_right || judged.unwrap_err().contains("a wrong count: 2 to 3 records"));
    }
}

#[test]
fn an_answer_that_may_be_stale_may_lack_what_is_new() {
    let operations = [on(1, done(0, 1, put(1))), on(2, done(50, 51, put(2)))];
    let stale = |freshness, keys| SetAnswer { freshness, ..answer(100, 110, Seen::Scan(keys)) };
    let micros = std::time::Duration::from_micros;
    judge(&operations, stale(Freshness::Any, vec![])).unwrap();
    judge(&operations, stale(Freshness::Bounded(micros(60)), vec![1])).unwrap();
    judge(&operations, stale(Freshness::Bounded(micros(40)), vec![1])).unwrap_err();
    judge(&operations, stale(Freshness::Any, vec![1, 2, 3])).unwrap_err();
}

const KEYS: Key = 12;
const CLIENTS: usize = 6;
const CALLS: u64 = 600;

/// A correct store: each operation, and each key of a set answer, takes effect at a moment of its interval.
fn simulated(seed: u64) -> (Vec<Operation>, Vec<SetAnswer>) {
    let mut draw = generator(seed);
    let mut clients = [0; CLIENTS];
    let (mut operations, mut answers) = (Vec::new(), Vec::new());
    // (moment, key, the operation or the answer that it belongs to)
    let mut moments: Vec<(u64, Key, Result<usize, usize>)> = Vec::new();
    for n in 1..=CALLS {
        let client = draw.random_range(0..CLIENTS);
        let begin = clients[client] + draw.random_range(1..10);
        let end = begin + draw.random_range(20..40);
        clients[client] = end;
        if draw.random_range(0..10) == 0 {
            let seen = match draw.random_range(0..4) {
                0 => Seen::Scan(vec![]),
                1 => Seen::Search(vec![]),
                2 => Seen::Groups(vec![]),
                _ => Seen::Count(0),
            };
            moments.extend((1..=KEYS).map(|key| (draw.random_range(begin..=end), key, Err(answers.len()))));
            answers.push(answer(begin, end, seen));
            continue;
        }
        let key = draw.random_range(1..=KEYS);
        let act = match draw.random_range(0..20) {
            0..5 => put(n),
            5 => Act::UpsertIf(n, Expect::Absent),
            6 => Act::UpsertIf(n, Expect::Present),
            7 => Act::Patch(n, Expect::Present),
            8..14 => delete(),
            _ => read(None),
        };
        let is_open = !matches!(act, Act::Read(..)) && draw.random_range(0..15) == 0;
        let late = if is_open { *[0, 200, u64::MAX / 2].choose(&mut draw).unwrap() } else { 0 };
        moments.push((draw.random_range(begin..=end) + late, key, Ok(operations.len())));
        operations.push(on(key, if is_open { unknown(begin, act) } else { done(begin, end, act) }));
    }
    moments.sort_by_key(|(moment, ..)| *moment);
    let mut registers = [Register::default(); KEYS as usize + 1];
    for (_, key, what) in moments {
        let register = &mut registers[key as usize];
        let existed = *register != Register::default();
        match what {
            Ok(n) => {
                let operation = &mut operations[n];
                if let Act::Read(seen, _) = &mut operation.act {
                    (*seen, operation.base) = register.shows();
                }
                match (operation.act, register.after(operation)) {
                    (_, Some(after)) => *register = after,
                    (Act::UpsertIf(_, expect) | Act::Patch(_, expect), None)
                        if operation.outcome == Outcome::Done =>
                    {
                        operation.act = Act::Refused { expect, existed };
                    }
                    (_, None) => {}
                }
            }
            Err(n) if existed => match &mut answers[n].seen {
                Seen::Scan(keys) | Seen::Search(keys) | Seen::Groups(keys) => keys.push(key),
                Seen::Count(count) => *count += 1,
            },
            Err(_) => {}
        }
    }
    (operations, answers)
}

/// One key too few, one too many, one twice; a count off by a few.
fn damage(answer: &SetAnswer, draw: &mut impl rand::Rng) -> SetAnswer {
    let mut damaged = answer.clone();
    match &mut damaged.seen {
        Seen::Scan(keys) | Seen::Search(keys) | Seen::Groups(keys) => {
            let key = draw.random_range(1..=KEYS);
            match keys.iter().position(|seen| *seen == key) {
                Some(place) if draw.random() => drop(keys.remove(place)),
                _ => keys.push(key),
            }
        }
        Seen::Count(count) if draw.random() => *count += 4,
        Seen::Count(count) => *count = count.wrapping_sub(4),
    }
    damaged
}

#[test]
fn correct_answers_pass_and_their_damaged_twins_mostly_fail() {
    let (mut tried, mut caught) = (0, 0);
    for seed in 0..30 {
        let (operations, answers) = simulated(seed);
        let keys = History { operations, ..History::default() }.by_key();
        sets::check(&answers, &keys).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let mut draw = generator(seed ^ 0x5e75);
        for answer in &answers {
            tried += 1;
            caught += usize::from(sets::check(&[damage(answer, &mut draw)], &keys).is_err());
        }
    }
    // What is in doubt may be so or so: a write is nearly always under way here.
    assert!(caught * 2 > tried, "{caught} of {tried} damaged answers are caught");
    println!("{caught} of {tried} damaged answers are caught");
}
