//! Bad writes. Each bad record stands behind a good one: a batch is written whole or not at all.

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use tonic::Code;

use super::{Ask, OPEN, Row, STRICT, coded, invalid};

fn good() -> v1::Record {
    api::record(api::key("good"), vec![1.0, 0.0, 0.0, 0.0], vec![("n", api::int(1))])
}

/// An upsert of a good record and this one.
fn behind(collection: &str, bad: v1::Record) -> Ask {
    Ask::Upsert(v1::UpsertRequest {
        collection: collection.to_owned(),
        records: vec![good(), bad],
        ..Default::default()
    })
}

fn vector(values: Vec<f32>) -> Ask {
    behind(OPEN, api::record(api::key("bad"), values, vec![]))
}

fn other_vector(name: &str, values: Vec<f32>) -> Ask {
    let mut record = good();
    record.vectors.insert(name.to_owned(), api::dense(values));
    behind(OPEN, record)
}

/// A record with a vector of another form.
fn formed(name: &str, vector: v1::Vector) -> Ask {
    let mut record = good();
    record.vectors.insert(name.to_owned(), vector);
    behind(OPEN, record)
}

/// Vectors that break what narrow components, sparse and several vectors ask for, by the vector's name.
pub(super) fn forms() -> Vec<(&'static str, &'static str, v1::Vector, Vec<&'static str>)> {
    let sparse = |indices: Vec<u32>, values: Vec<f32>| v1::Vector { values, indices, ..Default::default() };
    let multi = |members: Vec<Vec<f32>>| v1::Vector {
        members: members.into_iter().map(|values| v1::Member { values }).collect(),
        ..Default::default()
    };
    let both = v1::Vector { values: vec![1.0; 2], ..multi(vec![vec![1.0; 2]]) };
    let many: Vec<u32> = (0..16_385).collect();
    let ones = vec![1.0; many.len()];
    vec![
        (
            "beyond f16",
            "half",
            api::dense(vec![1.0, 65_505.0]),
            vec!["component 1 is 65505", "-65504 to 65504"],
        ),
        ("zero as f16", "half", api::dense(vec![1e-9, 0.0]), vec!["rounded to f16", "no direction"]),
        ("beyond i8", "byte", api::dense(vec![1.0, -129.0]), vec!["component 1 is -129", "-128 to 127"]),
        ("NaN as i8", "byte", api::dense(vec![f32::NAN, 1.0]), vec!["component 0 is NaN"]),
        ("half a bit", "bit", api::dense(vec![0.0, 0.5]), vec!["component 1 is 0.5", "0 or 1"]),
        ("3 bits", "bit", api::dense(vec![0.0; 3]), vec!["expected 2 dimensions, got 3"]),
        ("unsorted", "sparse", sparse(vec![7, 3], vec![1.0; 2]), vec!["must ascend", "7 comes before 3"]),
        ("twice", "sparse", sparse(vec![7, 7], vec![1.0; 2]), vec!["each once", "7 comes before 7"]),
        ("NaN of an index", "sparse", sparse(vec![7], vec![f32::NAN]), vec!["index 7 is NaN"]),
        ("too many", "sparse", sparse(many, ones), vec!["16385 indices", "limit is 16384"]),
        ("uneven", "sparse", sparse(vec![7, 8], vec![1.0]), vec!["2 indices and 1 values"]),
        (
            "dense for sparse",
            "sparse",
            api::dense(vec![1.0]),
            vec!["expected a sparse vector, got a dense one"],
        ),
        ("nothing for sparse", "sparse", api::dense(vec![]), vec!["expected a sparse vector"]),
        (
            "sparse for dense",
            "second",
            sparse(vec![0, 1], vec![1.0; 2]),
            vec!["expected a dense", "a sparse one"],
        ),
        (
            "dense for several",
            "multi",
            api::dense(vec![1.0; 2]),
            vec!["expected a multi vector, got a dense"],
        ),
        ("a short member", "multi", multi(vec![vec![1.0; 2], vec![1.0]]), vec!["[1]", "expected 2", "got 1"]),
        ("a zero member", "multi", multi(vec![vec![0.0; 2]]), vec!["[0]", "zero vector"]),
        ("an empty member", "multi", multi(vec![vec![]]), vec!["[0]", "expected 2 dimensions, got 0"]),
        ("2,049 members", "multi", multi(vec![vec![1.0; 2]; 2_049]), vec!["2049 vectors", "limit is 2048"]),
        ("two forms", "multi", both, vec!["holds members, and values"]),
    ]
}

