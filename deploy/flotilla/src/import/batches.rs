//! Rows and vectors of two files, joined by row number and cut into batches.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;

use flotilla_proto::limits::BATCH_MAX;
use flotilla_proto::record::{Key, Payload, Record, Value, Vector};

use super::records::{BadRow, Place, Records};
use crate::json;
use crate::npy::NpyReader;

/// Estimated bytes after which a batch is full, whatever its rows: well below the largest message.
const BATCH_BYTES: usize = 8 << 20;

/// A row that cannot become a record, or that the server refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Reject {
    /// Where it stands.
    pub place: Place,
    /// Why.
    pub reason: String,
    /// What of it was read.
    pub content: Content,
}

/// What there is of a row that is no record.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Its text, which is not even a row; empty if the file has none.
    Text(String),
    /// The fields that were read.
    Fields(Payload),
    /// A record, whole.
    Whole(Box<Record>),
}

/// Records for one upsert, the place of each, and the rows among them that are no records: rows that follow each other.
#[derive(Debug, Default)]
pub struct Batch {
    /// The first row, and the one behind the last.
    pub rows: Range<u64>,
    /// Places, one for each record.
    pub places: Vec<Place>,
    /// The records.
    pub records: Vec<Record>,
    /// Rows that are no records.
    pub rejects: Vec<Reject>,
    /// Whether rows are whole records.
    pub whole: bool,
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
    /// Whether rows are records already.
    whole: bool,
    size: usize,
    row: u64,
}

impl Batches {
    /// Batches of at most `size` records; `key` names the field that becomes the key (none: the row number does).
    pub fn new(records: Records, vectors: Option<Vectors>, key: Option<String>, size: usize) -> Batches {
        Batches { records, vectors, field: None, key, whole: false, size: size.clamp(1, BATCH_MAX), row: 0 }
    }

    /// With the vector of this name taken from the field behind it.
    pub fn vector_from(self, field: Option<(String, String)>) -> Batches {
        Batches { field, ..self }
    }

    /// Of rows that are whole records, if `whole`.
    pub fn whole(self, whole: bool) -> Batches {
        Batches { whole, ..self }
    }

    /// Passes over so many rows, which were written before.
    ///
    /// # Errors
    /// The files', also if there are not so many.
    pub fn skip(&mut self, rows: u64) -> anyhow::Result<()> {
        while self.row < rows {
            let is_there = if self.whole {
                self.records.next_record()?.is_some()
            } else {
                self.records.next_row()?.is_some()
            };
            anyhow::ensure!(is_there, "the records end at row {}, {rows} were written before", self.row);
            self.next_vector()?;
            self.row += 1;
        }
        Ok(())
    }

    /// The next batch; `None` at the end of the records.
    pub fn next_batch(&mut self) -> anyhow::Result<Option<Batch>> {
        let mut batch = Batch { rows: self.row..self.row, whole: self.whole, ..Batch::default() };
        let mut bytes = 0;
        while batch.records.len() + batch.rejects.len() < self.size && bytes < BATCH_BYTES {
            let Some((place, record)) = self.next_record()? else { break };
            batch.rows.end = self.row;
            match record {
                Ok(record) => {
                    bytes += weight(&record);
                    batch.places.push(place);
                    batch.records.push(record);
                }
                Err(reject) => {
                    bytes += reject.reason.len() + reject.content.weight();
                    batch.rejects.push(reject);
                }
            }
        }
        if batch.rows.is_empty() {
            self.check_end()?;
            return Ok(None);
        }
        Ok(Some(batch))
    }

    /// The next row, and the record that it is or why it is none; `None` at the end.
    fn next_record(&mut self) -> anyhow::Result<Option<(Place, Result<Record, Reject>)>> {
        let (place, record) = if self.whole {
            let Some(record) = self.records.next_record()? else { return Ok(None) };
            let place = Place { row: self.row, line: self.records.line() };
            (place, record.map_err(|bad| Reject::text(place, bad)))
        } else {
            let Some(payload) = self.records.next_row()? else { return Ok(None) };
            let place = Place { row: self.row, line: self.records.line() };
            let vector = self.next_vector()?;
            let record = match payload {
                Ok(payload) => self.record(place, payload, vector),
                Err(bad) => Err(Reject::text(place, bad)),
            };
            (place, record)
        };
        self.row += 1;
        Ok(Some((place, record)))
    }

    /// Refuses vectors beyond the last record: the lengths of files were compared, that of a stream was not known.
    fn check_end(&self) -> anyhow::Result<()> {
        let vectors = self.vectors.as_ref().map_or(self.row, |(_, file)| file.rows());
        anyhow::ensure!(
            vectors == self.row,
            "the records end at row {}, there are {vectors} vectors",
            self.row
        );
        Ok(())
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
        place: Place,
        mut payload: Payload,
        vector: Option<(String, Vector)>,
    ) -> Result<Record, Reject> {
        let key = self.key_of(place.row, &payload);
        match key.and_then(|key| Ok((key, self.vector_of(&mut payload)?))) {
            Ok((key, held)) => {
                let vectors = vector.into_iter().chain(held).collect();
                Ok(Record { vectors, payload, ..Record::new(key) })
            }
            Err(reason) => Err(Reject { place, reason, content: Content::Fields(payload) }),
        }
    }

