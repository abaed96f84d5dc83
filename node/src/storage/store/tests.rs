//! A store against a map of records that does the same by plain means.

mod coded;
mod compat;
mod crash;
mod damage;
mod digest;
mod expiry;
mod fields;
mod kinds;
mod load;
mod model;
mod shape;
mod steps;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::{Key, Record, Vector};
use flotilla_proto::schema::CollectionSpec;

use super::*;
use crate::index::{Distance, Progress, Stats};
use crate::storage::sample::{self, Dice};
use crate::storage::{Matching, Method, Nearest, StoredRow};

const DIMS: usize = 8;
const KEYS: usize = 60;

fn spec() -> Arc<CollectionSpec> {
    Arc::new(sample::spec(DIMS as u32))
}

fn options() -> Options {
    Options { seal_rows: 40, graph_rows_min: 25, index_threads: 1, fan_in: 3, ..Options::default() }
}

fn open(dir: &Path) -> (Store, Restored) {
    Store::open(dir, spec(), options()).unwrap()
}

/// A command of the log.
#[derive(Clone, Debug)]
enum Command {
    Upsert(Vec<Record>),
    Delete(Vec<Key>),
}

fn upsert(dice: &mut Dice, rows: usize) -> Command {
    let record = |dice: &mut Dice| {
        let key = sample::key(dice, KEYS);
        sample::record(dice, key, DIMS)
    };
    Command::Upsert((0..rows).map(|_| record(dice)).collect())
}

fn delete(dice: &mut Dice, keys: usize) -> Command {
    Command::Delete((0..keys).map(|_| sample::key(dice, KEYS)).collect())
}

fn rows(records: &[Record]) -> Vec<StoredRow> {
    records.iter().map(|record| StoredRow::from_domain(record, &spec()).unwrap()).collect()
}

/// What the store should hold.
#[derive(Clone, Debug, Default)]
struct Oracle(BTreeMap<Key, Record>);

impl Oracle {
    fn apply(&mut self, index: LogIndex, command: &Command) -> u64 {
        match command {
            Command::Upsert(records) => {
                let mut keys: Vec<&Key> = records.iter().map(|record| &record.key).collect();
                keys.sort();
                keys.dedup();
                for record in records {
                    self.0.insert(record.key.clone(), Record { version: index, ..record.clone() });
                }
                keys.len() as u64
            }
            Command::Delete(keys) => keys.iter().filter(|key| self.0.remove(key).is_some()).count() as u64,
        }
    }
}

fn apply(store: &Store, index: LogIndex, command: &Command) -> u64 {
    let reply = match command {
        Command::Upsert(records) => store.upsert(index, rows(records)),
        Command::Delete(keys) => store.delete(index, keys),
    };
    let reply = reply.unwrap();
    store.publish(index);
    reply
}

/// The view holds what the oracle holds, by every way of asking.
fn compare(view: &View, oracle: &Oracle, dice: &mut Dice) {
    assert_eq!(view.live(), oracle.0.len() as u64);
    compare_gets(view, oracle);
    compare_order(view, oracle, dice);
    let filter = Compiled::new(&sample::filter(dice, 2), &spec()).unwrap();
    compare_matching(view, oracle, &filter);
    for vector in ["a", "b"] {
        compare_nearest(view, oracle, vector, None, dice);
        compare_nearest(view, oracle, vector, Some(&filter), dice);
    }
}

fn compare_gets(view: &View, oracle: &Oracle) {
    for n in 0..KEYS {
        let key = if n.is_multiple_of(2) { Key::Number(n as u64) } else { Key::Text(format!("key-{n}")) };
        let found = view.find(&key).unwrap();
        let Some(record) = oracle.0.get(&key) else {
            assert_eq!(found, None, "{key}");
            continue;
        };
        let (segment, row) = found.unwrap_or_else(|| panic!("{key} is missing at {}", view.at));
        let segment = view.segment(segment).unwrap();
        assert!(segment.is_live(row));
        assert_eq!(segment.key(row).unwrap(), key);
        assert_eq!(segment.version(row), record.version);
        assert_eq!(segment.payload(row).unwrap(), record.payload);
        for name in ["a", "b"] {
            let (got, want) = (segment.vector(name, row).unwrap(), record.vectors.get(name));
            assert_eq!(got.is_some(), want.is_some(), "{name} of {key}");
            let dense = |vector: Option<&Vector>| vector.and_then(Vector::dense).unwrap_or_default().to_vec();
            let pairs = dense(got.as_ref()).into_iter().zip(dense(want));
            pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{name} of {key}: {a} {b}"));
        }
    }
}

