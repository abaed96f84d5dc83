//! `flotilla plan`: what it takes to keep so many vectors and records, and to search them so often.
//!
//! Nothing is dialled and nothing is read: a worksheet ([`sheet`]) over rules of thumb and over what was measured ([`measured`]), each
//! with its source, as a table or as JSON.

mod measured;
mod sheet;

use clap::{Args, ValueEnum};
use serde_json::json;

use self::sheet::Sheet;
use crate::output::Output;
use crate::table::{Align, Table};

const GIB: f64 = (1_u64 << 30) as f64;

/// What searches look at before they read whole vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Codes {
    /// Nothing: whole vectors.
    None,
    /// A byte for each value, beside one-bit sketches.
    Scalar,
    /// One-bit sketches; vectors stay on disk.
    Binary,
}

/// Sizes with names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// 100,000 vectors of 384 dimensions, 50 queries per second
    Small,
    /// 1,000,000 vectors of 768 dimensions, 500 queries per second; with quantization
    Medium,
    /// 10,000,000 vectors of 768 dimensions, 2,000 queries per second; with quantization
    Large,
}

/// Arguments of `flotilla plan`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla plan --preset medium
  flotilla plan --vectors 5000000 --dims 1024 --qps 800 --p99-ms 20
  flotilla plan --records 50000000 --record-bytes 400 --output json")]
pub struct PlanArgs {
    /// A size to begin from; what is said besides takes its place
    #[arg(long, value_enum, default_value = "small")]
    preset: Preset,
    /// Vectors
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=1_000_000_000_000))]
    vectors: Option<u64>,
    /// Dimensions of each
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    dims: Option<u64>,
    /// Searches per second
    #[arg(long, value_parser = positive)]
    qps: Option<f64>,
    /// How long all but one of a hundred searches may take
    #[arg(long, value_name = "MS", value_parser = positive)]
    p99_ms: Option<f64>,
    /// Records [default: one for each vector]
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=1_000_000_000_000))]
    records: Option<u64>,
    /// Bytes of disk of each without its vectors [default: as measured]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(..=1_048_576))]
    record_bytes: Option<u64>,
    /// Links of a vertex (M)
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(2..=512))]
    m: u64,
    /// What searches look at first [default: none for small, binary for the others]
    #[arg(long, value_enum)]
    quantization: Option<Codes>,
    /// Copies of each partition
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=5))]
    replicas: u64,
    /// Memory of a node in GiB
    #[arg(long, default_value_t = 16.0, value_parser = positive)]
    node_memory_gb: f64,
    /// Processors of a node
    #[arg(long, default_value_t = 8.0, value_parser = positive)]
    node_cpus: f64,
    /// Disk of a node in GiB
    #[arg(long, default_value_t = 100.0, value_parser = positive)]
    node_disk_gb: f64,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What is to be kept and answered.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    vectors: u64,
    dims: u64,
    qps: f64,
    p99_ms: f64,
    records: u64,
    record_bytes: u64,
    m: u64,
    codes: Codes,
    replicas: u64,
}

/// What a node has.
#[derive(Clone, Copy, Debug, PartialEq)]
struct NodeSize {
    memory_gb: f64,
    cpus: f64,
    disk_gb: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    let is_legal = number.is_finite() && number > 0.0 && number <= 1e12;
    if is_legal { Ok(number) } else { Err(format!("must be above 0 and at most 1e12, got {text}")) }
}

impl Preset {
    fn wanted(self) -> Wanted {
        let (vectors, dims, qps, codes) = match self {
            Preset::Small => (100_000, 384, 50.0, Codes::None),
            Preset::Medium => (1_000_000, 768, 500.0, Codes::Binary),
            Preset::Large => (10_000_000, 768, 2_000.0, Codes::Binary),
        };
        let (p99_ms, record_bytes) = (10.0, measured::RECORD.value as u64);
        Wanted { vectors, dims, qps, p99_ms, records: vectors, record_bytes, m: 16, codes, replicas: 3 }
    }
}

