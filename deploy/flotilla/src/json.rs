//! JSON as files and terminals have it, to and from the domain's values, keys and records.

use flotilla_proto::record::{Key, Payload, Record, Value, Vector};
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

/// JSON of a vector: a dense one is a list of its components, several are a list of such lists, and a sparse one is
/// `{"indices": [...], "values": [...]}`.
pub fn vector_to(vector: &Vector) -> serde_json::Value {
    match vector {
        Vector::Dense(values) => serde_json::json!(values),
        Vector::Multi(vectors) => serde_json::json!(vectors),
        Vector::Sparse(pairs) => {
            let (indices, values): (Vec<u32>, Vec<f32>) = pairs.iter().copied().unzip();
            serde_json::json!({"indices": indices, "values": values})
        }
    }
}

const NO_VECTOR: &str =
    "a vector is a list of numbers, a list of such lists, or {\"indices\": [...], \"values\": [...]}";

/// The vector that such JSON means; the reason if it is none.
pub fn vector_from(json: &serde_json::Value) -> Result<Vector, &'static str> {
    let whole = |json: &serde_json::Value| json.as_u64().and_then(|number| u32::try_from(number).ok());
    let found = match json {
        serde_json::Value::Array(list) if list.first().is_some_and(serde_json::Value::is_array) => {
            list.iter().map(numbers_from).collect::<Option<_>>().map(Vector::Multi)
        }
        serde_json::Value::Object(parts) if parts.len() == 2 => {
            let indices = parts.get("indices").and_then(|list| list.as_array()?.iter().map(whole).collect());
            let values = parts.get("values").and_then(numbers_from);
            let both: Option<(Vec<u32>, Vec<f32>)> = indices.zip(values);
            let both = both.filter(|(indices, values)| indices.len() == values.len());
            both.map(|(indices, values)| Vector::Sparse(indices.into_iter().zip(values).collect()))
        }
        json => numbers_from(json).map(Vector::Dense),
    };
    found.ok_or(NO_VECTOR)
}

fn numbers_from(json: &serde_json::Value) -> Option<Vec<f32>> {
    json.as_array()?.iter().map(|number| number.as_f64().map(|number| number as f32)).collect()
}

/// JSON of a record: key, version, payload and, where there are any, vectors and the time at which it expires.
pub fn record_to(record: &Record) -> serde_json::Value {
    let mut json = serde_json::json!({
        "key": key_to(&record.key), "version": record.version, "payload": payload_to(&record.payload),
    });
    if let Some(when) = record.expires_at_ms {
        json["expires_at_ms"] = when.into();
    }
    if !record.vectors.is_empty() {
        let vectors = record.vectors.iter().map(|(name, vector)| (name.clone(), vector_to(vector)));
        json["vectors"] = serde_json::Value::Object(vectors.collect());
    }
    json
}

/// The record of such JSON; the reason if it is none. A version is passed over: whoever writes the record gives it one.
pub fn record_from(mut fields: Map<String, serde_json::Value>) -> Result<Record, String> {
    let key = match fields.remove("key") {
        Some(serde_json::Value::String(text)) if !text.is_empty() => Key::Text(text),
        Some(serde_json::Value::Number(number)) if number.is_u64() => {
            Key::Number(number.as_u64().unwrap_or_default())
        }
        Some(other) => return Err(format!("`key` is {other}; a key is text or a whole number from 0")),
        None => return Err("there is no `key`".to_owned()),
    };
    let mut record = Record::new(key);
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("payload", serde_json::Value::Object(fields)) => record.payload = payload_from(fields),
            ("vectors", serde_json::Value::Object(vectors)) => {
                for (name, vector) in vectors {
                    let read = vector_from(&vector).map_err(|why| format!("vector `{name}`: {why}"))?;
                    record.vectors.insert(name, read);
                }
            }
            ("payload" | "vectors", _) => return Err(format!("`{name}` is not a JSON object")),
            ("version", _) => {}
            _ => return Err(format!("a record has no `{name}`: it has key, payload, vectors and version")),
        }
    }
    Ok(record)
}

/// The value at a dotted path of maps; nothing of lists on the way.
pub fn field<'a>(payload: &'a Payload, path: &str) -> Option<&'a Value> {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let start = payload.get(first);
    rest.split('.').filter(|step| !step.is_empty()).fold(start, |value, step| match value {
        Some(Value::Map(fields)) => fields.get(step),
        _ => None,
    })
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
    fn vectors_of_every_form_survive_the_way() {
        let sparse = vec![(3, 0.5), (9, -1.0)];
        for vector in [vec![0.5, 1.0].into(), sparse.into(), vec![vec![0.5, 1.0], vec![2.0, 3.0]].into()] {
            assert_eq!(vector_from(&vector_to(&vector)), Ok(vector));
        }
        for wrong in [
            "1",
            "[1, null]",
            "[[1], 2]",
            r#"{"indices": [1]}"#,
            r#"{"indices": [-1], "values": [1]}"#,
            r#"{"indices": [1, 2], "values": [1]}"#,
            r#"{"indices": [4294967296], "values": [1]}"#,
        ] {
            vector_from(&serde_json::from_str(wrong).unwrap()).unwrap_err();
        }
    }

    fn record(text: &str) -> Result<Record, String> {
        let serde_json::Value::Object(fields) = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        record_from(fields)
    }

    #[test]
    fn records_survive_the_way_to_json_and_back() {
        let full = Record::new(u64::MAX).field("a", 0.1).field("b", i64::MIN).field("c", 1e300);
        for written in [
            full.vector("default", vec![0.1, -0.0, 3e38]).vector("words", vec![(7, 0.3)]),
            Record::new("18446744073709551615").field("ä.b", "\u{0}\n\u{fffe}"),
        ] {
            let text = record_to(&written).to_string();
            assert_eq!(record(&text), Ok(written), "{text}");
        }
        for (wrong, why) in [
            ("{}", "there is no `key`"),
            (r#"{"key": -1}"#, "`key` is -1; a key is text or a whole number from 0"),
            (r#"{"key": ""}"#, "`key` is \"\"; a key is text or a whole number from 0"),
            (r#"{"key": 1, "payload": 2}"#, "`payload` is not a JSON object"),
            (r#"{"key": 1, "cpu": 2}"#, "a record has no `cpu`: it has key, payload, vectors and version"),
        ] {
            assert_eq!(record(wrong), Err(why.to_owned()));
        }
        let wrong = record(r#"{"key": 1, "vectors": {"v": 2}}"#).unwrap_err();
        assert!(wrong.starts_with("vector `v`: a vector is"), "{wrong}");
    }

    #[test]
    fn floats_are_read_as_the_nearest() {
        for bits in (0..2_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let float = f64::from_bits(bits);
            if float.is_finite() {
                let text = value_to(&Value::Float(float)).to_string();
                assert_eq!(value_from(serde_json::from_str(&text).unwrap()), Value::Float(float), "{text}");
            }
        }
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