fn compare_order(view: &View, oracle: &Oracle, dice: &mut Dice) {
    let after = (!dice.one_in(3)).then(|| sample::key(dice, KEYS));
    let mut all = Vec::new();
    for segment in view.segments() {
        let keys: Vec<(Key, u32)> = segment.by_key(after.as_ref()).map(Result::unwrap).collect();
        assert!(keys.is_sorted_by(|a, b| a.0 < b.0));
        assert!(keys.iter().all(|(key, row)| segment.key(*row).unwrap() == *key && segment.is_live(*row)));
        all.extend(keys.into_iter().map(|(key, _)| key));
    }
    all.sort();
    let wanted = oracle.0.keys().filter(|key| after.as_ref().is_none_or(|after| *key > after));
    assert_eq!(all.iter().collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
}

fn matching(view: &View, filter: &Compiled) -> Vec<Matching> {
    view.segments().map(|segment| segment.matching(filter).unwrap()).collect()
}

fn compare_matching(view: &View, oracle: &Oracle, filter: &Compiled) {
    let mut got = Vec::new();
    for (segment, rows) in view.segments().zip(matching(view, filter)) {
        assert_eq!(rows.len(), segment.rows() as usize);
        assert!(rows.iter().all(|row| segment.is_live(row)));
        got.extend(rows.iter().map(|row| segment.key(row).unwrap()));
    }
    got.sort();
    let wanted = oracle.0.values().filter(|record| filter.matches(&record.key, &record.payload));
    assert_eq!(got, wanted.map(|record| record.key.clone()).collect::<Vec<_>>(), "{filter:?}");
}

fn compare_nearest(view: &View, oracle: &Oracle, vector: &str, filter: Option<&Compiled>, dice: &mut Dice) {
    let distance = if vector == "a" { Distance::Cosine } else { Distance::Euclidean };
    let query = dice.floats(if vector == "a" { DIMS } else { 2 });
    let stored = |values: &[f32]| match distance {
        Distance::Cosine => crate::storage::vectors::unit(values).0,
        _ => values.to_vec(),
    };
    let query = stored(&query);
    let passes = |record: &&Record| filter.is_none_or(|filter| filter.matches(&record.key, &record.payload));
    let candidates =
        oracle.0.values().filter(passes).filter_map(|record| record.vectors.get(vector)?.dense());
    let mut wanted: Vec<f32> = candidates.map(|values| distance.between(&query, &stored(values))).collect();
    wanted.sort_by(f32::total_cmp);
    let limit = 1 + dice.below(30);
    wanted.truncate(limit);
    let rows = filter.map(|filter| matching(view, filter));
    for method in [Method::Exact, Method::Codes, Method::Graph { ef: 500 }] {
        let mut got = Vec::new();
        for (ordinal, segment) in view.segments().enumerate() {
            let rows = rows.as_ref().map(|rows| &rows[ordinal]);
            let ask = Nearest { vector, query: &query, limit, method, rescored: None, rows };
            let found = segment.nearest(&ask, &mut Stats::default()).unwrap();
            assert!(found.is_sorted() && found.len() <= limit);
            assert!(found.iter().all(|n| segment.is_live(n.row)));
            assert!(found.iter().all(|n| rows.is_none_or(|rows| rows.contains(n.row))));
            got.extend(found.iter().map(|n| n.distance));
        }
        got.sort_by(f32::total_cmp);
        got.truncate(limit);
        assert_eq!(got.len(), wanted.len(), "{vector} {method:?} {filter:?}");
        let off = got.iter().zip(&wanted).filter(|(a, b)| (*a - *b).abs() > 1e-5).count();
        // A beam wider than the segment sees all of it.
        assert_eq!(off, 0, "{vector} {method:?}: {got:?} instead of {wanted:?}");
    }
}
