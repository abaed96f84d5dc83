//! Types of fields, from what every record of a file holds.
//!
//! A field is declared where all its values agree: whole numbers (with floats among them: float), truth values, RFC 3339
//! text (datetime), hyphenated UUIDs (uuid), other text (keyword, or full text where it is long on average), maps of nothing but
//! the `lat` and `lon` of a point (geo). A field of mixed types, and one that holds both values and nested fields, stays undeclared, which a collection allows. Since every row is looked at, no
//! row of the file is refused later for a type chosen here.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::geo::Point;
use flotilla_proto::limits::FIELDS_MAX;
use flotilla_proto::record::{Payload, Value};
use flotilla_proto::schema::{FieldType, check_path, datetime_micros, uuid_of};

/// Distinct paths looked at, at most; payloads keyed by data would grow this without end.
const PATHS_MAX: usize = 4_096;
/// Mean bytes from which text counts as prose.
const PROSE_BYTES: u64 = 96;
/// Bytes of a UUID with its hyphens: 32 plain digits may be anything.
const UUID_BYTES: usize = 36;

/// What the rows so far hold.
#[derive(Debug, Default)]
pub struct Survey {
    paths: BTreeMap<String, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    bools: u64,
    integers: u64,
    floats: u64,
    datetimes: u64,
    uuids: u64,
    texts: u64,
    text_bytes: u64,
    maps: u64,
    /// Of the maps.
    points: u64,
}

impl Survey {
    /// Looks at one more row.
    pub fn add(&mut self, payload: &Payload) {
        self.fields("", payload);
    }

    fn fields(&mut self, path: &str, payload: &Payload) {
        for (name, value) in payload {
            // A dot in a name would read as a step of a path.
            if !name.contains('.') {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                self.value(&path, value);
            }
        }
    }

    fn value(&mut self, path: &str, value: &Value) {
        match value {
            Value::Null => return,
            Value::List(items) => return items.iter().for_each(|item| self.value(path, item)),
            Value::Map(fields) => self.fields(path, fields),
            _ => {}
        }
        if !self.paths.contains_key(path) && (self.paths.len() >= PATHS_MAX || check_path("", path).is_err())
        {
            return;
        }
        let seen = self.paths.entry(path.to_owned()).or_default();
        match value {
            Value::Bool(_) => seen.bools += 1,
            Value::Int(_) => seen.integers += 1,
            Value::Float(_) => seen.floats += 1,
            Value::Text(text) => seen.text(text, value),
            Value::Map(fields) => seen.map(fields),
            Value::Null | Value::List(_) => {}
        }
    }

    /// The declared fields: at most [`FIELDS_MAX`], those of most values first in line.
    pub fn types(&self) -> BTreeMap<String, FieldType> {
        let mut typed: Vec<(u64, &String, FieldType)> =
            self.paths.iter().filter_map(|(path, seen)| Some((seen.all(), path, seen.kind()?))).collect();
        // What is within a point is no field of its own.
        let points: BTreeSet<String> = typed
            .iter()
            .filter(|(.., kind)| *kind == FieldType::Geo)
            .map(|(_, path, _)| format!("{path}."))
            .collect();
        typed.retain(|(_, path, _)| !points.iter().any(|point| path.starts_with(point)));
        typed.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        typed.into_iter().take(FIELDS_MAX).map(|(_, path, kind)| (path.clone(), kind)).collect()
    }
}

impl Seen {
    fn text(&mut self, text: &str, value: &Value) {
        if datetime_micros(value).is_some() {
            self.datetimes += 1;
        }
        if text.len() >= UUID_BYTES && uuid_of(value).is_some() {
            self.uuids += 1;
        }
        self.texts += 1;
        self.text_bytes += text.len() as u64;
    }

    fn map(&mut self, fields: &Payload) {
        let number = |name: &str| match fields.get(name) {
            Some(Value::Int(whole)) => Some(*whole as f64),
            Some(Value::Float(float)) => Some(*float),
            _ => None,
        };
        let is_point = fields.len() == 2
            && number("lat").zip(number("lon")).is_some_and(|(lat, lon)| Point::new(lat, lon).is_ok());
        self.maps += 1;
        self.points += u64::from(is_point);
    }

