//! `flotilla query`: the records that a filter holds for, asked for and shown as a person does at a terminal.
//!
//! What is asked for is an [`Ask`]: records, or how many there are. Answers go to standard output and nothing else does;
//! times, what is missing and `--explain` go to standard error. JSON and CSV are written as the pages of a stream come, a
//! table needs all of its rows to be aligned and is bounded.

use std::io::Write;
use std::pin::pin;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use flotilla_client::{Client, Count, Coverage, Record, Scan, With};
use flotilla_node::env::clock;
use flotilla_proto::filter::Filter;
use flotilla_proto::limits::LIMIT_MAX;
use flotilla_proto::limits::PROJECTION_MAX;
use flotilla_proto::record::Value;
use flotilla_proto::schema::check_path;
use futures::StreamExt as _;
use serde_json::json;

use crate::cells::{cell, reached};
use crate::csv::write_row;
use crate::output;
use crate::reading::ReadArgs;
use crate::target::{self, Target};
use crate::{filter_arg, json};

/// Fields shown at once, at most.
const FIELDS_SHOWN_MAX: usize = 256;

/// Arguments of `flotilla query`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla query --collection vms 'power_state = \"on\" and cpu >= 8'
  flotilla query --collection vms 'owner.team = \"core\"' --fields name,cpu,owner.team --limit 20
  flotilla query --collection vms 'name ~ \"web*\"' --fields name,disks.gb --output csv > web.csv
  flotilla query --collection vms 'not exists owner' --count
  flotilla query --collection vms 'cpu >= 8' --order-by cpu --descending --limit 5
  flotilla query --collection vms --limit 5 --output json --explain

See `flotilla search --help` for filters. A field is a dotted path; through a list it shows all values that it reaches. A
table leaves blank what a record lacks, JSON leaves it out. The records are the first by key, or by --order-by.")]
pub struct QueryArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    read: ReadArgs,
    /// Collection to ask
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Condition on the records, as text or JSON; all records without one
    #[arg(value_name = "FILTER", value_parser = filter_arg::parse)]
    filter: Option<Filter>,
    /// Fields to show [default: table: the first few; json: all; csv: those declared]
    #[arg(long, value_name = "PATHS", value_delimiter = ',', conflicts_with = "count")]
    fields: Vec<String>,
    /// Records, at most: of a table to 10,000; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// In the order of this field; records without it come last
    #[arg(long, value_name = "FIELD", conflicts_with = "count")]
    order_by: Option<String>,
    /// The greatest first
    #[arg(long, requires = "order_by")]
    descending: bool,
    /// Form of the answer: json is one object per line
    #[arg(long, value_enum, default_value = "table")]
    output: Form,
    /// How many there are instead of the records
    #[arg(long)]
    count: bool,
    /// Tell on standard error which partitions answered, and at which log index
    #[arg(long)]
    explain: bool,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Aligned columns.
    Table,
    /// A JSON object per line.
    Json,
    /// Cells under a header, as RFC 4180 has them.
    Csv,
}

/// What is asked of the records that the filter holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// Themselves.
    Records,
    /// How many there are.
    Count,
}

/// What an answer was made of.
struct Told {
    rows: u64,
    coverage: Coverage,
}

