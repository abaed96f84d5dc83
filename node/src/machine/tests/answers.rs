//! What a decided request is answered when it comes again.

use flotilla_proto::patch::Patch;

use super::*;
use crate::machine::command::{Expect, PatchRow, RequestId, Rules};

fn row(key: u64, n: i64) -> StoredRow {
    StoredRow::from_domain(&Record::new(key).field("n", n), &CollectionSpec::default()).unwrap()
}

fn inserts(keys: &[u64]) -> Body {
    Body::UpsertIf(keys.iter().map(|key| (Expect::Absent, row(*key, 1))).collect())
}

impl Machined {
    fn ask(&mut self, index: LogIndex, serial: u64, body: Body) -> Reply {
        let request = Some(RequestId { client: 5, serial });
        let command = Command { collection: COLLECTION, request, body };
        self.machine.apply(index, &command.encode().unwrap()).unwrap()
    }
}

/// (records written, log index, places refused).
fn told(reply: &Reply) -> (u64, LogIndex, Vec<u32>) {
    let Reply::Decided { affected, log_index, refused, .. } = reply else { panic!("{reply:?}") };
    (*affected, *log_index, refused.iter().map(|(place, _)| *place).collect())
}

#[test]
fn an_answer_survives_a_restart_and_several_records_of_one_key_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = open(dir.path());
    one.apply(1, upsert(3..4));
    let first = one.ask(2, 1, inserts(&[3, 8, 8, 9]));
    assert_eq!(told(&first), (2, 2, vec![0, 2]));
    let Reply::Decided { refused, .. } = &first else { panic!() };
    assert_eq!((refused[0].1.version, refused[1].1.version), (1, 2));
    one.apply(3, Body::Delete(vec![3.into(), 8.into()]));
    one.publish(3);
    one.seal();
    drop(one);
    let mut one = open(dir.path());
    assert_eq!(one.ask(4, 1, inserts(&[3, 8, 8, 9])), first, "from what was kept");
    // Of fewer of its records it is answered for those.
    assert_eq!(told(&one.ask(5, 1, inserts(&[9, 8]))), (2, 2, vec![]));
    assert_eq!(told(&one.ask(6, 1, inserts(&[3]))), (0, 2, vec![0]));
    assert_eq!(told(&one.ask(7, 2, inserts(&[3, 9]))), (1, 7, vec![1]), "another request");
}

#[test]
fn refusals_beyond_the_bound_are_forgotten_and_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = open(dir.path());
    let key = |n: u64| Key::Text(format!("{n:01000}"));
    let row = |n: u64| StoredRow::from_domain(&Record::new(key(n)), &CollectionSpec::default()).unwrap();
    let batch = || Body::UpsertIf((0..1_000).map(|n| (Expect::Absent, row(n))).collect());
    assert_eq!(told(&one.ask(1, 1, batch())).0, 1_000);
    for serial in 2..=5 {
        assert_eq!(told(&one.ask(serial, serial, batch())).2.len(), 1_000);
    }
    assert_eq!(told(&one.ask(6, 1, batch())).0, 1_000, "it had none");
    assert_eq!(one.ask(7, 2, batch()), Reply::Rejected(Rejection::AnswerForgotten { serial: 2 }));
    assert_eq!(told(&one.ask(8, 5, batch())).2.len(), 1_000);
    one.publish(8);
    one.seal();
    drop(one);
    let mut one = open(dir.path());
    assert_eq!(one.ask(9, 2, batch()), Reply::Rejected(Rejection::AnswerForgotten { serial: 2 }));
    assert_eq!(told(&one.ask(10, 5, batch())).2.len(), 1_000);
}

#[test]
fn a_patch_by_filter_is_bounded_and_answered_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = open(dir.path());
    let rules = || Rules::default();
    let all = |edit: &Patch| Body::PatchMatching {
        filter: Filter::Exists("n".into()),
        edit: edit.edit.clone(),
        rules: rules(),
        layout: 0,
    };
    one.apply(1, upsert(0..50));
    let deep = Patch::new(0).set("n.below", 1);
    let reply = one.ask(2, 1, all(&deep));
    let Reply::Decided { affected: 0, refused, unnamed: 0, .. } = &reply else { panic!("{reply:?}") };
    assert_eq!(refused.len(), 50);
    assert!(refused[0].1.reason.contains("which is no map"), "{refused:?}");
    assert_eq!(told(&one.ask(3, 2, all(&Patch::new(0).set("m", 1)))), (50, 3, vec![]));
    assert_eq!(one.ask(4, 1, all(&deep)), reply);
    for first in (50..10_050).step_by(1_000) {
        one.apply(5 + first / 1_000, upsert(first..first + 1_000));
    }
    let Reply::Rejected(Rejection::TooMuch { field, why }) = one.ask(20, 3, all(&deep)) else { panic!() };
    assert_eq!((field.as_str(), why.contains("10050 records")), ("matching.filter", true), "{why}");
    assert_eq!(told(&one.ask(21, 2, all(&Patch::new(0).set("m", 1)))), (50, 3, vec![]));
    let gone = vec![PatchRow { key: vec![9, 9], edit: deep.edit.clone(), vectors: vec![], if_version: None }];
    let reply = one.ask(22, 4, Body::Patch { patches: gone, rules: rules() });
    assert_eq!(told(&reply), (0, 22, vec![0]), "what is no key has no record");
}
