//! Where the records of an import come from, and how the file is to be read.
//!
//! A file can be read again: it is looked through before anything is written, so that its rows are counted and every row is
//! asked for the types of its columns. Standard input comes once: its types are those of the first [`SAMPLE_ROWS`] rows,
//! which are kept until they are imported, and what comes later and does not fit is refused as a bad row.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use flotilla_node::env::fs;
use flotilla_proto::schema::FieldType;

use super::csv::{Csv, Kinds};
use super::infer::Survey;
use super::jsonl::{self, Jsonl};
use super::parquet::Parquet;
use super::records::{Records, Rows};
use crate::csv;

/// Rows of standard input that tell its types.
pub const SAMPLE_ROWS: usize = 10_000;
const BUFFER_BYTES: usize = 1 << 18;

/// A form of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON lines: an object per line.
    Jsonl,
    /// Cells under a header, as RFC 4180 has them.
    Csv,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// By the name's end.
    pub fn of(path: &Path) -> anyhow::Result<Format> {
        match path.extension().and_then(|end| end.to_str()) {
            Some("jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
            Some("csv" | "tsv") => Ok(Format::Csv),
            Some("parquet") => Ok(Format::Parquet),
            _ => bail!(
                "{}: the name must end in .jsonl, .csv, .tsv or .parquet, or name the --format",
                path.display()
            ),
        }
    }
}

/// How the file of records is read.
#[derive(Args, Debug, Default)]
pub struct FormArgs {
    /// Form of the records [default: by the name's end; of standard input: jsonl]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Of CSV: the character between two cells, or `tab` [default: a comma; in .tsv a tab]
    #[arg(long, value_name = "CHARACTER", value_parser = csv::delimiter)]
    delimiter: Option<u8>,
    /// Each line is a whole record, as `flotilla export` writes it: {"key": .., "payload": {..}, "vectors": {..}}
    #[arg(long, conflicts_with_all = ["key", "vectors", "vector_field", "create"])]
    pub whole_records: bool,
}

/// A file of records, or standard input.
#[derive(Debug)]
pub struct Source {
    /// None: standard input.
    path: Option<PathBuf>,
    format: Format,
    delimiter: u8,
    kinds: Kinds,
    whole: bool,
}

impl Source {
    /// The file at `path`, or standard input if that is `-`.
    pub fn new(path: &Path, form: &FormArgs) -> anyhow::Result<Source> {
        let path = (path != Path::new("-")).then(|| path.to_owned());
        let format = match (form.format, &path) {
            (Some(format), _) => format,
            (None, Some(path)) => Format::of(path)?,
            (None, None) => Format::Jsonl,
        };
        if path.is_none() && format == Format::Parquet {
            bail!("Parquet is not read from standard input: its index stands at the file's end");
        }
        if form.whole_records && format != Format::Jsonl {
            bail!("--whole-records is for JSON lines");
        }
        let is_tsv = path.as_ref().is_some_and(|path| path.extension().is_some_and(|end| end == "tsv"));
        let delimiter = form.delimiter.unwrap_or(if is_tsv { b'\t' } else { b',' });
        Ok(Source { path, format, delimiter, kinds: Kinds::default(), whole: form.whole_records })
    }

    /// The file at `path`, read by its name's end.
    pub fn of(path: &Path) -> anyhow::Result<Source> {
        Source::new(path, &FormArgs::default())
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or("standard input".to_owned(), |path| path.display().to_string())
    }

    /// The file; none: standard input.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What decides which row is which, in a word: the same input read otherwise is another one.
    pub fn reading(&self) -> String {
        let format = self.format.to_possible_value();
        let format = format.as_ref().map_or("", |value| value.get_name());
        format!("{format} {} {}", char::from(self.delimiter).escape_default(), self.whole)
    }

    /// Looks a file through: returns its rows, and remembers the types of the columns of CSV. `declared` types of fields
    /// go before what the cells show. Of standard input the rows are not known.
    pub fn look(&mut self, declared: &BTreeMap<String, FieldType>) -> anyhow::Result<Option<u64>> {
        self.kinds = Kinds::declared(declared);
        let Some(path) = self.path.clone() else { return Ok(None) };
        let about = || self.name();
        match self.format {
            Format::Jsonl => {
                Jsonl::new(self.input()?, self.line_bytes()).count().with_context(about).map(Some)
            }
            Format::Parquet => Ok(Some(Parquet::open(&path).with_context(about)?.count())),
            Format::Csv => {
                let input = self.input()?;
                let rows =
                    self.kinds.look(input, self.delimiter).with_context(|| path.display().to_string())?;
                Ok(Some(rows))
            }
        }
    }

    /// The records from the first on. Of CSV what [`Source::look`] remembered is needed.
    pub fn open(&self) -> anyhow::Result<Records> {
        self.rows().map(Records::new).with_context(|| self.name())
    }

    fn rows(&self) -> anyhow::Result<Rows> {
        Ok(match (self.format, &self.path) {
            (Format::Jsonl, _) => Rows::Jsonl(Jsonl::new(self.input()?, self.line_bytes())),
            (Format::Parquet, Some(path)) => Rows::Parquet(Box::new(Parquet::open(path)?)),
            (Format::Parquet, None) => bail!("Parquet is not read from standard input"),
            (Format::Csv, path) => {
                let sample = if path.is_some() { 0 } else { SAMPLE_ROWS };
                Rows::Csv(Box::new(Csv::open(self.input()?, self.delimiter, self.kinds.clone(), sample)?))
            }
        })
    }

    fn line_bytes(&self) -> u64 {
        if self.whole { jsonl::RECORD_BYTES_MAX } else { jsonl::LINE_BYTES_MAX }
    }

    fn input(&self) -> anyhow::Result<Input> {
        let source: Box<dyn Read + Send> = match &self.path {
            Some(path) => Box::new(fs::open(path)?),
            None => Box::new(std::io::stdin()),
        };
        Ok(BufReader::with_capacity(BUFFER_BYTES, source))
    }

    /// The types that all rows of a file show, or the first ones of `records`, which stand at the front.
    pub fn survey(&self, records: &mut Records, mut seen: impl FnMut()) -> anyhow::Result<Survey> {
        let mut survey = Survey::default();
        if self.path.is_none() {
            records.survey(SAMPLE_ROWS, &mut survey)?;
            return Ok(survey);
        }
        let mut all = self.open()?;
        while let Some(row) = all.next_row().with_context(|| self.name())? {
            // A row that is no record is reported when its turn to be written comes.
            if let Ok(payload) = row {
                survey.add(&payload);
            }
            seen();
        }
        Ok(survey)
    }
}

/// An open input.
pub type Input = BufReader<Box<dyn Read + Send>>;
