//! Bad descriptions of collections.

use flotilla_proto::v1;
use flotilla_tests::api;
use tonic::Code;

use super::{Ask, DIMS, OPEN, Row, coded, invalid};

fn create(spec: v1::CollectionSpec) -> Ask {
    Ask::Create(v1::CreateCollectionRequest { spec: Some(spec) })
}

fn spec() -> v1::CollectionSpec {
    api::collection("new", DIMS as u32, vec![])
}

fn named(name: &str) -> v1::CollectionSpec {
    api::collection(name, DIMS as u32, vec![])
}

/// The description with another vector `default`.
fn vector(change: impl FnOnce(&mut v1::VectorParams)) -> Ask {
    let mut spec = spec();
    change(spec.vectors.get_mut("default").expect("it was just put there"));
    create(spec)
}

fn fields(fields: &[(&str, i32)]) -> Ask {
    let mut spec = spec();
    spec.fields = fields.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect();
    create(spec)
}

fn update(name: &str, add: &[(&str, i32)], ef: &[(&str, u32)]) -> Ask {
    Ask::Update(v1::UpdateCollectionRequest {
        name: name.to_owned(),
        add_fields: add.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect(),
        ef_search: ef.iter().map(|(vector, ef)| ((*vector).to_owned(), *ef)).collect(),
        ..Default::default()
    })
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = names();
    rows.extend(shapes());
    rows.extend(changes());
    rows
}

/// No name of a user becomes a path; still, names that could be taken for one are refused.
fn names() -> Vec<Row> {
    let hostile = [
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "/etc/passwd",
        "a\\b",
        ".hidden",
        "a b",
        "a\0b",
        "a\nb",
        "%2e%2e/%2f",
        "ü",
        "日本",
        "\u{202e}rtl",
        "a:b",
        "*",
        "?",
        "'; drop",
        "~",
        "$HOME",
        "a\u{feff}",
    ];
    let row = |name: &str| invalid(&format!("collection {name:?}"), create(named(name)), &["spec.name"]);
    let mut rows: Vec<Row> = hostile.iter().map(|name| row(name)).collect();
    let long = "n".repeat(256);
    rows.push(invalid(
        "name of 256 bytes",
        create(named(&long)),
        &["spec.name", "256 bytes", "limit is 255"],
    ));
    let mut spec = spec();
    spec.vectors.insert("a/b".to_owned(), v1::VectorParams { dims: 2, ..Default::default() });
    rows.push(invalid("vector a/b", create(spec), &["spec.vectors", "not allowed"]));
    rows
}

