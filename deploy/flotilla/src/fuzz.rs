//! The doors for fuzzing of what users hand to the binary: filters, configurations, and files to import.
//!
//! Compiled for tests and under the feature `fuzz` only. A door takes any bytes and panics if the parser breaks its promise;
//! the targets in `tests/fuzz` call it, and so does the replay of their corpora here.

// The folder is a door's own, or nothing can be tried.
#![allow(clippy::expect_used)]

use flotilla_proto::convert::{filter_from_wire, filter_to_wire};
use flotilla_proto::filter::Compiled;
use flotilla_proto::limits::FILTER_DEPTH_MAX;
use flotilla_proto::record::{Key, Payload, Value};
use flotilla_proto::schema::CollectionSpec;

pub use crate::config::fuzz::config;

/// What may be a filter in JSON. (The door of the other text form is beside its parser, `flotilla_proto::fuzz::filter_text`.)
///
/// **Promise.** It parses, or the error names a place inside the filter, without a panic. What parses goes over the wire and
/// comes back the same, or is refused for its depth there; a collection that takes it can ask it.
pub fn filter_json(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let filter = match crate::filter_json::parse(&text) {
        Ok(filter) => filter,
        Err(why) => {
            let why = why.to_string();
            assert!(why.starts_with("filter") && why.contains(": "), "{why}");
            return;
        }
    };
    match filter_from_wire(filter_to_wire(&filter)) {
        Ok(back) => assert_eq!(back, filter),
        Err(why) => assert!(why.to_string().contains(&format!("the limit is {FILTER_DEPTH_MAX}")), "{why}"),
    }
    if let Ok(compiled) = Compiled::new(&filter, &CollectionSpec::default()) {
        let payload =
            Payload::from([("a".to_owned(), Value::Int(1)), ("b".to_owned(), Value::Text("x".into()))]);
        compiled.matches(&Key::Number(1), &payload);
    }
}

/// Writes the bytes to a file that is gone when the folder is dropped.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder =
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder for an input");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("the folder is ours");
    (folder, path)
}

/// What may be a file of records. Each row is looked at as an import does, and told as JSON again.
fn import(name: &str, bytes: &[u8]) {
    let (_folder, path) = file(name, bytes);
    let Ok(mut records) = crate::import::records::Records::open(&path) else { return };
    let (mut survey, mut rows) = (crate::import::infer::Survey::default(), 0);
    while let Ok(Some(row)) = records.next_row() {
        rows += 1;
        if let Ok(payload) = row {
            survey.add(&payload);
            let json = crate::json::payload_to(&payload);
            assert!(json.is_object());
            if is_finite(&payload) {
                assert_eq!(crate::json::value_from(json), Value::Map(payload));
            }
        }
        assert!(rows <= ROWS_MAX, "{rows} rows of {} bytes", bytes.len());
    }
    assert!(survey.types().len() <= flotilla_proto::limits::FIELDS_MAX);
}

/// Rows looked at, at most: a few bytes of Parquet may stand for many rows.
const ROWS_MAX: u64 = 1 << 20;

/// JSON knows no infinity.
fn is_finite(payload: &Payload) -> bool {
    fn all(value: &Value) -> bool {
        match value {
            Value::Float(x) => x.is_finite(),
            Value::List(items) => items.iter().all(all),
            Value::Map(fields) => fields.values().all(all),
            _ => true,
        }
    }
    payload.values().all(all)
}

/// What may be a file of JSON lines.
///
/// **Promise.** Each line is a row or named as bad, without a panic; as many rows are read as were counted; a row that is
/// written as JSON reads the same.
pub fn import_jsonl(bytes: &[u8]) {
    import("f.jsonl", bytes);
}

/// What may be a file of CSV.
///
/// **Promise.** As for JSON lines; a cell is what its column is, in every row or in none.
pub fn import_csv(bytes: &[u8]) {
    import("f.csv", bytes);
}

/// What may be a Parquet file.
///
/// **Promise.** As for JSON lines; a file that is damaged inside ends the reading with an error, never the process.
pub fn import_parquet(bytes: &[u8]) {
    import("f.parquet", bytes);
}

/// What may be an array of numpy.
///
/// **Promise.** It is read or refused, without a panic and without memory for rows that are only claimed; as many values come
/// as the header says, or an error.
pub fn import_npy(bytes: &[u8]) {
    let (_folder, path) = file("f.npy", bytes);
    if let Ok(matrix) = crate::npy::read_f32_matrix(&path) {
        assert!(matrix.columns > 0 && matrix.data.len().is_multiple_of(matrix.columns));
        assert!(matrix.data.len() <= bytes.len());
        assert_eq!(
            crate::npy::open(&path).map(|file| file.rows()).ok(),
            Some((matrix.data.len() / matrix.columns) as u64)
        );
    }
    if let Ok(mut file) = crate::npy::NpyReader::new(bytes) {
        let mut row = Vec::new();
        while file.next_i64(&mut row).unwrap_or(false) {
            assert_eq!(row.len(), file.columns());
        }
    }
}

#[cfg(test)]
mod tests;
