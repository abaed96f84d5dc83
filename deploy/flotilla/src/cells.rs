//! Payloads as flat cells: what exports and answers put into columns.
//!
//! A column is the dotted path of a field. A value is the text that JSON has for it, but text without its quotes; nothing
//! stands for null. A list, and a map where it is asked for, is JSON whole.

use flotilla_proto::record::{Payload, Value, reach};

use crate::json;

/// The cell of a value; `None` if there is nothing to show.
pub fn cell(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Text(text) => Some(text.clone()),
        other => Some(json::value_to(other).to_string()),
    }
}

/// What a path reaches in a payload: the value that stands there, or, through lists, all that it reaches as a list.
pub fn reached(payload: &Payload, path: &str) -> Option<Value> {
    if let Some(value) = json::field(payload, path) {
        return Some(value.clone());
    }
    let steps: Vec<String> = path.split('.').map(str::to_owned).collect();
    let mut found = Vec::new();
    reach(payload, &steps, &mut |value| {
        found.push(value.clone());
        false
    });
    (!found.is_empty()).then_some(Value::List(found))
}

/// Calls `each` with the path and value of every leaf: what is no map. A name with a dot, or none, could not be told from a
/// path: it is returned as an error, after its path.
pub fn leaves<'a>(payload: &'a Payload, each: &mut impl FnMut(&str, &'a Value)) -> Result<(), String> {
    fn walk<'a>(
        at: &mut String,
        fields: &'a Payload,
        each: &mut impl FnMut(&str, &'a Value),
    ) -> Result<(), String> {
        let above = at.len();
        for (name, value) in fields {
            if above > 0 {
                at.push('.');
            }
            at.push_str(name);
            if name.is_empty() || name.contains('.') {
                return Err(std::mem::take(at));
            }
            match value {
                Value::Map(fields) => walk(at, fields, each)?,
                leaf => each(at, leaf),
            }
            at.truncate(above);
        }
        Ok(())
    }
    walk(&mut String::new(), payload, each)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(text: &str) -> Payload {
        let serde_json::Value::Object(fields) = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        json::payload_from(fields)
    }

    #[test]
    fn leaves_are_what_is_no_map() {
        let fields = payload(r#"{"a": 1, "b": {"c": {"d": [1, "x"]}, "e": null, "m": {}}}"#);
        let mut found = Vec::new();
        leaves(&fields, &mut |path, value| found.push(format!("{path}={:?}", cell(value)))).unwrap();
        assert_eq!(found, [r#"a=Some("1")"#, r#"b.c.d=Some("[1,\"x\"]")"#, "b.e=None"]);
        for (text, at) in
            [(r#"{"a.b": 1}"#, "a.b"), (r#"{"a": {"": 1}}"#, "a."), (r#"{"a": {"b.c": {}}}"#, "a.b.c")]
        {
            assert_eq!(leaves(&payload(text), &mut |_, _| {}), Err(at.to_owned()));
        }
    }

    #[test]
    fn a_path_reaches_through_maps_and_lists() {
        let fields =
            payload(r#"{"a": {"b": 1}, "disks": [{"gb": 10}, {"x": 1}, {"gb": [20, null]}], "n": null}"#);
        let at = |path| reached(&fields, path).as_ref().and_then(cell);
        assert_eq!(at("a.b").as_deref(), Some("1"));
        assert_eq!(at("a").as_deref(), Some("{\"b\":1}"));
        assert_eq!(at("disks.gb").as_deref(), Some("[10,20]"));
        assert_eq!((at("n"), at("a.c"), at("disks.y")), (None, None, None));
    }
}