impl QueryArgs {
    /// Asks and prints.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.connect())
    }

    async fn connect(self) -> anyhow::Result<()> {
        let client = self.read.client(&self.target).await?;
        let mut out = std::io::BufWriter::new(std::io::stdout());
        let started = clock::now();
        let told = self.answer(&client, &mut out).await?;
        out.flush()?;
        eprint!("{}", self.epilogue(&told, started.elapsed().as_secs_f64() * 1e3));
        Ok(())
    }

    /// Asks, and writes the answer to `out`.
    async fn answer(&self, client: &Client, out: &mut impl Write) -> anyhow::Result<Told> {
        ensure!(
            self.fields.len() <= FIELDS_SHOWN_MAX,
            "--fields: {} fields, the limit is {FIELDS_SHOWN_MAX}",
            self.fields.len()
        );
        for path in &self.fields {
            check_path("--fields", path).map_err(|why| anyhow::anyhow!("--fields: {}", why.description))?;
        }
        match self.ask() {
            Ask::Count => self.count(client, out).await,
            Ask::Records if self.output == Form::Table => self.table(client, out).await,
            Ask::Records => self.stream(client, out).await,
        }
    }

    fn ask(&self) -> Ask {
        if self.count { Ask::Count } else { Ask::Records }
    }

    async fn count(&self, client: &Client, out: &mut impl Write) -> anyhow::Result<Told> {
        let count = self.filter.iter().fold(Count::new(), Count::filter);
        let counted = client.count(&self.collection, count).await?;
        match self.output {
            Form::Table => writeln!(out, "{}", counted.count)?,
            Form::Json => writeln!(out, "{}", json!({"count": counted.count}))?,
            Form::Csv => writeln!(out, "count\n{}", counted.count)?,
        }
        Ok(Told { rows: counted.count, coverage: counted.coverage })
    }

    async fn table(&self, client: &Client, out: &mut impl Write) -> anyhow::Result<Told> {
        ensure!(
            (1..=LIMIT_MAX).contains(&self.limit),
            "--limit: {}, a table has 1 to {LIMIT_MAX} rows; --output json and csv have no limit",
            self.limit
        );
        let page = client.scan(&self.collection, self.scan()).await?;
        let rows = page.records.iter().map(|record| (record, None));
        let fields: Vec<&str> = self.fields.iter().map(String::as_str).collect();
        out.write_all(output::table_of(rows, &fields, "").as_bytes())?;
        Ok(Told { rows: page.records.len() as u64, coverage: page.coverage })
    }

    async fn stream(&self, client: &Client, out: &mut impl Write) -> anyhow::Result<Told> {
        let fields = self.columns(client).await?;
        let mut told = Told { rows: 0, coverage: Coverage::default() };
        if self.output == Form::Csv {
            let names = ["key"].into_iter().chain(fields.iter().map(String::as_str));
            out.write_all(line_of(names.map(|name| Some(name.to_owned()))).as_bytes())?;
        }
        let mut pages = pin!(client.scan_pages(&self.collection, self.scan()).await?);
        while let Some(page) = pages.next().await {
            let page = page?;
            for record in &page.records {
                out.write_all(self.line(record, &fields).as_bytes())?;
            }
            told.rows += page.records.len() as u64;
            told.coverage = page.coverage;
        }
        Ok(told)
    }

    /// The columns of CSV, or the fields of JSON that were named.
    async fn columns(&self, client: &Client) -> anyhow::Result<Vec<String>> {
        if self.output == Form::Json || !self.fields.is_empty() {
            return Ok(self.fields.clone());
        }
        let spec = client.get_collection(&self.collection).await?.0.spec;
        Ok(spec.fields.into_keys().collect())
    }

    fn line(&self, record: &Record, fields: &[String]) -> String {
        let at = |path: &String| reached(&record.payload, path).filter(|value| *value != Value::Null);
        if self.output == Form::Csv {
            let cells = fields.iter().map(|path| at(path).as_ref().and_then(cell));
            return line_of([Some(record.key.to_string())].into_iter().chain(cells));
        }
        if fields.is_empty() {
            return format!("{}\n", json::record_to(record));
        }
        let mut line = json!({"key": json::key_to(&record.key)});
        for path in fields {
            if let Some(value) = at(path) {
                line[path.as_str()] = json::value_to(&value);
            }
        }
        format!("{line}\n")
    }

    fn scan(&self) -> Scan {
        let scan = Scan::new().limit(self.limit).with(With::PAYLOAD);
        // More than a server takes are picked from the whole here.
        let scan = if self.fields.len() <= PROJECTION_MAX { scan.fields(self.fields.iter()) } else { scan };
        let scan = match &self.order_by {
            Some(field) if self.descending => scan.order_by_descending(field),
            Some(field) => scan.order_by(field),
            None => scan,
        };
        self.filter.iter().fold(scan, |scan, filter| scan.filter(filter.clone()))
    }

    /// What stands below an answer: the time, and what it was made of.
    fn epilogue(&self, told: &Told, millis: f64) -> String {
        let noun = match self.ask() {
            Ask::Records => "records",
            Ask::Count => "counted",
        };
        let coverage = output::coverage_words(&told.coverage);
        let mut text = format!("{} {noun} in {millis:.1} ms, {coverage}\n", told.rows);
        if self.explain {
            text.push_str(&output::coverage_table(&told.coverage));
        }
        text
    }
}

