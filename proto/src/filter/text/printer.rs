//! A filter as text that reads back as the same filter.

use std::fmt::{self, Write as _};

use super::lexer::{Word, begins_path, is_in_name};
use crate::filter::glob::is_special;
use crate::filter::{Bounds, Filter};
use crate::record::{Key, Value};

/// The text form of `filter`.
///
/// It reads back as `filter`, but for what means the same: a [`Filter::All`] or [`Filter::Any`] of one part is that part, a
/// [`Filter::Glob`] that asks for a prefix is a [`Filter::Prefix`], and a pattern loses the backslashes that it need not have.
/// What no collection would take (a range without bounds or with two lower ones, a value that is a list, a map, null or
/// not finite, a path with an empty step, a lone backslash, a query without words, a region that is none, more than is bounded) is written for people to read and need
/// not read back. A filter close to the bounds may have a text beyond that of texts.
pub fn print(filter: &Filter) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, filter, Place::Alone);
    text
}

/// What a condition is a part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Alone,
    Any,
    All,
    Not,
}

fn write(text: &mut String, filter: &Filter, place: Place) -> fmt::Result {
    match filter {
        Filter::All(parts) => joined(text, parts, "true", " and ", Place::All, place),
        Filter::Any(parts) => joined(text, parts, "false", " or ", Place::Any, place),
        Filter::Not(part) => negated(text, part),
        Filter::Equal(field, value) => write!(text, "{} = {}", path_text(field), value_text(value)),
        Filter::In(field, values) => write!(text, "{} in {}", path_text(field), list(values, value_text)),
        Filter::Range(field, bounds) => range(text, &path_text(field), bounds),
        Filter::Prefix(field, prefix) => write!(text, "{} ~ {}", path_text(field), prefix_text(prefix)),
        Filter::Glob(field, pattern) => write!(text, "{} ~ {}", path_text(field), pattern_text(pattern)),
        Filter::Match { field, query, any } => {
            let quantifier = if *any { " any" } else { "" };
            write!(text, "{} match{quantifier} {}", path_text(field), quoted(query))
        }
        Filter::Phrase(field, query) => write!(text, "{} phrase {}", path_text(field), quoted(query)),
        Filter::Exists(field) => write!(text, "exists {}", path_text(field)),
        Filter::Within { field, lat, lon, radius_m } => {
            region(text, "within", field, &[*lat, *lon, *radius_m])
        }
        Filter::WithinBox { field, top, left, bottom, right } => {
            region(text, "within_box", field, &[*top, *left, *bottom, *right])
        }
        Filter::Keys(keys) => match keys.as_slice() {
            [key] => write!(text, "key = {}", key_text(key)),
            keys => write!(text, "key in {}", list(keys, key_text)),
        },
    }
}

fn negated(text: &mut String, part: &Filter) -> fmt::Result {
    match part {
        Filter::Equal(field, value) => write!(text, "{} != {}", path_text(field), value_text(value)),
        Filter::In(field, values) => write!(text, "{} not in {}", path_text(field), list(values, value_text)),
        Filter::Prefix(field, prefix) => write!(text, "{} !~ {}", path_text(field), prefix_text(prefix)),
        Filter::Glob(field, pattern) => write!(text, "{} !~ {}", path_text(field), pattern_text(pattern)),
        Filter::Match { field, query, any } => {
            let quantifier = if *any { " any" } else { "" };
            write!(text, "{} not match{quantifier} {}", path_text(field), quoted(query))
        }
        Filter::Phrase(field, query) => write!(text, "{} not phrase {}", path_text(field), quoted(query)),
        Filter::Exists(field) => write!(text, "{} is null", path_text(field)),
        Filter::Keys(keys) => match keys.as_slice() {
            [key] => write!(text, "key != {}", key_text(key)),
            keys => write!(text, "key not in {}", list(keys, key_text)),
        },
        Filter::All(_)
        | Filter::Any(_)
        | Filter::Not(_)
        | Filter::Range(..)
        | Filter::Within { .. }
        | Filter::WithinBox { .. } => {
            text.push_str("not ");
            write(text, part, Place::Not)
        }
    }
}

