//! Texts that are no filter: where it is told, and in which words.

use super::*;

/// Each text is refused at the column, with the words.
fn refuse(table: &[(&str, usize, &str)]) {
    for (text, column, words) in table {
        let why = parse(text).expect_err(text);
        assert_eq!((why.line, why.column), (1, *column), "{text}: {why}");
        assert!(why.what.contains(words), "{text}: {why}");
        assert!(!why.what.contains('\n'), "{text}: {why}");
    }
}

#[test]
fn what_is_missing_is_told_where_it_is_missing() {
    refuse(&[
        ("", 1, "a condition is needed, such as cpu >= 8"),
        ("   ", 4, "a condition is needed"),
        ("cpu", 4, "what is asked of cpu? A truth value is asked for by cpu = true"),
        ("cpu and on = true", 5, "what is asked of cpu?"),
        ("(cpu)", 5, "what is asked of cpu?"),
        ("cpu =", 6, "expected a value, found the end"),
        ("cpu >= and on = true", 8, "expected a value, found `and`"),
        ("cpu = 8 and", 12, "expected a condition, found the end"),
        ("cpu = 8 or or", 12, "expected a condition, found `or`"),
        ("not", 4, "expected a condition, found the end"),
        ("()", 2, "expected a condition, found `)`"),
        ("(cpu = 8", 9, "expected `and`, `or` or the `)` for the `(` in column 1, found the end"),
        ("a = 1 and (b = 2 c = 3)", 18, "the `)` for the `(` in column 11, found `c`"),
        ("cpu = 8)", 8, "this `)` closes nothing"),
        ("cpu = 8 on = true", 9, "expected `and`, `or` or the end, found `on`"),
        ("a = 1, b = 2", 6, "expected `and`, `or` or the end, found `,`"),
        ("= 8", 1, "expected a condition, found `=`"),
        ("exists", 7, "expected a field, found the end"),
        ("exists (a)", 8, "expected a field, found `(`"),
        ("cpu in", 7, "expected `(` before the values, found the end"),
        ("cpu in 8", 8, "expected `(` before the values, found 8"),
        ("cpu in (1 2)", 11, "expected `,` or the `)` for the `(` in column 8, found 2"),
        ("cpu in (1,", 11, "expected a value, found the end"),
        ("cpu in (1,)", 11, "expected a value, found `)`"),
        ("cpu between 1", 14, "expected `and` between the bounds, found the end"),
        ("cpu between 1 or 2", 15, "expected `and` between the bounds, found `or`"),
        ("cpu is 8", 8, "expected `null` or `not null`; equality is `=`, found 8"),
        ("cpu not 8", 5, "behind a field, `not` goes before `in`, `between`, `match` or `phrase`"),
        ("name match", 11, "expected words in quotes, such as \"disk full\", found the end"),
        ("name match any", 15, "expected words in quotes"),
        ("name match 7", 12, "expected words in quotes, such as \"disk full\", found 7"),
        ("name phrase any 'a'", 13, "expected words in quotes"),
        ("name match '?!'", 12, "the words: at least one word is needed"),
        ("name phrase ''", 13, "the words: at least one word is needed"),
    ]);
}

#[test]
fn regions_that_are_none() {
    refuse(&[
        ("within", 7, "what is asked of within?"),
        ("within(", 8, "expected a field, found the end"),
        ("within()", 8, "expected a field, found `)`"),
        ("within(52.5, 13.4, 1000)", 8, "expected a field, found 52.5"),
        ("within(at)", 10, "expected `,` and a number, lat, found `)`"),
        ("within(at, 'x', 13, 1000)", 12, "expected a number, lat, found 'x'"),
        ("within(at, 52.5 13.4, 1000)", 17, "expected `,` and a number, lon, found 13.4"),
        ("within(at, 52.5, lon, 1000)", 18, "expected a number, lon, found `lon`"),
        ("within(at, 52.5, 13.4)", 22, "expected `,` and a number, radius_m, found `)`"),
        ("within(at, 52.5, 13.4, 1000, 1)", 28, "expected the `)` behind the numbers, found `,`"),
        ("within(at, 52.5, 13.4, 1000", 28, "expected the `)` behind the numbers, found the end"),
        ("within(at, 91, 13.4, 1000)", 12, "the latitude must be -90 to 90, got 91"),
        ("a = 1 and within(at, 52.5, -180.5, 1000)", 28, "the longitude must be -180 to 180, got -180.5"),
        ("within(at, 52.5, 13.4, -1)", 24, "the radius must be 0 metres or more, got -1"),
        ("within_box(at, 52, 13, 53, 14)", 24, "the bottom must not lie north of the top, 52, got 53"),
        ("within_box(at, 53, 13, 52, 181)", 28, "the longitude must be -180 to 180, got 181"),
        ("within_box(at, 53, 13, 52)", 26, "expected `,` and a number, right, found `)`"),
        ("at within (52, 13, 1000)", 4, "points near another one are within(field, lat, lon, radius_m)"),
        ("at near 7", 4, "points near another one are within(field, lat, lon, radius_m)"),
        ("distance(at, 52)", 9, "expected a comparison behind distance"),
        ("within (at, 1, 2, 1e999)", 19, "1e999 is too large for a float"),
    ]);
}