fn line_of(cells: impl Iterator<Item = Option<String>>) -> String {
    let (cells, mut line) = (cells.collect::<Vec<Option<String>>>(), String::new());
    write_row(&mut line, ',', cells.iter().map(Option::as_deref));
    line
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use flotilla_proto::schema::{CollectionSpec, FieldType};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: QueryArgs,
    }

    async fn answer(client: &Client, args: &[&str]) -> anyhow::Result<(String, String)> {
        let words = ["query", "--collection", "c"];
        let args = Line::try_parse_from(words.iter().chain(args))?.args;
        let mut out = Vec::new();
        let told = args.answer(client, &mut out).await?;
        Ok((String::from_utf8(out)?, args.epilogue(&told, 1.25)))
    }

    async fn shown(client: &Client, args: &[&str]) -> String {
        answer(client, args).await.unwrap().0
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn answers_have_three_forms_and_go_to_standard_output_alone() {
        let dir = tempfile::tempdir().unwrap();
        let client = crate::open(dir.path()).await.unwrap();
        let fields = [("cpu".to_owned(), FieldType::Integer), ("name".to_owned(), FieldType::Keyword)].into();
        let spec = CollectionSpec { name: "c".into(), fields, partitions: 2, ..CollectionSpec::default() };
        client.create_collection(&spec).await.unwrap();
        let disk = |gb: i64| Value::Map([("gb".to_owned(), gb.into())].into());
        let mut web = Record::new(1).field("name", "web, \"a\"").field("cpu", 8);
        web.payload.insert("disks".to_owned(), Value::List(vec![disk(10), disk(20)]));
        let empty = Record::new(3).field("cpu", 16).field("free", true);
        client
            .upsert("c", vec![web, Record::new(2).field("name", "db").field("cpu", 4), empty])
            .await
            .unwrap();

        let table = shown(&client, &["cpu >= 8", "--fields", "name,cpu,disks.gb"]).await;
        let expected = "  key  name      cpu  disks.gb\n  ───  ────────  ───  ────────\n  1    web, \"a\"    8  10, 20\n  \
                        3               16\n";
        assert_eq!(table, expected);
        let csv = ["cpu >= 8", "--output", "csv"];
        assert_eq!(shown(&client, &csv).await, "key,cpu,name\n1,8,\"web, \"\"a\"\"\"\n3,16,\n");
        let json = ["cpu >= 8", "--output", "json", "--fields", "disks.gb,free"];
        assert_eq!(
            shown(&client, &json).await,
            "{\"disks.gb\":[10,20],\"key\":1}\n{\"free\":true,\"key\":3}\n"
        );
        let whole = shown(&client, &["name = 'db'", "--output", "json"]).await;
        assert!(whole.starts_with(r#"{"key":2,"payload":{"cpu":4,"name":"db"},"version":"#), "{whole}");
        assert_eq!(shown(&client, &["--output", "json", "--limit", "2"]).await.lines().count(), 2);
        assert_eq!(shown(&client, &["--output", "json", "--limit", "0"]).await.lines().count(), 3);
        assert_eq!(shown(&client, &["cpu > 4", "--count"]).await, "2\n");
        assert_eq!(shown(&client, &["--count", "--output", "json"]).await, "{\"count\":3}\n");

        let (_, told) = answer(&client, &["--explain"]).await.unwrap();
        assert!(told.starts_with("3 records in 1.2 ms, 2 of 2 partitions answered\n"), "{told}");
        assert!(told.contains("log index") && told.lines().count() == 5, "{told}");
        let why = answer(&client, &["--limit", "0"]).await.unwrap_err().to_string();
        assert!(why.starts_with("--limit: 0, a table has 1 to 10000 rows"), "{why}");
        let why = answer(&client, &["--fields", "a..b"]).await.unwrap_err().to_string();
        assert_eq!(why, "--fields: `a..b` is not a dotted path: a step is empty");
        client.close().await.unwrap();
    }
}
