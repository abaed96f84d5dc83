//! Records from JSON lines: one object per line; blank lines are skipped and do not count as rows.

use std::io::{BufRead, Read as _};

use flotilla_proto::record::Record;
use serde_json::{Map, Value as Json};

use super::records::{BadRow, Row};
use super::source::Input;
use crate::json;

/// Bytes of a line, at most; a payload is far smaller once stored.
pub const LINE_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a line that is a whole record with its vectors, at most: as text they take several times their size.
pub const RECORD_BYTES_MAX: u64 = 128 << 20;

/// A file being read from front to back.
pub struct Jsonl {
    file: Input,
    line: Vec<u8>,
    number: u64,
    bytes_max: u64,
}

impl Jsonl {
    /// Stands before the first line; none may be longer than `bytes_max`.
    pub fn new(file: Input, bytes_max: u64) -> Jsonl {
        Jsonl { file, line: Vec::new(), number: 0, bytes_max }
    }

    /// The line of the last row, from 1.
    pub fn line(&self) -> u64 {
        self.number
    }

    /// Rows from here to the end, which is where this leaves the file.
    pub fn count(mut self) -> anyhow::Result<u64> {
        let mut rows = 0;
        while self.next_line()? {
            rows += 1;
        }
        Ok(rows)
    }

    /// The next row; `None` at the end.
    pub fn next_row(&mut self) -> anyhow::Result<Option<Row>> {
        Ok(self.next_object()?.map(|row| row.map(json::payload_from)))
    }

    /// The next row as a whole record; `None` at the end.
    pub fn next_record(&mut self) -> anyhow::Result<Option<Result<Record, BadRow>>> {
        let Some(row) = self.next_object()? else { return Ok(None) };
        let record = row.and_then(|fields| json::record_from(fields).map_err(|why| self.bad(why)));
        Ok(Some(record))
    }

    fn next_object(&mut self) -> anyhow::Result<Option<Result<Map<String, Json>, BadRow>>> {
        if !self.next_line()? {
            return Ok(None);
        }
        Ok(Some(match serde_json::from_slice(&self.line) {
            Ok(Json::Object(fields)) => Ok(fields),
            Ok(_) => Err(self.bad("not a JSON object")),
            Err(error) => Err(self.bad(format!("column {}: not JSON", error.column()))),
        }))
    }

    fn bad(&self, reason: impl Into<String>) -> BadRow {
        BadRow::new(reason, &self.line)
    }

    fn next_line(&mut self) -> anyhow::Result<bool> {
        loop {
            self.line.clear();
            let mut bounded = (&mut self.file).take(self.bytes_max + 1);
            let read = bounded.read_until(b'\n', &mut self.line)?;
            self.number += 1;
            if read == 0 {
                return Ok(false);
            }
            if read as u64 > self.bytes_max {
                anyhow::bail!("line {} is longer than {} bytes", self.number, self.bytes_max);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use flotilla_proto::record::{Payload, Value};

    use super::*;

    fn open(text: &str) -> Jsonl {
        let bytes = Cursor::new(text.as_bytes().to_vec());
        Jsonl::new(BufReader::new(Box::new(bytes)), LINE_BYTES_MAX)
    }

    #[test]
    fn rows_are_objects_and_blank_lines_are_none() {
        let text = "{\"a\": 1, \"b\": {\"c\": [1.5, null]}}\n\n  \r\n{}\r\n{\"last\": true}";
        assert_eq!(open(text).count().unwrap(), 3);
        let mut file = open(text);
        let row = file.next_row().unwrap().unwrap().unwrap();
        assert_eq!(row["a"], Value::Int(1));
        assert_eq!(file.next_row().unwrap().unwrap().unwrap(), Payload::new());
        assert_eq!(file.next_row().unwrap().unwrap().unwrap()["last"], Value::Bool(true));
        assert!(file.next_row().unwrap().is_none());
    }

    #[test]
    fn a_bad_row_tells_its_line_and_text_and_reading_goes_on() {
        let mut file = open("{\"a\": 1}\n\n[1]\n{\"a\": }\n{\"a\": 2}\n");
        file.next_row().unwrap();
        let mut bad = || {
            let bad = file.next_row().unwrap().unwrap().unwrap_err();
            (file.line(), bad.reason, bad.text)
        };
        assert_eq!(bad(), (3, "not a JSON object".to_owned(), "[1]".to_owned()));
        assert_eq!(bad(), (4, "column 7: not JSON".to_owned(), "{\"a\": }".to_owned()));
        assert!(file.next_row().unwrap().unwrap().is_ok());
    }

    #[test]
    fn an_endless_line_is_refused_without_being_read_whole() {
        let error = open(&"x".repeat(LINE_BYTES_MAX as usize + 2)).next_row().unwrap_err().to_string();
        assert!(error.starts_with("line 1 is longer"), "{error}");
    }
}
