//! What texts mean, and that a filter written as text reads back the same.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

use super::*;
use crate::filter::{Bounds, Glob};
use crate::limits::*;
use crate::record::{Key, Value};

mod refused;

fn equal(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Equal(field.into(), value.into())
}

fn not(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
}

fn gt(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Range(field.into(), Bounds { gt: Some(value.into()), ..Bounds::default() })
}

fn gte(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Range(field.into(), Bounds { gte: Some(value.into()), ..Bounds::default() })
}

fn lt(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Range(field.into(), Bounds { lt: Some(value.into()), ..Bounds::default() })
}

fn lte(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Range(field.into(), Bounds { lte: Some(value.into()), ..Bounds::default() })
}

fn between(field: &str, from: impl Into<Value>, to: impl Into<Value>) -> Filter {
    Filter::Range(field.into(), Bounds { gte: Some(from.into()), lte: Some(to.into()), ..Bounds::default() })
}

fn among(field: &str, values: impl IntoIterator<Item = Value>) -> Filter {
    Filter::In(field.into(), values.into_iter().collect())
}

fn prefix(field: &str, prefix: &str) -> Filter {
    Filter::Prefix(field.into(), prefix.into())
}

fn glob(field: &str, pattern: &str) -> Filter {
    Filter::Glob(field.into(), pattern.into())
}

fn holds(field: &str, query: &str, any: bool) -> Filter {
    Filter::Match { field: field.into(), query: query.into(), any }
}

fn phrase(field: &str, query: &str) -> Filter {
    Filter::Phrase(field.into(), query.into())
}

fn exists(field: &str) -> Filter {
    Filter::Exists(field.into())
}

fn within(field: &str, lat: f64, lon: f64, radius_m: f64) -> Filter {
    Filter::Within { field: field.into(), lat, lon, radius_m }
}

fn within_box(field: &str, [top, left, bottom, right]: [f64; 4]) -> Filter {
    Filter::WithinBox { field: field.into(), top, left, bottom, right }
}

fn keys(keys: impl IntoIterator<Item = Key>) -> Filter {
    Filter::Keys(keys.into_iter().collect())
}

fn all(parts: impl IntoIterator<Item = Filter>) -> Filter {
    Filter::All(parts.into_iter().collect())
}

fn any(parts: impl IntoIterator<Item = Filter>) -> Filter {
    Filter::Any(parts.into_iter().collect())
}

fn chain(field: &str, bounds: Bounds) -> Filter {
    Filter::Range(field.into(), bounds)
}

