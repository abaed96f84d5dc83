use super::*;
use crate::geo::EARTH_RADIUS_M;

fn spec() -> CollectionSpec {
    CollectionSpec {
        name: "vms".into(),
        vectors: Default::default(),
        fields: [
            ("cpu".into(), FieldType::Integer),
            ("on".into(), FieldType::Bool),
            ("made".into(), FieldType::Datetime),
            ("name".into(), FieldType::Keyword),
            ("id".into(), FieldType::Uuid),
            ("at".into(), FieldType::Geo),
            ("about".into(), FieldType::TextIn(Language::English)),
        ]
        .into(),
        partitions: 1,
        strict: false,
        ..Default::default()
    }
}

fn passes(filter: Filter, payload: &[(&str, Value)]) -> bool {
    let payload: Payload = payload.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    Compiled::new(&filter, &spec()).expect("a legal filter").matches(&Key::Number(1), &payload)
}

fn refused(filter: Filter) -> String {
    Compiled::new(&filter, &spec()).expect_err("refused").to_string()
}

fn equal(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Equal(field.into(), value.into())
}

#[test]
fn any_element_of_a_list_satisfies_a_leaf() {
    let tags = Value::List(vec!["a".into(), "b".into()]);
    assert!(passes(equal("tags", "b"), &[("tags", tags.clone())]));
    assert!(!passes(equal("tags", "c"), &[("tags", tags)]));
}

#[test]
fn nulls_and_missing_values_satisfy_nothing_but_not() {
    for payload in [&[("cpu", Value::Null)][..], &[]] {
        assert!(!passes(equal("cpu", 1), payload));
        assert!(!passes(Filter::Exists("cpu".into()), payload));
        assert!(passes(Filter::Not(Box::new(equal("cpu", 1))), payload));
    }
    assert!(!passes(Filter::Exists("l".into()), &[("l", Value::List(vec![]))]));
    assert!(passes(Filter::Exists("m".into()), &[("m", Value::Map(Payload::new()))]));
}

#[test]
fn numbers_compare_by_value_exactly() {
    let big = (1_i64 << 53) + 1;
    assert!(!passes(equal("x", (1_i64 << 53) as f64), &[("x", big.into())]));
    assert!(passes(equal("x", 2.0), &[("x", 2.into())]));
    let above = |v: f64| Filter::Range("x".into(), Bounds { gt: Some(v.into()), ..Bounds::default() });
    assert!(passes(above(1.5), &[("x", 2.into())]));
    assert!(!passes(above(2.5), &[("x", 2.into())]));
    assert!(passes(above(-2.5), &[("x", (-2).into())]));
    assert!(!passes(above(1e19), &[("x", i64::MAX.into())]));
    assert!(!passes(equal("x", "2"), &[("x", 2.into())]));
}

#[test]
fn a_datetime_field_compares_as_a_point_in_time() {
    let after = Filter::Range(
        "made".into(),
        Bounds { gte: Some("2026-01-01T00:00:00Z".into()), ..Bounds::default() },
    );
    assert!(passes(after.clone(), &[("made", "2026-01-01T01:00:00+01:00".into())]));
    assert!(passes(after.clone(), &[("made", 1_767_225_600_000_i64.into())]));
    assert!(!passes(after, &[("made", "2025-12-31T23:59:59.999Z".into())]));
}

