//! `flotilla aggregate`: figures over records, and over groups of them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::str::FromStr;

use anyhow::ensure;
use clap::Args;
use flotilla_client::{Aggregate, Aggregated, Aggregation, Bucket, Figure, Unit};
use flotilla_node::env::clock;
use flotilla_proto::filter::Filter;
use flotilla_proto::record::Value;
use serde_json::json;

use crate::output::{self, Output};
use crate::reading::{self, ReadArgs};
use crate::table::{Align, Table};
use crate::target::{self, Target};
use crate::{filter_arg, json};

/// Groupings within one another, at most.
const LEVELS_MAX: usize = 2;
const CELL_WIDTH: usize = 36;
/// The name of a grouping in the request.
const GROUPS: &str = "groups";

/// Arguments of `flotilla aggregate`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla aggregate --collection vms --by owner --avg cpu --sum memory_gb
  flotilla aggregate --collection vms --filter 'power_state = \"on\"' --stats cpu --percentiles memory_gb
  flotilla aggregate --collection vms --by name:prefix=1 --avg cpu --order value --limit 30
  flotilla aggregate --collection vms --by cpu:every=16 --by owner --distinct cluster
  flotilla aggregate --collection vms --by created:month

A grouping is FIELD (a group for each value, the largest first), FIELD:prefix=N (text by its first N characters),
FIELD:every=N (numbers, in steps of N) or FIELD:day, :week, :month, :quarter, :year (points in time; the field is declared as
datetime). Two groupings stand one within the other. Figures are computed for each group; without a grouping, over all
records that pass.")]
pub struct AggregateArgs {
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
    /// Group by this: once or twice
    #[arg(long, value_name = "GROUPING")]
    by: Vec<Grouping>,
    /// Groups of values, at most, 1 to 10,000
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Which groups of values come first
    #[arg(long, value_enum, default_value = "count")]
    order: Order,
    /// Of every=N and dates: also the groups without a record that lie between others
    #[arg(long)]
    with_empty: bool,
    #[command(flatten)]
    figures: FigureArgs,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Which groups of values come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    /// The largest.
    Count,
    /// The least values.
    Value,
}

/// The figures; each may be asked for several fields.
#[derive(Args, Debug)]
struct FigureArgs {
    /// Sum of a field's numbers
    #[arg(long, value_name = "FIELD")]
    sum: Vec<String>,
    /// Mean of a field's numbers
    #[arg(long, value_name = "FIELD")]
    avg: Vec<String>,
    /// Least of a field's numbers
    #[arg(long, value_name = "FIELD")]
    min: Vec<String>,
    /// Greatest of a field's numbers
    #[arg(long, value_name = "FIELD")]
    max: Vec<String>,
    /// Count, sum, mean, least and greatest of a field's numbers
    #[arg(long, value_name = "FIELD")]
    stats: Vec<String>,
    /// Percentiles of a field's numbers
    #[arg(long, value_name = "FIELD")]
    percentiles: Vec<String>,
    /// How many different values a field has
    #[arg(long, value_name = "FIELD")]
    distinct: Vec<String>,
}

/// The values and the count of a group, and its figures by name.
type Row = (Vec<String>, Vec<(String, String)>);

/// What to group by.
#[derive(Clone, Debug, PartialEq)]
struct Grouping {
    field: String,
    how: How,
}

#[derive(Clone, Debug, PartialEq)]
enum How {
    Values,
    Prefix(u32),
    Every(f64),
    Date(Unit),
}

impl FromStr for Grouping {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Grouping> {
        let (field, how) = match word.rsplit_once(':') {
            None => (word, How::Values),
            Some((field, how)) => (field, how_of(how)?),
        };
        ensure!(!field.is_empty(), "`{word}` names no field");
        Ok(Grouping { field: field.to_owned(), how })
    }
}

