//! Searches for words over stores (growing, frozen, sealed, compacted, with deleted rows) against the obvious way over all
//! records; and the same records in one store and in several, to the bit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use flotilla_proto::filter::{Bounds, Compiled, Filter};
use flotilla_proto::fulltext::{Clause, Kin, Language, Need, TextQuery, bm25, words};
use flotilla_proto::record::{Key, Record, Value};
use flotilla_proto::schema::{CollectionSpec, FieldType};

use crate::index::Progress;
use crate::query::{PartialHit, Search, TextSearch, Weighing, Weights, search, weigh};
use crate::storage::sample::Dice;
use crate::storage::store::{Options, Store};
use crate::storage::{SegmentView, StoredRow, View};

const WORDS: [&str; 14] = [
    "disk", "Disks", "diskette", "disc", "full", "fill", "FULL", "host", "hosts", "ä", "größe", "7",
    "upload", "!",
];

const TEXT: FieldType = FieldType::Text;
const ENGLISH: FieldType = FieldType::TextIn(Language::English);

fn spec(kind: Option<FieldType>) -> Arc<CollectionSpec> {
    let mut spec = CollectionSpec { name: "c".into(), partitions: 1, ..Default::default() };
    spec.fields.insert("n".into(), FieldType::Integer);
    spec.fields.extend(kind.map(|kind| ("deep.text".to_owned(), kind)));
    Arc::new(spec)
}

/// One of 60 keys, half of them text.
fn key(dice: &mut Dice) -> Key {
    match dice.below(60) {
        n if n.is_multiple_of(2) => Key::Number(n as u64),
        n => Key::Text(format!("key-{n}")),
    }
}

