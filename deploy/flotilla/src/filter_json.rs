//! Filters as small JSON, for the command line: see [`crate::filter_arg`] for the other form.
//!
//! An object is a list of conditions that must all hold. `and`, `or`, `not`, `exists` and `keys` are operators, any
//! other name is a field (a dotted path):
//!
//! ```json
//! {"power_state": "on", "cpu": {"gte": 8, "lt": 64}, "tags": {"in": ["prod", "dmz"]}}
//! {"or": [{"name": {"prefix": "web"}}, {"not": {"exists": "owner"}}]}
//! ```
//!
//! Tests of a field: a plain value (equality), or an object of `eq`, `in`, `gt`, `gte`, `lt`, `lte`, `prefix`, `glob`, and of the
//! words of a text `match` (all), `match_any` and `phrase`, and of points `within` and `within_box`:
//!
//! ```json
//! {"office.at": {"within": {"lat": 52.5, "lon": 13.4, "radius_m": 1000}}}
//! {"office.at": {"within_box": {"top": 53, "left": 13, "bottom": 52, "right": 14}}}
//! ```
//!
//! An error names the place inside the filter. Whether the filter fits the collection is the server's to say. Fields that are
//! called like an operator cannot be named here.

use flotilla_proto::filter::{Bounds, Filter};
use flotilla_proto::geo::Region;
use flotilla_proto::record::Value;
use serde_json::Value as Json;

use crate::json;

const TESTS: [&str; 13] = [
    "eq",
    "in",
    "gt",
    "gte",
    "lt",
    "lte",
    "prefix",
    "glob",
    "match",
    "match_any",
    "phrase",
    "within",
    "within_box",
];

/// What is wrong with a filter, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFilter {
    at: String,
    what: String,
}

impl std::fmt::Display for BadFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

impl std::error::Error for BadFilter {}

fn bad<T>(at: &str, what: impl Into<String>) -> Result<T, BadFilter> {
    Err(BadFilter { at: at.to_owned(), what: what.into() })
}

/// Reads a filter.
pub fn parse(text: &str) -> Result<Filter, BadFilter> {
    match serde_json::from_str(text) {
        Ok(json) => condition("filter", &json),
        Err(error) => {
            let at = format!("filter, line {} column {}", error.line(), error.column());
            let message = error.to_string();
            let what = message.split(" at line ").next().unwrap_or(&message);
            bad(&at, format!("not JSON: {what}"))
        }
    }
}

fn condition(at: &str, json: &Json) -> Result<Filter, BadFilter> {
    let Json::Object(entries) = json else {
        return bad(at, format!("expected an object such as {{\"field\": value}}, got {}", kind(json)));
    };
    let parts = entries.iter().map(|(name, json)| entry(at, name, json));
    Ok(all(parts.collect::<Result<_, _>>()?))
}

fn all(mut parts: Vec<Filter>) -> Filter {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            parts.extend(last);
            Filter::All(parts)
        }
    }
}

fn entry(at: &str, name: &str, json: &Json) -> Result<Filter, BadFilter> {
    let at = format!("{at}.{name}");
    match name {
        "and" => Ok(Filter::All(conditions(&at, json)?)),
        "or" => Ok(Filter::Any(conditions(&at, json)?)),
        "not" => Ok(Filter::Not(Box::new(condition(&at, json)?))),
        "exists" => match json {
            Json::String(field) => Ok(Filter::Exists(field.clone())),
            other => bad(&at, format!("expected a field's name, got {}", kind(other))),
        },
        "keys" => keys(&at, json),
        "" => bad(&at, "a field has a name"),
        field => tests(&at, field, json),
    }
}

fn conditions(at: &str, json: &Json) -> Result<Vec<Filter>, BadFilter> {
    let Json::Array(items) = json else {
        return bad(at, format!("expected a list of conditions, got {}", kind(json)));
    };
    items.iter().enumerate().map(|(i, json)| condition(&format!("{at}[{i}]"), json)).collect()
}

