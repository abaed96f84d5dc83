//! The records of an import, whatever file they come from.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;

use flotilla_proto::record::{Payload, Record};

use super::batches::weight_of_all;
use super::csv::Csv;
use super::infer::Survey;
use super::jsonl::Jsonl;
use super::parquet::Parquet;
use super::source::Source;

/// Estimated bytes of rows that are read ahead, at most.
const AHEAD_BYTES: usize = 64 << 20;
/// Bytes of a bad row that are kept to be shown, at most.
const SHOWN_BYTES_MAX: usize = 64 << 10;

/// Where a row stands in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its number, from 0.
    pub row: u64,
    /// The line, from 1, in which it begins; none in a file that has no lines.
    pub line: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}"),
            None => write!(f, "row {}", self.row),
        }
    }
}

/// A row that is no record: what is wrong with it. The rows after it can still be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Why.
    pub reason: String,
    /// The row as it stands in the file, cut if it is long; empty if the file has no text.
    pub text: String,
}

impl BadRow {
    /// A bad row of these bytes.
    pub fn new(reason: impl Into<String>, bytes: &[u8]) -> BadRow {
        let shown = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
        let text = String::from_utf8_lossy(shown).trim_end_matches(['\r', '\n']).to_owned();
        BadRow { reason: reason.into(), text }
    }
}

/// What a row gives.
pub type Row = Result<Payload, BadRow>;

/// Rows being read from front to back.
pub struct Records {
    rows: Rows,
    /// Rows read ahead to look at them, each with its line.
    ahead: VecDeque<(Option<u64>, Row)>,
    line: Option<u64>,
}

/// Where they come from.
pub(super) enum Rows {
    /// JSON lines.
    Jsonl(Jsonl),
    /// Cells in lines.
    Csv(Box<Csv>),
    /// Columns of values.
    Parquet(Box<Parquet>),
    /// No file: so many records with nothing in them but their key and vector.
    Bare(u64),
}

impl Records {
    /// Opens a file by its name's end.
    pub fn open(path: &Path) -> anyhow::Result<Records> {
        let mut source = Source::of(path)?;
        source.look(&Default::default())?;
        source.open()
    }

    /// So many records with nothing in them but their key and vector.
    pub fn bare(rows: u64) -> Records {
        Records::new(Rows::Bare(rows))
    }

    pub(super) fn new(rows: Rows) -> Records {
        Records { rows, ahead: VecDeque::new(), line: None }
    }

    /// The next row; `None` at the end. An error ends the reading, a [`BadRow`] does not.
    pub fn next_row(&mut self) -> anyhow::Result<Option<Row>> {
        match self.ahead.pop_front() {
            Some((line, row)) => {
                self.line = line;
                Ok(Some(row))
            }
            None => self.read(),
        }
    }

    fn read(&mut self) -> anyhow::Result<Option<Row>> {
        let row = match &mut self.rows {
            Rows::Jsonl(file) => file.next_row()?,
            Rows::Csv(file) => file.next_row()?,
            Rows::Parquet(file) => file.next_row()?,
            Rows::Bare(0) => None,
            Rows::Bare(rows) => {
                *rows -= 1;
                Some(Ok(Payload::new()))
            }
        };
        self.line = match &self.rows {
            Rows::Jsonl(file) => Some(file.line()),
            Rows::Csv(file) => Some(file.line()),
            Rows::Parquet(_) | Rows::Bare(_) => None,
        };
        Ok(row)
    }

    /// The next row as a whole record: key, payload and vectors as an export writes them. Of JSON lines only.
    pub fn next_record(&mut self) -> anyhow::Result<Option<Result<Record, BadRow>>> {
        let Rows::Jsonl(file) = &mut self.rows else {
            anyhow::bail!("whole records are read from JSON lines only");
        };
        let record = file.next_record()?;
        self.line = Some(file.line());
        Ok(record)
    }

    /// The line in which the last row began; none in a file that has no lines.
    pub fn line(&self) -> Option<u64> {
        self.line
    }

    /// Looks at up to so many rows that are still to come.
    pub fn survey(&mut self, rows: usize, survey: &mut Survey) -> anyhow::Result<()> {
        let mut bytes = 0;
        while self.ahead.len() < rows && bytes < AHEAD_BYTES {
            let Some(row) = self.read()? else { break };
            if let Ok(payload) = &row {
                survey.add(payload);
                bytes += weight_of_all(payload);
            }
            self.ahead.push_back((self.line, row));
        }
        Ok(())
    }
}