impl PlanArgs {
    /// Prints the worksheet.
    pub fn run(self) -> anyhow::Result<()> {
        let wanted = self.wanted()?;
        let node =
            NodeSize { memory_gb: self.node_memory_gb, cpus: self.node_cpus, disk_gb: self.node_disk_gb };
        let sheet = sheet::fill(&wanted, &node);
        match self.output {
            Output::Table => print!("{}", table(&wanted, &node, &sheet)),
            Output::Json => println!("{}", as_json(&wanted, &node, &sheet)),
        }
        Ok(())
    }

    fn wanted(&self) -> anyhow::Result<Wanted> {
        let preset = self.preset.wanted();
        let codes = self.quantization.unwrap_or(preset.codes);
        if self.preset != Preset::Small && codes == Codes::None {
            anyhow::bail!("--quantization: the presets medium and large need scalar or binary, got none");
        }
        let vectors = self.vectors.unwrap_or(if self.records.is_some() { 0 } else { preset.vectors });
        Ok(Wanted {
            vectors,
            dims: self.dims.unwrap_or(preset.dims),
            qps: self.qps.unwrap_or(preset.qps),
            p99_ms: self.p99_ms.unwrap_or(preset.p99_ms),
            records: self.records.unwrap_or(vectors),
            record_bytes: self.record_bytes.unwrap_or(preset.record_bytes),
            m: self.m,
            codes,
            replicas: self.replicas,
        })
    }
}

fn gib(bytes: f64) -> String {
    format!("{:.2} GiB", bytes / GIB)
}

fn word(codes: Codes) -> &'static str {
    match codes {
        Codes::None => "none",
        Codes::Scalar => "scalar",
        Codes::Binary => "binary",
    }
}

fn table(wanted: &Wanted, node: &NodeSize, sheet: &Sheet) -> String {
    let mut table =
        Table::new(&[("what", Align::Left, 40), ("takes", Align::Right, 16), ("by", Align::Left, 90)]);
    let mut row = |what: &str, takes: String, by: String| table.row([what.to_owned(), takes, by]);
    let kept = format!("{} dimensions, M {}, quantization {}", wanted.dims, wanted.m, word(wanted.codes));
    row("vectors", wanted.vectors.to_string(), kept);
    row("records", wanted.records.to_string(), format!("{} bytes each on disk", wanted.record_bytes));
    row(
        "memory of a copy, formula",
        gib(sheet.memory_formula),
        "vectors × (M×2×4+16) + vectors themselves".to_owned(),
    );
    row("memory of a copy, rule", gib(sheet.memory_rule), "2.5 times the formula".to_owned());
    let source = &sheet.memory_source;
    row(
        "memory of a copy, measured",
        gib(sheet.memory_measured),
        format!("{} bytes per vector of 384: {}", source.value, source.file),
    );
    row("processors, rule", format!("{:.1}", sheet.cpus_rule), "100 queries per second each".to_owned());
    let measured =
        format!("{} a second each, p99 {} ms: {}", measured::QPS.value, wanted.p99_ms, measured::QPS.file);
    row("processors, measured", format!("{:.1}", sheet.cpus_measured), measured);
    row(
        "disk of a copy",
        gib(sheet.disk),
        format!("{} bytes per vector of 384: {}", measured::DISK.value, measured::DISK.file),
    );
    row("disk of all copies", gib(sheet.disk_all), format!("{} copies", wanted.replicas));
    let size =
        format!("of {} GiB, {} processors, {} GiB of disk each", node.memory_gb, node.cpus, node.disk_gb);
    row("shard nodes", sheet.nodes.to_string(), size);
    sheet.notes.iter().fold(table.render(), |text, note| format!("{text}  {note}\n"))
}

