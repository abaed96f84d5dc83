//! Sealed payloads against the meaning of a filter, and against damage.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use flotilla_proto::filter::{Bounds, Filter};
use flotilla_proto::fulltext::{Language, words};
use flotilla_proto::group::{GroupBy, GroupKey};
use flotilla_proto::record::Value;
use flotilla_proto::schema::CollectionSpec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

use super::*;
use crate::env::fs;
use crate::storage::Compression;

mod values;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x70_6179_6c6f_6164),
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    }
}

fn declared() -> BTreeMap<String, FieldType> {
    use FieldType::*;
    [
        ("word", Keyword),
        ("whole", Integer),
        ("real", Float),
        ("truth", Bool),
        ("when", Datetime),
        ("prose", Text),
        ("disks.name", Keyword),
        ("disks.gb", Integer),
        ("a.b.c", Float),
        ("id", Uuid),
        ("at", Geo),
        ("disks.at", Geo),
        ("said", TextIn(Language::English)),
    ]
    .map(|(path, kind)| (path.to_owned(), kind))
    .into()
}

fn spec(fields: BTreeMap<String, FieldType>) -> CollectionSpec {
    CollectionSpec {
        name: "c".into(),
        vectors: BTreeMap::new(),
        fields,
        partitions: 1,
        strict: false,
        ..Default::default()
    }
}

static LONG: LazyLock<[String; 3]> = LazyLock::new(|| {
    ["a".repeat(fields::TERM_BYTES_MAX), "a".repeat(fields::TERM_BYTES_MAX + 1), "b".repeat(70_000)]
});

fn word() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => select(vec!["", "a", "ab", "abc", "b", "A", "ä", "日本", "a b", "\0", "a\0", "\u{10ffff}"])
            .prop_map(Value::from),
        1 => select(&LONG[..]).prop_map(Value::from),
    ]
}

const TWO_53: i64 = 1 << 53;

fn whole() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (-3_i64..4).prop_map(Value::from),
        2 => select(vec![i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1, TWO_53, TWO_53 + 1, -TWO_53 - 1])
            .prop_map(Value::from),
    ]
}

fn real() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (-6_i32..7).prop_map(|half| Value::from(f64::from(half) / 2.0)),
        3 => select(vec![
            -0.0, f64::MIN, f64::MAX, f64::MIN_POSITIVE, 5e-324, -5e-324, TWO_53 as f64,
            9_223_372_036_854_775_808.0, -9_223_372_036_854_775_808.0, 1e19, -1e19, 9.223372036854775e18,
        ]).prop_map(Value::from),
    ]
}

fn when() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(vec![
            "1970-01-01T00:00:00Z",
            "1969-12-31T23:59:59.999Z",
            "1969-12-31T23:59:59.9999999Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999Z",
            "2026-01-01T00:00:00Z",
            "2026-01-01T01:00:00+01:00",
        ])
        .prop_map(Value::from),
        select(vec![0, -1, 1, 1_767_225_600_000, -62_135_596_800_000, 9_000_000_000_000_000])
            .prop_map(Value::from),
    ]
}

fn truth() -> impl Strategy<Value = Value> {
    any::<bool>().prop_map(Value::from)
}

/// Texts of few words, so that several are in a row, some more than once; the last is too long to be one.
fn prose() -> impl Strategy<Value = Value> {
    let words = select(vec![
        "a",
        "A",
        "b",
        "ab",
        "ä",
        "Ä",
        "日本",
        "7",
        "",
        "!",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ]);
    prop::collection::vec(words, 0..7).prop_map(|words| Value::from(words.join(" ")))
}

/// Texts of words with common stems.
fn said() -> impl Strategy<Value = Value> {
    let words = select(vec!["run", "Running", "runs", "b", "connect", "CONNECTIONS", "ab", "!", "ä"]);
    prop::collection::vec(words, 0..7).prop_map(|words| Value::from(words.join(" ")))
}

fn scalar() -> BoxedStrategy<Value> {
    prop_oneof![word(), whole(), real(), when(), truth()].boxed()
}