    /// The vector that a field holds; a record without the field has none.
    fn vector_of(&self, payload: &mut Payload) -> Result<Option<(String, Vector)>, String> {
        let Some((name, field)) = &self.field else { return Ok(None) };
        let Some(value) = payload.get(field).filter(|value| **value != Value::Null) else { return Ok(None) };
        let written = match value {
            // A cell of CSV holds its JSON as text.
            Value::Text(text) => serde_json::from_str(text).unwrap_or_default(),
            value => json::value_to(value),
        };
        let vector = json::vector_from(&written).map_err(|why| format!("field `{field}`: {why}"))?;
        payload.remove(field);
        Ok(Some((name.clone(), vector)))
    }

    fn key_of(&self, row: u64, payload: &Payload) -> Result<Key, String> {
        let Some(field) = &self.key else { return Ok(Key::Number(row)) };
        let value = payload.get(field).or_else(|| json::field(payload, field));
        let value = value.ok_or_else(|| format!("there is no field `{field}` to take the key from"))?;
        json::key_of(value).ok_or_else(|| {
            let text = json::value_to(value);
            format!("field `{field}` is {text}; a key is text or a whole number from 0")
        })
    }
}

impl Reject {
    fn text(place: Place, bad: BadRow) -> Reject {
        Reject { place, reason: bad.reason, content: Content::Text(bad.text) }
    }
}

impl Content {
    /// A record, or its fields alone where rows are no whole records.
    pub fn of(record: Record, whole: bool) -> Content {
        if whole { Content::Whole(Box::new(record)) } else { Content::Fields(record.payload) }
    }

    fn weight(&self) -> usize {
        match self {
            Content::Text(text) => text.len(),
            Content::Fields(payload) => weight_of_all(payload),
            Content::Whole(record) => weight(record),
        }
    }
}

/// Estimated bytes of a record.
pub fn weight(record: &Record) -> usize {
    let vectors: usize = record.vectors.values().map(|vector| 4 * vector.numbers()).sum();
    vectors + weight_of_all(&record.payload)
}

/// Estimated bytes of a payload.
pub fn weight_of_all(payload: &Payload) -> usize {
    payload.iter().map(|(name, value)| name.len() + weight_of(value)).sum()
}

fn weight_of(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 12,
        Value::Text(text) => 4 + text.len(),
        Value::List(items) => items.iter().map(weight_of).sum(),
        Value::Map(fields) => weight_of_all(fields),
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
        let rows = |batch: &Batch| batch.places.iter().map(|place| place.row).collect::<Vec<u64>>();
        assert_eq!((rows(&got[0]), rows(&got[1])), (vec![0, 1], vec![3]));
        assert_eq!((got[0].rows.clone(), got[1].rows.clone()), (0..3, 3..4));
        assert_eq!(got[1].records[0].key, Key::Number(3));
        let reject = &got[0].rejects[0];
        assert_eq!((reject.place.row, reject.place.to_string()), (2, "line 3".to_owned()));
        assert_eq!(reject.content, Content::Text("nonsense".to_owned()));
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
    fn rows_written_before_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.jsonl");
        std::fs::write(&path, "{\"a\":1}\nbad\n{\"a\":3}\n").unwrap();
        let open = || Batches::new(Records::open(&path).unwrap(), None, None, 10);
        let mut batches = open();
        batches.skip(2).unwrap();
        let batch = batches.next_batch().unwrap().unwrap();
        assert_eq!((batch.rows, batch.records[0].key.clone()), (2..3, Key::Number(2)));
        assert!(batches.next_batch().unwrap().is_none());
        open().skip(3).unwrap();
        let why = open().skip(4).unwrap_err().to_string();
        assert_eq!(why, "the records end at row 3, 4 were written before");
    }

    #[test]
    fn whole_records_are_taken_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.jsonl");
        let line = r#"{"key":"k","version":9,"payload":{"a":1},"vectors":{"v":[0.5]}}"#;
        std::fs::write(&path, format!("{line}\n{{\"a\":1}}\n")).unwrap();
        let mut batches = Batches::new(Records::open(&path).unwrap(), None, None, 10).whole(true);
        let batch = batches.next_batch().unwrap().unwrap();
        assert_eq!(batch.records, [Record::new("k").field("a", 1).vector("v", vec![0.5])]);
        assert_eq!(batch.rejects[0].reason, "there is no `key`");
    }

    #[test]
    fn a_batch_of_wide_rows_ends_early() {
        let row = format!("{{\"a\":\"{}\"}}\n", "x".repeat(3 << 20));
        assert_eq!(batches(&row.repeat(7), None, 500).len(), 3);
    }
}