fn joined(
    text: &mut String,
    parts: &[Filter],
    none: &str,
    between: &str,
    own: Place,
    place: Place,
) -> fmt::Result {
    match parts {
        [] => text.write_str(none),
        [only] => write(text, only, place),
        [first, others @ ..] => {
            // `and` binds closer than `or`.
            let is_bare = place == Place::Alone || own == Place::All && place == Place::Any;
            text.push_str(if is_bare { "" } else { "(" });
            write(text, first, own)?;
            for part in others {
                text.push_str(between);
                write(text, part, own)?;
            }
            text.write_str(if is_bare { "" } else { ")" })
        }
    }
}

fn region(text: &mut String, name: &str, field: &str, numbers: &[f64]) -> fmt::Result {
    write!(text, "{name}({}", path_text(field))?;
    numbers.iter().try_for_each(|number| write!(text, ", {number:?}"))?;
    text.write_str(")")
}

fn range(text: &mut String, field: &str, bounds: &Bounds) -> fmt::Result {
    let Bounds { gt, gte, lt, lte } = bounds;
    // A lower bound before the field has its sign turned around.
    let lower = gt.as_ref().map(|from| (from, ">", "<")).or(gte.as_ref().map(|from| (from, ">=", "<=")));
    let upper = lt.as_ref().map(|to| (to, "<")).or(lte.as_ref().map(|to| (to, "<=")));
    match (lower, upper) {
        (Some((from, ">=", _)), Some((to, "<="))) => {
            write!(text, "{field} between {} and {}", value_text(from), value_text(to))
        }
        (Some((from, _, turned)), Some((to, sign))) => {
            write!(text, "{} {turned} {field} {sign} {}", value_text(from), value_text(to))
        }
        (Some((from, sign, _)), None) => write!(text, "{field} {sign} {}", value_text(from)),
        (None, Some((to, sign))) => write!(text, "{field} {sign} {}", value_text(to)),
        (None, None) => text.write_str(field),
    }
}

fn list<T>(items: &[T], item: impl Fn(&T) -> String) -> String {
    let items: Vec<String> = items.iter().map(item).collect();
    format!("({})", items.join(", "))
}

/// A path, with backquotes where it needs them.
pub(super) fn path_text(path: &str) -> String {
    let steps: Vec<&str> = path.split('.').collect();
    let is_word = steps.len() == 1 && Word::of(path).is_some();
    let step = |(place, name): (usize, &&str)| {
        let begins = name.chars().next().is_some_and(|first| place > 0 || begins_path(first));
        if begins && !is_word && name.chars().all(is_in_name) {
            (*name).to_owned()
        } else {
            format!("`{}`", name.replace('`', "``"))
        }
    };
    steps.iter().enumerate().map(step).collect::<Vec<_>>().join(".")
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(whole) => whole.to_string(),
        // Always with a fraction or an exponent, and as many digits as it takes.
        Value::Float(float) => format!("{float:?}"),
        Value::Text(text) => quoted(text),
        Value::List(items) => list(items, value_text),
        Value::Map(fields) => {
            let fields =
                fields.iter().map(|(name, value)| format!("{}: {}", quoted(name), value_text(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

fn key_text(key: &Key) -> String {
    match key {
        Key::Number(number) => number.to_string(),
        Key::Text(text) => quoted(text),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    text.chars().for_each(|char| push_char(&mut quoted, char));
    quoted.push('"');
    quoted
}

fn prefix_text(prefix: &str) -> String {
    let mut quoted = String::from("\"");
    for char in prefix.chars() {
        // `push_char` gives a backslash its own.
        quoted.push_str(if is_special(char) && char != '\\' { "\\" } else { "" });
        push_char(&mut quoted, char);
    }
    quoted.push_str("*\"");
    quoted
}

/// A pattern reads `\*`, `\?` and `\\` as they are; a backslash before any other character says nothing.
fn pattern_text(pattern: &str) -> String {
    let mut quoted = String::from("\"");
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some(char @ ('*' | '?')) => quoted.extend(['\\', char]),
                Some(char) => push_char(&mut quoted, char),
                None => quoted.push('\\'),
            },
            char => push_char(&mut quoted, char),
        }
    }
    quoted.push('"');
    quoted
}

fn push_char(quoted: &mut String, char: char) {
    match char {
        '"' => quoted.push_str("\\\""),
        '\\' => quoted.push_str("\\\\"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        char if char.is_control() => {
            quoted.push_str(&format!("\\u{{{:x}}}", u32::from(char)));
        }
        char => quoted.push(char),
    }
}