fn of_kind(kind: Option<FieldType>) -> BoxedStrategy<Value> {
    match kind {
        Some(FieldType::Keyword) => prop_oneof![4 => word(), 1 => prose()].boxed(),
        Some(FieldType::Text) => prop_oneof![1 => word(), 4 => prose()].boxed(),
        Some(FieldType::Integer) | Some(FieldType::Float) => prop_oneof![whole(), real()].boxed(),
        Some(FieldType::Bool) => truth().boxed(),
        Some(FieldType::Datetime) => when().boxed(),
        Some(FieldType::Uuid) => prop_oneof![12 => values::uuid(), 1 => values::no_uuid()].boxed(),
        Some(FieldType::Geo) => prop_oneof![6 => values::point(), 1 => values::no_point()].boxed(),
        Some(FieldType::TextIn(_)) => said().boxed(),
        None => scalar(),
    }
}

/// A field's value: of its type mostly, sometimes a list, a null, or what was written before it was declared.
fn field(kind: FieldType) -> BoxedStrategy<Option<Value>> {
    let one = prop_oneof![
        12 => of_kind(Some(kind)),
        1 => Just(Value::Null),
        1 => scalar(),
        1 => Just(Value::Map(Payload::from([("b".into(), Value::from(1))]))),
    ];
    prop_oneof![
        2 => Just(None),
        6 => one.clone().prop_map(Some),
        2 => prop::collection::vec(one, 0..4).prop_map(|items| Some(Value::List(items))),
    ]
    .boxed()
}

fn map(names: &[(&str, FieldType)]) -> BoxedStrategy<Payload> {
    let fields: Vec<_> = names.iter().map(|(name, kind)| (Just((*name).to_owned()), field(*kind))).collect();
    fields
        .prop_map(|fields| fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
        .boxed()
}

fn payload() -> impl Strategy<Value = Payload> {
    use FieldType::*;
    let flat = map(&[
        ("word", Keyword),
        ("whole", Integer),
        ("real", Float),
        ("truth", Bool),
        ("when", Datetime),
        ("prose", Text),
        ("id", Uuid),
        ("at", Geo),
        ("said", TextIn(Language::English)),
        ("other", Keyword),
        ("more", Integer),
    ]);
    let disk = map(&[("name", Keyword), ("gb", Integer), ("free", Float), ("at", Geo)]);
    let disk = disk.prop_map(Value::Map);
    let disks = prop_oneof![
        2 => Just(None),
        2 => disk.clone().prop_map(Some),
        4 => prop::collection::vec(prop_oneof![4 => disk, 1 => scalar()], 0..3)
            .prop_map(|disks| Some(Value::List(disks))),
    ];
    let deep = field(Float).prop_map(|value| {
        let c: Payload = value.map(|value| ("c".to_owned(), value)).into_iter().collect();
        Value::Map(Payload::from([("b".into(), Value::List(vec![Value::Map(c)]))]))
    });
    (flat, disks, prop::option::of(deep)).prop_map(|(mut payload, disks, deep)| {
        payload.extend(disks.map(|disks| ("disks".to_owned(), disks)));
        payload.extend(deep.map(|deep| ("a".to_owned(), deep)));
        payload
    })
}

/// Patterns of the letters that words have; some hold only their first letters, some any.
fn pattern() -> impl Strategy<Value = String> {
    let pieces = vec!["*", "*", "?", "a", "b", "ab", "ä", "日", " ", "\0", "\\*", "\\a"];
    prop::collection::vec(select(pieces), 0..4).prop_map(|pieces| pieces.concat())
}

fn leaf() -> BoxedStrategy<Filter> {
    let paths = [
        "word",
        "whole",
        "real",
        "truth",
        "when",
        "prose",
        "disks.name",
        "disks.gb",
        "a.b.c",
        "id",
        "at",
        "disks.at",
        "said",
        "other",
        "more",
        "disks.free",
        "disks",
        "a.b",
        "word.b",
        "missing",
    ];
    select(paths.to_vec())
        .prop_flat_map(|path| {
            let value = of_kind(declared().get(path).copied());
            let (path, bound) = (path.to_owned(), prop::option::of((value.clone(), any::<bool>())));
            let p = || Just(path.clone());
            prop_oneof![
                2 => (p(), value.clone()).prop_map(|(path, value)| Filter::Equal(path, value)),
                2 => (p(), prop::collection::vec(value, 0..8)).prop_map(|(path, values)| Filter::In(path, values)),
                2 => (p(), bound.clone(), bound).prop_map(|(path, from, to)| {
                    let mut bounds = Bounds::default();
                    if let Some((value, inclusive)) = from {
                        *(if inclusive { &mut bounds.gte } else { &mut bounds.gt }) = Some(value);
                    }
                    if let Some((value, inclusive)) = to {
                        *(if inclusive { &mut bounds.lte } else { &mut bounds.lt }) = Some(value);
                    }
                    Filter::Range(path, bounds)
                }),
                1 => (p(), word()).prop_map(|(path, value)| match value {
                    Value::Text(prefix) => Filter::Prefix(path, prefix),
                    _ => Filter::Exists(path),
                }),
                1 => (p(), pattern()).prop_map(|(path, pattern)| Filter::Glob(path, pattern)),
                2 => (p(), "[aAbä7日]( (a|b|ab|ä)){0,2}", any::<bool>())
                    .prop_map(|(field, query, any)| Filter::Match { field, query, any }),
                2 => (p(), "(a|b|Ä)( (a|b|ab|ä)){0,2}").prop_map(|(path, query)| Filter::Phrase(path, query)),
                1 => (p(), "(run|Runs|connected)( (b|running|connection)){0,2}", 0..3).prop_map(|(field, query, test)| {
                    if test == 2 { Filter::Phrase(field, query) } else { Filter::Match { field, query, any: test == 1 } }
                }),
                1 => (p(), select(vec!["0", "0191D2A4-", "f*", "00000000-*2", "?*-*-8ABC-*"])).prop_map(|(path, pattern)| {
                    Filter::Glob(path, pattern.into())
                }),
                2 => values::region(path.clone()),
                1 => p().prop_map(Filter::Exists),
            ]
        })
        .boxed()
}

fn filter() -> impl Strategy<Value = Filter> {
    let keys = prop::collection::vec((0_u64..40).prop_map(Key::Number), 0..6).prop_map(Filter::Keys);
    prop_oneof![8 => leaf(), 1 => keys].prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::All),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::Any),
            inner.prop_map(|part| Filter::Not(Box::new(part))),
        ]
    })
}