#[test]
fn words_are_asked_of_one_text_value() {
    let holds = |query: &str, any: bool| Filter::Match { field: "name".into(), query: query.into(), any };
    let row = |query: &str| Filter::Phrase("name".into(), query.into());
    let texts =
        Value::List(vec![7.into(), Value::Null, "Upload failed, disk full".into(), "Disk swapped".into()]);
    for (filter, expected) in [
        (holds("DISK", false), true),
        (holds("full failed", false), true),
        (holds("upload swapped", false), false),
        (holds("upload swapped", true), true),
        (holds("full full", false), true),
        (holds("ful", true), false),
        (holds("7", true), false),
        (row("failed disk"), true),
        (row("Disk, full."), true),
        (row("disk failed"), false),
        (row("full disk"), false),
        (row("disk disk"), false),
    ] {
        assert_eq!(passes(filter.clone(), &[("name", texts.clone())]), expected, "{filter:?}");
        assert!(!passes(filter.clone(), &[("name", 7.into())]));
        assert_ne!(passes(Filter::Not(Box::new(filter)), &[("name", texts.clone())]), expected);
    }
    assert!(refused(holds("?!", true)).contains("filter.name.match: at least one word is needed"));
    assert!(refused(row("")).contains("filter.name.phrase: at least one word is needed"));
    assert!(refused(row(&"a".repeat(40))).contains("filter.name.phrase: at least one word"));
    assert!(refused(row(&format!("b {}", "a".repeat(40)))).contains("at most 39 bytes"));
    assert!(refused(holds(&"a ".repeat(65), true)).contains("65 words, the limit is 64"));
    assert!(refused(holds(&" ".repeat(5_000), true)).contains("5000 bytes, the limit is 4096"));
    let number = Filter::Match { field: "cpu".into(), query: "four".into(), any: false };
    assert!(refused(number).contains("filter.cpu.match: match needs text"));
    assert!(refused(Filter::Phrase("made".into(), "x".into())).contains("declared as datetime"));
}

#[test]
fn a_pattern_asks_text_values_only_and_the_whole_of_each() {
    let like = |pattern: &str| Filter::Glob("name".into(), pattern.into());
    let names = Value::List(vec![7.into(), Value::Null, "web-01".into(), "db-01".into()]);
    for (pattern, expected) in [("*", true), ("db*1", true), ("web", false), ("?", false), ("web-??", true)] {
        assert_eq!(passes(like(pattern), &[("name", names.clone())]), expected, "{pattern}");
        assert!(!passes(like(pattern), &[("name", 7.into())]));
        assert!(!passes(like(pattern), &[]));
    }
    assert!(passes(Filter::Not(Box::new(like("*"))), &[]));
    assert!(refused(Filter::Glob("cpu".into(), "1*".into())).contains("filter.cpu.glob: glob needs text"));
    assert!(refused(like("web\\")).contains("filter.name.glob: the pattern ends in a lone backslash"));
    assert!(refused(like(&"a".repeat(257))).contains("filter.name.glob: 257 bytes, the limit is 256"));
}

#[test]
fn uuids_compare_by_value_and_patterns_by_their_canonical_text() {
    let spelt = "{0191D2A4-7B3C-7DEF-8ABC-0123456789AB}";
    let between = |gte: &str, lt: &str| {
        Filter::Range("id".into(), Bounds { gte: Some(gte.into()), lt: Some(lt.into()), ..Bounds::default() })
    };
    for (filter, expected) in [
        (equal("id", "0191d2a47b3c7def8abc0123456789ab"), true),
        (equal("id", "urn:uuid:0191d2a4-7b3c-7def-8abc-0123456789ab"), true),
        (equal("id", "0191d2a4-7b3c-7def-8abc-0123456789ac"), false),
        (Filter::In("id".into(), vec!["0191D2A47B3C7DEF8ABC0123456789AB".into()]), true),
        (between("0191d2a47b3c7def8abc0123456789ab", "0191D2A4-7B3C-7DEF-8ABC-0123456789AC"), true),
        (between("0191d2a47b3c7def8abc0123456789ac", "ffffffffffffffffffffffffffffffff"), false),
        (Filter::Prefix("id".into(), "0191D2A4-".into()), true),
        (Filter::Prefix("id".into(), "{0191".into()), false),
        (Filter::Glob("id".into(), "????????-*-8ABC-*".into()), true),
        (Filter::Exists("id".into()), true),
    ] {
        let lists = Value::List(vec![7.into(), "no uuid".into(), spelt.into()]);
        assert_eq!(passes(filter.clone(), &[("id", spelt.into())]), expected, "{filter:?}");
        assert_eq!(passes(filter.clone(), &[("id", lists)]), expected, "{filter:?}");
        let none = matches!(filter, Filter::Exists(_));
        assert_eq!(passes(filter.clone(), &[("id", "0191d2a4-7b3c".into())]), none, "{filter:?}");
    }
    assert!(refused(equal("id", "0191")).contains("filter.id.equal: expected uuid (32 hexadecimal digits"));
    assert!(refused(equal("id", 7)).contains("got a value of type integer"));
    assert!(
        refused(Filter::Phrase("id".into(), "x".into()))
            .contains("phrase needs text, the field is declared as uuid")
    );
}