fn keys(at: &str, json: &Json) -> Result<Filter, BadFilter> {
    let Json::Array(items) = json else {
        return bad(at, format!("expected a list of keys, got {}", kind(json)));
    };
    let key = |(i, item): (usize, &Json)| match (item, item.as_u64()) {
        (Json::String(text), _) => Ok(text.as_str().into()),
        (_, Some(number)) => Ok(number.into()),
        _ => {
            bad(&format!("{at}[{i}]"), format!("a key is text or a whole number from 0, got {}", kind(item)))
        }
    };
    Ok(Filter::Keys(items.iter().enumerate().map(key).collect::<Result<_, _>>()?))
}

fn tests(at: &str, field: &str, json: &Json) -> Result<Filter, BadFilter> {
    let Json::Object(tests) = json else {
        return Ok(Filter::Equal(field.to_owned(), single(at, json)?));
    };
    let mut parts = Vec::new();
    let mut bounds = Bounds::default();
    for (test, json) in tests {
        let at = format!("{at}.{test}");
        match test.as_str() {
            "eq" => parts.push(Filter::Equal(field.to_owned(), single(&at, json)?)),
            "in" => parts.push(Filter::In(field.to_owned(), values(&at, json)?)),
            "gt" => bounds.gt = Some(single(&at, json)?),
            "gte" => bounds.gte = Some(single(&at, json)?),
            "lt" => bounds.lt = Some(single(&at, json)?),
            "lte" => bounds.lte = Some(single(&at, json)?),
            "prefix" => match json {
                Json::String(prefix) => parts.push(Filter::Prefix(field.to_owned(), prefix.clone())),
                other => return bad(&at, format!("expected text, got {}", kind(other))),
            },
            "glob" => match json {
                Json::String(pattern) => parts.push(Filter::Glob(field.to_owned(), pattern.clone())),
                other => return bad(&at, format!("expected a pattern, got {}", kind(other))),
            },
            "match" | "match_any" => match json {
                Json::String(query) => parts.push(Filter::Match {
                    field: field.to_owned(),
                    query: query.clone(),
                    any: test == "match_any",
                }),
                other => return bad(&at, format!("expected words, got {}", kind(other))),
            },
            "phrase" => match json {
                Json::String(query) => parts.push(Filter::Phrase(field.to_owned(), query.clone())),
                other => return bad(&at, format!("expected words, got {}", kind(other))),
            },
            "within" => parts.push(within(&at, field, json)?),
            "within_box" => parts.push(within_box(&at, field, json)?),
            other => return unknown_test(&at, field, other),
        }
    }
    if bounds.set().next().is_some() {
        parts.push(Filter::Range(field.to_owned(), bounds));
    }
    if parts.is_empty() { bad(at, format!("needs one of {}", TESTS.join(", "))) } else { Ok(all(parts)) }
}

fn within(at: &str, field: &str, json: &Json) -> Result<Filter, BadFilter> {
    let [lat, lon, radius_m] = numbers(at, json, ["lat", "lon", "radius_m"])?;
    Region::circle(lat, lon, radius_m)
        .map_err(|wrong| BadFilter { at: format!("{at}.{}", wrong.name), what: wrong.why })?;
    Ok(Filter::Within { field: field.to_owned(), lat, lon, radius_m })
}

fn within_box(at: &str, field: &str, json: &Json) -> Result<Filter, BadFilter> {
    let [top, left, bottom, right] = numbers(at, json, ["top", "left", "bottom", "right"])?;
    Region::rectangle(top, left, bottom, right)
        .map_err(|wrong| BadFilter { at: format!("{at}.{}", wrong.name), what: wrong.why })?;
    Ok(Filter::WithinBox { field: field.to_owned(), top, left, bottom, right })
}

