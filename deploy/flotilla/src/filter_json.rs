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
//! words of a text `match` (all), `match_any` and `phrase`. An error names the place inside the filter. Whether the filter fits the collection is the server's to say. Fields that are
//! called like an operator cannot be named here.

use flotilla_proto::filter::{Bounds, Filter};
use flotilla_proto::record::Value;
use serde_json::Value as Json;

use crate::json;

const TESTS: [&str; 11] =
    ["eq", "in", "gt", "gte", "lt", "lte", "prefix", "glob", "match", "match_any", "phrase"];

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
            other => return unknown_test(&at, field, other),
        }
    }
    if bounds.set().next().is_some() {
        parts.push(Filter::Range(field.to_owned(), bounds));
    }
    if parts.is_empty() { bad(at, format!("needs one of {}", TESTS.join(", "))) } else { Ok(all(parts)) }
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
                "filter.a: needs one of eq, in, gt, gte, lt, lte, prefix, glob, match, match_any, phrase",
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