#[test]
fn points_are_asked_by_regions_only() {
    let near = |field: &str, lat: f64, lon: f64, radius_m: f64| Filter::Within {
        field: field.into(),
        lat,
        lon,
        radius_m,
    };
    let boxed = |field: &str, top: f64, left: f64, bottom: f64, right: f64| Filter::WithinBox {
        field: field.into(),
        top,
        left,
        bottom,
        right,
    };
    let berlin = || Value::List(vec![13.4.into(), 52.5.into()]);
    let map = |lat: f64, lon: f64| {
        Value::Map(Payload::from([("lat".into(), lat.into()), ("lon".into(), lon.into())]))
    };
    let degree = EARTH_RADIUS_M * std::f64::consts::PI / 180.0;
    for field in ["at", "undeclared"] {
        for (value, filter, expected) in [
            (berlin(), near(field, 52.5, 13.4, 0.0), true),
            (berlin(), near(field, 53.5, 13.4, degree + 1.0), true),
            (berlin(), near(field, 53.5, 13.4, degree - 1.0), false),
            (map(52.5, 13.4), near(field, 52.5, 13.5, 7_000.0), true),
            (Value::List(vec![map(0.0, 0.0), berlin()]), near(field, 52.5, 13.4, 10.0), true),
            (Value::List(vec![7.into(), berlin()]), near(field, 52.5, 13.4, 10.0), true),
            (map(0.0, -179.0), boxed(field, 1.0, 170.0, -1.0, -170.0), true),
            (map(0.0, -179.0), boxed(field, 1.0, -170.0, -1.0, 170.0), false),
            (map(91.0, 0.0), near(field, 0.0, 0.0, 1e9), false),
            (Value::List(vec![13.4.into(), 52.5.into(), 1.into()]), near(field, 0.0, 0.0, 1e9), false),
            ("52.5,13.4".into(), near(field, 0.0, 0.0, 1e9), false),
            (Value::Null, near(field, 0.0, 0.0, 1e9), false),
        ] {
            assert_eq!(passes(filter.clone(), &[(field, value.clone())]), expected, "{value:?} {filter:?}");
            assert_ne!(
                passes(Filter::Not(Box::new(filter)), &[(field, value.clone())]),
                expected,
                "{value:?}"
            );
        }
        assert!(!passes(near(field, 0.0, 0.0, 1e9), &[]));
    }
    assert!(passes(Filter::Exists("at".into()), &[("at", berlin())]));
    assert!(
        refused(near("at", 91.0, 0.0, 1.0)).contains("filter.at.within.lat: the latitude must be -90 to 90")
    );
    assert!(
        refused(boxed("at", 1.0, 0.0, 2.0, 0.0)).contains("filter.at.within_box.bottom: the bottom must not")
    );
    assert!(
        refused(near("cpu", 0.0, 0.0, 1.0)).contains("within needs points, the field is declared as integer")
    );
    for filter in [equal("at", 7), equal("at", map(1.0, 2.0)), Filter::In("at".into(), vec!["x".into()])] {
        assert!(refused(filter).contains("points are asked for by within, within_box and exists"));
    }
    let range = Filter::Range("at".into(), Bounds { gt: Some(1.into()), ..Bounds::default() });
    assert!(refused(range).contains("filter.at.gt: the field is declared as geo"));
    assert!(refused(Filter::Prefix("at".into(), "5".into())).contains("prefix needs text"));
}

