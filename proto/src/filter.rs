//! What a filter means, once for all: router, growing segments, sealed segments and delete-by-filter must agree on it,
//! because replicas apply a delete-by-filter each on their own.
//!
//! A **leaf** names a field by dotted path and holds if **any** value that the path reaches satisfies it: the path
//! steps through maps by name and fans out over lists ([`crate::record::reach`]). Nulls and missing values satisfy no
//! leaf; `not` turns that around, so `not equal(f, v)` holds for a record without `f`.
//!
//! Values compare within their class only: numbers with numbers (integers and floats exactly, by value), text with text
//! (by bytes), booleans with booleans (equality only). A field declared `datetime` compares as a point in time, whichever
//! spelling the record or the filter uses, and one declared `uuid` as its canonical text: patterns too ask for that, in any case.
//! `prefix`, `glob`, `match` and `phrase` ask text values only, the last two for their
//! words ([`crate::fulltext`]): all, any, or all in a row, in one value. `exists` holds if the path reaches a
//! value that is not null (a map counts, an empty list does not). `within` and `within_box` ask for points ([`crate::geo`]), in fields declared
//! `geo` or not declared; besides them a field of points is asked for by `exists` only.
//!
//! A filter has three spellings: the protobuf message ([`crate::convert`]), JSON on the command line, and [`text`]. All three
//! become a [`Filter`], and what it means stands here only.

mod fingerprint;
mod glob;
pub mod text;

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::fulltext::{self, Language, PlacesOf, query_words};
use crate::geo::{BadArgument, Region, reach_points};
use crate::group::GroupKey;
use crate::limits::*;
use crate::record::{Key, Payload, Value, reach};
use crate::refusal::Violation;
use crate::schema::{
    CollectionSpec, FieldType, at_most, check_key, check_path, datetime_micros, uuid_of, uuid_text,
};

pub use glob::{Glob, LoneBackslash};

/// A condition on records, in its domain shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Filter {
    /// All hold; empty: true.
    All(#[serde(deserialize_with = "crate::nesting::deeper")] Vec<Filter>),
    /// Any holds; empty: false.
    Any(#[serde(deserialize_with = "crate::nesting::deeper")] Vec<Filter>),
    /// It does not hold.
    Not(#[serde(deserialize_with = "crate::nesting::deeper")] Box<Filter>),
    /// A value equals this one.
    Equal(String, Value),
    /// A value equals one of these.
    In(String, Vec<Value>),
    /// A value lies between the bounds.
    Range(String, Bounds),
    /// A text value starts with this.
    Prefix(String, String),
    /// There is a value that is not null.
    Exists(String),
    /// The record's key is one of these.
    Keys(Vec<Key>),
    /// A text value is, as a whole, what the pattern says: see [`Glob`].
    Glob(String, String),
    /// A text value holds the words of a query: see [`crate::fulltext`].
    Match {
        /// The field.
        field: String,
        /// The words, in whatever order.
        query: String,
        /// Whether one of them will do.
        any: bool,
    },
    /// A text value holds the words of the query in a row.
    Phrase(String, String),
    /// A point is no farther from this one than so many metres: see [`crate::geo`].
    Within {
        /// The field.
        field: String,
        /// Degrees north.
        lat: f64,
        /// Degrees east.
        lon: f64,
        /// Metres.
        radius_m: f64,
    },
    /// A point lies between two parallels and, eastwards, two meridians.
    WithinBox {
        /// The field.
        field: String,
        /// The northern parallel.
        top: f64,
        /// The western meridian.
        left: f64,
        /// The southern parallel.
        bottom: f64,
        /// The eastern meridian.
        right: f64,
    },
}

/// The bounds of a range; each may be open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Greater than.
    pub gt: Option<Value>,
    /// Greater than or equal.
    pub gte: Option<Value>,
    /// Less than.
    pub lt: Option<Value>,
    /// Less than or equal.
    pub lte: Option<Value>,
}

impl Bounds {
    /// The bounds that are set, with their names.
    pub fn set(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        [("gt", &self.gt), ("gte", &self.gte), ("lt", &self.lt), ("lte", &self.lte)]
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|v| (name, v)))
    }
}

/// A value made ready for comparison in a field: the one total shape in which two values of a class compare.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// Truth.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A finite float.
    Float(f64),
    /// Text.
    Text(String),
    /// A point in time: microseconds since the Unix epoch.
    Time(i64),
}

