//! `flotilla scan`: records in the order of their keys, page by page; and `flotilla count`.

use std::io::Write as _;
use std::pin::pin;

use clap::Args;
use flotilla_client::{Client, Record, Scan, With};
use flotilla_node::env::clock;
use flotilla_proto::filter::Filter;
use futures::StreamExt as _;
use serde_json::json;

use crate::output::{self, Output};
use crate::reading::{self, ReadArgs};
use crate::target::{self, Target};
use crate::{filter_arg, json};

/// Arguments of `flotilla scan`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla scan --collection vms --limit 20
  flotilla scan --collection vms --filter '{\"owner\":\"platform\",\"cpu\":{\"gte\":16}}' --output table
  flotilla scan --collection vms --all > vms.jsonl
  flotilla scan --collection vms --limit 100 --next TOKEN
  flotilla scan --collection vms --order-by cpu --descending --limit 10
  flotilla scan --collection files --key-prefix file-17/ --output table

Prints one JSON object per record: key, version, payload. A page that is not the last tells on standard error how to go on.
See `flotilla search --help` for filters.")]
pub struct ScanArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    read: ReadArgs,
    /// Collection to read
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Condition on the records, as text or JSON
    #[arg(long, value_name = "FILTER", value_parser = filter_arg::parse)]
    filter: Option<Filter>,
    /// Only records whose key begins so
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new(), conflicts_with = "order_by")]
    key_prefix: Option<String>,
    /// Records of the page, 1 to 10,000
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "all")]
    limit: u32,
    /// Token that the page before ended with
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    next: String,
    /// In the order of this field; records without it come last
    #[arg(long, value_name = "FIELD")]
    order_by: Option<String>,
    /// The greatest first
    #[arg(long, requires = "order_by")]
    descending: bool,
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
        let client = self.read.client(&self.target).await?;
        if self.all {
            return self.scan_all(&client).await;
        }
        let page = client.scan(&self.collection, self.request().limit(self.limit)).await?;
        self.print(&page.records)?;
        reading::tell_missing(&page.coverage);
        if let Some(next) = page.next {
            eprintln!("more: --next {next}");
        }
        Ok(())
    }

    async fn scan_all(&self, client: &Client) -> anyhow::Result<()> {
        let mut pages = pin!(client.scan_pages(&self.collection, self.request()).await?);
        while let Some(page) = pages.next().await {
            let page = page?;
            self.print(&page.records)?;
            reading::tell_missing(&page.coverage);
        }
        Ok(())
    }

    fn request(&self) -> Scan {
        let with = With { payload: true, vectors: self.with_vectors };
        let request = Scan::new().after(self.next.clone()).with(with);
        let request = match &self.order_by {
            Some(field) if self.descending => request.order_by_descending(field),
            Some(field) => request.order_by(field),
            None => request,
        };
        let request = match &self.key_prefix {
            Some(prefix) => request.key_prefix(prefix),
            None => request,
        };
        match &self.filter {
            Some(filter) => request.filter(filter.clone()),
            None => request,
        }
    }

    fn print(&self, items: &[Record]) -> anyhow::Result<()> {
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
    #[command(flatten)]
    read: ReadArgs,
    /// Collection to count in
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Condition on the records, as text or JSON
    #[arg(long, value_name = "FILTER", value_parser = filter_arg::parse)]
    filter: Option<Filter>,
}

impl CountArgs {
    /// Counts and prints.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.count())
    }

    async fn count(self) -> anyhow::Result<()> {
        let client = self.read.client(&self.target).await?;
        let started = clock::now();
        let counted = client.count(&self.collection, self.filter.as_ref()).await?;
        let ms = (started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        let line = json!({"count": counted.count, "ms": ms});
        reading::tell_missing(&counted.coverage);
        Ok(writeln!(std::io::stdout().lock(), "{line}")?)
    }
}