#[test]
fn words_of_a_language_are_asked_by_their_stems() {
    let holds =
        |field: &str, query: &str| Filter::Match { field: field.into(), query: query.into(), any: false };
    let text = "The uploads were failing on connected hosts";
    for (query, by_stems) in
        [("upload fail", true), ("Uploading failed", true), ("connections", true), ("downloads", false)]
    {
        assert_eq!(passes(holds("about", query), &[("about", text.into())]), by_stems, "{query}");
        assert!(!passes(holds("name", query), &[("name", text.into())]), "{query}");
    }
    let row = |field: &str, query: &str| Filter::Phrase(field.into(), query.into());
    assert!(passes(row("about", "connection host"), &[("about", text.into())]));
    assert!(!passes(row("about", "host connection"), &[("about", text.into())]));
    assert!(!passes(row("name", "connection host"), &[("name", text.into())]));
    // A text as a whole is what is written.
    assert!(passes(Filter::Prefix("about".into(), "The uploads".into()), &[("about", text.into())]));
    assert!(passes(equal("about", text), &[("about", text.into())]));
}

#[test]
fn all_of_nothing_is_true_and_any_of_nothing_is_false() {
    assert!(passes(Filter::All(vec![]), &[]));
    assert!(!passes(Filter::Any(vec![]), &[]));
    assert!(passes(Filter::Keys(vec![2.into(), 1.into(), 1.into()]), &[]));
}

#[test]
fn illegal_filters_are_refused_by_field_limit_and_value() {
    assert!(
        refused(equal("cpu", "four"))
            .contains("filter.cpu.equal: expected integer, got a value of type text")
    );
    assert!(refused(equal("cpu", Value::Null)).contains("not exists"));
    assert!(refused(equal("made", "soon")).contains("expected datetime"));
    assert!(refused(Filter::Prefix("cpu".into(), "1".into())).contains("prefix needs text"));
    assert!(refused(Filter::Range("cpu".into(), Bounds::default())).contains("at least one of"));
    let both = Bounds { gt: Some(1.into()), gte: Some(1.into()), ..Bounds::default() };
    assert!(refused(Filter::Range("cpu".into(), both)).contains("one of gt and gte"));
    let mixed = Bounds { gt: Some(1.into()), lt: Some("a".into()), ..Bounds::default() };
    assert!(refused(Filter::Range("x".into(), mixed)).contains("different types"));
    let truth = Bounds { gt: Some(true.into()), ..Bounds::default() };
    assert!(refused(Filter::Range("on".into(), truth)).contains("no order"));
    let mut deep = equal("cpu", 1);
    for _ in 0..40 {
        deep = Filter::Not(Box::new(deep));
    }
    assert!(refused(deep).contains("levels, the limit is 32"));
    assert!(
        refused(Filter::All(vec![equal("cpu", 1); 1_024])).contains("1025 conditions, the limit is 1024")
    );
    assert!(
        refused(Filter::In("cpu".into(), vec![1.into(); 10_001]))
            .contains("10001 values, the limit is 10000")
    );
    let strict = CollectionSpec { strict: true, ..spec() };
    let unknown = Compiled::new(&equal("cpus", 1), &strict).expect_err("refused").to_string();
    assert!(
        unknown.contains("filter.cpus")
            && unknown.contains("declares only [about, at, cpu, id, made, name, on]")
    );
}

#[test]
fn a_stored_filter_keeps_the_place_of_its_kind() {
    let bounds = Bounds::default();
    let text = || "t".to_owned();
    let kinds = [
        Filter::All(vec![]),
        Filter::Any(vec![]),
        Filter::Not(Box::new(Filter::All(vec![]))),
        equal("a", 1),
        Filter::In(text(), vec![]),
        Filter::Range(text(), bounds),
        Filter::Prefix(text(), text()),
        Filter::Exists(text()),
        Filter::Keys(vec![]),
        Filter::Glob(text(), text()),
        Filter::Match { field: text(), query: text(), any: false },
        Filter::Phrase(text(), text()),
        Filter::Within { field: text(), lat: 1.0, lon: 2.0, radius_m: 3.0 },
        Filter::WithinBox { field: text(), top: 1.0, left: 2.0, bottom: 0.0, right: 3.0 },
    ];
    for (place, filter) in (0_u8..).zip(kinds) {
        let stored = postcard::to_stdvec(&filter).expect("a filter is stored");
        assert_eq!(stored.first(), Some(&place), "{filter:?}");
        assert_eq!(postcard::from_bytes(&stored), Ok(filter));
    }
}