fn field(collection: &str, name: &str, value: v1::Value) -> Ask {
    behind(collection, api::record(api::key("bad"), vec![1.0; 4], vec![(name, value)]))
}

fn keyed(key: v1::Key) -> Ask {
    behind(OPEN, api::record(key, vec![1.0; 4], vec![]))
}

fn delete(target: Option<v1::delete_request::Target>) -> Ask {
    Ask::Delete(v1::DeleteRequest { collection: OPEN.to_owned(), target, request: None })
}

fn delete_keys(keys: Vec<v1::Key>) -> Ask {
    delete(Some(v1::delete_request::Target::Keys(v1::KeyList { keys })))
}

fn nested(levels: usize) -> v1::Value {
    (0..levels).fold(api::int(1), |inner, _| api::list(vec![inner]))
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vectors();
    rows.extend(forms().into_iter().map(|(what, name, vector, words)| {
        let at = format!("records[1].vectors[{name}");
        let words: Vec<&str> = words.into_iter().chain([at.as_str()]).collect();
        invalid(what, formed(name, vector), &words)
    }));
    rows.extend(keys());
    rows.extend(payloads());
    rows.extend(targets());
    rows
}

fn vectors() -> Vec<Row> {
    let at = "records[1].vectors[default]";
    vec![
        invalid("3 dimensions", vector(vec![1.0; 3]), &[at, "expected 4 dimensions, got 3"]),
        invalid("5 dimensions", vector(vec![1.0; 5]), &[at, "expected 4 dimensions, got 5"]),
        invalid("NaN", vector(vec![1.0, f32::NAN, 0.0, 0.0]), &[at, "component 1 is NaN"]),
        invalid("infinite", vector(vec![1.0, 0.0, f32::INFINITY, 0.0]), &[at, "component 2 is inf"]),
        invalid(
            "minus infinite",
            vector(vec![f32::NEG_INFINITY, 0.0, 0.0, 0.0]),
            &[at, "component 0 is -inf"],
        ),
        invalid("zero under cosine", vector(vec![0.0; 4]), &[at, "zero vector", "cosine"]),
        invalid("beyond 32 bits", vector(vec![f32::MAX; 4]), &[at, "exceeds the range"]),
        invalid(
            "unknown vector",
            other_vector("third", vec![1.0]),
            &["records[1].vectors[third]", "no vector"],
        ),
        invalid(
            "second vector",
            other_vector("second", vec![1.0]),
            &["vectors[second]", "expected 2", "got 1"],
        ),
        invalid(
            "an empty vector",
            other_vector("second", vec![]),
            &["vectors[second]", "expected 2", "got 0"],
        ),
    ]
}

fn keys() -> Vec<Row> {
    let no_key = v1::Record { key: None, ..good() };
    let batch = |n: u64| {
        Ask::Upsert(v1::UpsertRequest {
            collection: OPEN.to_owned(),
            records: (0..n).map(|n| v1::Record { key: Some(api::number_key(n)), ..good() }).collect(),
            ..Default::default()
        })
    };
    let mode = |mode: i32| {
        let records = vec![good()];
        Ask::Upsert(v1::UpsertRequest { collection: OPEN.to_owned(), records, mode, ..Default::default() })
    };
    let expires = |when: u64| behind(OPEN, v1::Record { expires_at_ms: Some(when), ..good() });
    let ttl_ms = 3_155_760_000_001;
    let collection = OPEN.to_owned();
    let ttl = v1::UpsertRequest { collection, records: vec![good()], ttl_ms, ..Default::default() };
    let elsewhere = |name: &str| behind(name, good());
    vec![
        invalid("expires before all time", expires(0), &["records[1].expires_at_ms", "1 to", "got 0"]),
        invalid("expires too late", expires(u64::MAX), &["records[1].expires_at_ms", "253402300799999"]),
        invalid("lives too long", Ask::Upsert(ttl), &["ttl_ms", "3155760000000", "3155760000001"]),
        invalid("unknown mode", mode(4), &["mode", "0 to 3", "got 4"]),
        invalid("negative mode", mode(-1), &["mode", "0 to 3", "got -1"]),
        invalid("no key", behind(OPEN, no_key), &["records[1].key", "a key is needed"]),
        invalid("key of no kind", keyed(v1::Key { kind: None }), &["records[1].key", "a key is needed"]),
        invalid("empty key", keyed(api::key("")), &["records[1].key", "at least 1 byte"]),
        invalid(
            "key of 1,025 bytes",
            keyed(api::key("k".repeat(1_025))),
            &["records[1].key", "1025 bytes", "1024"],
        ),
        invalid(
            "key of 1 MB",
            keyed(api::key("k".repeat(1 << 20))),
            &["records[1].key", "1048576 bytes", "1024"],
        ),
        invalid("1,001 records", batch(1_001), &["records", "1001 records", "limit is 1000"]),
        coded("unknown collection", elsewhere("nope"), Code::NotFound, &["no collection `nope`"]),
        coded("no collection", elsewhere(""), Code::NotFound, &["no collection ``"]),
        coded("a path", elsewhere("../../etc"), Code::NotFound, &["no collection `../../etc`"]),
    ]
}

