//! Replacements of generations: what stays, what goes, and what comes back after a restart.

use flotilla_proto::ids::Epoch;
use flotilla_proto::limits::REPLACE_BYTES_MAX;
use flotilla_proto::placement::ReplaceId;

use super::*;
use crate::machine::replaces::{ReplaceRejection, ReplaceStep, Replaced};

const A: ReplaceId = (1, 1);
const B: ReplaceId = (2, 1);

fn rows(keys: std::ops::Range<u64>, of: i64, n: i64) -> Vec<StoredRow> {
    let spec = CollectionSpec::default();
    let record = |key| Record::new(key).field("of", of).field("n", n);
    keys.map(|key| StoredRow::from_domain(&record(key), &spec).unwrap()).collect()
}

fn begin(id: ReplaceId, of: i64) -> Body {
    let filter = Filter::Equal("of".into(), of.into());
    Body::Replace(ReplaceStep::Begin { id, epoch: Epoch(1), filter, fields: BTreeMap::new() })
}

fn stage(id: ReplaceId, sequence: u64, rows: Vec<StoredRow>) -> Body {
    Body::Replace(ReplaceStep::Stage { id, sequence, rows })
}

fn settle(id: ReplaceId, generation: u64) -> Body {
    Body::Replace(ReplaceStep::Settle { id, generation })
}

fn rejected(why: ReplaceRejection) -> Reply {
    Reply::Rejected(Rejection::Replace(why))
}

/// What is there now: key, `of` and `n`.
fn there(one: &Machined) -> Vec<(u64, i64, i64)> {
    let view = one.store.view();
    let mut found = Vec::new();
    for segment in view.segments() {
        for row in segment.live_rows() {
            let Key::Number(key) = segment.key(row).unwrap() else { panic!("a key of text") };
            let payload = segment.payload(row).unwrap();
            let number = |field: &str| match payload[field] {
                flotilla_proto::record::Value::Int(number) => number,
                ref other => panic!("{other:?}"),
            };
            found.push((key, number("of"), number("n")));
        }
    }
    found.sort_unstable();
    found
}

fn written(one: &mut Machined, index: LogIndex, body: Body) -> u64 {
    match one.apply(index, body) {
        Reply::Written { affected, log_index } if log_index == index => affected,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_matched_becomes_the_set_in_one_entry_and_newer_records_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = open(dir.path());
    one.apply(1, Body::Upsert(rows(0..6, 7, 0)));
    one.apply(2, Body::Upsert(rows(10..12, 8, 0)));
    one.publish(2);
    one.seal();
    assert_eq!(written(&mut one, 3, begin(A, 7)), 0);
    assert_eq!(written(&mut one, 4, stage(A, 1, rows(4..7, 7, 1))), 3);
    // Of the other set, and written since: the one comes into this set, the others stay as they are.
    one.apply(5, Body::Upsert(rows(5..6, 7, 9)));
    one.apply(6, Body::Upsert(rows(3..4, 7, 9)));
    assert_eq!(written(&mut one, 7, stage(A, 2, rows(10..11, 7, 1))), 1);
    one.publish(7);
    let before = there(&one);
    assert_eq!(before.len(), 8, "nothing is seen of what is held back");
    assert_eq!(one.store.view().presence().generation, 0);
    assert_eq!(written(&mut one, 8, settle(A, 1)), 1);
    assert_eq!(there(&one), before, "nor before it is published");
    one.publish(8);
    assert_eq!(one.store.view().presence().generation, 1);
    assert_eq!(there(&one), [(3, 7, 9), (4, 7, 1), (5, 7, 9), (6, 7, 1), (10, 7, 1), (11, 8, 0)]);
    let done = one.machine.ledger().replaces.borrow().done.to_vec();
    assert_eq!(done, [Replaced { id: A, written: 3, removed: 3, index: 8 }]);
    assert_eq!(one.digest(9, false), recount(&one.store.view(), &|| false).unwrap());
    // Once more, it is done.
    assert_eq!(written(&mut one, 10, settle(A, 1)), 1);
    assert_eq!(written(&mut one, 11, begin(A, 7)), 1);
    assert_eq!(one.apply(12, stage(A, 1, rows(0..1, 7, 1))), rejected(ReplaceRejection::Unknown));
    one.publish(12);
    assert_eq!(there(&one).len(), 6);
}

#[test]
fn the_later_of_two_wins_and_parts_come_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = open(dir.path());
    one.apply(1, Body::Upsert(rows(0..3, 7, 0)));
    one.apply(2, begin(A, 7));
    one.apply(3, begin(B, 7));
    assert_eq!(one.apply(4, stage(A, 2, rows(1..4, 7, 1))), rejected(ReplaceRejection::OutOfOrder));
    assert_eq!(written(&mut one, 5, stage(A, 1, rows(1..4, 7, 1))), 3);
    assert_eq!(written(&mut one, 6, stage(A, 1, rows(1..4, 7, 1))), 0);
    assert_eq!(written(&mut one, 7, stage(B, 1, rows(2..6, 7, 2))), 4);
    // The generation of one that this partition holds nothing of passes it by.
    assert_eq!(written(&mut one, 8, settle((9, 9), 1)), 1);
    assert_eq!(written(&mut one, 9, settle(B, 2)), 2);
    one.publish(9);
    assert_eq!(there(&one), [(2, 7, 2), (3, 7, 2), (4, 7, 2), (5, 7, 2)]);
    assert_eq!(written(&mut one, 10, settle(A, 3)), 3);
    one.publish(10);
    assert_eq!(there(&one), [(1, 7, 1), (2, 7, 1), (3, 7, 1)]);
    assert!(!one.machine.ledger().replaces.borrow().staged.iter().any(|_| true));
}

