//! What the server must answer, and the question in every form that a user has.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api, int_of, sortable, vector_of};
use flotilla_tests::seed::unit_vector;
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;

use super::writer::{BUCKETS, State, Writer, bucket, record, wire_key};
use super::{COLLECTION, DIMS};

/// Records whose vectors are searched for after a crash.
const SAMPLES: usize = 12;
const LIMIT: u32 = 10;
/// Scores of equal vectors computed in two ways differ at most by this.
const SCORE_ERROR: f32 = 1e-4;

/// What may be there: by key, every state that a correct server may show.
pub(crate) struct Oracle(BTreeMap<u64, Vec<State>>);

impl Oracle {
    pub(crate) fn of(writers: &[Writer]) -> Oracle {
        let mut states: BTreeMap<u64, Vec<State>> = BTreeMap::new();
        for writer in writers {
            for (key, state) in &writer.known {
                states.insert(*key, vec![*state]);
            }
            for (key, state) in &writer.maybe {
                states.entry(*key).or_insert_with(|| vec![None]).push(*state);
            }
        }
        Oracle(states)
    }
}

/// Reads everything back; returns the value found by key, or what is wrong.
pub(crate) async fn check(
    client: &Api,
    oracle: Oracle,
    draw: &mut SmallRng,
) -> Result<BTreeMap<u64, u64>, String> {
    let found = scanned(client, &oracle).await?;
    counted(client, &found).await?;
    got(client, &oracle, &found).await?;
    searched(client, &oracle, &found, draw).await?;
    Ok(found)
}

/// The whole collection by scan: every record whole, none twice, none that was not written, none missing.
async fn scanned(client: &Api, oracle: &Oracle) -> Result<BTreeMap<u64, u64>, String> {
    let records = client.scan_all(COLLECTION, None).await.map_err(|e| format!("scan: {e}"))?;
    let keys: Vec<_> = records.iter().map(|r| sortable(r.key.as_ref().unwrap())).collect();
    if let Some(pair) = keys.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(format!("the scan gives {:?} before {:?}", pair[0], pair[1]));
    }
    let names: BTreeMap<_, u64> = oracle.0.keys().map(|key| (sortable(&wire_key(*key)), *key)).collect();
    let mut found = BTreeMap::new();
    for (name, record) in keys.iter().zip(&records) {
        let key = *names.get(name).ok_or_else(|| format!("{name:?} was never written"))?;
        found.insert(key, whole(key, record)?);
    }
    for (key, states) in &oracle.0 {
        let state = found.get(key).copied();
        if !states.contains(&state) {
            return Err(format!(
                "key {key} has {state:?}; acknowledged, or in flight at the kill: {states:?}"
            ));
        }
    }
    Ok(found)
}

/// The value of a record whose parts all come from one write.
fn whole(key: u64, found: &v1::Record) -> Result<u64, String> {
    let value = int_of(found, "value").ok_or_else(|| format!("key {key} has no value"))? as u64;
    let written = record(key, value);
    if found.payload != written.payload {
        return Err(format!("key {key}: payload {:?} is not that of value {value}", found.payload));
    }
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < SCORE_ERROR;
    let (have, want) = (vector_of(found), vector_of(&written));
    if have.len() != want.len() || !have.iter().zip(want).all(near) {
        return Err(format!("key {key}: the vector {have:?} is not that of value {value}"));
    }
    Ok(value)
}

async fn counted(client: &Api, found: &BTreeMap<u64, u64>) -> Result<(), String> {
    let all = client.total(COLLECTION, None).await.map_err(|e| format!("count: {e}"))?;
    if all != found.len() as u64 {
        return Err(format!("count says {all}, the scan found {}", found.len()));
    }
    for chosen in 0..BUCKETS {
        let filter = api::equal("bucket", api::int(chosen as i64));
        let counted = client.total(COLLECTION, Some(filter)).await.map_err(|e| format!("count: {e}"))?;
        let expected = found.keys().filter(|key| bucket(**key) == chosen).count() as u64;
        if counted != expected {
            return Err(format!("bucket {chosen}: count says {counted}, the scan found {expected}"));
        }
    }
    Ok(())
}