fn encoded(payloads: &[Payload]) -> impl Iterator<Item = Result<Bytes, Fault>> {
    payloads.iter().map(|payload| Ok(Bytes::from(postcard::to_stdvec(payload).unwrap())))
}

fn row_of(key: &Key) -> Result<Option<u32>, Fault> {
    Ok(match key {
        Key::Number(row) => u32::try_from(*row).ok().filter(|row| *row < 30),
        Key::Text(_) => None,
    })
}

/// The rows that pass by definition; the key of row `r` is the number `r`, as [`row_of`] says.
fn naive(filter: &Compiled, payloads: &[Payload]) -> Vec<u32> {
    let rows = (0..).zip(payloads);
    rows.filter(|(row, payload)| filter.matches(&Key::Number(u64::from(*row)), payload))
        .map(|(row, _)| row)
        .collect()
}

fn written(
    fields: &BTreeMap<String, FieldType>,
    payloads: &[Payload],
    part_bytes_max: usize,
) -> (tempfile::TempDir, PayloadIndex) {
    let dir = tempfile::tempdir().unwrap();
    write::write_parts(dir.path(), (fields, Compression::Lz4), &mut encoded(payloads), part_bytes_max)
        .unwrap();
    let index = PayloadIndex::open(dir.path(), fields, payloads.len() as u32).unwrap();
    (dir, index)
}

#[test]
fn payloads_come_back_however_they_are_compressed() {
    let payload = |n: i64| {
        let sentence = |i| format!("the quick brown fox number {n} jumps over the lazy dog number {}", n * i);
        let text: String = (3..13).map(sentence).collect();
        Payload::from([("n".to_owned(), n.into()), ("text".to_owned(), text.as_str().into())])
    };
    let payloads: Vec<Payload> = (0..3_000).map(payload).collect();
    let fields = BTreeMap::from([("n".to_owned(), FieldType::Integer)]);
    let all = [Compression::None, Compression::Lz4, Compression::Zstd(1), Compression::Zstd(19)];
    let sizes = all.map(|compression| {
        let dir = tempfile::tempdir().unwrap();
        // In parts, which are merged.
        write::write_parts(dir.path(), (&fields, compression), &mut encoded(&payloads), 200_000).unwrap();
        let index = PayloadIndex::open(dir.path(), &fields, 3_000).unwrap();
        for row in [0_u32, 1, 777, 2_999] {
            assert_eq!(index.payload(row).unwrap(), payloads[row as usize], "{compression:?}");
        }
        std::fs::metadata(dir.path().join("rows")).unwrap().len()
    });
    assert!(sizes[0] > 2 * sizes[1] && sizes[1] > sizes[2] && sizes[2] >= sizes[3], "{sizes:?}");
}