#[test]
fn what_is_held_back_survives_a_restart_and_goes_when_it_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = open(dir.path());
    one.apply(1, Body::Upsert(rows(0..3, 7, 0)));
    one.apply(2, begin(A, 7));
    one.apply(3, stage(A, 1, rows(2..5, 7, 1)));
    one.apply(4, begin(B, 7));
    one.publish(4);
    one.seal();
    drop(one);
    let mut one = open(dir.path());
    let staged: Vec<_> = one.machine.ledger().replaces.borrow().staged.iter().map(|s| (s.0, s.2)).collect();
    assert_eq!(staged, [(A, 1), (B, 0)]);
    one.apply(5, Body::Replace(ReplaceStep::Forget { ids: vec![B] }));
    assert_eq!(one.apply(6, stage(B, 1, Vec::new())), rejected(ReplaceRejection::Unknown));
    one.apply(7, stage(A, 2, rows(8..9, 7, 1)));
    one.apply(8, settle(A, 1));
    one.publish(8);
    one.seal();
    drop(one);
    let one = open(dir.path());
    assert_eq!(there(&one), [(2, 7, 1), (3, 7, 1), (4, 7, 1), (8, 7, 1)]);
    assert_eq!(one.store.view().presence().generation, 1);
    assert_eq!(one.machine.ledger().replaces.borrow().done.len(), 1);
}

#[test]
fn what_is_held_back_is_bounded_and_let_go_of() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = open(dir.path());
    one.apply(1, begin(A, 7));
    let large = || {
        let spec = CollectionSpec::default();
        let record = Record::new(1).field("of", 7).field("t", "x".repeat(900 << 10).as_str());
        let row = StoredRow::from_domain(&record, &spec).unwrap();
        std::iter::repeat_n(row, 10).collect::<Vec<_>>()
    };
    let (mut index, mut parts) = (2, 0);
    let full = loop {
        match one.apply(index, stage(A, parts + 1, large())) {
            Reply::Written { .. } => parts += 1,
            other => break other,
        }
        index += 1;
    };
    assert_eq!(full, rejected(ReplaceRejection::Full));
    assert_eq!(parts, REPLACE_BYTES_MAX / (9_000 << 10));
    one.apply(index + 1, Body::Replace(ReplaceStep::Forget { ids: vec![A] }));
    one.apply(index + 2, begin(B, 7));
    assert_eq!(written(&mut one, index + 3, stage(B, 1, large())), 10);
}