fn how_of(word: &str) -> anyhow::Result<How> {
    Ok(match (word, word.split_once('=')) {
        ("day", _) => How::Date(Unit::Day),
        ("week", _) => How::Date(Unit::Week),
        ("month", _) => How::Date(Unit::Month),
        ("quarter", _) => How::Date(Unit::Quarter),
        ("year", _) => How::Date(Unit::Year),
        (_, Some(("prefix", chars))) => match chars.parse() {
            Ok(chars @ 1..) => How::Prefix(chars),
            _ => anyhow::bail!("prefix={chars}: a whole number from 1 is needed"),
        },
        (_, Some(("every", step))) => match step.parse() {
            Ok(step) if step > 0.0 && f64::is_finite(step) => How::Every(step),
            _ => anyhow::bail!("every={step}: a number above 0 is needed"),
        },
        _ => anyhow::bail!("`{word}`: expected prefix=N, every=N, day, week, month, quarter or year"),
    })
}

impl AggregateArgs {
    /// Asks and prints.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.aggregate())
    }

    async fn aggregate(self) -> anyhow::Result<()> {
        ensure!(self.by.len() <= LEVELS_MAX, "--by: at most {LEVELS_MAX} groupings, got {}", self.by.len());
        let client = self.read.client(&self.target).await?;
        let started = clock::now();
        let answer = client.aggregate(&self.collection, self.request()).await?;
        let ms = (started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        reading::tell_missing(&answer.coverage);
        let mut out = std::io::stdout().lock();
        match self.output {
            Output::Json => writeln!(out, "{}", document(&answer, ms))?,
            Output::Table => out.write_all(self.table(&answer, ms).as_bytes())?,
        }
        Ok(())
    }

    /// The lines that these arguments print, without the one that tells the time: for golden scripts.
    #[cfg(test)]
    pub(crate) async fn lines(
        client: &flotilla_client::Client,
        arguments: &[String],
    ) -> anyhow::Result<Vec<String>> {
        let args: AggregateArgs = crate::cli::tests::parsed(arguments)?;
        let answer = client.aggregate(&args.collection, args.request()).await?;
        let table = args.table(&answer, 0.0);
        let lines = table.lines().filter(|line| !line.contains(" records pass; "));
        Ok(lines.map(|line| line.trim_end().to_owned()).collect())
    }

    fn request(&self) -> Aggregate {
        let mut ask = Aggregate::new();
        if let Some(filter) = &self.filter {
            ask = ask.filter(filter.clone());
        }
        let figures = self.figures.all();
        let Some((outer, inner)) = self.by.split_first() else {
            let count = ("records".to_owned(), Aggregation::count(""));
            return figures.into_iter().chain([count]).fold(ask, |ask, (name, one)| ask.with(&name, one));
        };
        let with_figures = |group: Aggregation| {
            figures.iter().fold(group, |group, (name, one)| group.with(name, one.clone()))
        };
        let mut group = with_figures(self.grouping(outer));
        if let Some(inner) = inner.first() {
            group = group.with(GROUPS, with_figures(self.grouping(inner)));
        }
        ask.with(GROUPS, group)
    }

    fn grouping(&self, by: &Grouping) -> Aggregation {
        let field = by.field.as_str();
        let terms = || {
            let terms = Aggregation::terms(field).size(self.limit);
            if self.order == Order::Value { terms.in_order_of_values() } else { terms }
        };
        match by.how {
            How::Values => terms(),
            How::Prefix(chars) => terms().prefix(chars),
            How::Every(step) => self.filled(Aggregation::histogram(field, step)),
            How::Date(unit) => self.filled(Aggregation::by_date(field, unit)),
        }
    }

    fn filled(&self, histogram: Aggregation) -> Aggregation {
        if self.with_empty { histogram.with_empty() } else { histogram }
    }

    fn table(&self, answer: &Aggregated, ms: f64) -> String {
        let mut columns: Vec<(String, Align)> =
            self.by.iter().map(|by| (by.field.clone(), Align::Left)).collect();
        columns.push(("records".to_owned(), Align::Right));
        let mut rows: Vec<Row> = Vec::new();
        let mut notes = Vec::new();
        match answer.results.get(GROUPS) {
            Some(groups) => flatten(groups, &mut Vec::new(), &mut rows, &mut notes),
            None => rows.push((vec![answer.count.to_string()], cells(&answer.results))),
        }
        let mut names: Vec<String> = Vec::new();
        for (name, _) in rows.iter().flat_map(|(_, cells)| cells) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        columns.extend(names.iter().map(|name| (name.clone(), Align::Right)));
        let columns: Vec<_> =
            columns.iter().map(|(name, align)| (name.as_str(), *align, CELL_WIDTH)).collect();
        let mut table = Table::new(&columns);
        for (head, cells) in rows {
            let by_name: BTreeMap<String, String> = cells.into_iter().collect();
            let rest = names.iter().map(|name| by_name.get(name).cloned().unwrap_or_default());
            table.row(head.into_iter().chain(rest));
        }
        let mut text = table.render();
        let coverage = output::coverage_words(&answer.coverage);
        text.push_str(&format!("  {} records pass; {coverage}; {ms} ms\n", answer.count));
        notes.dedup();
        notes.iter().for_each(|note| text.push_str(&format!("  {note}\n")));
        text
    }
}

