//! Random histories.

use super::*;

/// A store, the log it was fed from, and what it should hold.
struct Run {
    dir: tempfile::TempDir,
    store: Option<Store>,
    log: Vec<Command>,
    oracle: Oracle,
    /// Old views with what they should go on seeing.
    held: Vec<(View, Oracle)>,
    dice: Dice,
    reopened: usize,
    merged: usize,
    indexed: usize,
}

impl Run {
    fn new(seed: u64) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let store = Some(open(dir.path()).0);
        let (log, oracle, held, dice) = (Vec::new(), Oracle::default(), Vec::new(), Dice::new(seed));
        Run { dir, store, log, oracle, held, dice, reopened: 0, merged: 0, indexed: 0 }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn index(&self) -> LogIndex {
        self.log.len() as LogIndex
    }

    fn command(&mut self, command: Command) {
        self.log.push(command);
        let (index, command) = (self.index(), &self.log[self.log.len() - 1]);
        let reply = apply(self.store.as_ref().unwrap(), index, command);
        assert_eq!(reply, self.oracle.apply(index, command), "the reply to {command:?}");
    }

    /// Drops the store, opens it again and replays the log behind what it found.
    fn reopen(&mut self) {
        let durable = self.store().durable_index();
        self.held.clear();
        self.store = None;
        let (store, restored) = open(self.dir.path());
        assert_eq!(restored.applied, durable);
        assert_eq!(restored.machine, machine(durable));
        assert_eq!(store.view().at, durable);
        let mut oracle = Oracle::default();
        for (index, command) in (1..).zip(&self.log) {
            let wanted = oracle.apply(index, command);
            if index == durable {
                compare(&store.view(), &oracle, &mut self.dice);
            } else if index > durable {
                assert_eq!(apply(&store, index, command), wanted, "replay of {index}");
            }
        }
        self.store = Some(store);
        self.reopened += 1;
    }

    fn step(&mut self) {
        let progress = Progress::new();
        match self.dice.below(20) {
            0..=6 => {
                let rows = 1 + self.dice.below(12);
                let command = upsert(&mut self.dice, rows);
                self.command(command);
            }
            7..=9 => {
                let keys = 1 + self.dice.below(6);
                let command = delete(&mut self.dice, keys);
                self.command(command);
            }
            10..=12 => {
                let index = self.index();
                self.store().freeze(index, machine(index));
            }
            13..=14 => {
                self.store().seal().unwrap();
            }
            15 => self.indexed += usize::from(self.store().build_graph(&progress).unwrap()),
            16..=17 => self.merged += usize::from(self.store().compact(&progress).unwrap()),
            18 => self.held.push((self.store().view(), self.oracle.clone())),
            _ => self.reopen(),
        }
    }
}

/// The machine's state at an index.
fn machine(index: LogIndex) -> Vec<u8> {
    if index == 0 { Vec::new() } else { index.to_le_bytes().to_vec() }
}

#[test]
fn any_history_reads_as_the_map_does() {
    let (mut reopened, mut merged, mut indexed) = (0, 0, 0);
    for seed in 0..12 {
        let mut run = Run::new(seed);
        for _ in 0..150 {
            run.step();
            compare(&run.store().view(), &run.oracle, &mut run.dice);
            if run.held.len() > 4 {
                run.held.remove(0);
            }
            for (view, oracle) in &run.held {
                compare(view, oracle, &mut run.dice);
            }
        }
        let status = run.store().status();
        assert_eq!(status.records, run.oracle.0.len() as u64);
        run.store().verify().unwrap();
        (reopened, merged, indexed) = (reopened + run.reopened, merged + run.merged, indexed + run.indexed);
    }
    assert!(reopened > 20 && merged > 20 && indexed > 2, "too tame: {reopened} {merged} {indexed}");
}

/// Writes go on while the background works on other threads.
#[test]
fn the_background_loses_nothing_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut dice = Dice::new(77);
    let mut oracle = Oracle::default();
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_done() {
                store.seal().unwrap();
                std::thread::yield_now();
            }
        });
        threads.spawn(|| {
            while !is_done() {
                store.compact(&Progress::new()).unwrap();
                store.build_graph(&Progress::new()).unwrap();
                std::thread::yield_now();
            }
        });
        for index in 1..=600 {
            let command = if dice.one_in(4) { delete(&mut dice, 5) } else { upsert(&mut dice, 10) };
            assert_eq!(apply(&store, index, &command), oracle.apply(index, &command));
            store.freeze(index, Vec::new());
            if index % 20 == 0 {
                compare(&store.view(), &oracle, &mut dice);
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    while store.seal().unwrap().is_some() {}
    if store.freeze(600, Vec::new()) {
        store.seal().unwrap();
    }
    while store.compact(&Progress::new()).unwrap() {}
    compare(&store.view(), &oracle, &mut dice);
    drop(store);
    let (store, restored) = open(dir.path());
    compare(&store.view(), &oracle, &mut dice);
    assert_eq!(restored.applied, 600);
}
