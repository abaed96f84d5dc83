//! `flotilla scan`: records in the order of their keys, page by page; and `flotilla count`.

use std::io::Write as _;

use clap::Args;
use flotilla_client::Scan;
use flotilla_node::env::clock;
use flotilla_proto::filter::Filter;
use serde_json::json;

use crate::output::{self, Output};
use crate::target::{self, Target};
use crate::{filter_json, json};

/// Records per page of `--all`.
const PAGE: u32 = 1_000;

/// Arguments of `flotilla scan`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla scan --collection vms --limit 20
  flotilla scan --collection vms --filter '{\"owner\":\"platform\",\"cpu\":{\"gte\":16}}' --output table
  flotilla scan --collection vms --all > vms.jsonl
  flotilla scan --collection vms --limit 100 --next TOKEN

Prints one JSON object per record: key, version, payload. A page that is not the last tells on standard error how to go on.
See `flotilla search --help` for filters.")]
pub struct ScanArgs {
    #[command(flatten)]
    target: Target,
    /// Collection to read
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Condition on the records, as JSON
    #[arg(long, value_name = "JSON", value_parser = filter_json::parse)]
    filter: Option<Filter>,
    /// Records of the page, 1 to 10,000
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "all")]
    limit: u32,
    /// Token that the page before ended with
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    next: String,
    /// Every page to the end
    #[arg(long)]
    all: bool,
    /// Vectors too
    #[arg(long)]
    with_vectors: bool,
    /// Form of the answer: json is one object per line
    #[arg(long, value_enum, default_value = "json")]
    output: Output,
}

impl ScanArgs {
    /// Reads and prints.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.scan())
    }

    async fn scan(self) -> anyhow::Result<()> {
        let client = self.target.client().await?;
        let mut next = self.next.clone();
        loop {
            let page = client.scan(&self.collection, self.request(next)).await?;
            self.print(&page.items)?;
            next = page.next;
            if next.is_empty() {
                return Ok(());
            }
            if !self.all {
                eprintln!("more: --next {next}");
                return Ok(());
            }
        }
    }

    fn request(&self, next: String) -> Scan {
        Scan {
            filter: self.filter.clone(),
            limit: if self.all { PAGE } else { self.limit },
            next,
            with_payload: true,
            with_vectors: self.with_vectors,
        }
    }

    fn print(&self, items: &[flotilla_proto::record::Record]) -> anyhow::Result<()> {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        match self.output {
            Output::Table => {
                let rows = items.iter().map(|record| (record, None));
                out.write_all(output::records_table(rows, &[]).as_bytes())?;
            }
            Output::Json => {
                for record in items {
                    writeln!(out, "{}", json::record_to(record))?;
                }
            }
        }
        Ok(out.flush()?)
    }
}

/// Arguments of `flotilla count`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla count --collection vms
  flotilla count --collection vms --filter '{\"power_state\":\"on\",\"tags\":{\"in\":[\"pci\",\"gdpr\"]}}'

Prints one JSON line. See `flotilla search --help` for filters.")]
pub struct CountArgs {
    #[command(flatten)]
    target: Target,
    /// Collection to count in
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Condition on the records, as JSON
    #[arg(long, value_name = "JSON", value_parser = filter_json::parse)]
    filter: Option<Filter>,
}

impl CountArgs {
    /// Counts and prints.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.count())
    }

    async fn count(self) -> anyhow::Result<()> {
        let client = self.target.client().await?;
        let started = clock::now();
        let (count, coverage) = client.count(&self.collection, self.filter.as_ref()).await?;
        let line = json!({
            "count": count,
            "coverage": output::coverage_json(&coverage),
            "ms": (started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
        });
        Ok(writeln!(std::io::stdout().lock(), "{line}")?)
    }
}
