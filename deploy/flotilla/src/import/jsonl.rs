//! Records from JSON lines: one object per line; blank lines are skipped and do not count as rows.

use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use flotilla_node::env::fs;
use flotilla_proto::record::Payload;
use serde_json::Value as Json;

use super::records::BadRow;
use crate::json;

/// Bytes of a line, at most; a payload is far smaller once stored.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// A file being read from front to back.
pub struct Jsonl {
    file: BufReader<fs::File>,
    line: Vec<u8>,
    number: u64,
}

impl Jsonl {
    /// Opens the file at its first line.
    pub fn open(path: &Path) -> anyhow::Result<Jsonl> {
        Ok(Jsonl { file: BufReader::with_capacity(1 << 18, fs::open(path)?), line: Vec::new(), number: 0 })
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
    pub fn next_row(&mut self) -> anyhow::Result<Option<Result<Payload, BadRow>>> {
        if !self.next_line()? {
            return Ok(None);
        }
        let row = match serde_json::from_slice(&self.line) {
            Ok(Json::Object(fields)) => Ok(json::payload_from(fields)),
            Ok(_) => Err(BadRow(format!("line {}: not a JSON object", self.number))),
            Err(error) => Err(BadRow(format!("line {}, column {}: not JSON", self.number, error.column()))),
        };
        Ok(Some(row))
    }

    fn next_line(&mut self) -> anyhow::Result<bool> {
        loop {
            self.line.clear();
            let mut bounded = (&mut self.file).take(LINE_BYTES_MAX + 1);
            let read = bounded.read_until(b'\n', &mut self.line)?;
            self.number += 1;
            if read == 0 {
                return Ok(false);
            }
            if read as u64 > LINE_BYTES_MAX {
                anyhow::bail!("line {} is longer than {LINE_BYTES_MAX} bytes", self.number);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::Value;

    use super::*;

    fn open(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.jsonl");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn rows_are_objects_and_blank_lines_are_none() {
        let (_dir, path) = open("{\"a\": 1, \"b\": {\"c\": [1.5, null]}}\n\n  \r\n{}\r\n{\"last\": true}");
        assert_eq!(Jsonl::open(&path).unwrap().count().unwrap(), 3);
        let mut file = Jsonl::open(&path).unwrap();
        let row = file.next_row().unwrap().unwrap().unwrap();
        assert_eq!(row["a"], Value::Int(1));
        assert_eq!(file.next_row().unwrap().unwrap().unwrap(), Payload::new());
        assert_eq!(file.next_row().unwrap().unwrap().unwrap()["last"], Value::Bool(true));
        assert!(file.next_row().unwrap().is_none());
    }

    #[test]
    fn a_bad_row_names_its_line_and_reading_goes_on() {
        let (_dir, path) = open("{\"a\": 1}\n\n[1]\n{\"a\": }\n{\"a\": 2}\n");
        let mut file = Jsonl::open(&path).unwrap();
        file.next_row().unwrap();
        assert_eq!(file.next_row().unwrap().unwrap().unwrap_err().0, "line 3: not a JSON object");
        assert_eq!(file.next_row().unwrap().unwrap().unwrap_err().0, "line 4, column 7: not JSON");
        assert!(file.next_row().unwrap().unwrap().is_ok());
    }

    #[test]
    fn an_endless_line_is_refused_without_being_read_whole() {
        let (_dir, path) = open(&"x".repeat(LINE_BYTES_MAX as usize + 2));
        let error = Jsonl::open(&path).unwrap().next_row().unwrap_err().to_string();
        assert!(error.starts_with("line 1 is longer"), "{error}");
    }
}