/// Each text means the filter beside it, and the filter written as text reads back the same.
fn mean(table: impl IntoIterator<Item = (&'static str, Filter)>) {
    for (text, expected) in table {
        let read = parse(text).unwrap_or_else(|why| panic!("{why}\n{}", why.picture(text)));
        assert_eq!(read, expected, "{text}");
        assert_eq!(parse(&print(&read)), Ok(read), "{text}");
    }
}

#[test]
fn words_of_a_text() {
    mean([
        ("subject match \"upload failed\"", holds("subject", "upload failed", false)),
        ("subject match all 'upload failed'", holds("subject", "upload failed", false)),
        ("subject MATCH Any \"a b\"", holds("subject", "a b", true)),
        ("subject phrase \"Disk \\\"full\\\"\"", phrase("subject", "Disk \"full\"")),
        ("subject not match \"a\"", not(holds("subject", "a", false))),
        ("subject not match any \"a b\"", not(holds("subject", "a b", true))),
        ("subject not phrase \"a b\"", not(phrase("subject", "a b"))),
        ("not (subject phrase \"a b\")", not(phrase("subject", "a b"))),
        ("match match 'a' and any = 1", all([holds("match", "a", false), equal("any", 1)])),
        ("phrase phrase 'a' or all = 1", any([phrase("phrase", "a"), equal("all", 1)])),
    ]);
}

#[test]
fn points_of_a_region() {
    mean([
        ("within(at, 52.5, 13.4, 1000)", within("at", 52.5, 13.4, 1000.0)),
        ("WITHIN ( office.at , -52.5 , -13 , 1e3 )", within("office.at", -52.5, -13.0, 1000.0)),
        ("not within(at, 0, 0, 0)", not(within("at", 0.0, 0.0, 0.0))),
        ("within_box(at, 53, 13, 52.25, 14)", within_box("at", [53.0, 13.0, 52.25, 14.0])),
        ("Within_Box(`a b`,10,170,-10,-170)", within_box("a b", [10.0, 170.0, -10.0, -170.0])),
        (
            "within(at, 1, 2, 3) and within = 7 or exists within_box",
            any([all([within("at", 1.0, 2.0, 3.0), equal("within", 7)]), exists("within_box")]),
        ),
        ("within(within, 1, 2, 3)", within("within", 1.0, 2.0, 3.0)),
    ]);
    assert_eq!(print(&not(within("at", 1.0, -2.5, 1e300))), "not within(at, 1.0, -2.5, 1e300)");
}

#[test]
fn comparisons() {
    mean([
        ("cpu = 8", equal("cpu", 8)),
        ("cpu=8", equal("cpu", 8)),
        ("  cpu\n\t=\r\n 8 ", equal("cpu", 8)),
        ("cpu = -8", equal("cpu", -8)),
        ("cpu=-8", equal("cpu", -8)),
        ("cpu = 007", equal("cpu", 7)),
        ("cpu = 9223372036854775807", equal("cpu", i64::MAX)),
        ("cpu = -9223372036854775808", equal("cpu", i64::MIN)),
        ("load = 8.0", equal("load", 8.0)),
        ("load = -0.5", equal("load", -0.5)),
        ("load = 1e3", equal("load", 1000.0)),
        ("load = 1.5E-3", equal("load", 0.0015)),
        ("load = 2e+2", equal("load", 200.0)),
        ("load = 9223372036854775808.0", equal("load", 9_223_372_036_854_775_808.0)),
        ("on = true", equal("on", true)),
        ("on = FALSE", equal("on", false)),
        ("cpu != 8", not(equal("cpu", 8))),
        ("cpu <> 8", not(equal("cpu", 8))),
        ("cpu < 8", lt("cpu", 8)),
        ("cpu <= 8", lte("cpu", 8)),
        ("cpu > 8", gt("cpu", 8)),
        ("cpu>=8", gte("cpu", 8)),
        ("made >= \"2026-01-01T00:00:00Z\"", gte("made", "2026-01-01T00:00:00Z")),
        ("cpu between 2 and 4", between("cpu", 2, 4)),
        ("cpu BETWEEN 2 AND 4.5", between("cpu", 2, 4.5)),
        ("cpu not between 2 and 4", not(between("cpu", 2, 4))),
        ("name between 'a' and 'b' and cpu = 1", all([between("name", "a", "b"), equal("cpu", 1)])),
    ]);
}

#[test]
fn chains_ask_one_value_for_both_bounds() {
    let half_open = Bounds { gte: Some(8.into()), lt: Some(64.into()), ..Bounds::default() };
    let open = Bounds { gt: Some(0.5.into()), lt: Some(1.into()), ..Bounds::default() };
    let other_half = Bounds { gt: Some("a".into()), lte: Some("b".into()), ..Bounds::default() };
    mean([
        ("8 <= cpu < 64", chain("cpu", half_open.clone())),
        ("64 > cpu >= 8", chain("cpu", half_open)),
        ("0.5 < load < 1", chain("load", open)),
        ("'a' < name <= 'b'", chain("name", other_half)),
        ("8 <= cpu <= 64", between("cpu", 8, 64)),
        ("8 <= cpu", gte("cpu", 8)),
        ("8 < cpu", gt("cpu", 8)),
        ("8 >= cpu", lte("cpu", 8)),
        ("8 > cpu", lt("cpu", 8)),
        ("cpu >= 8 and cpu < 64", all([gte("cpu", 8), lt("cpu", 64)])),
    ]);
}

#[test]
fn lists_and_existence() {
    mean([
        ("tags in (\"prod\", 'dmz')", among("tags", ["prod".into(), "dmz".into()])),
        ("tags IN(1,2.5,true)", among("tags", [1.into(), 2.5.into(), true.into()])),
        ("tags in ()", among("tags", [])),
        ("tags in (1)", among("tags", [1.into()])),
        ("tags not in (1)", not(among("tags", [1.into()]))),
        ("exists owner", exists("owner")),
        ("not exists owner", not(exists("owner"))),
        ("owner is null", not(exists("owner"))),
        ("owner IS NOT NULL", exists("owner")),
        ("owner is not null and owner != ''", all([exists("owner"), not(equal("owner", ""))])),
    ]);
}

#[test]
fn texts_and_their_escapes() {
    mean([
        ("a = \"it's\"", equal("a", "it's")),
        ("a = 'say \"x\"'", equal("a", "say \"x\"")),
        (r#"a = "say \"x\"""#, equal("a", "say \"x\"")),
        (r"a = 'it\'s'", equal("a", "it's")),
        (r"a = 'x\n\r\t\\y'", equal("a", "x\n\r\t\\y")),
        (r"a = '\u{e4}\u{1F600}\u{0}'", equal("a", "ä😀\0")),
        ("a = 'zwei\nZeilen'", equal("a", "zwei\nZeilen")),
        ("a = '*?'", equal("a", "*?")),
        ("a = ''", equal("a", "")),
    ]);
}

#[test]
fn patterns() {
    mean([
        ("name ~ \"web*\"", prefix("name", "web")),
        ("name~'web*'", prefix("name", "web")),
        ("name ~ '*'", prefix("name", "")),
        ("name ~ 'web**'", prefix("name", "web")),
        (r"name ~ 'we\*b*'", prefix("name", "we*b")),
        (r"name ~ 'we\\b*'", prefix("name", r"we\b")),
        ("name !~ 'web*'", not(prefix("name", "web"))),
        ("name ~ 'web'", glob("name", "web")),
        ("name ~ ''", glob("name", "")),
        ("name ~ '*web'", glob("name", "*web")),
        ("name ~ 'w*b*'", glob("name", "w*b*")),
        ("name ~ 'we?'", glob("name", "we?")),
        ("name ~ 'we?*'", glob("name", "we?*")),
        (r"name ~ 'web\*'", glob("name", r"web\*")),
        (r"name ~ '?\?\*\\'", glob("name", r"?\?\*\\")),
        (r"name ~ '?\u{2a}\u{e4}\n\''", glob("name", "?\\*ä\n'")),
        ("name !~ '*db?'", not(glob("name", "*db?"))),
    ]);
}

#[test]
fn keys_are_asked_by_the_word_key() {
    mean([
        ("key = 7", keys([7.into()])),
        ("KEY = 'a'", keys(["a".into()])),
        ("key = 18446744073709551615", keys([u64::MAX.into()])),
        ("key in (1, \"a\")", keys([1.into(), "a".into()])),
        ("key in ()", keys([])),
        ("key != 7", not(keys([7.into()]))),
        ("key <> 7", not(keys([7.into()]))),
        ("key not in (1, 2)", not(keys([1.into(), 2.into()]))),
        ("`key` = 7", equal("key", 7)),
        ("key.a = 7", equal("key.a", 7)),
        ("a.key = 7", equal("a.key", 7)),
        ("keys = 7", equal("keys", 7)),
    ]);
}

#[test]
fn paths() {
    mean([
        ("hardware.version = 13", equal("hardware.version", 13)),
        ("disks.0.free-gb = 1", equal("disks.0.free-gb", 1)),
        ("_x = 1", equal("_x", 1)),
        ("größe = 1", equal("größe", 1)),
        ("`power state` = 'on'", equal("power state", "on")),
        ("a.`b c`.d = 1", equal("a.b c.d", 1)),
        ("`2fa` = true", equal("2fa", true)),
        ("`in` in (1)", among("in", [1.into()])),
        ("exists `not`", exists("not")),
        ("`not`.a = 1", equal("not.a", 1)),
        ("not.a = 1", equal("not.a", 1)),
        ("```quoted``` = 1", equal("`quoted`", 1)),
        ("exists `a\"(=\\`", exists("a\"(=\\")),
    ]);
}

#[test]
fn conditions_put_together() {
    let (a, b, c, d) = (|| equal("a", 1), || equal("b", 2), || equal("c", 3), || equal("d", 4));
    mean([
        (
            "power_state = \"on\" and cpu >= 8 and name ~ \"web*\"",
            all([equal("power_state", "on"), gte("cpu", 8), prefix("name", "web")]),
        ),
        ("a = 1 or b = 2 or c = 3", any([a(), b(), c()])),
        ("a = 1 or b = 2 and c = 3", any([a(), all([b(), c()])])),
        ("a = 1 AND b = 2 OR c = 3 And d = 4", any([all([a(), b()]), all([c(), d()])])),
        ("(a = 1 or b = 2) and c = 3", all([any([a(), b()]), c()])),
        ("a = 1 and (b = 2 and c = 3)", all([a(), all([b(), c()])])),
        ("((a = 1))", a()),
        ("not a = 1", not(a())),
        ("not a = 1 and b = 2", all([not(a()), b()])),
        ("not (a = 1 and b = 2)", not(all([a(), b()]))),
        ("not(a=1)or not not b=2", any([not(a()), not(not(b()))])),
        ("not a != 1", not(not(a()))),
        ("not cpu > 8", not(gt("cpu", 8))),
        ("not 8 < cpu", not(gt("cpu", 8))),
        ("true", all([])),
        ("false", any([])),
        ("not true or a = 1", any([not(all([])), a()])),
    ]);
}

#[test]
fn what_is_just_within_the_bounds_is_read() {
    let deep = format!("{}a = 1{}", "not (".repeat(FILTER_DEPTH_MAX - 1), ")".repeat(FILTER_DEPTH_MAX - 1));
    assert!(parse(&deep).is_ok());
    let brackets = format!("{}a = 1{}", "(".repeat(NESTING_MAX), ")".repeat(NESTING_MAX));
    assert_eq!(parse(&brackets), Ok(equal("a", 1)));
    let wide = vec!["a = 1"; FILTER_NODES_MAX - 1].join(" or ");
    assert!(parse(&wide).is_ok());
    let values = format!("a in ({})", vec!["1"; FILTER_VALUES_MAX].join(","));
    assert!(parse(&values).is_ok());
    let path = "a".repeat(NAME_BYTES_MAX);
    assert_eq!(parse(&format!("exists {path}")), Ok(exists(&path)));
    let pattern = format!("?{}", "ä".repeat((GLOB_BYTES_MAX - 1) / 2));
    assert_eq!(parse(&format!("a ~ '{pattern}'")), Ok(glob("a", &pattern)));
    // A prefix is none of the patterns that take long.
    let long = "ab".repeat(GLOB_BYTES_MAX);
    assert_eq!(parse(&format!("a ~ '{long}*'")), Ok(prefix("a", &long)));
    let text = format!("a = 1{}", " ".repeat(FILTER_TEXT_BYTES_MAX - 5));
    assert_eq!(parse(&text), Ok(equal("a", 1)));
}

#[test]
fn filters_are_written_for_people() {
    for (filter, text) in [
        (any([all([equal("a", 1), not(exists("b"))]), gt("c", 0.5)]), "a = 1 and b is null or c > 0.5"),
        (
            all([any([equal("a", 1), equal("b", 2)]), equal("c", "x\"y\n")]),
            r#"(a = 1 or b = 2) and c = "x\"y\n""#,
        ),
        (not(any([equal("a", 1), keys([1.into(), "b".into()])])), r#"not (a = 1 or key in (1, "b"))"#),
        (all([equal("a.b c.in", true)]), "a.`b c`.in = true"),
        (not(between("a", 1, 2)), "not a between 1 and 2"),
        (glob("a", r"\*\x?"), r#"a ~ "\*x?""#),
        (prefix("a", r"*\"), r#"a ~ "\*\\*""#),
        (all([all([]), any([any([])])]), "true and false"),
        (equal("a", 1e300), "a = 1e300"),
        (equal("`", "\u{7f}"), "```` = \"\\u{7f}\""),
        // What no collection takes.
        (equal("a..b", Value::Null), "a.``.b = null"),
        (equal("a", Value::List(vec![1.into(), f64::NAN.into()])), "a = (1, NaN)"),
        (chain("a", Bounds::default()), "a"),
        (glob("a", "\\"), "a ~ \"\\\""),
    ] {
        assert_eq!(print(&filter), text);
    }
}

fn text() -> impl Strategy<Value = String> {
    let special = vec![
        '"', '\'', '\\', '*', '?', '`', '\n', '\t', '\0', 'a', 'b', '1', ' ', 'ä', '日', '😀', 'u', '{', '}',
    ];
    prop::collection::vec(prop_oneof![4 => select(special), 1 => proptest::char::any()], 0..8)
        .prop_map(String::from_iter)
}

fn name() -> impl Strategy<Value = String> {
    let words =
        ["a", "cpu", "b-1", "_", "key", "in", "Not", "null", "true", "2fa", "0", "-", "a b", "`", "größe"];
    let odd = text().prop_map(|text| text.replace('.', ""));
    prop_oneof![4 => select(words.to_vec()).prop_map(str::to_owned), 1 => odd]
        .prop_map(|name| if name.is_empty() { "x".to_owned() } else { name })
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..4).prop_map(|names| names.join("."))
}

fn ordered() -> impl Strategy<Value = Value> {
    let floats = vec![0.0, -0.0, 0.1, -1.5, 1e300, 5e-324, f64::MAX, f64::MIN, 1e15, 1e16, 1e17];
    prop_oneof![
        any_i64().prop_map(Value::Int),
        select(floats).prop_map(Value::Float),
        proptest::num::f64::NORMAL.prop_map(Value::Float),
        text().prop_map(Value::Text),
    ]
}

fn any_i64() -> impl Strategy<Value = i64> {
    prop_oneof![-9_i64..10, select(vec![i64::MIN, i64::MAX]), proptest::num::i64::ANY]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![4 => ordered(), 1 => proptest::bool::ANY.prop_map(Value::Bool)]
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        proptest::num::u64::ANY.prop_map(Key::Number),
        text().prop_map(|text| Key::Text(format!("k{text}"))),
    ]
}

fn bounds() -> impl Strategy<Value = Bounds> {
    let end = || prop::option::of((ordered(), proptest::bool::ANY));
    (end(), end(), ordered()).prop_map(|(from, to, other)| {
        let mut bounds = Bounds::default();
        let from = if from.is_none() && to.is_none() { Some((other, true)) } else { from };
        if let Some((value, is_closed)) = from {
            *(if is_closed { &mut bounds.gte } else { &mut bounds.gt }) = Some(value);
        }
        if let Some((value, is_closed)) = to {
            *(if is_closed { &mut bounds.lte } else { &mut bounds.lt }) = Some(value);
        }
        bounds
    })
}

fn pattern() -> impl Strategy<Value = String> {
    let escaped =
        |char: char| if matches!(char, '*' | '?' | '\\') { format!("\\{char}") } else { char.to_string() };
    let plain = text().prop_map(move |text| text.chars().map(escaped).collect::<String>());
    let piece = prop_oneof![2 => plain, 1 => select(vec!["*", "?"]).prop_map(str::to_owned)];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

fn degrees(most: f64) -> impl Strategy<Value = f64> {
    prop_oneof![-most..=most, select(vec![-most, most, 0.0, -0.0, 1e-7, 5e-324])]
}

fn radius() -> impl Strategy<Value = f64> {
    prop_oneof![0.0..3e7_f64, select(vec![0.0, 5e-324, 1e300, f64::MAX])]
}

fn filter() -> impl Strategy<Value = Filter> {
    let leaf = prop_oneof![
        (path(), value()).prop_map(|(path, value)| Filter::Equal(path, value)),
        (path(), prop::collection::vec(value(), 0..4)).prop_map(|(path, values)| Filter::In(path, values)),
        (path(), bounds()).prop_map(|(path, bounds)| Filter::Range(path, bounds)),
        (path(), text()).prop_map(|(path, prefix)| Filter::Prefix(path, prefix)),
        (path(), pattern()).prop_map(|(path, pattern)| Filter::Glob(path, pattern)),
        (path(), text(), proptest::bool::ANY).prop_map(|(field, text, any)| Filter::Match {
            field,
            query: format!("w {text}"),
            any
        }),
        (path(), text()).prop_map(|(path, text)| Filter::Phrase(path, format!("w {text}"))),
        path().prop_map(Filter::Exists),
        (path(), degrees(90.0), degrees(180.0), radius())
            .prop_map(|(field, lat, lon, radius_m)| { Filter::Within { field, lat, lon, radius_m } }),
        (path(), degrees(90.0), degrees(180.0), degrees(90.0), degrees(180.0)).prop_map(
            |(field, one, left, other, right)| {
                let (top, bottom) = if one >= other { (one, other) } else { (other, one) };
                Filter::WithinBox { field, top, left, bottom, right }
            }
        ),
        prop::collection::vec(key(), 0..3).prop_map(Filter::Keys),
    ];
    leaf.prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::All),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::Any),
            inner.prop_map(not),
        ]
    })
}

