//! Hits of a fake node, by vector and by words, and what words weigh there: the obvious way.

use std::collections::BTreeMap;

use flotilla_proto::convert::{clauses_from_wire, kin_from_wire};
use flotilla_proto::fulltext::{Clause, bm25, words};
use flotilla_proto::record::{Key, Record, Value, reach};
use flotilla_proto::schema::{CollectionSpec, Distance};
use flotilla_proto::{shard, v1};

/// The hits, in order: distance, key, version.
pub(super) fn hits(
    spec: &CollectionSpec,
    search: &v1::SearchRequest,
    scoring: Option<shard::TextScoring>,
    records: &[Record],
) -> Vec<(f32, Key, u64)> {
    let mut hits: Vec<(f32, Key, u64)> = match &search.text {
        Some(text) => by_words(text, scoring.unwrap(), records),
        None => {
            let kind = spec.vectors[&search.vector_name].distance;
            let asked = &search.vector.as_ref().unwrap().values;
            let hit = |r: &Record| {
                let vector = r.vectors.get(&search.vector_name)?.dense()?;
                Some((distance(kind, asked, vector), r.key.clone(), r.version))
            };
            records.iter().filter_map(hit).collect()
        }
    };
    hits.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    hits
}

fn distance(kind: Distance, a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    match kind {
        Distance::Dot => -dot(a, b),
        Distance::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Distance::Euclidean => a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum(),
        Distance::Manhattan | Distance::Hamming => a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum(),
    }
}

/// The words of a record's texts, one list for each text.
fn texts(record: &Record, field: &str) -> Vec<Vec<String>> {
    let path: Vec<String> = field.split('.').map(str::to_owned).collect();
    let mut texts = Vec::new();
    reach(&record.payload, &path, &mut |value| {
        if let Value::Text(text) = value {
            texts.push(words(text).map(|word| word.lowered()).collect());
        }
        false
    });
    texts
}

fn edits(clause: &Clause, word: &str) -> Option<u32> {
    clause.terms.iter().find(|(term, _)| term == word).map(|(_, edits)| *edits)
}

fn by_words(text: &v1::TextQuery, scoring: shard::TextScoring, records: &[Record]) -> Vec<(f32, Key, u64)> {
    let clauses = clauses_from_wire("clauses", scoring.clauses).unwrap();
    let mut hits = Vec::new();
    for record in records {
        let texts = texts(record, &text.field);
        let all: Vec<&String> = texts.iter().flatten().collect();
        let length = bm25::rounded_length(all.len() as u32);
        let shares =
            |clause: &Clause| all.iter().filter_map(|word| edits(clause, word)).map(bm25::share).sum::<u32>();
        let counted: Vec<(f64, u32)> = clauses.iter().map(|clause| (clause.weight, shares(clause))).collect();
        let is_phrase = |row: &&[String]| row.iter().zip(&clauses).all(|(word, c)| edits(c, word).is_some());
        let phrases: usize =
            texts.iter().map(|row| row.windows(clauses.len()).filter(is_phrase).count()).sum();
        let counted = match text.phrase {
            true if phrases == 0 => continue,
            true => vec![(clauses.iter().map(|c| c.weight).sum(), phrases as u32 * bm25::SHARES)],
            false => counted,
        };
        let has = |(_, shares): &(f64, u32)| *shares > 0;
        let is_all = text.operator() == v1::TextOperator::All;
        let is_hit = if is_all { counted.iter().all(has) } else { counted.iter().any(has) };
        if is_hit {
            let score = bm25::score(counted.into_iter(), length, scoring.mean_length);
            hits.push((-score, record.key.clone(), record.version));
        }
    }
    hits
}

/// What words weigh among these records.
pub(super) fn weigh(ask: shard::WeighRequest, records: &[Record], log_index: u64) -> shard::WeighResponse {
    let clauses = clauses_from_wire("clauses", ask.clauses).unwrap();
    let kin = kin_from_wire("kin", ask.kin).unwrap();
    let mut answer =
        shard::WeighResponse { log_index, containing: vec![0; clauses.len()], ..Default::default() };
    let mut lists: Vec<BTreeMap<String, u64>> = vec![BTreeMap::new(); kin.len()];
    for record in records {
        let mut words: Vec<String> = texts(record, &ask.field).concat();
        answer.records += u64::from(!words.is_empty());
        answer.words += u64::from(bm25::rounded_length(words.len() as u32));
        words.sort();
        words.dedup();
        for (clause, count) in clauses.iter().zip(&mut answer.containing) {
            *count += u64::from(words.iter().any(|word| edits(clause, word).is_some()));
        }
        for (kin, list) in kin.iter().zip(&mut lists) {
            for word in words.iter().filter(|word| kin.edits_to(word).is_some()) {
                *list.entry(word.clone()).or_default() += 1;
            }
        }
    }
    let word = |(word, records)| shard::KinWord { word, records };
    let list = |list: BTreeMap<String, u64>| shard::KinList {
        words: list.into_iter().map(word).collect(),
        cut: false,
    };
    answer.kin = lists.into_iter().map(list).collect();
    answer
}
