//! The records of an import, whatever file they come from.

use std::path::Path;

use anyhow::Context as _;
use flotilla_proto::record::Payload;

use super::jsonl::Jsonl;
use super::parquet::Parquet;

/// A row that is no record: what is wrong and where. The rows after it can still be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow(pub String);

/// Rows being read from front to back.
pub enum Records {
    /// `.jsonl`, `.ndjson`, `.json`: JSON lines.
    Jsonl(Jsonl),
    /// `.parquet`.
    Parquet(Box<Parquet>),
    /// No file: so many records with nothing in them but their key and vector.
    Bare(u64),
}

impl Records {
    /// Opens a file by its name's end.
    pub fn open(path: &Path) -> anyhow::Result<Records> {
        let opened = match path.extension().and_then(|end| end.to_str()) {
            Some("jsonl" | "ndjson" | "json") => Jsonl::open(path).map(Records::Jsonl),
            Some("parquet") => Parquet::open(path).map(|file| Records::Parquet(Box::new(file))),
            _ => Err(anyhow::anyhow!("the name must end in .jsonl or .parquet")),
        };
        opened.with_context(|| path.display().to_string())
    }

    /// Rows of the file at `path`; reads JSON lines once through.
    pub fn count(path: &Path) -> anyhow::Result<u64> {
        match Records::open(path)? {
            Records::Jsonl(file) => file.count().with_context(|| path.display().to_string()),
            Records::Parquet(file) => Ok(file.count()),
            Records::Bare(rows) => Ok(rows),
        }
    }

    /// The next row; `None` at the end. An error ends the reading, a [`BadRow`] does not.
    pub fn next_row(&mut self) -> anyhow::Result<Option<Result<Payload, BadRow>>> {
        match self {
            Records::Jsonl(file) => file.next_row(),
            Records::Parquet(file) => file.next_row(),
            Records::Bare(0) => Ok(None),
            Records::Bare(rows) => {
                *rows -= 1;
                Ok(Some(Ok(Payload::new())))
            }
        }
    }
}