/// The numbers of these names, and nothing else.
fn numbers<const N: usize>(at: &str, json: &Json, names: [&str; N]) -> Result<[f64; N], BadFilter> {
    let Json::Object(entries) = json else {
        return bad(at, format!("expected an object of {}, got {}", names.join(", "), kind(json)));
    };
    if let Some(other) = entries.keys().find(|name| !names.contains(&name.as_str())) {
        return bad(&format!("{at}.{other}"), format!("there are {} only", names.join(", ")));
    }
    let mut numbers = [0.0; N];
    for (name, number) in names.iter().zip(&mut numbers) {
        let at = format!("{at}.{name}");
        match entries.get(*name).map(|json| (json, json.as_f64())) {
            Some((_, Some(found))) => *number = found,
            Some((other, None)) => return bad(&at, format!("expected a number, got {}", kind(other))),
            None => return bad(&at, "is missing"),
        }
    }
    Ok(numbers)
}

fn unknown_test(at: &str, field: &str, test: &str) -> Result<Filter, BadFilter> {
    match test {
        "exists" => bad(at, format!("write {{\"exists\": \"{field}\"}}")),
        "not" => bad(at, format!("write {{\"not\": {{\"{field}\": ...}}}}")),
        _ => bad(
            at,
            format!(
                "there is no test `{test}`; there are {} (a nested field is a dotted path: \"{field}.{test}\")",
                TESTS.join(", ")
            ),
        ),
    }
}

fn single(at: &str, json: &Json) -> Result<Value, BadFilter> {
    match json {
        Json::Null => bad(at, "null equals nothing; absent values are found by {\"not\": {\"exists\": ...}}"),
        Json::Array(_) => bad(at, "expected a single value, got a list; write {\"in\": [...]}"),
        Json::Object(_) => bad(at, "expected a single value, got an object"),
        json => Ok(json::value_from(json.clone())),
    }
}

