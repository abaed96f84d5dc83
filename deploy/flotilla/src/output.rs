//! What the data commands print: answers as tables for people or JSON for programs, always with what they are made of.

use clap::ValueEnum;
use flotilla_proto::record::{Record, Value};
use flotilla_proto::v1::{Coverage, MissingPartition, PartitionPlan, TextPlan};
use serde_json::json;

use crate::cells::{cell, reached};
use crate::table::{Align, Table};

/// Fields shown beside key and score.
const COLUMNS_MAX: usize = 6;
const CELL_WIDTH: usize = 36;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns.
    Table,
    /// One JSON document.
    Json,
}

/// Records, each with its score where it has one, as a table of `fields` (none named: the first few that occur); a dash
/// stands for what is missing.
pub fn records_table<'a>(
    rows: impl Iterator<Item = (&'a Record, Option<f32>)> + Clone,
    fields: &[&str],
) -> String {
    table_of(rows, fields, "–")
}

/// The same with other words for what is missing.
pub fn table_of<'a>(
    rows: impl Iterator<Item = (&'a Record, Option<f32>)> + Clone,
    fields: &[&str],
    missing: &str,
) -> String {
    let found = if fields.is_empty() { occurring(rows.clone()) } else { Vec::new() };
    let fields: Vec<&str> = if fields.is_empty() { found } else { fields.to_vec() };
    let scored = rows.clone().any(|(_, score)| score.is_some());
    let mut columns = vec![("key", Align::Left, CELL_WIDTH)];
    if scored {
        columns.insert(0, ("score", Align::Right, 12));
    }
    columns.extend(fields.iter().map(|field| (*field, alignment(rows.clone(), field), CELL_WIDTH)));
    let mut table = Table::new(&columns);
    for (record, score) in rows {
        let score = score.map(|score| format!("{score:.4}"));
        let key = record.key.to_string();
        let cells = fields.iter().map(|field| shown(reached(&record.payload, field).as_ref(), missing));
        table.row(score.into_iter().chain([key]).chain(cells));
    }
    table.render()
}

fn occurring<'a>(rows: impl Iterator<Item = (&'a Record, Option<f32>)>) -> Vec<&'a str> {
    let mut fields: Vec<&str> = Vec::new();
    for (record, _) in rows {
        for (name, value) in &record.payload {
            if fields.len() < COLUMNS_MAX
                && !matches!(value, Value::Map(_))
                && !fields.contains(&name.as_str())
            {
                fields.push(name);
            }
        }
    }
    fields
}

fn alignment<'a>(rows: impl Iterator<Item = (&'a Record, Option<f32>)>, field: &str) -> Align {
    let mut values = rows.filter_map(|(record, _)| reached(&record.payload, field)).peekable();
    let numbers = values.peek().is_some() && values.all(|v| matches!(v, Value::Int(_) | Value::Float(_)));
    if numbers { Align::Right } else { Align::Left }
}

fn shown(value: Option<&Value>, missing: &str) -> String {
    match value {
        Some(Value::List(items)) => {
            items.iter().map(|item| shown(Some(item), missing)).collect::<Vec<_>>().join(", ")
        }
        other => other.and_then(cell).unwrap_or_else(|| missing.to_owned()),
    }
}

/// How much of the collection answered, in words.
pub fn coverage_words(coverage: &Coverage) -> String {
    let words =
        format!("{} of {} partitions answered", coverage.partitions_answered, coverage.partitions_asked);
    match missing_words(coverage) {
        Some(missing) => format!("{words}; {missing}"),
        None => words,
    }
}

/// Which partitions did not answer, and why; none if all did.
pub fn missing_words(coverage: &Coverage) -> Option<String> {
    let word = |missing: &MissingPartition| {
        format!("partition {} is missing: {}", missing.partition, missing.reason)
    };
    (!coverage.missing.is_empty()).then(|| coverage.missing.iter().map(word).collect::<Vec<_>>().join("; "))
}

/// How much of the collection answered, for programs.
pub fn coverage_json(coverage: &Coverage) -> serde_json::Value {
    let indexes =
        coverage.indexes.iter().map(|at| json!({"partition": at.partition, "log_index": at.log_index}));
    json!({
        "partitions_asked": coverage.partitions_asked,
        "partitions_answered": coverage.partitions_answered,
        "indexes": indexes.collect::<Vec<_>>(),
        "missing": coverage.missing.iter().map(|m| json!({"partition": m.partition, "reason": m.reason})).collect::<Vec<_>>(),
    })
}

