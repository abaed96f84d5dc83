//! Digests against sums over the map of records, in stores that seal and merge at different times.

use super::*;
use crate::storage::digest::{Digest, Walk, deep_mark, mark, recount};

/// A store that keeps its digest with its state, as the machine does.
struct Replica {
    dir: tempfile::TempDir,
    store: Option<Store>,
}

impl Replica {
    fn new() -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let store = Some(open(dir.path()).0);
        Replica { dir, store }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn freeze(&self, index: LogIndex) {
        let kept = postcard::to_stdvec(&self.store().digest()).unwrap();
        self.store().freeze(index, kept);
    }

    /// Opens it again, with the digest it kept or (`recounts`) as if it had kept none, and replays the log.
    fn reopen(&mut self, log: &[Command], recounts: bool) {
        self.store = None;
        let (store, restored) = open(self.dir.path());
        let kept = (!restored.machine.is_empty()).then(|| postcard::from_bytes(&restored.machine).unwrap());
        store.begin_digest(kept.filter(|_| !recounts)).unwrap();
        for (index, command) in (1..).zip(log).skip(restored.applied as usize) {
            apply(&store, index, command);
        }
        self.store = Some(store);
    }

    /// Anything that changes the layout and not the records.
    fn stir(&mut self, dice: &mut Dice, log: &[Command]) -> bool {
        let progress = Progress::new();
        match dice.below(9) {
            0..=2 => self.freeze(log.len() as LogIndex),
            3..=4 => drop(self.store().seal().unwrap()),
            5 => return self.store().compact(&progress).unwrap(),
            6 => drop(self.store().build_graph(&progress).unwrap()),
            7 => self.reopen(log, dice.one_in(2)),
            _ => {}
        }
        false
    }
}

fn deep(view: &View, bytes: usize) -> Digest {
    let mut walk = Walk::new(view.clone());
    loop {
        let before = walk.progress();
        if let Some(digest) = walk.step(bytes, &|| false).unwrap() {
            assert_eq!(walk.progress(), 1.0);
            return digest;
        }
        assert!(walk.progress() > before);
    }
}

fn sums(oracle: &Oracle) -> (Digest, Digest) {
    let (mut rolling, mut deep) = (Digest::default(), Digest::default());
    for (key, record) in &oracle.0 {
        rolling.add(mark(&key.to_bytes(), record.version));
        deep.add(deep_mark(&StoredRow::from_domain(record, &spec()).unwrap(), record.version));
    }
    (rolling, deep)
}

#[test]
fn digests_are_of_the_records_and_not_of_the_layout() {
    let mut merged = 0;
    for seed in 0..12 {
        let mut dice = Dice::new(4_000 + seed);
        let (mut replicas, mut oracle, mut log) =
            ([Replica::new(), Replica::new()], Oracle::default(), Vec::new());
        for _ in 0..80 {
            let (rows, keys) = (1 + dice.below(12), 1 + dice.below(6));
            log.push(if dice.one_in(3) { delete(&mut dice, keys) } else { upsert(&mut dice, rows) });
            let (index, command) = (log.len() as LogIndex, &log[log.len() - 1]);
            oracle.apply(index, command);
            let (rolling, whole) = sums(&oracle);
            for replica in &mut replicas {
                apply(replica.store(), index, command);
                merged += usize::from(replica.stir(&mut dice, &log));
                let view = replica.store().view();
                assert_eq!((view.at, view.digest()), (index, rolling), "seed {seed}");
                assert_eq!(recount(&view, &|| false).unwrap(), rolling, "seed {seed}");
                if index % 5 == 0 {
                    assert_eq!(deep(&view, 1 + dice.below(4_000)), whole, "seed {seed}");
                }
            }
        }
    }
    assert!(merged > 20, "too tame: {merged}");
}

#[test]
fn an_old_view_keeps_its_digest() {
    let (replica, mut dice) = (Replica::new(), Dice::new(8));
    let mut oracle = Oracle::default();
    let mut held = Vec::new();
    for index in 1..=30 {
        let command = if index % 3 == 0 { delete(&mut dice, 5) } else { upsert(&mut dice, 14) };
        apply(replica.store(), index, &command);
        oracle.apply(index, &command);
        held.push((replica.store().view(), sums(&oracle)));
        if index % 4 == 0 {
            replica.freeze(index);
            replica.store().seal().unwrap();
            replica.store().compact(&Progress::new()).unwrap();
        }
    }
    for (view, (rolling, whole)) in &held {
        assert_eq!((view.digest(), recount(view, &|| false).unwrap()), (*rolling, *rolling));
        assert_eq!(deep(view, 1_000), *whole);
    }
}

#[test]
fn a_planted_divergence_shows() {
    let (one, other, mut dice) = (Replica::new(), Replica::new(), Dice::new(5));
    let log: Vec<Command> = (0..6).map(|_| upsert(&mut dice, 10)).collect();
    for (index, command) in (1..).zip(&log) {
        apply(one.store(), index, command);
        apply(other.store(), index, command);
    }
    let both = |look: fn(&View) -> Digest| [&one, &other].map(|replica| look(&replica.store().view()));
    let equal = |[a, b]: [Digest; 2]| a == b;
    assert!(equal(both(View::digest)) && equal(both(|view| deep(view, 500))));

    // A row whose content differs: only a look at all of it tells.
    let record = sample::record(&mut dice, Key::Number(2), DIMS);
    let altered = record.clone().field("free", "altered");
    apply(one.store(), 7, &Command::Upsert(vec![record.clone()]));
    apply(other.store(), 7, &Command::Upsert(vec![altered]));
    assert!(equal(both(View::digest)) && !equal(both(|view| deep(view, 500))));

    // Mended.
    for replica in [&one, &other] {
        apply(replica.store(), 8, &Command::Upsert(vec![record.clone()]));
    }
    assert!(equal(both(View::digest)) && equal(both(|view| deep(view, 500))));

    // A delete that did not happen: both tell.
    other.store().skips_delete.store(true, std::sync::atomic::Ordering::SeqCst);
    let gone = Command::Delete(vec![Key::Number(2)]);
    assert_eq!(apply(one.store(), 9, &gone), apply(other.store(), 9, &gone), "it answers as if it had");
    assert!(!equal(both(View::digest)) && !equal(both(|view| deep(view, 500))));
}

#[test]
fn a_walk_stops_when_told() {
    let (replica, mut dice) = (Replica::new(), Dice::new(6));
    apply(replica.store(), 1, &upsert(&mut dice, 30));
    let mut walk = Walk::new(replica.store().view());
    assert!(walk.step(10, &|| false).unwrap().is_none());
    assert!(matches!(walk.step(10, &|| true), Err(Fault::Cancelled)));
    assert!(matches!(recount(&replica.store().view(), &|| true), Err(Fault::Cancelled)));
    assert_eq!(deep(&open(tempfile::tempdir().unwrap().path()).0.view(), 1), Digest::default());
}
