//! JSON as files and terminals have it, to and from the domain's values, keys and records.

use flotilla_proto::record::{Key, Payload, Record, Value};
use serde_json::{Map, Number};

/// A value; integers beyond 64 signed bits become floats.
pub fn value_from(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(truth) => Value::Bool(truth),
        serde_json::Value::Number(number) => number_from(&number),
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Array(items) => Value::List(items.into_iter().map(value_from).collect()),
        serde_json::Value::Object(fields) => Value::Map(payload_from(fields)),
    }
}

fn number_from(number: &Number) -> Value {
    match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => Value::Int(whole),
        (None, Some(float)) => Value::Float(float),
        (None, None) => Value::Null,
    }
}

/// The fields of a JSON object.
pub fn payload_from(fields: Map<String, serde_json::Value>) -> Payload {
    fields.into_iter().map(|(name, value)| (name, value_from(value))).collect()
}

/// JSON of a value.
pub fn value_to(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(truth) => (*truth).into(),
        Value::Int(whole) => (*whole).into(),
        Value::Float(float) => Number::from_f64(*float).map_or(serde_json::Value::Null, Into::into),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(value_to).collect(),
        Value::Map(fields) => payload_to(fields),
    }
}

/// JSON of a payload.
pub fn payload_to(payload: &Payload) -> serde_json::Value {
    let fields = payload.iter().map(|(name, value)| (name.clone(), value_to(value)));
    serde_json::Value::Object(fields.collect())
}

/// JSON of a key: a number or text.
pub fn key_to(key: &Key) -> serde_json::Value {
    match key {
        Key::Number(number) => (*number).into(),
        Key::Text(text) => text.as_str().into(),
    }
}

/// The key that a payload value can serve as; `None` if it is neither text nor a whole number from 0.
pub fn key_of(value: &Value) -> Option<Key> {
    match value {
        Value::Text(text) if !text.is_empty() => Some(Key::Text(text.clone())),
        Value::Int(number) => u64::try_from(*number).ok().map(Key::Number),
        _ => None,
    }
}

/// The key that a user typed: digits are a number, anything else (or `text:...`) is text.
pub fn key_from_word(word: &str) -> Key {
    match (word.strip_prefix("text:"), word.parse()) {
        (Some(text), _) => Key::Text(text.to_owned()),
        (None, Ok(number)) => Key::Number(number),
        (None, Err(_)) => Key::Text(word.to_owned()),
    }
}

/// JSON of a record: key, version, payload and, where there are any, vectors.
pub fn record_to(record: &Record) -> serde_json::Value {
    let mut json = serde_json::json!({
        "key": key_to(&record.key), "version": record.version, "payload": payload_to(&record.payload),
    });
    if !record.vectors.is_empty() {
        json["vectors"] = serde_json::json!(record.vectors);
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_way_to_json_and_back() {
        let text = r#"{"a":[1,2.5,null,"x",true],"b":{"c":-9223372036854775808},"d":1.0}"#;
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        let value = value_from(json.clone());
        let Value::Map(fields) = &value else { panic!("an object is a map") };
        assert_eq!(fields["d"], Value::Float(1.0));
        assert_eq!(value_to(&value), json);
        let huge = value_from(serde_json::json!(u64::MAX));
        assert_eq!(huge, Value::Float(18_446_744_073_709_551_615.0));
    }

    #[test]
    fn keys_as_typed_and_as_found() {
        assert_eq!(key_from_word("12"), Key::Number(12));
        assert_eq!(key_from_word("text:12"), Key::Text("12".into()));
        assert_eq!(key_from_word("vm-1"), Key::Text("vm-1".into()));
        assert_eq!(key_of(&Value::Int(-1)), None);
        assert_eq!(key_of(&Value::Int(7)), Some(Key::Number(7)));
        assert_eq!(key_of(&Value::Text(String::new())), None);
    }
}