impl FigureArgs {
    fn all(&self) -> Vec<(String, Aggregation)> {
        let usual = |field: &str| Aggregation::percentiles(field, &[]);
        type Make<'a> = &'a dyn Fn(&str) -> Aggregation;
        let kinds: [(&str, &[String], Make<'_>); 7] = [
            ("sum", &self.sum, &Aggregation::sum),
            ("avg", &self.avg, &Aggregation::avg),
            ("min", &self.min, &Aggregation::min),
            ("max", &self.max, &Aggregation::max),
            ("stats", &self.stats, &Aggregation::stats),
            ("percentiles", &self.percentiles, &usual),
            ("distinct", &self.distinct, &Aggregation::cardinality),
        ];
        let named = |(kind, fields, make): (&str, &[String], Make<'_>)| {
            fields.iter().map(|field| (format!("{kind}({field})"), make(field))).collect::<Vec<_>>()
        };
        kinds.into_iter().flat_map(named).collect()
    }
}

/// The groups as rows: their values and counts, then their figures.
fn flatten(groups: &Figure, around: &mut Vec<String>, rows: &mut Vec<Row>, notes: &mut Vec<String>) {
    let Figure::Buckets { buckets, others, error_max } = groups else { return };
    for bucket in buckets {
        around.push(shown(&bucket.value));
        match bucket.results.get(GROUPS) {
            Some(inner) => flatten(inner, around, rows, notes),
            None => {
                let head = around.iter().cloned().chain([bucket.count.to_string()]);
                rows.push((head.collect(), cells(&bucket.results)));
            }
        }
        around.pop();
    }
    if *others > 0 && around.is_empty() {
        notes.push(format!("{others} records in groups that are not listed: --limit lists more"));
    }
    if *error_max > 0 {
        notes.push(format!(
            "a count may be too small by {error_max}: partitions have more groups than they send"
        ));
    }
}

/// Figures as named cells.
fn cells(results: &BTreeMap<String, Figure>) -> Vec<(String, String)> {
    let mut cells = Vec::new();
    for (name, figure) in results.iter().filter(|(name, _)| *name != "records") {
        match figure {
            Figure::Value(value) => cells.push((name.clone(), shown(value))),
            Figure::Cardinality { value, relative_error } => {
                let about = if *relative_error > 0.0 { "~" } else { "" };
                cells.push((name.clone(), format!("{about}{value}")));
            }
            Figure::Stats { count, sum, avg, min, max } => {
                let field = name.trim_start_matches("stats");
                cells.push((format!("count{field}"), count.to_string()));
                for (kind, value) in [("sum", sum), ("avg", avg), ("min", min), ("max", max)] {
                    cells.push((format!("{kind}{field}"), value.as_ref().map(shown).unwrap_or_default()));
                }
            }
            Figure::Percentiles { values, relative_error } => {
                let field = name.trim_start_matches("percentiles");
                let about = if *relative_error > 0.0 { "~" } else { "" };
                let cell = |(percent, value): &(f64, f64)| {
                    (format!("p{percent}{field}"), format!("{about}{}", shown(&Value::Float(*value))))
                };
                cells.extend(values.iter().map(cell));
            }
            Figure::Buckets { .. } => {}
        }
    }
    cells
}

/// A value in a table; floats with four digits after the point.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::Text(text) => text.clone(),
        Value::Float(float) if float.abs() < 1e15 => {
            let text = format!("{float:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        other => json::value_to(other).to_string(),
    }
}

fn document(answer: &Aggregated, ms: f64) -> serde_json::Value {
    json!({
        "count": answer.count,
        "results": figures_json(&answer.results),
        "coverage": output::coverage_json(&answer.coverage),
        "ms": ms,
    })
}

fn figures_json(results: &BTreeMap<String, Figure>) -> serde_json::Value {
    results
        .iter()
        .map(|(name, figure)| (name.clone(), figure_json(figure)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn figure_json(figure: &Figure) -> serde_json::Value {
    let some = |value: &Option<Value>| value.as_ref().map_or(serde_json::Value::Null, json::value_to);
    match figure {
        Figure::Value(value) => json::value_to(value),
        Figure::Stats { count, sum, avg, min, max } => {
            json!({"count": count, "sum": some(sum), "avg": some(avg), "min": some(min), "max": some(max)})
        }
        Figure::Percentiles { values, relative_error } => {
            let values: Vec<_> =
                values.iter().map(|(percent, value)| json!({"percent": percent, "value": value})).collect();
            json!({"values": values, "relative_error": relative_error})
        }
        Figure::Cardinality { value, relative_error } => {
            json!({"value": value, "relative_error": relative_error})
        }
        Figure::Buckets { buckets, others, error_max } => {
            let bucket = |bucket: &Bucket| {
                json!({
                    "value": json::value_to(&bucket.value), "count": bucket.count,
                    "results": figures_json(&bucket.results),
                })
            };
            let buckets: Vec<_> = buckets.iter().map(bucket).collect();
            json!({"buckets": buckets, "others": others, "error_max": error_max})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groupings_are_words() {
        let by = |word: &str| word.parse::<Grouping>();
        assert_eq!(by("a.b").unwrap(), Grouping { field: "a.b".into(), how: How::Values });
        assert_eq!(by("a:prefix=2").unwrap().how, How::Prefix(2));
        assert_eq!(by("a:every=0.5").unwrap().how, How::Every(0.5));
        assert_eq!(by("a:week").unwrap().how, How::Date(Unit::Week));
        for wrong in ["", ":day", "a:prefix=0", "a:every=0", "a:every=NaN", "a:every=inf", "a:decade", "a:"] {
            assert!(by(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn groups_within_groups_are_rows() {
        let bucket = |value: &str, count, results| Bucket { value: value.into(), count, results };
        let figure = |value: f64| [("avg(cpu)".to_owned(), Figure::Value(value.into()))].into();
        let buckets = |buckets| Figure::Buckets { buckets, others: 7, error_max: 0 };
        let inner = buckets(vec![bucket("on", 2, figure(1.25)), bucket("off", 1, figure(3.0))]);
        let outer = buckets(vec![bucket("a", 3, [(GROUPS.to_owned(), inner)].into())]);
        let (mut rows, mut notes) = (Vec::new(), Vec::new());
        flatten(&outer, &mut Vec::new(), &mut rows, &mut notes);
        let words = |row: &[&str]| row.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(rows[0], (words(&["a", "on", "2"]), vec![("avg(cpu)".to_owned(), "1.25".to_owned())]));
        assert_eq!(rows[1].0, words(&["a", "off", "1"]));
        assert_eq!(notes, ["7 records in groups that are not listed: --limit lists more"]);
    }
}
