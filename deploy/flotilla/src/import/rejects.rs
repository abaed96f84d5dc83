//! The file of refused rows: JSON lines of line, row, reason and what was read of the row, up to a bound.
//!
//! `record` is the row's fields, or a whole record where rows are records, or the row's text where it is not even a row. A
//! file of thousands of refused rows tells that something else is wrong: at the bound the import stops.

use std::path::Path;

use anyhow::{Context as _, bail};
use flotilla_node::env::fs;
use serde_json::Value as Json;

use super::batches::{Content, Reject};
use crate::json;

/// The file of refused rows.
pub struct Rejects {
    file: fs::File,
    count: u64,
    max: u64,
    is_synced: bool,
}

impl Rejects {
    /// Begins the file anew; it takes at most `max` rows.
    pub fn create(path: &Path, max: u64) -> anyhow::Result<Rejects> {
        Ok(Rejects { file: fs::create(path)?, count: 0, max, is_synced: true })
    }

    /// Goes on with a file of `count` rows.
    pub fn append(path: &Path, max: u64, count: u64) -> anyhow::Result<Rejects> {
        Ok(Rejects { file: fs::append(path)?, count, max, is_synced: true })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The file's, and one row more than it takes.
    pub fn add(&mut self, reject: &Reject) -> anyhow::Result<()> {
        let (place, reason) = (reject.place, &reject.reason);
        if self.count >= self.max {
            bail!("more than {} rows are refused, the limit of --rejects-max; {place}: {reason}", self.max);
        }
        let record = match &reject.content {
            Content::Text(text) if text.is_empty() => Json::Null,
            Content::Text(text) => text.as_str().into(),
            Content::Fields(payload) => json::payload_to(payload),
            Content::Whole(record) => json::record_to(record),
        };
        let line =
            serde_json::json!({"line": place.line, "row": place.row, "reason": reason, "record": record});
        self.count += 1;
        self.is_synced = false;
        self.file.write_all(format!("{line}\n").as_bytes()).context("writing the file of refused rows")
    }

    /// Makes what was added durable; returns how many rows there are.
    pub fn sync(&mut self) -> anyhow::Result<u64> {
        if !self.is_synced {
            self.file.sync_all()?;
            self.is_synced = true;
        }
        Ok(self.count)
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::{Payload, Record};

    use super::super::records::Place;
    use super::*;

    fn reject(row: u64, line: Option<u64>, content: Content) -> Reject {
        Reject { place: Place { row, line }, reason: "why".to_owned(), content }
    }

    #[test]
    fn rows_are_told_up_to_the_bound_and_a_file_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        let mut rejects = Rejects::create(&path, 2).unwrap();
        rejects.add(&reject(0, Some(1), Content::Text("[1".to_owned()))).unwrap();
        assert_eq!(rejects.sync().unwrap(), 1);
        let mut rejects = Rejects::append(&path, 3, 1).unwrap();
        rejects.add(&reject(4, None, Content::Fields(Payload::from([("a".into(), 1.into())])))).unwrap();
        rejects.add(&reject(5, Some(7), Content::Whole(Box::new(Record::new(3))))).unwrap();
        let why = rejects.add(&reject(6, Some(8), Content::Text(String::new()))).unwrap_err().to_string();
        assert_eq!(why, "more than 3 rows are refused, the limit of --rejects-max; line 8: why");
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = [
            r#"{"line":1,"reason":"why","record":"[1","row":0}"#,
            r#"{"line":null,"reason":"why","record":{"a":1},"row":4}"#,
            r#"{"line":7,"reason":"why","record":{"key":3,"payload":{},"version":0},"row":5}"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