/// Each partition that answered, and at which log index; and each that did not, and why.
pub fn coverage_table(coverage: &Coverage) -> String {
    let right = Align::Right;
    let columns = [
        ("partition", right, 20),
        ("node", right, 20),
        ("log index", right, 20),
        ("missing", Align::Left, 80),
    ];
    let mut table = Table::new(&columns);
    for at in &coverage.indexes {
        table.row([at.partition, at.node, at.log_index].map(|number| number.to_string()));
    }
    for missing in &coverage.missing {
        let nothing = [String::new(), String::new()];
        let partition = [missing.partition.to_string()];
        table.row(partition.into_iter().chain(nothing).chain([missing.reason.clone()]));
    }
    table.render()
}

/// How each partition went about a search.
pub fn plans_table(plans: &[PartitionPlan]) -> String {
    let right = Align::Right;
    let counts = [
        "segments",
        "rounds",
        "ef",
        "visited",
        "distances",
        "unindexed",
        "matches",
        "wait ms",
        "ms",
        "cached",
    ];
    let mut columns = vec![("partition", right, 20), ("plan", Align::Left, 60)];
    columns.extend(counts.map(|name| (name, right, 12)));
    let mut table = Table::new(&columns);
    let ms = |micros: u64| format!("{:.3}", micros as f64 / 1e3);
    for plan in plans {
        let matches = plan.matches.map_or("–".to_owned(), |matches| matches.to_string());
        let ef = u64::from(plan.ef);
        let counts = [plan.segments, plan.rounds, ef, plan.visited, plan.distances, plan.unindexed];
        let counts = counts.map(|count| count.to_string());
        let cached = if plan.cached { "yes" } else { "no" };
        let rest = [matches, ms(plan.waited_micros), ms(plan.micros), cached.to_owned()];
        table.row([plan.partition.to_string(), plan.plan.clone()].into_iter().chain(counts).chain(rest));
    }
    table.render()
}

/// The same for programs.
pub fn plans_json(plans: &[PartitionPlan]) -> serde_json::Value {
    let plan = |plan: &PartitionPlan| {
        json!({
            "partition": plan.partition, "plan": plan.plan, "segments": plan.segments, "rounds": plan.rounds,
            "ef": plan.ef,            "visited": plan.visited, "distances": plan.distances, "unindexed": plan.unindexed,
            "matches": plan.matches, "waited_ms": plan.waited_micros as f64 / 1e3,
            "ms": plan.micros as f64 / 1e3, "cached": plan.cached,
        })
    };
    plans.iter().map(plan).collect()
}

/// What the words of a query weigh.
pub fn words_table(plan: &TextPlan) -> String {
    let right = Align::Right;
    let columns = [
        ("word", Align::Left, CELL_WIDTH),
        ("kin", right, 12),
        ("records", right, 20),
        ("weight", right, 12),
    ];
    let mut table = Table::new(&columns);
    for word in &plan.words {
        let weight = format!("{:.4}", word.weight);
        table.row([word.word.clone(), word.kin.to_string(), word.records.to_string(), weight]);
    }
    let cut = if plan.cut { "; some words stand for more than were looked for" } else { "" };
    let of = format!("of {} records of {:.1} words on average{cut}", plan.records, plan.mean_length);
    format!("{}{of}\n", table.render())
}

/// The same for programs.
pub fn words_json(plan: &TextPlan) -> serde_json::Value {
    let word = |word: &flotilla_proto::v1::TextWord| json!({"word": word.word, "kin": word.kin, "records": word.records, "weight": word.weight});
    json!({
        "records": plan.records,
        "mean_length": plan.mean_length,
        "cut": plan.cut,
        "words": plan.words.iter().map(word).collect::<Vec<_>>(),
    })
}

/// A text without what would begin a new line.
pub fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::Payload;

    use super::*;

    #[test]
    fn records_show_the_fields_they_have() {
        let inner = Value::Map(Payload::from([("gb".to_owned(), 5.into())]));
        let mut a = Record::new("a").field("name", "web").field("cpu", 8);
        a.payload.insert("disk".to_owned(), inner);
        let b = Record::new(7).field("cpu", 16);
        let rows = [(&a, Some(0.5_f32)), (&b, Some(0.25))];
        assert_eq!(
            records_table(rows.into_iter(), &[]),
            concat!(
                "   score  key  cpu  name\n",
                "  ──────  ───  ───  ────\n",
                "  0.5000  a      8  web\n",
                "  0.2500  7     16  –\n"
            )
        );
        let nested = records_table(rows.map(|(record, _)| (record, None)).into_iter(), &["disk.gb"]);
        assert_eq!(nested, "  key  disk.gb\n  ───  ───────\n  a          5\n  7          –\n");
    }
}
