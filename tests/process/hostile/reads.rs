//! Bad searches, filters, pages and gets.

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use tonic::Code;

use super::{Ask, OPEN, Row, STRICT, coded, invalid};

fn search(change: impl FnOnce(&mut v1::SearchRequest)) -> Ask {
    let mut request = api::search(OPEN, vec![1.0, 0.0, 0.0, 0.0], 10);
    change(&mut request);
    Ask::Search(Box::new(request))
}

fn vector(values: Vec<f32>) -> Ask {
    search(|s| s.vector = Some(api::dense(values)))
}

/// A count by this filter, and a search by it: both must refuse it.
fn filtered(name: &str, filter: v1::Filter, words: &[&str]) -> [Row; 3] {
    let count = v1::CountRequest { collection: OPEN.to_owned(), filter: Some(filter.clone()), read: None };
    let scan =
        v1::ScanRequest { collection: OPEN.to_owned(), filter: Some(filter.clone()), ..Default::default() };
    [
        invalid(&format!("count: {name}"), Ask::Count(count), words),
        invalid(&format!("scan: {name}"), Ask::Scan(scan), words),
        invalid(&format!("search: {name}"), search(|s| s.filter = Some(filter)), words),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = searches();
    rows.extend(examples());
    rows.extend(groups());
    rows.extend(filters());
    rows.extend(pages());
    rows.extend(fresh());
    rows
}

/// What no read may ask for, asked by each verb that reads.
fn fresh() -> Vec<Row> {
    let read = v1::ReadOptions::default;
    let wrong = [
        (v1::ReadOptions { preference: 4, ..read() }, "read.preference: must be 0 to 3, got 4"),
        (v1::ReadOptions { consistency: -1, ..read() }, "read.consistency: must be 0 to 3, got -1"),
        (v1::ReadOptions { partial: i32::MAX, ..read() }, "read.partial: must be 0 to 2, got 2147483647"),
        (v1::ReadOptions { max_lag_ms: 1, ..read() }, "read.max_lag_ms: is 1"),
        (
            v1::ReadOptions { consistency: v1::Consistency::Bounded.into(), max_lag_ms: u64::MAX, ..read() },
            "read.max_lag_ms: must be 1 to 3600000",
        ),
        (v1::ReadOptions { tokens: vec![<_>::default(); 1_025], ..read() }, "read.tokens: 1025 tokens"),
    ];
    let mut rows = Vec::new();
    for (read, words) in wrong {
        let (collection, read) = (OPEN.to_owned(), Some(read));
        let keys = vec![api::number_key(1)];
        let get =
            v1::GetRequest { collection: collection.clone(), keys, read: read.clone(), ..Default::default() };
        let scan =
            v1::ScanRequest { collection: collection.clone(), read: read.clone(), ..Default::default() };
        let count = v1::CountRequest { collection, filter: None, read: read.clone() };
        let near = search(|s| s.read = read);
        for (verb, ask) in [
            ("get", Ask::Get(get)),
            ("scan", Ask::Scan(scan)),
            ("count", Ask::Count(count)),
            ("search", near),
        ] {
            rows.push(invalid(&format!("{verb}: {words}"), ask, &[words]));
        }
    }
    rows
}

fn searches() -> Vec<Row> {
    let limits = |limit, offset| search(|s| (s.limit, s.offset) = (Some(limit), offset));
    let name = |name: &str| search(|s| s.vector_name = name.to_owned());
    let strict = |filter| {
        search(|s| {
            s.collection = STRICT.to_owned();
            s.filter = Some(filter);
        })
    };
    let forms = super::writes::forms().into_iter().map(|(what, name, vector, words)| {
        let words: Vec<&str> = words.into_iter().chain(["vector"]).collect();
        let ask = search(|s| (s.vector_name, s.vector) = (name.to_owned(), Some(vector)));
        invalid(&format!("query: {what}"), ask, &words)
    });
    let mut rows: Vec<Row> = forms.collect();
    rows.extend(vec![
        invalid("limit 0", limits(0, 0), &["limit", "1 to 10000", "got 0"]),
        invalid("limit 10,001", limits(10_001, 0), &["limit", "1 to 10000", "got 10001"]),
        invalid("limit max", limits(u32::MAX, 0), &["limit", "1 to 10000"]),
        invalid("offset + limit", limits(10, 9_991), &["offset + limit", "10000", "10001"]),
        invalid("offset max", limits(1, u32::MAX), &["offset + limit", "10000", "4294967296"]),
        invalid("ef", search(|s| s.ef = 65_537), &["ef", "65536", "got 65537"]),
        invalid(
            "oversampling",
            search(|s| s.oversampling = Some(0.5)),
            &["oversampling", "1 to 100", "got 0.5"],
        ),
        invalid(
            "oversampling NaN",
            search(|s| s.oversampling = Some(f32::NAN)),
            &["oversampling", "got NaN"],
        ),
        invalid("threshold NaN", search(|s| s.score_threshold = Some(f32::NAN)), &["score_threshold", "NaN"]),
        invalid("no vector", search(|s| s.vector = None), &["vector", "needed"]),
        invalid("query of 3", vector(vec![1.0; 3]), &["vector", "expected 4 dimensions, got 3"]),
        invalid("query of none", vector(vec![]), &["vector", "expected 4 dimensions, got 0"]),
        invalid("query with NaN", vector(vec![1.0, 0.0, 0.0, f32::NAN]), &["vector", "component 3 is NaN"]),
        invalid("infinite query", vector(vec![f32::INFINITY; 4]), &["vector", "component 0 is inf"]),
        invalid("zero query", vector(vec![0.0; 4]), &["vector", "zero vector"]),
        invalid("unknown vector", name("third"), &["vector_name", "no vector `third`", "default, half"]),
        invalid("the other vector", name("second"), &["vector", "expected 2 dimensions, got 4"]),
        invalid("undeclared in strict", strict(api::exists("other")), &["filter.other", "strict"]),
        coded("unknown collection", search(|s| s.collection = "nope".into()), Code::NotFound, &["`nope`"]),
    ]);
    rows
}

fn examples() -> Vec<Row> {
    use v1::example::Kind;
    let key = |key| v1::Example { kind: Some(Kind::Key(key)) };
    let vector =
        |values| v1::Example { kind: Some(Kind::Vector(v1::Vector { values, ..Default::default() })) };
    let like = |positive: Vec<v1::Example>, negative: Vec<v1::Example>| {
        let recommend = Some(v1::Recommend { positive, negative, strategy: 0 });
        search(|s| (s.vector, s.recommend) = (None, recommend))
    };
    let one = || key(api::number_key(1));
    let unknown = v1::Recommend { positive: vec![one()], strategy: i32::MAX, ..Default::default() };
    let unknown = search(|s| (s.vector, s.recommend) = (None, Some(unknown)));
    let both = search(|s| s.recommend = Some(v1::Recommend { positive: vec![one()], ..Default::default() }));
    let opposite = || vec![vector(vec![1.0, 0.0, 0.0, 0.0]), vector(vec![-3.0, 0.0, 0.0, 0.0])];
    vec![
        invalid("like nothing", like(vec![], vec![]), &["recommend.positive", "at least 1 example", "got 0"]),
        invalid("unlike only", like(vec![], vec![one()]), &["recommend.positive", "at least 1 example"]),
        invalid("like 101", like(vec![one(); 101], vec![]), &["recommend", "101 examples", "limit is 100"]),
        invalid("like 1, unlike 100", like(vec![one()], vec![one(); 100]), &["101 examples", "100"]),
        invalid("like and a vector", both, &["recommend", "without vector"]),
        invalid("a strange strategy", unknown, &["recommend.strategy", "0 to 1", "2147483647"]),
        invalid(
            "like no kind",
            like(vec![one(), v1::Example { kind: None }], vec![]),
            &["recommend.positive[1]", "a key or a vector"],
        ),
        invalid(
            "unlike an empty key",
            like(vec![one()], vec![key(api::key(""))]),
            &["recommend.negative[0]", "at least 1 byte"],
        ),
        invalid(
            "like a key of no kind",
            like(vec![key(v1::Key { kind: None })], vec![]),
            &["recommend.positive[0]", "a key is needed"],
        ),
        invalid(
            "like a long key",
            like(vec![key(api::key("k".repeat(1_025)))], vec![]),
            &["recommend.positive[0]", "1025", "1024"],
        ),
        invalid(
            "like 3 dimensions",
            like(vec![vector(vec![1.0; 3])], vec![]),
            &["recommend.positive[0]", "expected 4 dimensions, got 3"],
        ),
        invalid(
            "unlike NaN",
            like(vec![one()], vec![vector(vec![1.0, f32::NAN, 0.0, 0.0])]),
            &["recommend.negative[0]", "component 1 is NaN"],
        ),
        invalid(
            "like a zero vector",
            like(vec![vector(vec![0.0; 4])], vec![]),
            &["recommend.positive[0]", "zero vector"],
        ),
        invalid("like two opposites", like(opposite(), vec![]), &["recommend", "cancel each other out"]),
        coded(
            "like nobody",
            like(vec![one(), key(api::key("nobody"))], vec![]),
            Code::NotFound,
            &["no record `nobody`"],
        ),
    ]
}

fn groups() -> Vec<Row> {
    let by = |field: &str, size, limit| {
        search(|s| (s.group_by, s.group_size, s.limit) = (field.to_owned(), size, Some(limit)))
    };
    let strict = search(|s| (s.collection, s.group_by) = (STRICT.to_owned(), "other".to_owned()));
    let paged = search(|s| (s.group_by, s.offset) = ("n".to_owned(), 1));
    let alone = search(|s| s.group_size = 3);
    vec![
        invalid("groups by a float", by("x", 3, 10), &["group_by", "`x`", "float"]),
        invalid("groups by no path", by("a..b", 3, 10), &["group_by", "a..b", "a step is empty"]),
        invalid("groups by a long path", by(&"n".repeat(256), 3, 10), &["group_by", "256 bytes", "255"]),
        invalid("groups by what is not declared", strict, &["group_by", "strict", "`other`", "word"]),
        invalid("groups of 101", by("n", 101, 10), &["group_size", "1 to 100", "got 101"]),
        invalid("groups of max", by("n", u32::MAX, 10), &["group_size", "1 to 100"]),
        invalid("too many hits in groups", by("n", 100, 101), &["limit * group_size", "10000", "10100"]),
        invalid("too many groups", by("n", 1, 10_001), &["limit", "1 to 10000", "10001"]),
        invalid("a page of groups", paged, &["offset", "is 1", "group_by"]),
        invalid("a size without groups", alone, &["group_size", "is 3", "group_by"]),
    ]
}

fn filters() -> Vec<Row> {
    let deep = |levels| (1..levels).fold(api::exists("n"), |inner, _| api::not(inner));
    let wide = api::all((0..1_024).map(|_| api::exists("n")).collect());
    let values = |n: i64| api::among("n", (0..n).map(api::int).collect());
    let range = |range| api::filter(v1::filter::Kind::Range(range));
    let field = || "n".to_owned();
    let empty = v1::filter::Range { field: field(), ..Default::default() };
    let twice = v1::filter::Range {
        field: field(),
        gt: Some(api::int(1)),
        gte: Some(api::int(1)),
        ..Default::default()
    };
    let mixed = api::between("free", Some(api::int(1)), Some(api::text("z")));
    let keys = |keys| api::filter(v1::filter::Kind::Keys(v1::filter::Keys { keys }));
    [
        filtered("of no kind", v1::Filter { kind: None }, &["filter", "a condition is needed"]),
        filtered(
            "no kind inside",
            api::all(vec![v1::Filter { kind: None }]),
            &["filter", "a condition is needed"],
        ),
        filtered("33 levels", deep(33), &["filter", "levels", "limit is 32"]),
        filtered("40 levels", deep(40), &["filter", "levels", "limit is 32"]),
        filtered("1,025 conditions", wide, &["filter", "conditions", "limit is 1024"]),
        filtered("10,001 values", values(10_001), &["filter.n.in", "10001 values", "limit is 10000"]),
        filtered("equal to null", api::equal("n", api::null()), &["filter.n.equal", "null equals nothing"]),
        filtered("equal to a list", api::equal("n", api::list(vec![])), &["filter.n.equal", "list"]),
        filtered("equal to a map", api::equal("n", api::map(vec![])), &["filter.n.equal", "map"]),
        filtered("a wrong type", api::equal("n", api::text("7")), &["filter.n.equal", "integer", "text"]),
        filtered("NaN", api::equal("x", api::float(f64::NAN)), &["filter.x.equal", "NaN"]),
        filtered("a null among", api::among("n", vec![api::int(1), api::null()]), &["filter.n.in", "null"]),
        filtered("no bounds", range(empty), &["filter.n.range", "at least one of"]),
        filtered("two lower bounds", range(twice), &["filter.n.range", "one of gt and gte"]),
        filtered("mixed bounds", mixed, &["filter.free.range", "different types"]),
        filtered(
            "ordered booleans",
            api::between("is", Some(api::flag(true)), None),
            &["filter.is.gte", "no order"],
        ),
        filtered("no datetime", api::between("at", Some(api::text("now")), None), &["filter.at", "datetime"]),
        filtered("prefix of a number", api::prefix("n", "1"), &["filter.n.prefix", "needs text"]),
        filtered("glob of a number", api::glob("n", "1*"), &["filter.n.glob", "needs text"]),
        filtered("half an escape", api::glob("free", "a\\"), &["filter.free.glob", "lone backslash"]),
        filtered(
            "a long pattern",
            api::glob("free", &"*a".repeat(129)),
            &["filter.free.glob", "limit is 256"],
        ),
        filtered("an empty step", api::exists("a..b"), &["filter", "a..b", "a step is empty"]),
        filtered("an empty path", api::exists(""), &["filter", "a step is empty"]),
        filtered("an empty key", keys(vec![api::key("")]), &["filter.keys", "at least 1 byte"]),
        filtered("a key of no kind", keys(vec![v1::Key { kind: None }]), &["filter.keys", "a key is needed"]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn pages() -> Vec<Row> {
    let scan = |limit, next: &str| {
        Ask::Scan(v1::ScanRequest {
            collection: OPEN.to_owned(),
            limit,
            next: next.to_owned(),
            ..Default::default()
        })
    };
    let prefixed = |what: &str, prefix: &str, order_by: &str, told: &[&str]| {
        let (collection, order_by) = (OPEN.to_owned(), order_by.to_owned());
        let key_prefix = Some(prefix.to_owned());
        let ask = v1::ScanRequest { collection, key_prefix, order_by, ..Default::default() };
        invalid(what, Ask::Scan(ask), told)
    };
    let get = |keys| Ask::Get(v1::GetRequest { collection: OPEN.to_owned(), keys, ..Default::default() });
    let elsewhere =
        |name: &str| Ask::Count(v1::CountRequest { collection: name.to_owned(), filter: None, read: None });
    vec![
        invalid("page of 10,001", scan(10_001, ""), &["limit", "1 to 10000", "10001"]),
        invalid("page of all", scan(u32::MAX, ""), &["limit", "1 to 10000"]),
        invalid("token abc", scan(10, "abc"), &["next", "not a token"]),
        invalid("token of zeros", scan(10, &"A".repeat(80)), &["next", "not a token"]),
        invalid("token of signs", scan(10, "\u{0}\u{7f}/+=="), &["next", "not a token"]),
        prefixed("an empty prefix", "", "", &["key_prefix", "at least 1 byte"]),
        prefixed("a prefix of 1,025 bytes", &"k".repeat(1_025), "", &["key_prefix", "1025", "limit is 1024"]),
        prefixed("a prefix in an order", "k", "n", &["key_prefix", "not with order_by"]),
        invalid("token of 1 MB", scan(10, &"A".repeat(1 << 20)), &["next", "not a token"]),
        invalid("get of 1,001", get((0..1_001).map(api::number_key).collect()), &["keys", "1001", "1000"]),
        invalid("get of an empty key", get(vec![api::key("")]), &["keys[0]", "at least 1 byte"]),
        invalid("get of no key", get(vec![v1::Key { kind: None }]), &["keys[0]", "a key is needed"]),
        invalid("get of a long key", get(vec![api::key("k".repeat(1_025))]), &["keys[0]", "1025", "1024"]),
        coded("count elsewhere", elsewhere("nope"), Code::NotFound, &["no collection `nope`"]),
    ]
}

/// A token serves its own scan only.
pub(super) async fn tokens(client: &Api) -> Option<String> {
    let page = |collection: &str, filter, next| v1::ScanRequest {
        collection: collection.to_owned(),
        filter,
        limit: 5,
        next,
        ..Default::default()
    };
    let first = client.scan(page(OPEN, None, String::new())).await;
    let next = match first {
        Ok(first) if first.items.len() == 5 && !first.next.is_empty() => first.next,
        other => return Some(format!("a first page: {other:?}")),
    };
    let elsewhere =
        invalid("another collection's", Ask::Scan(page(STRICT, None, next.clone())), &["next", "collection"]);
    let filter = Some(api::exists("n"));
    let otherwise =
        invalid("another filter's", Ask::Scan(page(OPEN, filter, next.clone())), &["next", "filter"]);
    let prefixed = v1::ScanRequest { key_prefix: Some("k".to_owned()), ..page(OPEN, None, next.clone()) };
    let prefixed = invalid("another prefix's", Ask::Scan(prefixed), &["next", "key prefix"]);
    let mut garbled = next.into_bytes();
    let last = garbled.last_mut()?;
    *last = if *last == b'A' { b'B' } else { b'A' };
    let garbled = String::from_utf8(garbled).ok()?;
    let garbled = invalid("a garbled one", Ask::Scan(page(OPEN, None, garbled)), &["next", "not a token"]);
    for row in [elsewhere, otherwise, prefixed, garbled] {
        if let Some(wrong) = row.run(client).await {
            return Some(format!("token: {wrong}"));
        }
    }
    None
}