#[test]
fn values_that_are_none() {
    refuse(&[
        ("owner = null", 9, "null equals nothing; write owner is null, or owner is not null"),
        ("`in` != NULL", 9, "write `in` is null"),
        ("owner in ('a', null)", 16, "null equals nothing"),
        ("power_state = on", 15, "expected a value, found `on`; text stands in quotes"),
        ("a = b.c", 5, "fields are not compared with each other"),
        (
            "cpu = 9223372036854775808",
            7,
            "does not fit an integer, -9223372036854775808 to 9223372036854775807",
        ),
        ("cpu = -9223372036854775809", 7, "with `.0` behind it is a float"),
        ("load = 1e999", 8, "1e999 is too large for a float"),
        ("cpu = 1.", 7, "1. is no number"),
        ("cpu = 1e", 7, "1e is no number"),
        ("cpu = -", 7, "- is no number"),
        ("cpu = 8cpu", 7, "8cpu is no number"),
        ("made > 2026-01-01", 8, "2026-01-01 is no number; text stands in quotes"),
        ("2fa = true", 1, "a name that begins so in backquotes"),
        ("cpu = .5", 7, "a step is empty"),
        ("on > true", 6, "booleans have no order"),
        ("on between false and true", 12, "booleans have no order"),
        ("key = -1", 7, "a key is text or a whole number, 0 to 18446744073709551615, not -1"),
        ("key = 1.5", 7, "not 1.5"),
        ("key = ''", 7, "a text key has at least 1 byte"),
        ("key = true", 7, "expected a key: a whole number, or text in quotes, found `true`"),
        ("key in (1, null)", 12, "expected a key"),
        ("key in 7", 8, "expected `(` before the keys"),
        ("key > 7", 5, "by `=`, `!=`, `in` and `not in` only"),
        ("key ~ 'a*'", 5, "a field of this name stands in backquotes"),
        ("key is null", 5, "every record has a key"),
        ("exists key", 8, "`key` is a word of the language; a field of this name stands in backquotes"),
        ("key", 4, "by `=`, `!=`, `in` and `not in` only"),
    ]);
}

#[test]
fn texts_patterns_and_paths_that_are_none() {
    refuse(&[
        ("a = \"web", 5, "the text that begins here has no closing \""),
        ("a = 'it's'", 9, "expected `and`, `or` or the end, found `s`"),
        ("a = 'it'''s'", 9, "expected `and`, `or` or the end, found ''"),
        (r"a = 'web\'", 5, "has no closing '"),
        (r"a = 'C:\dir'", 8, r"\d is no escape; there are \n \r \t"),
        (r"a = 'ä\x'", 7, r"\x is no escape"),
        (r"a = '\u{}'", 6, r"is written \u{1f600}"),
        (r"a = '\u{d800}'", 6, r"is written \u{1f600}"),
        (r"a = '\u{1234567}'", 6, r"is written \u{1f600}"),
        (r"a = 'b\u0041'", 7, r"is written \u{1f600}"),
        (r"a = 'b\*'", 7, r"\* is an escape of patterns only"),
        ("name ~ web", 8, "expected a pattern in quotes, such as \"web*\", found `web`"),
        ("name ~ 7", 8, "expected a pattern in quotes"),
        ("a..b = 1", 1, "`a..b` is not a dotted path: a step is empty"),
        (".a = 1", 1, "a step is empty"),
        ("b = 1 and a. = 1", 11, "a step is empty"),
        ("`a = 1", 1, "the name that begins here has no closing backquote"),
        ("a.`` = 1", 3, "a name is empty"),
        ("`a.b` = 1", 3, "a name holds no dot"),
        ("in = 5", 1, "expected a condition, found `in`"),
        ("8 <= null", 6, "`null` is a word of the language"),
    ]);
}