/// Every key by get, the deleted ones too.
async fn got(client: &Api, oracle: &Oracle, found: &BTreeMap<u64, u64>) -> Result<(), String> {
    let keys: Vec<u64> = oracle.0.keys().copied().collect();
    for keys in keys.chunks(1_000) {
        let request = v1::GetRequest {
            collection: COLLECTION.into(),
            keys: keys.iter().map(|key| wire_key(*key)).collect(),
            with_payload: true,
            with_vectors: true,
            read: None,
            fields: Vec::new(),
        };
        let records = client.get(request).await.map_err(|e| format!("get: {e}"))?.records;
        let expected: Vec<u64> = keys.iter().copied().filter(|key| found.contains_key(key)).collect();
        if records.len() != expected.len() {
            return Err(format!("get finds {} of {} scanned records", records.len(), expected.len()));
        }
        for (key, record) in expected.iter().zip(&records) {
            if record.key != Some(wire_key(*key)) || whole(*key, record)? != found[key] {
                return Err(format!("get of key {key} and the scan differ"));
            }
        }
    }
    Ok(())
}

/// Exact search equals brute force over what was scanned; gone vectors are not found any more.
async fn searched(
    client: &Api,
    oracle: &Oracle,
    found: &BTreeMap<u64, u64>,
    draw: &mut SmallRng,
) -> Result<(), String> {
    let present: Vec<(u64, u64)> = found.iter().map(|(key, value)| (*key, *value)).collect();
    let vectors: Vec<(u64, Vec<f32>)> =
        present.iter().map(|(key, value)| (*key, unit_vector(*value, DIMS))).collect();
    for (key, value) in present.choose_multiple(draw, SAMPLES) {
        let chosen = draw.random_bool(0.5).then(|| bucket(*key));
        let hits = exact(client, *value, chosen).await?;
        compare(&hits, &vectors, *value, chosen)?;
        if hits.first().map(|hit| &hit.0) != Some(&sortable(&wire_key(*key))) {
            return Err(format!("exact search for key {key}'s own vector gives {:?} first", hits.first()));
        }
    }
    let lost: BTreeSet<u64> = oracle
        .0
        .iter()
        .filter(|(key, _)| !found.contains_key(key))
        .flat_map(|(_, s)| s.iter().flatten())
        .copied()
        .collect();
    for value in lost.iter().take(SAMPLES) {
        compare(&exact(client, *value, None).await?, &vectors, *value, None)?;
    }
    Ok(())
}

type Found = ((bool, u64, String), f32);

async fn exact(client: &Api, value: u64, chosen: Option<u64>) -> Result<Vec<Found>, String> {
    let mut request = api::search(COLLECTION, unit_vector(value, DIMS), LIMIT);
    request.exact = true;
    request.filter = chosen.map(|bucket| api::equal("bucket", api::int(bucket as i64)));
    let hits = client.search(request).await.map_err(|e| format!("search: {e}"))?.hits;
    Ok(hits.into_iter().map(|hit| (sortable(&hit.record.unwrap().key.unwrap()), hit.score)).collect())
}

/// Each rank has the score that brute force gives it, and each key its own score: keys may swap only where scores tie.
fn compare(
    hits: &[Found],
    vectors: &[(u64, Vec<f32>)],
    value: u64,
    chosen: Option<u64>,
) -> Result<(), String> {
    let query = unit_vector(value, DIMS);
    let passing = vectors.iter().filter(|(key, _)| chosen.is_none_or(|chosen| bucket(*key) == chosen));
    let score = |vector: &[f32]| vector.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>();
    let mut expected: Vec<Found> =
        passing.map(|(key, vector)| (sortable(&wire_key(*key)), score(vector))).collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    let scores: BTreeMap<_, f32> = expected.iter().cloned().collect();
    expected.truncate(LIMIT as usize);
    let same = |(hit, want): (&Found, &Found)| {
        let own = scores.get(&hit.0).copied().unwrap_or(f32::NAN);
        (hit.1 - want.1).abs() < SCORE_ERROR && (hit.1 - own).abs() < SCORE_ERROR
    };
    let distinct: BTreeSet<_> = hits.iter().map(|hit| &hit.0).collect();
    if hits.len() != expected.len() || distinct.len() != hits.len() || !hits.iter().zip(&expected).all(same) {
        return Err(format!("exact search and brute force differ:\n  {hits:?}\n  {expected:?}"));
    }
    Ok(())
}