impl Scalar {
    /// The scalar of `value` in a field declared as `kind` (`None`: undeclared). `None` for nulls, lists, maps, and
    /// what is no datetime in a datetime field or no UUID in one of those.
    pub fn of(value: &Value, kind: Option<FieldType>) -> Option<Scalar> {
        match kind {
            Some(FieldType::Datetime) => return datetime_micros(value).map(Scalar::Time),
            Some(FieldType::Uuid) => return uuid_of(value).map(|id| Scalar::Text(uuid_text(id))),
            _ => {}
        }
        match value {
            Value::Bool(b) => Some(Scalar::Bool(*b)),
            Value::Int(i) => Some(Scalar::Int(*i)),
            Value::Float(f) => Some(Scalar::Float(*f)),
            Value::Text(t) => Some(Scalar::Text(t.clone())),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The order of two scalars of one class; `None` across classes.
    pub fn compare(&self, other: &Scalar) -> Option<Ordering> {
        match (self, other) {
            (Scalar::Bool(a), Scalar::Bool(b)) => Some(a.cmp(b)),
            (Scalar::Int(a), Scalar::Int(b)) | (Scalar::Time(a), Scalar::Time(b)) => Some(a.cmp(b)),
            (Scalar::Float(a), Scalar::Float(b)) => a.partial_cmp(b),
            (Scalar::Int(a), Scalar::Float(b)) => compare_int_float(*a, *b),
            (Scalar::Float(a), Scalar::Int(b)) => compare_int_float(*b, *a).map(Ordering::reverse),
            (Scalar::Text(a), Scalar::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            _ => None,
        }
    }
}

/// Exact, where a cast of the integer to a float would round.
fn compare_int_float(int: i64, float: f64) -> Option<Ordering> {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        None
    } else if float >= TWO_63 {
        Some(Ordering::Less)
    } else if float < -TWO_63 {
        Some(Ordering::Greater)
    } else {
        let whole = float.trunc();
        let fraction = 0.0_f64.partial_cmp(&(float - whole));
        Some(int.cmp(&(whole as i64)).then(fraction.unwrap_or(Ordering::Equal)))
    }
}

/// A filter checked against a collection and made ready to run: paths split, values converted once.
#[derive(Clone, Debug, PartialEq)]
pub enum Compiled {
    /// All hold.
    All(Vec<Compiled>),
    /// Any holds.
    Any(Vec<Compiled>),
    /// It does not hold.
    Not(Box<Compiled>),
    /// A condition on one field.
    Leaf(Leaf),
    /// The key is one of these (sorted).
    Keys(Vec<Key>),
}

/// A condition on one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// The path as named.
    pub field: String,
    /// The path, split.
    pub path: Vec<String>,
    /// The declared type, if declared.
    pub kind: Option<FieldType>,
    /// What must hold of a value.
    pub test: Test,
}

/// What must hold of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// It equals one of these.
    In(Vec<Scalar>),
    /// It lies between: (bound, inclusive).
    Range {
        /// The lower bound.
        from: Option<(Scalar, bool)>,
        /// The upper bound.
        to: Option<(Scalar, bool)>,
    },
    /// It is text and starts with this.
    Prefix(String),
    /// It is text and, as a whole, what the pattern says.
    Glob(Glob),
    /// It is text and holds these words (each once, sorted; at most 64), or one of them.
    Match {
        /// The words.
        words: Vec<String>,
        /// Whether one will do.
        any: bool,
    },
    /// It is text and holds these words (at most 64) in a row.
    Phrase(Vec<String>),
    /// It is there.
    Exists,
    /// It makes a group, and none of these: see [`crate::group`]. No filter of a request says so; a grouped search
    /// does.
    OtherGroup(BTreeSet<GroupKey>),
    /// It is a point of this region. What reaches points says so, see [`Leaf::matches`]: a list may be one.
    Within(Region),
}