fn as_json(wanted: &Wanted, node: &NodeSize, sheet: &Sheet) -> serde_json::Value {
    let figure = |figure: &measured::Figure| json!({"value": figure.value, "source": figure.file});
    json!({
        "wanted": {
            "vectors": wanted.vectors, "dims": wanted.dims, "qps": wanted.qps, "p99_ms": wanted.p99_ms,
            "records": wanted.records, "record_bytes": wanted.record_bytes, "m": wanted.m,
            "quantization": word(wanted.codes), "replicas": wanted.replicas,
        },
        "memory_bytes": {
            "formula": sheet.memory_formula, "rule": sheet.memory_rule, "measured": sheet.memory_measured,
            "measured_per_vector": figure(&sheet.memory_source), "measured_dims": measured::DIMS,
        },
        "cpus": {
            "rule": sheet.cpus_rule,
            "measured": sheet.cpus_measured.is_finite().then_some(sheet.cpus_measured),
            "measured_qps": figure(&measured::QPS),
        },
        "disk_bytes": {
            "copy": sheet.disk, "all": sheet.disk_all, "measured_per_vector": figure(&measured::DISK),
            "measured_per_record": figure(&measured::RECORD),
        },
        "nodes": {
            "count": sheet.nodes, "by": sheet.nodes_by, "memory_gb": node.memory_gb, "cpus": node.cpus,
            "disk_gb": node.disk_gb,
        },
        "notes": sheet.notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::parsed;

    fn wanted(arguments: &str) -> anyhow::Result<Wanted> {
        let words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        parsed::<PlanArgs>(&words)?.wanted()
    }

    const NODE: NodeSize = NodeSize { memory_gb: 16.0, cpus: 8.0, disk_gb: 100.0 };

    #[test]
    fn formula_rule_and_measured_figure_stand_side_by_side() {
        let small = wanted("--vectors 1000000 --dims 384").unwrap();
        let sheet = sheet::fill(&small, &NODE);
        assert_eq!(sheet.memory_formula, 1e6 * (16.0 * 8.0 + 16.0) + 1e6 * 384.0 * 4.0);
        assert_eq!(sheet.memory_rule, sheet.memory_formula * 2.5);
        assert!((sheet.memory_measured - 1e6 * 1_668.783_44).abs() < 1.0);
        assert_eq!(sheet.cpus_rule, 0.5);
        let text = table(&small, &NODE, &sheet);
        for part in ["formula", "2.5 times", "benches/results/2026-11-21-engine-P.txt", "shard nodes"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = as_json(&small, &NODE, &sheet);
        assert_eq!(json["memory_bytes"]["measured_per_vector"]["value"], 1_668.783_44);
    }

    #[test]
    fn a_million_vectors_fit_a_node_of_16_gb_and_larger_presets_need_codes() {
        let medium = sheet::fill(&wanted("--preset medium --replicas 1").unwrap(), &NODE);
        assert!(medium.memory_measured < 16.0 * GIB * 0.8, "{medium:?}");
        assert!(
            wanted("--preset large --quantization none")
                .unwrap_err()
                .to_string()
                .contains("medium and large need")
        );
        assert!(wanted("--preset large --quantization scalar").is_ok());
        let large = sheet::fill(&wanted("--preset large").unwrap(), &NODE);
        assert!(large.nodes > medium.nodes, "{} {}", large.nodes, medium.nodes);
    }

    #[test]
    fn replicas_have_nodes_of_their_own_and_one_may_be_lost() {
        let few = sheet::fill(&wanted("--vectors 10 --qps 1").unwrap(), &NODE);
        assert_eq!((few.nodes, few.nodes_by), (3, "replicas"));
        let busy = sheet::fill(&wanted("--vectors 10 --qps 56000").unwrap(), &NODE);
        assert_eq!((busy.nodes, busy.nodes_by), (101, "cpu"));
        assert!(sheet::fill(&wanted("--p99-ms 0.5").unwrap(), &NODE).cpus_measured.is_infinite());
    }

    #[test]
    fn records_alone_take_disk_and_no_memory_of_vectors() {
        let only = wanted("--records 1000000 --record-bytes 400").unwrap();
        assert_eq!((only.vectors, only.records), (0, 1_000_000));
        let sheet = sheet::fill(&only, &NODE);
        assert_eq!((sheet.memory_measured, sheet.disk, sheet.disk_all), (0.0, 4e8, 1.2e9));
        assert!(wanted("--qps 0").is_err() && wanted("--dims 70000").is_err());
    }
}