#[test]
fn what_is_written_elsewhere_is_answered_with_what_is_written_here() {
    refuse(&[
        ("cpu == 8", 5, "equality is `=`"),
        ("cpu => 8", 5, "greater or equal is `>=`"),
        ("cpu =< 8", 5, "less or equal is `<=`"),
        ("cpu ≥ 8", 5, "write `>=`"),
        ("name =~ 'x'", 6, "a pattern comes after `~`"),
        ("a = 1 && b = 2", 7, "write `and`"),
        ("a = 1 || b = 2", 7, "write `or`"),
        ("!(a = 1)", 1, "write `not`, or one of `!=` and `!~`"),
        ("a in [1, 2]", 6, "a list stands in round brackets"),
        ("a = “x”", 5, "text stands in straight quotes"),
        ("a = 1; b = 2", 6, "the character ';' has no meaning here"),
        ("größe = %", 9, "the character '%' has no meaning here"),
        ("name like 'web%'", 6, "a pattern comes after `~`"),
        ("name starts with 'web'", 6, "how a text starts is written ~ \"web*\""),
        ("name contains 'web'", 6, "~ \"*web*\""),
        ("cpu GTE 8", 5, "greater or equal is `>=`"),
        ("cpu of 8", 5, "expected a comparison behind cpu"),
        ("cpu 8", 5, "not in, between, is, match, phrase), found 8"),
        ("8 = cpu", 3, "a field stands before its value, as in cpu = 8"),
        ("8", 2, "not the end"),
        ("8 < cpu > 4", 9, "a chain goes one way"),
        ("8 < cpu = 4", 9, "expected `and`, `or` or the end, found `=`"),
        ("8 < 9", 5, "expected a field, found 9"),
        ("cpu > 4 < 9", 9, "expected `and`, `or` or the end, found `<`"),
    ]);
}

#[test]
fn no_text_is_read_beyond_the_bounds() {
    let nots = "not ".repeat(FILTER_DEPTH_MAX) + "a = 1";
    refuse(&[(&nots, 1, "33 levels, the limit is 32")]);
    let mixed = "a = 1 and (b = 1 or ".repeat(16) + "c = 1" + &")".repeat(16);
    refuse(&[(&mixed, 7, "33 levels, the limit is 32")]);
    for open in ["(", "not "] {
        let deep = open.repeat(NESTING_MAX + 1);
        refuse(&[(&deep, NESTING_MAX * open.len() + 1, "65 brackets and `not`s inside each other")]);
        refuse(&[(&open.repeat(200_000), NESTING_MAX * open.len() + 1, "the limit is 64")]);
    }
    let wide = vec!["a = 1"; FILTER_NODES_MAX + 1].join(" or ");
    refuse(&[(&wide, FILTER_NODES_MAX * 9 + 1, "1025 conditions, the limit is 1024")]);
    // The list itself is one too.
    let wide = vec!["a = 1"; FILTER_NODES_MAX].join(" or ");
    refuse(&[(&wide, 7, "1025 conditions, the limit is 1024")]);
    let values = format!("a in ({}", "1,".repeat(FILTER_VALUES_MAX + 1));
    refuse(&[(&values, 7 + 2 * FILTER_VALUES_MAX, "10001 values, the limit is 10000")]);
    let keys = format!("key in ({}", "1,".repeat(FILTER_VALUES_MAX + 1));
    refuse(&[(&keys, 9 + 2 * FILTER_VALUES_MAX, "10001 keys, the limit is 10000")]);
    let path = format!("a = 1 or {} = 1", "b".repeat(NAME_BYTES_MAX + 1));
    refuse(&[(&path, 10, "256 bytes, the limit is 255")]);
    let key = format!("key = '{}'", "k".repeat(KEY_BYTES_MAX + 1));
    refuse(&[(&key, 7, "1025 bytes, the limit is 1024")]);
    let pattern = format!("a ~ '*{}'", "p".repeat(GLOB_BYTES_MAX));
    refuse(&[(&pattern, 5, "the pattern has 257 bytes, the limit is 256")]);
    let long = " ".repeat(FILTER_TEXT_BYTES_MAX + 1);
    refuse(&[(&long, 1, "the text has 1048577 bytes, the limit is 1048576")]);
}

#[test]
fn an_error_tells_its_line_and_column_and_draws_them() {
    let text = "power_state = \"on\" and cpu => 8";
    let why = parse(text).expect_err(text);
    assert_eq!(why.to_string(), "column 28: greater or equal is `>=`");
    assert_eq!(why.picture(text), format!("{text}\n                           ^"));

    let text = "größe = 1\n\tand 日本 = on\nand a = 1";
    let why = parse(text).expect_err(text);
    assert!(why.to_string().starts_with("line 2, column 11: expected a value, found `on`"), "{why}");
    assert_eq!(why.picture(text), " and 日本 = on\n          ^");

    let text = "(a = 1 and\n(b = 2 or\nc = 3)";
    let why = parse(text).expect_err(text);
    assert!(
        why.to_string()
            .starts_with("line 3, column 7: expected `and`, `or` or the `)` for the `(` in column 1")
    );
    assert_eq!(why.picture(text), "c = 3)\n      ^");

    let text = format!("{}b == 1 and {}", "a = 1 and ".repeat(30), "c = 1 and ".repeat(30));
    let why = parse(&text).expect_err(&text);
    assert_eq!(why.column, 303);
    let picture = why.picture(&text);
    let (line, caret) = picture.split_once('\n').expect("two lines");
    assert_eq!(line.chars().nth(caret.chars().count() - 1), Some('='), "{picture}");
    assert!(line.starts_with('…') && line.ends_with('…') && line.chars().count() < 110, "{picture}");
}