impl Test {
    /// Whether it holds of `value` in a field of `kind`.
    pub fn holds(&self, value: &Value, kind: Option<FieldType>) -> bool {
        match self {
            Test::Exists => true,
            Test::OtherGroup(known) => GroupKey::of(value, kind).is_some_and(|key| !known.contains(&key)),
            Test::Prefix(_) | Test::Glob(_) if kind == Some(FieldType::Uuid) => {
                uuid_of(value).is_some_and(|id| self.holds_text(&uuid_text(id), kind))
            }
            Test::Prefix(_) | Test::Glob(_) | Test::Match { .. } | Test::Phrase(_) => {
                matches!(value, Value::Text(text) if self.holds_text(text, kind))
            }
            Test::Within(_) => false,
            Test::In(wanted) => Scalar::of(value, kind)
                .is_some_and(|have| wanted.iter().any(|want| have.compare(want) == Some(Ordering::Equal))),
            Test::Range { from, to } => Scalar::of(value, kind).is_some_and(|have| {
                let above = |(bound, inclusive): &(Scalar, bool)| match have.compare(bound) {
                    Some(Ordering::Greater) => true,
                    Some(Ordering::Equal) => *inclusive,
                    _ => false,
                };
                let below = |(bound, inclusive): &(Scalar, bool)| match have.compare(bound) {
                    Some(Ordering::Less) => true,
                    Some(Ordering::Equal) => *inclusive,
                    _ => false,
                };
                from.as_ref().is_none_or(above) && to.as_ref().is_none_or(below)
            }),
        }
    }

    /// Whether a test that asks text values only holds of this one in a field of `kind`; false for any other test.
    pub fn holds_text(&self, text: &str, kind: Option<FieldType>) -> bool {
        let language = kind.and_then(FieldType::language);
        match self {
            Test::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Test::Glob(glob) => glob.matches(text),
            Test::Match { words, any } => has_words(text, language, words, *any),
            Test::Phrase(phrase) => {
                let mut places = PlacesOf::default();
                places.add(text, language, |word| bits_of(phrase, word));
                places.phrases(phrase.len()) > 0
            }
            Test::In(_) | Test::Range { .. } | Test::Exists | Test::OtherGroup(_) | Test::Within(_) => false,
        }
    }
}

/// Which words of a phrase this one is.
fn bits_of(phrase: &[String], word: &str) -> u64 {
    let same = phrase.iter().take(TEXT_WORDS_MAX).enumerate().filter(|(_, other)| *other == word);
    same.map(|(place, _)| 1 << place).sum()
}

/// Whether the text holds the words, which are sorted, or any of them.
fn has_words(text: &str, language: Option<Language>, words: &[String], any: bool) -> bool {
    let mut missing: BTreeSet<&str> = words.iter().map(String::as_str).collect();
    let mut buffer = String::new();
    for written in fulltext::words(text) {
        written.term_into(language, &mut buffer);
        if missing.remove(buffer.as_str()) && (any || missing.is_empty()) {
            return true;
        }
    }
    false
}

impl Leaf {
    /// Whether a value that the path reaches satisfies the test.
    pub fn matches(&self, payload: &Payload) -> bool {
        if let Test::Within(region) = &self.test {
            return reach_points(payload, &self.path, &mut |point| {
                point.is_ok_and(|point| region.holds(point))
            });
        }
        reach(payload, &self.path, &mut |value| self.test.holds(value, self.kind))
    }
}

impl Compiled {
    /// Checks `filter` against the collection and compiles it. The violation names the leaf's field.
    pub fn new(filter: &Filter, spec: &CollectionSpec) -> Result<Compiled, Violation> {
        let mut nodes = 0;
        compile(filter, spec, 1, &mut nodes)
    }

    /// Whether a record of `key` and `payload` passes. This is the meaning; everything faster must agree with it.
    pub fn matches(&self, key: &Key, payload: &Payload) -> bool {
        match self {
            Compiled::All(parts) => parts.iter().all(|part| part.matches(key, payload)),
            Compiled::Any(parts) => parts.iter().any(|part| part.matches(key, payload)),
            Compiled::Not(part) => !part.matches(key, payload),
            Compiled::Leaf(leaf) => leaf.matches(payload),
            Compiled::Keys(keys) => keys.binary_search(key).is_ok(),
        }
    }
}