fn values(at: &str, json: &Json) -> Result<Vec<Value>, BadFilter> {
    let Json::Array(items) = json else {
        return bad(at, format!("expected a list of values, got {}", kind(json)));
    };
    items.iter().enumerate().map(|(i, json)| single(&format!("{at}[{i}]"), json)).collect()
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a truth value",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equal(field: &str, value: impl Into<Value>) -> Filter {
        Filter::Equal(field.into(), value.into())
    }

    #[test]
    fn the_example_of_the_help_text() {
        let text = r#"{"and":[{"power_state":"on"},{"cpu":{"gte":8}},{"name":{"prefix":"web"}},
            {"not":{"hardware.version":13}},{"tags":{"in":["prod","dmz"]}},{"exists":"owner"}]}"#;
        let bounds = Bounds { gte: Some(8.into()), ..Bounds::default() };
        let expected = Filter::All(vec![
            equal("power_state", "on"),
            Filter::Range("cpu".into(), bounds),
            Filter::Prefix("name".into(), "web".into()),
            Filter::Not(Box::new(equal("hardware.version", 13))),
            Filter::In("tags".into(), vec!["prod".into(), "dmz".into()]),
            Filter::Exists("owner".into()),
        ]);
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn entries_of_an_object_and_tests_of_a_field_must_all_hold() {
        assert_eq!(parse(r#"{"a": 1}"#), Ok(equal("a", 1)));
        assert_eq!(parse(r#"{"a": {"eq": true}}"#), Ok(equal("a", true)));
        assert_eq!(parse(r#"{"a": 1, "b": 2.5}"#), Ok(Filter::All(vec![equal("a", 1), equal("b", 2.5)])));
        let range = Bounds { gt: Some(1.into()), lte: Some(2.into()), ..Bounds::default() };
        assert_eq!(parse(r#"{"a": {"gt": 1, "lte": 2}}"#), Ok(Filter::Range("a".into(), range)));
        assert_eq!(parse(r#"{"a": {"glob": "w*b"}}"#), Ok(Filter::Glob("a".into(), "w*b".into())));
        let holds = |any| Filter::Match { field: "a".into(), query: "x y".into(), any };
        assert_eq!(parse(r#"{"a": {"match": "x y"}}"#), Ok(holds(false)));
        assert_eq!(parse(r#"{"a": {"match_any": "x y"}}"#), Ok(holds(true)));
        assert_eq!(parse(r#"{"a": {"phrase": "x y"}}"#), Ok(Filter::Phrase("a".into(), "x y".into())));
        let near = Filter::Within { field: "a.b".into(), lat: 52.5, lon: -13.0, radius_m: 1e3 };
        assert_eq!(parse(r#"{"a.b": {"within": {"lat": 52.5, "lon": -13, "radius_m": 1000}}}"#), Ok(near));
        let pacific =
            Filter::WithinBox { field: "a".into(), top: 10.0, left: 170.0, bottom: -10.0, right: -170.0 };
        let text = r#"{"a": {"within_box": {"top": 10, "left": 170, "bottom": -10, "right": -170}}}"#;
        assert_eq!(parse(text), Ok(pacific));
        assert_eq!(parse("{}"), Ok(Filter::All(vec![])));
        assert_eq!(parse(r#"{"or": []}"#), Ok(Filter::Any(vec![])));
        assert_eq!(parse(r#"{"keys": [1, "a"]}"#), Ok(Filter::Keys(vec![1.into(), "a".into()])));
    }

    #[test]
    fn an_error_names_the_place() {
        for (text, expected) in [
            ("[]", "filter: expected an object such as {\"field\": value}, got a list"),
            (r#"{"and": {}}"#, "filter.and: expected a list of conditions, got an object"),
            (
                r#"{"and": [{"a": 1}, 7]}"#,
                "filter.and[1]: expected an object such as {\"field\": value}, got a number",
            ),
            (r#"{"or": [{"name": {"prefix": 7}}]}"#, "filter.or[0].name.prefix: expected text, got a number"),
            (r#"{"a": ["x"]}"#, "filter.a: expected a single value, got a list; write {\"in\": [...]}"),
            (r#"{"a": {"exists": true}}"#, "filter.a.exists: write {\"exists\": \"a\"}"),
            (
                r#"{"a": {"in": [1, null]}}"#,
                "filter.a.in[1]: null equals nothing; absent values are found by {\"not\": {\"exists\": ...}}",
            ),
            (r#"{"keys": [-1]}"#, "filter.keys[0]: a key is text or a whole number from 0, got a number"),
            (
                r#"{"a": {}}"#,
                "filter.a: needs one of eq, in, gt, gte, lt, lte, prefix, glob, match, match_any, phrase, within, within_box",
            ),
            (
                r#"{"a": {"within": 7}}"#,
                "filter.a.within: expected an object of lat, lon, radius_m, got a number",
            ),
            (r#"{"a": {"within": {"lat": 1, "lon": 2}}}"#, "filter.a.within.radius_m: is missing"),
            (
                r#"{"a": {"within": {"lat": 91, "lon": 2, "radius_m": 1}}}"#,
                "filter.a.within.lat: the latitude must be -90 to 90, got 91",
            ),
            (
                r#"{"a": {"within": {"lat": "1", "lon": 2, "radius_m": 1}}}"#,
                "filter.a.within.lat: expected a number, got text",
            ),
            (
                r#"{"a": {"within": {"lat": 1, "lng": 2, "radius_m": 1}}}"#,
                "filter.a.within.lng: there are lat, lon, radius_m only",
            ),
            (
                r#"{"a": {"within_box": {"top": 1, "left": 0, "bottom": 2, "right": 0}}}"#,
                "filter.a.within_box.bottom: the bottom must not lie north of the top, 1, got 2",
            ),
            (r#"{"a": {"match": 7}}"#, "filter.a.match: expected words, got a number"),
            (r#"{"a": {"glob": 7}}"#, "filter.a.glob: expected a pattern, got a number"),
            (r#"{"a": 1"#, "filter, line 1 column 7: not JSON: EOF while parsing an object"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        let nested = parse(r#"{"hardware": {"version": 1}}"#).unwrap_err().to_string();
        assert!(nested.contains("\"hardware.version\""), "{nested}");
    }
}
