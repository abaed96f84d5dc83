use super::*;

fn spec() -> CollectionSpec {
    CollectionSpec {
        name: "vms".into(),
        vectors: Default::default(),
        fields: [
            ("cpu".into(), FieldType::Integer),
            ("on".into(), FieldType::Bool),
            ("made".into(), FieldType::Datetime),
            ("name".into(), FieldType::Keyword),
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
    assert!(unknown.contains("filter.cpus") && unknown.contains("declares only [cpu, made, name, on]"));
}