fn payloads() -> Vec<Row> {
    let inner = || api::map(vec![("ner", api::text("seven"))]);
    vec![
        invalid(
            "text for integer",
            field(OPEN, "n", api::text("7")),
            &["records[1].payload.n", "integer", "text"],
        ),
        invalid("float for integer", field(OPEN, "n", api::float(7.5)), &["payload.n", "integer", "float"]),
        invalid("bool for integer", field(OPEN, "n", api::flag(true)), &["payload.n", "integer", "bool"]),
        invalid("text for float", field(OPEN, "x", api::text("1")), &["payload.x", "float", "text"]),
        invalid(
            "integer for keyword",
            field(OPEN, "word", api::int(1)),
            &["payload.word", "keyword", "integer"],
        ),
        invalid("integer for bool", field(OPEN, "is", api::int(1)), &["payload.is", "bool", "integer"]),
        invalid(
            "no datetime",
            field(OPEN, "at", api::text("yesterday")),
            &["payload.at", "datetime", "RFC 3339"],
        ),
        invalid("map for integer", field(OPEN, "n", api::map(vec![])), &["payload.n", "integer", "map"]),
        invalid(
            "one of a list",
            field(OPEN, "n", api::list(vec![api::int(1), api::text("x")])),
            &["payload.n", "integer", "text"],
        ),
        invalid("a nested field", field(OPEN, "in", inner()), &["payload.in.ner", "integer", "text"]),
        invalid("undeclared in strict", field(STRICT, "other", api::int(1)), &["payload.other", "strict"]),
        invalid("NaN field", field(OPEN, "y", api::float(f64::NAN)), &["payload.y", "NaN"]),
        invalid("infinite field", field(OPEN, "x", api::float(f64::INFINITY)), &["payload.x", "inf"]),
        invalid("40 levels", field(OPEN, "deep", nested(40)), &["payload", "levels", "limit is 32"]),
        invalid(
            "2 MB of payload",
            field(OPEN, "big", api::text("x".repeat(2 << 20))),
            &["payload", "bytes", "1048576"],
        ),
        invalid(
            "a long name",
            field(OPEN, &"f".repeat(300), api::int(1)),
            &["payload", "300", "limit is 255"],
        ),
    ]
}

fn targets() -> Vec<Row> {
    let by = |filter| delete(Some(v1::delete_request::Target::Filter(filter)));
    let many = (0..1_001).map(api::number_key).collect();
    let elsewhere = Ask::Delete(v1::DeleteRequest {
        collection: "nope".to_owned(),
        target: Some(v1::delete_request::Target::Keys(v1::KeyList { keys: vec![api::key("a")] })),
        request: None,
    });
    vec![
        invalid("delete of nothing named", delete(None), &["target", "keys or a filter"]),
        invalid("1,001 keys", delete_keys(many), &["keys", "1001 keys", "limit is 1000"]),
        invalid(
            "delete of an empty key",
            delete_keys(vec![api::key("a"), api::key("")]),
            &["keys[1]", "at least 1 byte"],
        ),
        invalid(
            "delete of no key",
            delete_keys(vec![v1::Key { kind: None }]),
            &["keys[0]", "a key is needed"],
        ),
        invalid(
            "delete by no condition",
            by(v1::Filter { kind: None }),
            &["filter", "a condition is needed"],
        ),
        invalid(
            "delete by a wrong type",
            by(api::equal("n", api::text("x"))),
            &["filter.n", "integer", "text"],
        ),
        coded("delete elsewhere", elsewhere, Code::NotFound, &["no collection `nope`"]),
    ]
}

/// Writes of nothing do nothing, and say so.
pub(super) async fn nothing_is_no_error(client: &Api) -> Option<String> {
    let upserted = client.put(OPEN, vec![]).await.map(|done| done.upserted);
    let deleted = client.remove(OPEN, vec![]).await;
    match (&upserted, &deleted) {
        (Ok(0), Ok(0)) => None,
        _ => Some(format!("writes of nothing: {upserted:?}, {deleted:?}")),
    }
}