fn shapes() -> Vec<Row> {
    let many_vectors = || {
        let mut spec = spec();
        for n in 0..17 {
            spec.vectors.insert(format!("v{n}"), v1::VectorParams { dims: 2, ..Default::default() });
        }
        create(spec)
    };
    let many_fields = || {
        let mut spec = spec();
        spec.fields = (0..257).map(|n| (format!("f{n}"), v1::FieldType::Bool.into())).collect();
        create(spec)
    };
    let hnsw = |m, ef_construction, ef_search| {
        let params = v1::HnswParams { m, ef_construction, ef_search, ..Default::default() };
        vector(|v| v.hnsw = Some(params))
    };
    let preset = v1::HnswParams { preset: "quick".to_owned(), ..Default::default() };
    let (bit, hamming): (i32, i32) = (v1::Datatype::Bit.into(), v1::Distance::Hamming.into());
    let (sparse, multi): (i32, i32) = (v1::VectorKind::Sparse.into(), v1::VectorKind::Multi.into());
    let partitions = |n| create(v1::CollectionSpec { partitions: n, ..spec() });
    let delimited = |delimiter: &str, strategy: v1::Strategy| {
        let (shard_delimiter, strategy) = (delimiter.to_owned(), strategy.into());
        create(v1::CollectionSpec { shard_delimiter, strategy, ..spec() })
    };
    let (hash, range, shard_key) =
        (v1::Strategy::ConsistentHash, v1::Strategy::Range, v1::Strategy::ShardKey);
    vec![
        invalid("delimiter of two", delimited("//", hash), &["spec.shard_delimiter", "one ASCII character"]),
        invalid("delimiter ü", delimited("ü", hash), &["spec.shard_delimiter", "one ASCII character"]),
        invalid("delimiter 0", delimited("\0", shard_key), &["spec.shard_delimiter", "can be printed"]),
        invalid("no delimiter", delimited("", shard_key), &["spec.shard_delimiter", "is missing"]),
        invalid("delimiter of ranges", delimited("/", range), &["spec.shard_delimiter", "not with strategy"]),
        invalid("no spec", Ask::Create(v1::CreateCollectionRequest { spec: None }), &["spec", "missing"]),
        coded("duplicate", create(named(OPEN)), Code::AlreadyExists, &["collection `open`", "exists"]),
        invalid("dims 0", vector(|v| v.dims = 0), &["spec.vectors[default].dims", "1 to 65536", "got 0"]),
        invalid("dims 65537", vector(|v| v.dims = 65_537), &["dims", "1 to 65536", "got 65537"]),
        invalid("dims max", vector(|v| v.dims = u32::MAX), &["dims", "1 to 65536", "got 4294967295"]),
        invalid("distance 9", vector(|v| v.distance = 9), &["distance", "9 is not a distance"]),
        invalid("datatype 9", vector(|v| v.datatype = 9), &["default].datatype", "9 is not a datatype"]),
        invalid("kind 9", vector(|v| v.kind = 9), &["default].kind", "9 is not a kind"]),
        invalid(
            "hamming of floats",
            vector(|v| v.distance = hamming),
            &["default].distance", "datatype bit"],
        ),
        invalid(
            "dot of bits",
            vector(|v| (v.datatype, v.distance) = (bit, v1::Distance::Dot.into())),
            &["default].distance", "hamming"],
        ),
        invalid(
            "sparse of 4 dims",
            vector(|v| v.kind = sparse),
            &["default].dims", "no dimensions", "got 4"],
        ),
        invalid(
            "sparse by cosine",
            vector(|v| (v.kind, v.dims, v.distance) = (sparse, 0, v1::Distance::Cosine.into())),
            &["default].distance", "dot alone"],
        ),
        invalid(
            "sparse of bits",
            vector(|v| (v.kind, v.dims, v.datatype) = (sparse, 0, bit)),
            &["default].datatype", "is bit", "are f32"],
        ),
        invalid(
            "hashes of several",
            vector(|v| (v.kind, v.index) = (multi, v1::IndexKind::Lsh.into())),
            &["default].index", "hashes are of"],
        ),
        invalid(
            "several of 0 dims",
            vector(|v| (v.kind, v.dims) = (multi, 0)),
            &["dims", "1 to 65536", "got 0"],
        ),
        invalid(
            "an lsh of 21 coarse functions",
            vector(|v| {
                v.index = v1::IndexKind::Lsh.into();
                v.lsh = Some(v1::LshParams { coarse: 21, fine: 64 });
            }),
            &["lsh.coarse", "1 to 20", "21"],
        ),
        invalid("index kind 9", vector(|v| v.index = 9), &["index", "9 is not"]),
        invalid("preset", vector(|v| v.hnsw = Some(preset)), &["quick", "fast, balanced"]),
        invalid("m 1", hnsw(1, 0, 0), &["hnsw.m", "2 to 256", "got 1"]),
        invalid("m 257", hnsw(257, 0, 0), &["hnsw.m", "2 to 256", "got 257"]),
        invalid("ef_construction", hnsw(0, 65_537, 0), &["hnsw.ef_construction", "1 to 65536", "65537"]),
        invalid("ef_search", hnsw(0, 0, u32::MAX), &["hnsw.ef_search", "1 to 65536"]),
        invalid("17 vectors and one", many_vectors(), &["spec.vectors", "18 vectors", "limit is 16"]),
        invalid("257 fields", many_fields(), &["spec.fields", "257 fields", "limit is 256"]),
        invalid("257 partitions", partitions(257), &["spec.partitions", "1 to 256", "got 257"]),
        invalid("all partitions", partitions(u32::MAX), &["spec.partitions", "1 to 256"]),
        invalid("field type 0", fields(&[("f", 0)]), &["spec.fields[f]", "not a field type"]),
        invalid("field type 99", fields(&[("f", 99)]), &["spec.fields[f]", "99 is not a field type"]),
        invalid("empty step", fields(&[("a..b", 1)]), &["spec.fields", "a..b", "a step is empty"]),
        invalid("empty path", fields(&[("", 1)]), &["spec.fields", "a step is empty"]),
        invalid("field in a field", fields(&[("a", 1), ("a.b", 1)]), &["spec.fields", "`a`", "`a.b`"]),
    ]
}

fn changes() -> Vec<Row> {
    let text: i32 = v1::FieldType::Text.into();
    let get = |name: &str| Ask::Describe(v1::GetCollectionRequest { name: name.to_owned() });
    let remove = |name: &str| Ask::Drop(v1::DeleteCollectionRequest { name: name.to_owned() });
    vec![
        coded("get of none", get("nope"), Code::NotFound, &["no collection `nope`"]),
        coded("delete of none", remove("nope"), Code::NotFound, &["no collection `nope`"]),
        coded("delete of nothing", remove(""), Code::NotFound, &["no collection ``"]),
        coded(
            "update of none",
            update("nope", &[("f", text)], &[]),
            Code::NotFound,
            &["no collection `nope`"],
        ),
        invalid("another type", update(OPEN, &[("n", text)], &[]), &["add_fields[n]", "declared as integer"]),
        invalid("no type", update(OPEN, &[("f", 0)], &[]), &["add_fields[f]", "not a field type"]),
        invalid("a field inside", update(OPEN, &[("n.m", text)], &[]), &["fields", "`n`"]),
        invalid("ef 0", update(OPEN, &[], &[("default", 0)]), &["ef_search[default]", "1 to 65536", "got 0"]),
        invalid("ef too large", update(OPEN, &[], &[("default", 65_537)]), &["ef_search[default]", "65537"]),
        invalid("ef of no vector", update(OPEN, &[], &[("third", 10)]), &["ef_search[third]", "vector"]),
    ]
}
