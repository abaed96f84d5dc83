//! `flotilla export`: the records of a collection into a file.
//!
//! Records come as a stream of pages by key and are written as they come: memory holds a page, or a row group of Parquet.
//! They are what each partition held when its page was read, not one cut through all. A stream that breaks is taken up again
//! behind the last page that was written.
//!
//! A file is written under another name beside its own, made durable and renamed when it is whole ([`out`]): what stands under
//! the right name is never half. JSON lines say everything and are read back by `flotilla import --whole-records`; [`csv`] and
//! [`parquet`] are for other programs, and tell what of a record they cannot hold.

use std::io::Write as _;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use flotilla_client::{Client, Error, Kind, Page, Record, Scan, With};
use flotilla_node::env::clock;
use flotilla_proto::filter::Filter;
use flotilla_proto::schema::CollectionSpec;
use futures::StreamExt as _;
use serde_json::json;

use crate::import::source::Format;
use crate::progress::Progress;
use crate::reading::{self, ReadArgs};
use crate::target::{self, Target};
use crate::{filter_arg, json};

mod csv;
mod out;
mod parquet;
#[cfg(test)]
mod tests;

use csv::{Columns, Csv};
use out::Out;
use parquet::Parquet;

/// Times that a stream is taken up again without a page in between.
const TRIES_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `flotilla export`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla export --collection vms --file vms.jsonl
  flotilla export --collection docs --with-vectors --file docs.jsonl
  flotilla export --collection vms --filter 'power_state = \"on\"' --format csv > on.csv
  flotilla export --collection vms --file vms.csv --fields name,cpu,owner.team
  flotilla export --collection vms --file vms.parquet

JSON lines are read back by `flotilla import --whole-records`: the same keys, payloads and, with --with-vectors, vectors.

CSV has a column for the key and one for each field, by its dotted path; lists are cells of JSON. Without --fields the
records are read twice: once for their fields. Parquet has a typed column for each declared field, and the column
`payload` holds, as JSON, what is not in one: undeclared fields, lists, and values that the column's type cannot tell.
Vectors are lists of floats in Parquet, JSON in CSV, each in the column vector:NAME.

A file appears under its name once it is whole. Records that are written meanwhile may be in it or not.")]
pub struct ExportArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    read: ReadArgs,
    /// Collection to export
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Condition on the records, as text or JSON
    #[arg(long, value_name = "FILTER", value_parser = filter_arg::parse)]
    filter: Option<Filter>,
    /// Form of the file [default: by the name's end; of standard output: jsonl]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Vectors too
    #[arg(long)]
    with_vectors: bool,
    /// Where to write; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Of CSV: these fields and no others
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    fields: Vec<String>,
    /// Of CSV and Parquet: name of the column of keys
    #[arg(long, value_name = "NAME", default_value = "key")]
    key_column: String,
}

/// A file being written in its form.
enum Writer {
    Jsonl(Out),
    Csv(Csv),
    Parquet(Box<Parquet>),
}

impl Writer {
    fn write(&mut self, records: Vec<Record>) -> anyhow::Result<()> {
        match self {
            Writer::Jsonl(out) => {
                for record in &records {
                    writeln!(out, "{}", json::record_to(record))?;
                }
                Ok(())
            }
            Writer::Csv(csv) => records.iter().try_for_each(|record| csv.write(record)),
            Writer::Parquet(parquet) => parquet.write(records),
        }
    }

    /// Ends the file; returns its bytes.
    fn finish(self) -> anyhow::Result<u64> {
        match self {
            Writer::Jsonl(out) => out.finish(),
            Writer::Csv(csv) => csv.finish(),
            Writer::Parquet(parquet) => parquet.finish(),
        }
    }
}