fn compile(
    filter: &Filter,
    spec: &CollectionSpec,
    depth: usize,
    nodes: &mut usize,
) -> Result<Compiled, Violation> {
    *nodes += 1;
    at_most("filter", "levels", FILTER_DEPTH_MAX, depth)?;
    at_most("filter", "conditions", FILTER_NODES_MAX, *nodes)?;
    let mut compile_all = |parts: &[Filter]| -> Result<Vec<Compiled>, Violation> {
        parts.iter().map(|part| compile(part, spec, depth + 1, nodes)).collect()
    };
    Ok(match filter {
        Filter::All(parts) => Compiled::All(compile_all(parts)?),
        Filter::Any(parts) => Compiled::Any(compile_all(parts)?),
        Filter::Not(part) => Compiled::Not(Box::new(compile(part, spec, depth + 1, nodes)?)),
        Filter::Keys(keys) => {
            at_most("filter.keys", "keys", FILTER_VALUES_MAX, keys.len())?;
            keys.iter().try_for_each(|key| check_key("filter.keys", key))?;
            let mut keys = keys.clone();
            keys.sort();
            keys.dedup();
            Compiled::Keys(keys)
        }
        Filter::Equal(field, value) => {
            leaf(field, spec, |kind| Ok(Test::In(vec![scalar(field, "equal", value, kind)?])))?
        }
        Filter::In(field, values) => {
            at_most(&format!("filter.{field}.in"), "values", FILTER_VALUES_MAX, values.len())?;
            leaf(field, spec, |kind| {
                let scalars = values.iter().map(|value| scalar(field, "in", value, kind));
                Ok(Test::In(scalars.collect::<Result<_, _>>()?))
            })?
        }
        Filter::Range(field, bounds) => leaf(field, spec, |kind| range(field, bounds, kind))?,
        Filter::Prefix(field, prefix) => leaf(field, spec, |kind| {
            needs_pattern(field, "prefix", kind)?;
            Ok(Test::Prefix(in_case_of(kind, prefix)))
        })?,
        Filter::Glob(field, pattern) => leaf(field, spec, |kind| {
            needs_pattern(field, "glob", kind)?;
            let at = || format!("filter.{field}.glob");
            at_most(&at(), "bytes", GLOB_BYTES_MAX, pattern.len())?;
            let glob =
                Glob::new(&in_case_of(kind, pattern)).map_err(|why| Violation::new(at(), why.to_string()))?;
            Ok(Test::Glob(glob))
        })?,
        Filter::Match { field, query, any } => leaf(field, spec, |kind| {
            needs_text(field, "match", kind)?;
            let mut words = query_words(&format!("filter.{field}.match"), query, language_of(kind), false)?;
            words.sort_unstable();
            words.dedup();
            Ok(Test::Match { words, any: *any })
        })?,
        Filter::Phrase(field, query) => leaf(field, spec, |kind| {
            needs_text(field, "phrase", kind)?;
            let at = format!("filter.{field}.phrase");
            Ok(Test::Phrase(query_words(&at, query, language_of(kind), true)?))
        })?,
        Filter::Exists(field) => leaf(field, spec, |_| Ok(Test::Exists))?,
        Filter::Within { field, lat, lon, radius_m } => {
            leaf(field, spec, |kind| region(field, "within", kind, Region::circle(*lat, *lon, *radius_m)))?
        }
        Filter::WithinBox { field, top, left, bottom, right } => leaf(field, spec, |kind| {
            region(field, "within_box", kind, Region::rectangle(*top, *left, *bottom, *right))
        })?,
    })
}

fn region(
    field: &str,
    test: &str,
    kind: Option<FieldType>,
    region: Result<Region, BadArgument>,
) -> Result<Test, Violation> {
    if let Some(kind) = kind.filter(|kind| *kind != FieldType::Geo) {
        let why = format!("{test} needs points, the field is declared as {}", kind.name());
        return Err(Violation::new(format!("filter.{field}.{test}"), why));
    }
    region
        .map(Test::Within)
        .map_err(|bad| Violation::new(format!("filter.{field}.{test}.{}", bad.name), bad.why))
}

fn language_of(kind: Option<FieldType>) -> Option<Language> {
    kind.and_then(FieldType::language)
}

/// A pattern for a field of `kind`: the canonical text of UUIDs is in lower case.
fn in_case_of(kind: Option<FieldType>, pattern: &str) -> String {
    if kind == Some(FieldType::Uuid) { pattern.to_ascii_lowercase() } else { pattern.to_owned() }
}

/// Patterns ask text, and UUIDs by their canonical text.
fn needs_pattern(field: &str, test: &str, kind: Option<FieldType>) -> Result<(), Violation> {
    if kind == Some(FieldType::Uuid) { Ok(()) } else { needs_text(field, test, kind) }
}