/// The filter as a text says it: no list of one part, and a prefix where a pattern is one.
fn plain(filter: Filter) -> Filter {
    let each = |parts: Vec<Filter>| parts.into_iter().map(plain).collect::<Vec<_>>();
    match filter {
        Filter::All(mut parts) | Filter::Any(mut parts) if parts.len() == 1 => plain(parts.remove(0)),
        Filter::All(parts) => Filter::All(each(parts)),
        Filter::Any(parts) => Filter::Any(each(parts)),
        Filter::Not(part) => not(plain(*part)),
        Filter::Glob(path, pattern) => match Glob::new(&pattern).unwrap().prefix() {
            Some(prefix) => Filter::Prefix(path, prefix),
            None => Filter::Glob(path, pattern),
        },
        leaf => leaf,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x7465_7874),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_filter_written_as_text_reads_back_the_same(filter in filter()) {
        let text = print(&filter);
        let read = parse(&text).map_err(|why| TestCaseError::fail(format!("{why}\n{}", why.picture(&text))))?;
        // Compared as they are told: of two zeros, each is itself.
        prop_assert_eq!(format!("{:?}", read), format!("{:?}", plain(filter)), "{}", text);
    }

    #[test]
    fn a_text_cut_or_changed_is_read_or_told_with_its_place(
        filter in filter(),
        at in proptest::num::usize::ANY,
        put in select(vec!["", "(", ")", "\"", "'", "`", "\\", ",", "not ", " and ", ".", "=", "<", "1", "\n", "ä"]),
        is_cut in proptest::bool::ANY,
    ) {
        let chars: Vec<char> = print(&filter).chars().collect();
        let at = at % (chars.len() + 1);
        let rest = if is_cut { &[][..] } else { &chars[at..] };
        let text: String = chars[..at].iter().copied().chain(put.chars()).chain(rest.iter().copied()).collect();
        match parse(&text) {
            Ok(read) => prop_assert_eq!(format!("{:?}", parse(&print(&read))), format!("{:?}", Ok::<_, SyntaxError>(read))),
            Err(why) => {
                let line = text.split('\n').nth(why.line - 1).unwrap_or_default();
                prop_assert!(why.column <= line.chars().count() + 1, "{}", why);
                prop_assert_eq!(why.picture(&text).lines().count(), 2);
                prop_assert!(!why.what.is_empty() && !why.what.contains('\n'), "{}", why);
            }
        }
    }
}