impl ExportArgs {
    /// Exports.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.connect())
    }

    async fn connect(self) -> anyhow::Result<()> {
        let client = self.read.client(&self.target).await?;
        self.export(&client).await
    }

    async fn export(&self, client: &Client) -> anyhow::Result<()> {
        let started = clock::now();
        let format = self.format()?;
        if format != Format::Csv && !self.fields.is_empty() {
            bail!("--fields is for CSV");
        }
        let spec = client.get_collection(&self.collection).await?.0.spec;
        let progress = self.progress(client).await?;
        // Before the file is begun: the columns may be refused.
        let columns = match format {
            Format::Csv => Some(self.columns(client, &spec).await?),
            Format::Jsonl | Format::Parquet => None,
        };
        let out = Out::begin(&self.file)?;
        let mut writer = match (format, columns) {
            (Format::Csv, Some(columns)) => Writer::Csv(Csv::begin(out, columns)?),
            (Format::Parquet, _) => {
                let vectors = self.with_vectors.then_some(&spec.vectors);
                Writer::Parquet(Box::new(Parquet::begin(out, &self.key_column, &spec.fields, vectors)?))
            }
            _ => Writer::Jsonl(out),
        };
        let mut written = 0_u64;
        let write = |records: Vec<Record>| {
            written += records.len() as u64;
            if let Some(progress) = &progress {
                progress.set(written);
            }
            writer.write(records)
        };
        self.pages(client, self.with(), write).await?;
        let bytes = writer.finish()?;
        if let Some(progress) = progress {
            progress.finish();
            let seconds = (started.elapsed().as_secs_f64() * 1e3).round() / 1e3;
            let line = json!({"records": written, "bytes": bytes, "seconds": seconds});
            writeln!(std::io::stdout().lock(), "{line}")?;
        }
        Ok(())
    }

    fn format(&self) -> anyhow::Result<Format> {
        match self.format {
            Some(format) => Ok(format),
            None if out::is_stdout(&self.file) => Ok(Format::Jsonl),
            None => Format::of(&self.file),
        }
    }

    fn with(&self) -> With {
        With { payload: true, vectors: self.with_vectors }
    }

    /// Of a file; what goes to standard output shows itself.
    async fn progress(&self, client: &Client) -> anyhow::Result<Option<Progress>> {
        if out::is_stdout(&self.file) {
            return Ok(None);
        }
        let counted = client.count(&self.collection, self.filter.as_ref()).await?;
        Ok(Some(Progress::new("export", counted.count)))
    }

    async fn columns(&self, client: &Client, spec: &CollectionSpec) -> anyhow::Result<Columns> {
        let vectors: Vec<&String> =
            if self.with_vectors { spec.vectors.keys().collect() } else { Vec::new() };
        if !self.fields.is_empty() {
            return Columns::named(&self.key_column, &self.fields, &vectors);
        }
        let mut seen = csv::Seen::new(spec.fields.keys());
        let look = |records: Vec<Record>| records.iter().try_for_each(|record| seen.add(record));
        self.pages(client, With::PAYLOAD, look).await?;
        Columns::seen(&self.key_column, seen, &vectors)
    }

    /// Hands over every page of the records.
    async fn pages(
        &self,
        client: &Client,
        with: With,
        mut each: impl FnMut(Vec<Record>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (mut after, mut tries) = (String::new(), 0);
        let coverage = 'stream: loop {
            let scan = Scan::new().with(with).after(after.clone());
            let scan = self.filter.iter().fold(scan, |scan, filter| scan.filter(filter.clone()));
            let pages = match client.scan_pages(&self.collection, scan).await {
                Ok(pages) => pages,
                Err(error) => {
                    pause(&mut tries, error).await?;
                    continue;
                }
            };
            let mut pages = pin!(pages);
            while let Some(page) = pages.next().await {
                let Page { records, next, coverage } = match page {
                    Ok(page) => page,
                    Err(error) => {
                        pause(&mut tries, error).await?;
                        continue 'stream;
                    }
                };
                tries = 0;
                each(records)?;
                match next {
                    Some(next) => after = next,
                    None => break 'stream coverage,
                }
            }
            bail!("the stream of records ended before its last page");
        };
        reading::tell_missing(&coverage);
        Ok(())
    }
}

/// Waits before the stream is taken up again.
///
/// # Errors
/// What trying again cannot mend, and the last of [`TRIES_MAX`] tries.
async fn pause(tries: &mut u32, error: Error) -> anyhow::Result<()> {
    let pause = match error.kind() {
        Kind::Retry => PAUSE,
        Kind::Wait(pause) => *pause,
        _ => return Err(error.into()),
    };
    *tries += 1;
    if *tries > TRIES_MAX {
        return Err(error).with_context(|| format!("given up after {TRIES_MAX} tries"));
    }
    clock::sleep(pause).await;
    Ok(())
}
