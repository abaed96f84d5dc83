//! Rows and vectors of two files, joined by row number and cut into batches.

use std::fs::File;
use std::io::BufReader;

use flotilla_proto::limits::BATCH_MAX;
use flotilla_proto::record::{Key, Payload, Record, Value, Vector};

use super::records::Records;
use crate::json;
use crate::npy::NpyReader;

/// Estimated bytes after which a batch is full, whatever its rows: well below the largest message.
const BATCH_BYTES: usize = 8 << 20;

/// A row that cannot become a record, or that the server refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Reject {
    /// Its row, from 0.
    pub row: u64,
    /// Why.
    pub reason: String,
    /// Its payload, if it was read.
    pub payload: Option<Payload>,
}

/// Records for one upsert, the row of each, and the rows among them that are no records.
#[derive(Debug, Default)]
pub struct Batch {
    /// Rows, one for each record.
    pub rows: Vec<u64>,
    /// The records.
    pub records: Vec<Record>,
    /// Rows that are no records.
    pub rejects: Vec<Reject>,
}

/// The vectors of an import: their name and file.
pub type Vectors = (String, NpyReader<BufReader<File>>);

/// The batches of an import, from front to back.
pub struct Batches {
    records: Records,
    vectors: Option<Vectors>,
    /// A vector's name, and the field that holds it.
    field: Option<(String, String)>,
    key: Option<String>,
    size: usize,
    row: u64,
}

impl Batches {
    /// Batches of at most `size` records; `key` names the field that becomes the key (none: the row number does).
    pub fn new(records: Records, vectors: Option<Vectors>, key: Option<String>, size: usize) -> Batches {
        Batches { records, vectors, field: None, key, size: size.clamp(1, BATCH_MAX), row: 0 }
    }

    /// With the vector of this name taken from the field behind it.
    pub fn vector_from(self, field: Option<(String, String)>) -> Batches {
        Batches { field, ..self }
    }

    /// The next batch; `None` at the end of the records.
    pub fn next_batch(&mut self) -> anyhow::Result<Option<Batch>> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.records.len() + batch.rejects.len() < self.size && bytes < BATCH_BYTES {
            let Some(payload) = self.records.next_row()? else { break };
            let vector = self.next_vector()?;
            let row = self.row;
            self.row += 1;
            let record = match payload {
                Ok(payload) => self.record(row, payload, vector),
                Err(bad) => Err(Reject { row, reason: bad.0, payload: None }),
            };
            match record {
                Ok(record) => {
                    bytes += weight(&record);
                    batch.rows.push(row);
                    batch.records.push(record);
                }
                Err(reject) => batch.rejects.push(reject),
            }
        }
        let is_empty = batch.records.is_empty() && batch.rejects.is_empty();
        Ok((!is_empty).then_some(batch))
    }

    fn next_vector(&mut self) -> anyhow::Result<Option<(String, Vector)>> {
        let Some((name, file)) = &mut self.vectors else { return Ok(None) };
        let mut vector = Vec::with_capacity(file.columns());
        anyhow::ensure!(
            file.next_f32(&mut vector)?,
            "the vectors end at row {}, the records do not",
            self.row
        );
        Ok(Some((name.clone(), Vector::Dense(vector))))
    }

    fn record(
        &self,
        row: u64,
        mut payload: Payload,
        vector: Option<(String, Vector)>,
    ) -> Result<Record, Reject> {
        let key = self.key_of(row, &payload);
        match key.and_then(|key| Ok((key, self.vector_of(&mut payload)?))) {
            Ok((key, held)) => {
                let vectors = vector.into_iter().chain(held).collect();
                Ok(Record { key, vectors, payload, version: 0 })
            }
            Err(reason) => Err(Reject { row, reason, payload: Some(payload) }),
        }
    }

    /// The vector that a field holds; a record without the field has none.
    fn vector_of(&self, payload: &mut Payload) -> Result<Option<(String, Vector)>, String> {
        let Some((name, field)) = &self.field else { return Ok(None) };
        let Some(value) = payload.get(field).filter(|value| **value != Value::Null) else { return Ok(None) };
        let vector =
            json::vector_from(&json::value_to(value)).map_err(|why| format!("field `{field}`: {why}"))?;
        payload.remove(field);
        Ok(Some((name.clone(), vector)))
    }

    fn key_of(&self, row: u64, payload: &Payload) -> Result<Key, String> {
        let Some(field) = &self.key else { return Ok(Key::Number(row)) };
        let value =
            payload.get(field).ok_or_else(|| format!("there is no field `{field}` to take the key from"))?;
        json::key_of(value).ok_or_else(|| {
            let text = json::value_to(value);
            format!("field `{field}` is {text}; a key is text or a whole number from 0")
        })
    }
}