fn text(dice: &mut Dice) -> Value {
    let most = if dice.one_in(6) { 90 } else { 7 };
    let mut text: Vec<&str> = (0..dice.below(most)).map(|_| WORDS[dice.below(WORDS.len())]).collect();
    if dice.one_in(8) {
        text.insert(
            0,
            "a-word-of-nothing-but-letters-that-is-too-longaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        );
    }
    Value::Text(text.join(if dice.one_in(2) { " " } else { ", " }))
}

fn record(dice: &mut Dice, key: Key, is_declared: bool) -> Record {
    let record = Record::new(key).field("n", dice.below(10) as i64);
    let value = match dice.below(8) {
        0 => return record,
        // What was written before the field was declared.
        1 if !is_declared => Value::Int(7),
        1 => Value::List(vec![]),
        2 | 3 => Value::List((0..dice.below(4)).map(|_| text(dice)).collect()),
        _ => text(dice),
    };
    record.field("deep", Value::Map([("text".to_owned(), value)].into()))
}

/// A partition, and what it should hold.
struct House {
    store: Store,
    records: BTreeMap<Key, Record>,
    at: u64,
    _dir: tempfile::TempDir,
}

impl House {
    fn new(kind: Option<FieldType>) -> House {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { seal_rows: 1 << 30, fan_in: 2, ..Options::default() };
        let store = Store::open(dir.path(), spec(kind), options).unwrap().0;
        House { store, records: BTreeMap::new(), at: 0, _dir: dir }
    }

    fn upsert(&mut self, records: Vec<Record>) {
        self.at += 1;
        let spec = self.store.spec();
        let rows = records.iter().map(|record| StoredRow::from_domain(record, &spec).unwrap()).collect();
        self.store.upsert(self.at, rows).unwrap();
        self.store.publish(self.at);
        self.records.extend(records.into_iter().map(|record| (record.key.clone(), record)));
    }

    fn delete(&mut self, keys: Vec<Key>) {
        self.at += 1;
        self.store.delete(self.at, &keys).unwrap();
        self.store.publish(self.at);
        keys.iter().for_each(|key| drop(self.records.remove(key)));
    }

    fn seal(&mut self) {
        if self.store.freeze(self.at, Vec::new()) {
            self.store.seal().unwrap();
        }
    }
}

/// Random steps, the same for the same dice; the field is declared as `before`, and as `kind` in the end.
fn build(dice: &mut Dice, before: Option<FieldType>, kind: FieldType) -> House {
    let mut house = House::new(before);
    for step in 0..14 {
        if dice.one_in(4) {
            house.delete((0..4).map(|_| key(dice)).collect());
        } else {
            let keys: BTreeSet<Key> = (0..1 + dice.below(12)).map(|_| key(dice)).collect();
            house.upsert(keys.into_iter().map(|key| record(dice, key, before.is_some())).collect());
        }
        if dice.one_in(3) {
            house.seal();
        }
        if dice.one_in(5) {
            house.store.compact(&Progress::new()).unwrap();
        }
        if step == 6 && before != Some(kind) {
            // The field is declared so after half of the rows were sealed otherwise.
            house.seal();
            house.store.set_spec(spec(Some(kind)));
        }
    }
    house
}

fn views(house: &[House]) -> Vec<View> {
    house.iter().map(|house| house.store.view()).collect()
}

/// What a router makes of what partitions tell.
fn weighed(partitions: &[Vec<&dyn SegmentView>], query: &TextQuery) -> (Vec<Clause>, f64) {
    let ask = |kin: Vec<Kin>, clauses: &[Clause]| -> Vec<Weights> {
        let ask = Weighing::new(&query.field, query.language, kin, 100_000, clauses);
        partitions.iter().map(|segments| weigh(segments, &ask, &|| false).unwrap()).collect()
    };
    let lists = ask(query.words.clone(), &[]);
    let mut clauses = Vec::new();
    for (number, kin) in query.words.iter().enumerate() {
        let mut terms: BTreeMap<String, u32> = [(kin.word().to_owned(), 0)].into();
        for weights in &lists {
            assert!(!weights.kin[number].1);
            for (word, _) in &weights.kin[number].0 {
                terms.insert(word.clone(), kin.edits_to(word).unwrap().into());
            }
        }
        clauses.push(Clause { terms: terms.into_iter().collect(), weight: 0.0 });
    }
    let weights = ask(vec![], &clauses);
    let sum = |of: &dyn Fn(&Weights) -> u64| weights.iter().map(of).sum::<u64>();
    let records = sum(&|weights| weights.weighed.records);
    for (number, clause) in clauses.iter_mut().enumerate() {
        clause.weight = bm25::weight(records, sum(&|weights| weights.weighed.containing[number]));
    }
    (clauses, bm25::mean_length(records, sum(&|weights| weights.weighed.words)))
}

fn found(views: &[View], query: &TextQuery, filter: Option<&Compiled>, limit: usize) -> Vec<(Key, u32)> {
    let partitions: Vec<Vec<&dyn SegmentView>> = views.iter().map(|view| view.segments().collect()).collect();
    over(&partitions, query, filter, limit)
}

/// The best of all partitions, each a list of segments: keys, and scores to the bit.
fn over(
    partitions: &[Vec<&dyn SegmentView>],
    query: &TextQuery,
    filter: Option<&Compiled>,
    limit: usize,
) -> Vec<(Key, u32)> {
    let (clauses, mean_length) = weighed(partitions, query);
    let text = TextSearch::new(&query.field, query.language, query.need, &clauses, mean_length);
    let ask = Search { filter, limit, text: Some(&text), ..Search::default() };
    let mut hits: Vec<PartialHit> = Vec::new();
    for segments in partitions {
        hits.extend(search(segments, &spec(Some(TEXT)), &ask, &|| false).unwrap().hits);
    }
    hits.sort();
    hits.truncate(limit);
    hits.into_iter().map(|hit| (hit.key, (-hit.distance).to_bits())).collect()
}

/// The texts of a record, each as its words with their places.
fn texts(record: &Record, language: Option<Language>) -> Vec<Vec<(u32, String)>> {
    let one = |value: &Value| match value {
        Value::Text(text) => Some(words(text).map(|word| (word.place, word.term(language))).collect()),
        _ => None,
    };
    match record.payload.get("deep") {
        Some(Value::Map(deep)) => match &deep["text"] {
            Value::List(items) => items.iter().filter_map(one).collect(),
            value => one(value).into_iter().collect(),
        },
        _ => vec![],
    }
}

/// BM25 by the textbook, over all records.
fn naive(records: &[&Record], query: &TextQuery, filter: Option<&Compiled>, limit: usize) -> Vec<(Key, u32)> {
    let all: Vec<_> = records.iter().map(|r| (*r, texts(r, query.language))).collect();
    let length = |texts: &[Vec<(u32, String)>]| {
        f64::from(bm25::rounded_length(texts.iter().map(Vec::len).sum::<usize>() as u32))
    };
    let with_words: Vec<_> = all.iter().filter(|(_, texts)| length(texts) > 0.0).collect();
    let n = with_words.len() as f64;
    let mean = with_words.iter().map(|(_, texts)| length(texts)).sum::<f64>() / n;
    let tf = |texts: &[Vec<(u32, String)>], kin: &Kin| {
        let edits = texts.iter().flatten().filter_map(|(_, word)| kin.edits_to(word));
        edits.map(|edits| 1.0 / f64::from(1 << edits)).sum::<f64>()
    };
    let idf = |kin: &Kin| {
        let containing = all.iter().filter(|(_, texts)| tf(texts, kin) > 0.0).count() as f64;
        ((n - containing + 0.5) / (containing + 0.5)).ln_1p()
    };
    let idfs: Vec<f64> = query.words.iter().map(idf).collect();
    let phrases = |texts: &[Vec<(u32, String)>]| {
        let starts = texts.iter().flat_map(|text| text.iter().map(move |(place, _)| (text, *place)));
        let holds = |(text, start): &(&Vec<(u32, String)>, u32)| {
            query.words.iter().zip(*start..).all(|(kin, wanted)| {
                text.iter().any(|(place, word)| *place == wanted && kin.edits_to(word).is_some())
            })
        };
        starts.filter(holds).count() as f64
    };
    let mut hits: Vec<(f32, Key)> = Vec::new();
    for (record, texts) in &all {
        if filter.is_some_and(|filter| !filter.matches(&record.key, &record.payload)) {
            continue;
        }
        let tfs: Vec<f64> = query.words.iter().map(|kin| tf(texts, kin)).collect();
        let part =
            |idf: f64, tf: f64| idf * (tf * 2.2) / (tf + 1.2 * (1.0 - 0.75 + 0.75 * length(texts) / mean));
        let (is_hit, score) = match query.need {
            Need::Any => (tfs.iter().any(|tf| *tf > 0.0), None),
            Need::All => (tfs.iter().all(|tf| *tf > 0.0), None),
            Need::Phrase => (phrases(texts) > 0.0, Some(part(idfs.iter().sum(), phrases(texts)))),
        };
        let score =
            score.unwrap_or_else(|| idfs.iter().zip(&tfs).map(|(idf, tf)| part(*idf, *tf)).sum::<f64>());
        if is_hit {
            hits.push((score as f32, record.key.clone()));
        }
    }
    hits.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    hits.truncate(limit);
    hits.into_iter().map(|(score, key)| (key, score.to_bits())).collect()
}

fn query(dice: &mut Dice, kind: FieldType) -> TextQuery {
    let text: Vec<&str> = (0..1 + dice.below(4)).map(|_| WORDS[dice.below(WORDS.len() - 1)]).collect();
    let need = [Need::Any, Need::All, Need::Phrase][dice.below(3)];
    let edits = if need == Need::Phrase { 0 } else { dice.below(3) as u32 };
    let mut text = text.join(" ");
    let is_prefix = dice.one_in(3);
    if is_prefix && text.is_ascii() {
        text.truncate(text.len() - dice.below(2).min(text.split(' ').next_back().unwrap().len() - 1));
    }
    TextQuery::new(&spec(Some(kind)), "deep.text", &text, need, is_prefix, edits).unwrap()
}

fn filter(dice: &mut Dice) -> Option<Compiled> {
    let bounds = Bounds { lt: Some((dice.below(9) as i64).into()), ..Bounds::default() };
    let below = Compiled::new(&Filter::Range("n".into(), bounds), &spec(Some(TEXT))).unwrap();
    (!dice.one_in(2)).then_some(below)
}

fn check(seed: u64, before: Option<FieldType>, kind: FieldType) -> (usize, BTreeSet<String>) {
    let mut dice = Dice::new(seed);
    let house = build(&mut dice, before, kind);
    let views = views(std::slice::from_ref(&house));
    let records: Vec<&Record> = house.records.values().collect();
    let mut hits = 0;
    let mut steps = BTreeSet::new();
    for _ in 0..40 {
        let (query, filter) = (query(&mut dice, kind), filter(&mut dice));
        let limit = 1 + dice.below(40);
        let got = found(&views, &query, filter.as_ref(), limit);
        assert_eq!(got, naive(&records, &query, filter.as_ref(), limit), "seed {seed}: {query:?} {filter:?}");
        hits += got.len();
    }
    let text = TextSearch::new("deep.text", kind.language(), Need::Any, &[Clause::default()], 1.0);
    let ask = Search { limit: 1, text: Some(&text), ..Search::default() };
    let segments: Vec<&dyn SegmentView> = views[0].segments().collect();
    let plan = search(&segments, &spec(Some(TEXT)), &ask, &|| false).unwrap().plan;
    steps.extend(plan.words().split(',').map(str::to_owned));
    (hits, steps)
}

#[test]
fn the_best_by_words_are_the_textbooks() {
    for kind in [TEXT, ENGLISH] {
        let (mut hits, mut steps) = (0, BTreeSet::new());
        for seed in 0..12 {
            let (more, way) = check(seed, Some(kind), kind);
            hits += more;
            steps.extend(way);
        }
        assert!(hits > 2_000, "too tame: {hits}");
        assert!(steps.contains("postings") && steps.contains("texts"), "{steps:?}");
    }
}

#[test]
fn segments_from_before_the_field_was_declared_are_read() {
    for (before, kind) in [(None, TEXT), (None, ENGLISH), (Some(TEXT), ENGLISH), (Some(ENGLISH), TEXT)] {
        let hits: usize = (100..106).map(|seed| check(seed, before, kind).0).sum();
        assert!(hits > 300, "too tame: {hits}");
    }
}

#[test]
fn one_partition_and_four_say_the_same_to_the_bit() {
    for seed in 0..6 {
        let mut dice = Dice::new(900 + seed);
        let whole = build(&mut dice, Some(TEXT), TEXT);
        let mut parts: Vec<House> = (0..4).map(|_| House::new(Some(TEXT))).collect();
        for (number, record) in whole.records.values().enumerate() {
            let part = &mut parts[dice.below(4)];
            part.upsert(vec![record.clone()]);
            if number.is_multiple_of(9) {
                part.seal();
            }
        }
        let (one, four) = (views(std::slice::from_ref(&whole)), views(&parts));
        for _ in 0..40 {
            let (query, filter) = (query(&mut dice, TEXT), filter(&mut dice));
            let limit = 1 + dice.below(30);
            let of = |views: &[View]| found(views, &query, filter.as_ref(), limit);
            assert_eq!(of(&four), of(&one), "seed {seed}: {query:?}");
        }
    }
}

#[test]
fn records_behind_a_curtain_count_nowhere() {
    use crate::query::Curtain;
    use flotilla_proto::area::Area;
    for seed in 0..4 {
        let mut dice = Dice::new(50 + seed);
        let house = build(&mut dice, Some(TEXT), TEXT);
        let curtain = Curtain::new(Area::of(&Default::default(), 0..512));
        let shown = |record: &&Record| !curtain.hidden().contains(&record.key.to_bytes());
        let records: Vec<&Record> = house.records.values().filter(shown).collect();
        let view = house.store.view();
        let segments: Vec<&dyn SegmentView> = view.segments().collect();
        let drawn = curtain.draw(&segments).unwrap();
        let drawn: Vec<&dyn SegmentView> = drawn.iter().map(|shown| shown as &dyn SegmentView).collect();
        for _ in 0..20 {
            let (query, filter) = (query(&mut dice, TEXT), filter(&mut dice));
            let got = over(std::slice::from_ref(&drawn), &query, filter.as_ref(), 50);
            assert_eq!(got, naive(&records, &query, filter.as_ref(), 50), "seed {seed}: {query:?}");
        }
    }
}

#[test]
fn ties_are_broken_by_key_however_many_there_are() {
    let mut house = House::new(Some(TEXT));
    let record = |n: u64| {
        let value = Value::Map([("text".to_owned(), "disk full".into())].into());
        Record::new(n).field("deep", value)
    };
    house.upsert((0..4_900).rev().map(record).collect());
    house.seal();
    house.upsert((4_900..5_000).rev().map(record).collect());
    let query = TextQuery::new(&spec(Some(TEXT)), "deep.text", "disk", Need::Any, false, 0).unwrap();
    let hits = found(&views(&[house]), &query, None, 5);
    assert_eq!(hits.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [0, 1, 2, 3, 4].map(Key::Number));
}

#[test]
fn a_length_is_rounded_as_the_index_rounds_it() {
    use tantivy::fieldnorm::FieldNormReader;
    let around = (0..32).flat_map(|bit| [(1_u32 << bit) - 1, 1 << bit, (1 << bit) + 1, (1 << bit) + 24]);
    for words in (0..5_000).chain(around).chain([u32::MAX]) {
        let theirs = FieldNormReader::id_to_fieldnorm(FieldNormReader::fieldnorm_to_id(words));
        assert_eq!(bm25::rounded_length(words), theirs, "{words}");
    }
}

#[test]
fn damaged_lengths_and_places_are_faults() {
    let mut house = House::new(Some(TEXT));
    let mut dice = Dice::new(3);
    house.upsert((0..200_u64).map(|n| record(&mut dice, n.into(), true)).collect());
    house.seal();
    let folder = house._dir.path().to_owned();
    drop(house.store);
    let mut damaged = 0;
    for file in files_of(&folder) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".fieldnorm") && !name.ends_with(".pos") {
            continue;
        }
        let whole = std::fs::read(&file).unwrap();
        let mut bad = whole.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 0x41;
        std::fs::write(&file, &bad).unwrap();
        let options = Options { seal_rows: 1 << 30, ..Options::default() };
        let answers = Store::open(&folder, spec(Some(TEXT)), options).map(|(store, _)| {
            let view = store.view();
            let clause = |word: &str| Clause { terms: vec![(word.into(), 0)], weight: 1.0 };
            let text =
                TextSearch::new("deep.text", None, Need::Phrase, &[clause("full"), clause("host")], 4.0);
            let ask = Search { limit: 10, text: Some(&text), ..Search::default() };
            let segments: Vec<&dyn SegmentView> = view.segments().collect();
            search(&segments, &spec(Some(TEXT)), &ask, &|| false).is_err()
        });
        assert!(answers.unwrap_or(true), "{name}");
        damaged += 1;
        std::fs::write(&file, &whole).unwrap();
    }
    assert_eq!(damaged, 2);
}

fn files_of(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { files.extend(files_of(&entry)) } else { files.push(entry) }
    }
    files
}