    fn all(&self) -> u64 {
        self.values() + self.maps
    }

    fn values(&self) -> u64 {
        self.bools + self.integers + self.floats + self.texts
    }

    fn kind(&self) -> Option<FieldType> {
        let values = self.values();
        if self.maps > 0 {
            return (values == 0 && self.points == self.maps).then_some(FieldType::Geo);
        }
        if values == 0 {
            return None;
        }
        match values {
            n if n == self.bools => Some(FieldType::Bool),
            n if n == self.integers => Some(FieldType::Integer),
            n if n == self.integers + self.floats => Some(FieldType::Float),
            n if n == self.datetimes => Some(FieldType::Datetime),
            n if n == self.uuids => Some(FieldType::Uuid),
            n if n == self.texts && self.text_bytes / n >= PROSE_BYTES => Some(FieldType::Text),
            n if n == self.texts => Some(FieldType::Keyword),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(rows: &[&str]) -> Vec<(String, &'static str)> {
        let mut survey = Survey::default();
        for row in rows {
            let serde_json::Value::Object(fields) = serde_json::from_str(row).unwrap() else {
                panic!("{row}")
            };
            survey.add(&crate::json::payload_from(fields));
        }
        survey.types().into_iter().map(|(path, kind)| (path, kind.name())).collect()
    }

    #[test]
    fn types_are_those_all_values_agree_on() {
        let prose = format!(r#"{{"about": "{}"}}"#, "word ".repeat(40));
        let found = types(&[
            r#"{"i": 1, "f": 1, "b": true, "t": "x", "d": "2026-01-02T03:04:05Z", "mixed": 1, "null": null}"#,
            r#"{"i": [2, 3], "f": 1.5, "t": "y", "d": "2026-01-02T03:04:05+02:00", "mixed": "one"}"#,
            r#"{"n": {"v": 1}, "disks": [{"gb": 10}, {"gb": 20}], "a.b": 1, "both": 1}"#,
            r#"{"both": {"c": "x"}, "t": "2026-01-02T03:04:05Z"}"#,
            &prose,
        ]);
        let expected = [
            ("about", "text"),
            ("b", "bool"),
            ("both.c", "keyword"),
            ("d", "datetime"),
            ("disks.gb", "integer"),
            ("f", "float"),
            ("i", "integer"),
            ("n.v", "integer"),
            ("t", "keyword"),
        ];
        assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
    }

    #[test]
    fn uuids_and_points_are_told_from_other_text_and_other_maps() {
        let found = types(&[
            r#"{"id": "0191D2A4-7B3C-7DEF-8ABC-0123456789AB", "sum": "0191d2a47b3c7def8abc0123456789ab",
                "some": "0191d2a4-7b3c-7def-8abc-0123456789ab", "at": {"lat": 52.5, "lon": 13},
                "far": {"lat": 91, "lon": 0}, "more": {"lat": 1, "lon": 2, "alt": 3},
                "both": [{"lat": 1, "lon": 2}, 7], "list": [13.5, 52.5]}"#,
            r#"{"id": "{0191d2a4-7b3c-7def-8abc-0123456789ab}", "some": "other",
                "at": [{"lat": -90, "lon": 180.0}, {"lat": 0, "lon": 0}]}"#,
        ]);
        let expected = [
            ("at", "geo"),
            ("both.lat", "integer"),
            ("both.lon", "integer"),
            ("far.lat", "integer"),
            ("far.lon", "integer"),
            ("id", "uuid"),
            ("list", "float"),
            ("more.alt", "integer"),
            ("more.lat", "integer"),
            ("more.lon", "integer"),
            ("some", "keyword"),
            ("sum", "keyword"),
        ];
        assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
    }

    #[test]
    fn rows_keyed_by_data_stay_bounded() {
        let mut survey = Survey::default();
        for i in 0..PATHS_MAX as i64 + 500 {
            survey.add(&Payload::from([(format!("k{i:05}"), i.into())]));
        }
        assert_eq!(survey.paths.len(), PATHS_MAX);
        assert_eq!(survey.types().len(), FIELDS_MAX);
    }
}