fn agree(index: &PayloadIndex, filters: &[Filter], payloads: &[Payload]) -> Result<(), TestCaseError> {
    for filter in filters {
        let Ok(filter) = Compiled::new(filter, &spec(declared())) else { continue };
        let found: Vec<u32> = index.matching(&filter, &row_of).unwrap().iter().collect();
        prop_assert_eq!(found, naive(&filter, payloads), "{:?}", filter);
    }
    Ok(())
}

/// The conditions of grouped searches, where some of the groups are known.
fn groups_agree(index: &PayloadIndex, payloads: &[Payload]) -> Result<(), TestCaseError> {
    for path in declared().keys() {
        let Ok(by) = GroupBy::new(path, &spec(declared())) else { continue };
        for known in [0, 1, payloads.len() / 2, payloads.len()] {
            let known = payloads.iter().take(known).flat_map(|payload| by.groups(payload).into_keys());
            let known: BTreeSet<GroupKey> = known.collect();
            for filter in [by.among(known.iter()), by.beyond(known.clone())] {
                let found: Vec<u32> = index.matching(&filter, &row_of).unwrap().iter().collect();
                prop_assert_eq!(found, naive(&filter, payloads), "{:?}", filter);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn a_sealed_filter_means_what_a_filter_means(
        payloads in prop::collection::vec(payload(), 0..30),
        filters in prop::collection::vec(filter(), 60),
        undeclared in prop::collection::btree_set(select(declared().into_keys().collect::<Vec<_>>()), 0..4),
    ) {
        let mut fields = declared();
        fields.retain(|path, _| !undeclared.contains(path));
        let (_dir, index) = written(&fields, &payloads, 1 << 30);
        agree(&index, &filters, &payloads)?;
        groups_agree(&index, &payloads)?;
        for (row, payload) in (0..).zip(&payloads) {
            prop_assert_eq!(&index.payload(row).unwrap(), payload);
        }
    }
}

proptest! {
    #![proptest_config(config(2_000))]

    /// Segments are cut by tantivy when they are written, filters and queries by ours.
    #[test]
    fn words_are_those_of_the_index(
        text in prop_oneof![
            any::<String>(),
            "[\\PC]{0,80}",
            "([a-zA-ZÄäßİſΣς0-9]{1,45}[ '’_.-]){0,5}",
            "([a-u]{1,8}(ing|ed|ness|ungen|ement|s) ){0,5}",
        ],
    ) {
        let analyzers = super::stems::analyzers();
        for language in Language::ALL.map(Some).into_iter().chain([None]) {
            let name = language.map_or("default", Language::name);
            let mut analyzer = analyzers.get(name).unwrap();
            let mut theirs = Vec::new();
            analyzer.token_stream(&text).process(&mut |token| {
                theirs.push((token.position as u32, token.offset_from, token.offset_to, token.text.clone()));
            });
            let ours = words(&text);
            let ours: Vec<_> =
                ours.map(|word| (word.place, word.at, word.range().end, word.term(language))).collect();
            prop_assert_eq!(ours, theirs, "{}", name);
        }
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn parts_are_joined_in_order(
        payloads in prop::collection::vec(payload(), 0..10),
        filters in prop::collection::vec(filter(), 60),
    ) {
        let (dir, index) = written(&declared(), &payloads, 1);
        agree(&index, &filters, &payloads)?;
        for (row, payload) in (0..).zip(&payloads) {
            prop_assert_eq!(&index.payload(row).unwrap(), payload);
        }
        prop_assert!(fs::read_dir(dir.path()).unwrap().iter().all(|name| !name.starts_with("part-")));
    }
}

fn record(row: u32) -> Payload {
    Payload::from([
        ("word".into(), Value::from(format!("host-{:05}", row % 9_000))),
        ("whole".into(), Value::from(i64::from(row % 17))),
        ("real".into(), Value::from(f64::from(row) / 8.0)),
        ("truth".into(), Value::from(row.is_multiple_of(3))),
        ("id".into(), Value::from(format!("{:032X}", u128::from(row % 128) << 64))),
        ("at".into(), Value::List(vec![(i64::from(row % 360) - 180).into(), i64::from(row % 91).into()])),
        ("said".into(), Value::from(format!("{} machines are running", row % 10))),
        ("prose".into(), Value::from(format!("virtual machine number {row} of the house"))),
        (
            "disks".into(),
            Value::List(vec![Value::Map(Payload::from([("gb".into(), Value::from(i64::from(row)))]))]),
        ),
    ])
}

fn between(path: &str, from: impl Into<Value>, to: impl Into<Value>) -> Filter {
    Filter::Range(path.into(), Bounds { gte: Some(from.into()), lt: Some(to.into()), ..Bounds::default() })
}

#[test]
fn many_rows_in_several_parts() {
    let payloads: Vec<Payload> = (0..70_000).map(record).collect();
    let (_dir, index) = written(&declared(), &payloads, 6 << 20);
    let many = |count: i64| Filter::In("disks.gb".into(), (0..count).map(|v| Value::from(v * 997)).collect());
    for filter in [
        Filter::Equal("word".into(), "host-00042".into()),
        Filter::Prefix("word".into(), "host-012".into()),
        Filter::Glob("word".into(), "host-0?2*7".into()),
        Filter::Glob("word".into(), "*99".into()),
        Filter::Glob("prose".into(), "*number 1*house".into()),
        Filter::Phrase("prose".into(), "NUMBER 4711".into()),
        Filter::Phrase("prose".into(), "4711 number".into()),
        Filter::Match { field: "prose".into(), query: "house 69999 machine".into(), any: false },
        Filter::Match { field: "prose".into(), query: "17 18 nothing".into(), any: true },
        between("word", "host-00100", "host-00700"),
        Filter::Equal("whole".into(), 3.into()),
        between("disks.gb", 65_000, 66_000),
        between("real", 100, 9_000.125),
        between("real", -3.0, -1.0),
        Filter::Equal("disks.gb".into(), (-5).into()),
        Filter::Equal("disks.gb".into(), 70_000.into()),
        Filter::Equal("truth".into(), true.into()),
        many(3),
        many(200),
        Filter::All(vec![
            between("disks.gb", 65_500, 65_600),
            Filter::Prefix("prose".into(), "virtual".into()),
        ]),
        Filter::Not(Box::new(Filter::Exists("disks.gb".into()))),
        Filter::Equal("id".into(), "00000000-0000-002A-0000-000000000000".into()),
        Filter::Prefix("id".into(), "00000000-0000-002".into()),
        between("id", "00000000000000420000000000000000", "{00000000-0000-0077-0000-000000000000}"),
        Filter::Match { field: "said".into(), query: "machine RUN 7".into(), any: false },
        Filter::Phrase("said".into(), "9 machine".into()),
        Filter::Within { field: "at".into(), lat: 52.0, lon: 13.4, radius_m: 250_000.0 },
        Filter::Within { field: "at".into(), lat: 89.5, lon: 0.0, radius_m: 200_000.0 },
        Filter::WithinBox { field: "at".into(), top: 20.0, left: 175.5, bottom: 10.0, right: -179.0 },
    ] {
        let filter = Compiled::new(&filter, &spec(declared())).unwrap();
        let found: Vec<u32> = index.matching(&filter, &row_of).unwrap().iter().collect();
        assert_eq!(found, naive(&filter, &payloads), "{filter:?}");
        let is_asked = |path: &str| format!("{filter:?}").contains(&format!("field: \"{path}\""));
        assert!(
            !found.is_empty() || !["id", "said", "at"].into_iter().any(is_asked),
            "{filter:?} finds nothing"
        );
    }
    assert_eq!(index.payload(69_999).unwrap(), payloads[69_999]);
    assert!(index.payload(70_000).is_err());
}

#[test]
fn other_fields_or_rows_than_written_are_refused() {
    let payloads = [record(1), record(2)];
    let (dir, _) = written(&declared(), &payloads, 1 << 30);
    let mut fields = declared();
    fields.remove("word");
    fields.insert("wort".into(), FieldType::Keyword);
    let open = |fields: &_, rows| PayloadIndex::open(dir.path(), fields, rows).unwrap_err().to_string();
    assert!(open(&fields, 2).contains("other fields"));
    assert!(open(&declared(), 3).contains("holds 2 rows"));
}

#[test]
fn payloads_that_fail_stop_the_writing() {
    let dir = tempfile::tempdir().unwrap();
    let mut cancelled = [Ok(Bytes::from_static(&[0])), Err(Fault::Cancelled)].into_iter();
    assert!(matches!(
        write(dir.path(), &declared(), Compression::Lz4, &mut cancelled),
        Err(Fault::Cancelled)
    ));
    let dir = tempfile::tempdir().unwrap();
    let mut damaged = std::iter::once(Ok(Bytes::from_static(&[1, 200])));
    assert!(matches!(
        write(dir.path(), &declared(), Compression::Lz4, &mut damaged),
        Err(Fault::Damaged { .. })
    ));
}

/// Reads all there is to read; an error is a fault, and what does not fail equals what was written.
fn read_all(dir: &Path, payloads: &[Payload]) -> Result<(), Fault> {
    let index = PayloadIndex::open(dir, &declared(), payloads.len() as u32)?;
    for filter in [
        Filter::Prefix("word".into(), String::new()),
        Filter::Glob("word".into(), "host-*7".into()),
        between("whole", 2, 9),
        between("real", 1.0, 30.0),
        Filter::Equal("truth".into(), true.into()),
        Filter::Exists("prose".into()),
        Filter::Phrase("prose".into(), "number 7 of the".into()),
        Filter::Phrase("said".into(), "7 machine".into()),
        Filter::Equal("id".into(), "00000000-0000-002A-0000-000000000000".into()),
        Filter::Within { field: "at".into(), lat: 52.0, lon: 13.4, radius_m: 1e6 },
        Filter::Equal("none".into(), 1.into()),
    ] {
        let filter = Compiled::new(&filter, &spec(declared())).unwrap();
        let found: Vec<u32> = index.matching(&filter, &row_of)?.iter().collect();
        assert_eq!(found, naive(&filter, payloads));
    }
    for (row, payload) in (0..).zip(payloads) {
        assert_eq!(index.payload(row)?, *payload);
    }
    Ok(())
}

#[test]
fn damage_anywhere_is_a_fault_and_never_a_panic() {
    let payloads: Vec<Payload> = (0..2_500).map(record).collect();
    let (dir, index) = written(&declared(), &payloads, 1 << 30);
    drop(index);
    read_all(dir.path(), &payloads).unwrap();
    for name in fs::read_dir(dir.path()).unwrap() {
        let path = dir.path().join(&name);
        let whole = fs::read(&path).unwrap();
        let mut places: Vec<usize> = (0..whole.len()).step_by(whole.len() / 7 + 1).collect();
        places.extend((1..=40).step_by(3).filter_map(|back| whole.len().checked_sub(back)));
        for at in places {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x41;
            fs::write_atomic(&path, &damaged).unwrap();
            match read_all(dir.path(), &payloads) {
                Err(Fault::Damaged { .. } | Fault::Newer { .. }) => {}
                Ok(()) => {
                    assert!(name.ends_with(".fieldnorm"), "{name}, {at}: unnoticed")
                }
                Err(other) => panic!("{name}, {at}: {other}"),
            }
        }
        for len in [0, 3, whole.len() / 2, whole.len() - 1] {
            fs::write_atomic(&path, &whole[..len]).unwrap();
            let error = read_all(dir.path(), &payloads).unwrap_err();
            assert!(matches!(error, Fault::Damaged { .. }), "{name} cut to {len}: {error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(read_all(dir.path(), &payloads).is_err(), "{name} removed");
        fs::write_atomic(&path, &whole).unwrap();
    }
    read_all(dir.path(), &payloads).unwrap();
}