fn weight(record: &Record) -> usize {
    let vectors: usize = record.vectors.values().map(|vector| 4 * vector.numbers()).sum();
    vectors + record.payload.iter().map(|(name, value)| name.len() + weight_of(value)).sum::<usize>()
}

fn weight_of(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 12,
        Value::Text(text) => 4 + text.len(),
        Value::List(items) => items.iter().map(weight_of).sum(),
        Value::Map(fields) => fields.iter().map(|(name, value)| name.len() + weight_of(value)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(text: &str, key: Option<&str>, size: usize) -> Vec<Batch> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut batches = Batches::new(Records::open(&path).unwrap(), None, key.map(str::to_owned), size);
        std::iter::from_fn(|| batches.next_batch().unwrap()).collect()
    }

    #[test]
    fn rows_keep_their_numbers_and_become_keys() {
        let got = batches("{\"a\":1}\n{\"a\":2}\nnonsense\n{\"a\":4}\n", None, 3);
        assert_eq!(got.len(), 2);
        assert_eq!((&got[0].rows[..], &got[1].rows[..]), (&[0, 1][..], &[3][..]));
        assert_eq!(got[1].records[0].key, Key::Number(3));
        assert_eq!(got[0].rejects[0].row, 2);
    }

    #[test]
    fn a_key_is_taken_from_a_field_and_a_row_without_one_is_no_record() {
        let got = batches("{\"id\":\"x\"}\n{\"id\":7}\n{\"id\":-7}\n{\"id\":null}\n{}\n", Some("id"), 100);
        let keys: Vec<&Key> = got[0].records.iter().map(|record| &record.key).collect();
        assert_eq!(keys, [&Key::from("x"), &Key::from(7)]);
        let reasons: Vec<&str> = got[0].rejects.iter().map(|reject| reject.reason.as_str()).collect();
        assert_eq!(reasons[0], "field `id` is -7; a key is text or a whole number from 0");
        assert_eq!(reasons[2], "there is no field `id` to take the key from");
    }

    #[test]
    fn a_vector_is_taken_out_of_its_field() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.jsonl");
        let sparse = r#"{"a":1,"v":{"indices":[2,5],"values":[1,0.5]}}"#;
        std::fs::write(&path, format!("{sparse}\n{{\"v\":[[1,2],[3,4]]}}\n{{\"a\":2}}\n{{\"v\":\"x\"}}\n"))
            .unwrap();
        let batches = Batches::new(Records::open(&path).unwrap(), None, None, 10);
        let field = Some(("words".to_owned(), "v".to_owned()));
        let batch = batches.vector_from(field).next_batch().unwrap().unwrap();
        let vectors: Vec<Option<&Vector>> =
            batch.records.iter().map(|record| record.vectors.get("words")).collect();
        let (sparse, several) =
            (vec![(2, 1.0), (5, 0.5)].into(), vec![vec![1.0, 2.0], vec![3.0, 4.0]].into());
        assert_eq!(vectors, [Some(&sparse), Some(&several), None]);
        assert_eq!(batch.records[0].payload, Payload::from([("a".into(), 1.into())]));
        assert!(batch.rejects[0].reason.starts_with("field `v`: a vector is"), "{:?}", batch.rejects);
    }

    #[test]
    fn a_batch_of_wide_rows_ends_early() {
        let row = format!("{{\"a\":\"{}\"}}\n", "x".repeat(3 << 20));
        assert_eq!(batches(&row.repeat(7), None, 500).len(), 3);
    }
}