fn needs_text(field: &str, test: &str, kind: Option<FieldType>) -> Result<(), Violation> {
    match kind {
        None | Some(FieldType::Keyword | FieldType::Text | FieldType::TextIn(_)) => Ok(()),
        Some(kind) => Err(Violation::new(
            format!("filter.{field}.{test}"),
            format!("{test} needs text, the field is declared as {}", kind.name()),
        )),
    }
}

fn leaf(
    field: &str,
    spec: &CollectionSpec,
    test: impl FnOnce(Option<FieldType>) -> Result<Test, Violation>,
) -> Result<Compiled, Violation> {
    check_path("filter", field)?;
    let kind = spec.fields.get(field).copied();
    let holds_declared = |path: &String| path.starts_with(&format!("{field}."));
    if spec.strict && kind.is_none() && !spec.fields.keys().any(holds_declared) {
        let known: Vec<&str> = spec.fields.keys().map(String::as_str).collect();
        return Err(Violation::new(
            format!("filter.{field}"),
            format!("collection `{}` is strict and declares only [{}]", spec.name, known.join(", ")),
        ));
    }
    let path = field.split('.').map(str::to_owned).collect();
    Ok(Compiled::Leaf(Leaf { field: field.to_owned(), path, kind, test: test(kind)? }))
}

fn scalar(field: &str, test: &str, value: &Value, kind: Option<FieldType>) -> Result<Scalar, Violation> {
    let at = || format!("filter.{field}.{test}");
    let wrong = |expected: &str| {
        Violation::new(at(), format!("expected {expected}, got a value of type {}", value.type_name()))
    };
    if kind == Some(FieldType::Geo) {
        let why = "the field is declared as geo: points are asked for by within, within_box and exists";
        return Err(Violation::new(at(), why));
    }
    match value {
        Value::Null => {
            return Err(Violation::new(at(), "null equals nothing; ask `not exists` for absent values"));
        }
        Value::List(_) | Value::Map(_) => return Err(wrong("a single value")),
        Value::Float(f) if !f.is_finite() => {
            return Err(Violation::new(at(), format!("the value is {f}, not a finite number")));
        }
        _ => {}
    }
    let fits = match kind {
        None | Some(FieldType::Datetime | FieldType::Uuid) => true,
        Some(FieldType::Keyword | FieldType::Text | FieldType::TextIn(_)) => matches!(value, Value::Text(_)),
        Some(FieldType::Integer | FieldType::Float) => matches!(value, Value::Int(_) | Value::Float(_)),
        Some(FieldType::Bool) => matches!(value, Value::Bool(_)),
        Some(FieldType::Geo) => false,
    };
    match Scalar::of(value, kind) {
        Some(scalar) if fits => Ok(scalar),
        _ => {
            let hint = if kind == Some(FieldType::Uuid) { FieldType::Uuid.hint() } else { "" };
            Err(wrong(&format!("{}{hint}", kind.map_or("a single value", FieldType::name))))
        }
    }
}

fn range(field: &str, bounds: &Bounds, kind: Option<FieldType>) -> Result<Test, Violation> {
    let at = || format!("filter.{field}.range");
    if bounds.set().next().is_none() {
        return Err(Violation::new(at(), "needs at least one of gt, gte, lt, lte"));
    }
    if bounds.gt.is_some() && bounds.gte.is_some() || bounds.lt.is_some() && bounds.lte.is_some() {
        return Err(Violation::new(at(), "takes one of gt and gte, and one of lt and lte"));
    }
    let bound = |open: &Option<Value>, closed: &Option<Value>, open_name: &str, closed_name: &str| {
        let named = open
            .as_ref()
            .map(|value| (open_name.to_owned(), value, false))
            .or(closed.as_ref().map(|value| (closed_name.to_owned(), value, true)));
        named
            .map(|(name, value, inclusive)| {
                if matches!(value, Value::Bool(_)) {
                    return Err(Violation::new(format!("filter.{field}.{name}"), "booleans have no order"));
                }
                Ok((scalar(field, &name, value, kind)?, inclusive))
            })
            .transpose()
    };
    let from = bound(&bounds.gt, &bounds.gte, "gt", "gte")?;
    let to = bound(&bounds.lt, &bounds.lte, "lt", "lte")?;
    if let (Some((from, _)), Some((to, _))) = (&from, &to)
        && from.compare(to).is_none()
    {
        return Err(Violation::new(at(), "the bounds are of different types"));
    }
    Ok(Test::Range { from, to })
}

#[cfg(test)]
mod tests;
