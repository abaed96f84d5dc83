//! `flotilla bench engine`: the vector index alone, in this process, on one thread.
//!
//! It builds a graph over the vectors of a file, searches it with the queries of another, and prints one JSON
//! line per `ef`: recall against the true neighbours beside queries per second, because neither says anything
//! without the other. No network, no log, no records: this is the floor that the rest of the system adds to. With `--records`
//! it is a sealed segment instead, with payloads and their index, searched as a partition is, with a filter or without
//! ([`segment`](super::segment)).

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use flotilla_node::index::hnsw::Params;
use flotilla_node::index::{
    Accept, Distance, Effort, Flat, Lsh, Neighbor, Progress, Quantization, QuantizedGraph, Rows, Stats,
    VectorIndex, lsh, quantized,
};
use flotilla_node::storage::vectors;
use flotilla_proto::record::Vector;
use flotilla_proto::schema::{self, Datatype, Form, IndexKind, VectorSpec};
use serde::Serialize;

use crate::npy;

/// Options of `flotilla bench engine`.
#[derive(Args, Clone, Debug)]
pub struct EngineArgs {
    /// Vectors to index, one per row (.npy).
    #[arg(long, value_name = "FILE")]
    pub vectors: PathBuf,
    /// Vectors to search for, one per row (.npy).
    #[arg(long, value_name = "FILE")]
    pub queries: PathBuf,
    /// Row numbers of each query's true neighbours, nearest first (.npy, at least `limit` columns).
    #[arg(long, value_name = "FILE")]
    pub truth: PathBuf,
    /// Neighbours asked for.
    #[arg(long, default_value_t = 10)]
    pub limit: usize,
    /// Beam widths to measure, one line each.
    #[arg(long, value_delimiter = ',', default_value = "16,32,64,128,256")]
    pub ef: Vec<usize>,
    /// Order so many times the limit by whole vectors in the end (default: as many as the codes need).
    #[arg(long, value_name = "TIMES")]
    pub oversampling: Option<f32>,
    /// Links per row (twice as many on the bottom layer).
    #[arg(long, default_value_t = 16)]
    pub m: u16,
    /// Beam width while building.
    #[arg(long, default_value_t = 200)]
    pub ef_construction: u16,
    /// How far two vectors are from each other.
    #[arg(long, value_enum, default_value = "cosine")]
    pub distance: DistanceName,
    /// Threads that build (default: the cores available). Searching uses one.
    #[arg(long)]
    pub threads: Option<usize>,
    /// What a search looks at before it reads whole vectors.
    #[arg(long, value_enum, default_value = "scalar")]
    pub quantization: QuantizationName,
    /// What is built.
    #[arg(long, value_enum, default_value = "hnsw", conflicts_with = "records")]
    pub index: IndexName,
    /// How each component is held; narrower ones have no codes.
    #[arg(long, value_enum, default_value = "f32", conflicts_with = "records")]
    pub datatype: DatatypeName,
    /// Measure the exact scan instead of the graph.
    #[arg(long)]
    pub exact: bool,
    /// Measured passes over the queries, after one that warms up.
    #[arg(long, default_value_t = 3)]
    pub passes: usize,
    /// Measure a sealed segment of these records (.parquet, .jsonl; one per vector), fields declared as they look.
    #[arg(long, value_name = "FILE")]
    pub records: Option<PathBuf>,
    /// Only records that pass, as text or JSON; the truth must be of this filter. Needs `--records`.
    #[arg(long, value_name = "FILTER", requires = "records")]
    pub filter: Option<String>,
}

/// A distance as users write it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DistanceName {
    /// One minus the cosine of the angle; vectors are normalised first.
    Cosine,
    /// Minus the dot product.
    Dot,
    /// Squared euclidean distance.
    Euclidean,
}

/// An index as users write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IndexName {
    /// A graph.
    Hnsw,
    /// Hashes in buckets.
    Lsh,
    /// Nothing: each search scans.
    Flat,
}

/// A datatype as users write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DatatypeName {
    /// 32 bits.
    F32,
    /// 16 bits, rounded.
    F16,
    /// 8 bits: each vector is scaled until its greatest component is 127, and rounded.
    I8,
    /// One bit: whether the component is above 0; compared by hamming.
    Bit,
}

/// A quantization as users write it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum QuantizationName {
    /// Nothing: whole vectors.
    None,
    /// 8 bits for each value, and one-bit sketches of neighbours.
    Scalar,
    /// One-bit sketches.
    Binary,
    /// A byte for each eight values.
    Product,
}

/// One line of the result.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Line {
    pub(super) ef: usize,
    pub(super) recall: f64,
    pub(super) qps: f64,
    pub(super) cpu_qps: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) build_s: f64,
    pub(super) bytes_per_vector: f64,
    pub(super) distances_per_query: f64,
    /// How a segment was searched; nothing for the index alone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) plan: String,
}

impl Line {
    pub(super) fn print(&self) -> Result<()> {
        writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(self)?)?;
        Ok(())
    }
}

/// Builds, searches and prints the lines.
///
/// # Errors
/// A file cannot be read, or the files do not fit each other.
pub fn run(args: EngineArgs) -> Result<()> {
    let input = Input::read(&args)?;
    if args.records.is_some() {
        super::segment::lines(&args, &input)?.iter().try_for_each(Line::print)
    } else if args.exact || args.index == IndexName::Flat {
        measure::<Flat>(&args, &input, &())
    } else if args.index == IndexName::Lsh {
        measure::<Lsh>(&args, &input, &lsh::Params::default())
    } else {
        measure::<QuantizedGraph>(&args, &input, &params(&args))
    }
}

/// What the vectors are, as a collection would describe them.
fn described(args: &EngineArgs, dims: usize) -> Result<VectorSpec> {
    let datatype = match args.datatype {
        DatatypeName::F32 => Datatype::F32,
        DatatypeName::F16 => Datatype::F16,
        DatatypeName::I8 => Datatype::I8,
        DatatypeName::Bit => Datatype::Bit,
    };
    let distance = match args.distance {
        _ if datatype == Datatype::Bit => schema::Distance::Hamming,
        DistanceName::Cosine => schema::Distance::Cosine,
        DistanceName::Dot => schema::Distance::Dot,
        DistanceName::Euclidean => schema::Distance::Euclidean,
    };
    let spec = VectorSpec::new(u32::try_from(dims)?, distance, IndexKind::Flat);
    Ok(VectorSpec { form: Form::Dense(datatype), ..spec })
}

/// The rows as the datatype holds them.
fn packed(args: &EngineArgs, spec: &VectorSpec, data: &[f32], dims: usize) -> Vec<f32> {
    let pack = |row: &[f32]| {
        let most = row.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let row = match args.datatype {
            DatatypeName::I8 if most > 0.0 => row.iter().map(|value| value * 127.0 / most).collect(),
            DatatypeName::Bit => row.iter().map(|value| f32::from(*value > 0.0)).collect(),
            _ => row.to_vec(),
        };
        vectors::query(spec, &Vector::Dense(row))
    };
    data.chunks_exact(dims).flat_map(pack).collect()
}

fn params(args: &EngineArgs) -> quantized::Params {
    let graph = Params { m: args.m, ef_construction: args.ef_construction, seed: Params::SEED };
    let quantization = match args.quantization {
        QuantizationName::None => Quantization::None,
        QuantizationName::Scalar => Quantization::Scalar,
        QuantizationName::Binary => Quantization::Binary,
        QuantizationName::Product => Quantization::Product,
    };
    quantized::Params { graph, quantization }
}

/// Vectors, queries and true neighbours.
pub(super) struct Input {
    pub(super) vectors: Vec<f32>,
    pub(super) queries: Vec<f32>,
    /// Words of a row.
    pub(super) dims: usize,
    pub(super) distance: Distance,
    pub(super) truth: Vec<Vec<i64>>,
}

impl Input {
    fn read(args: &EngineArgs) -> Result<Self> {
        ensure!(
            args.limit > 0 && args.passes > 0 && !args.ef.is_empty(),
            "limit, passes and ef must be above 0"
        );
        let mut vectors = npy::read_f32_matrix(&args.vectors)?;
        let mut queries = npy::read_f32_matrix(&args.queries)?;
        let dims = vectors.columns;
        ensure!(queries.columns == dims, "vectors have {dims} dims and queries {}", queries.columns);
        ensure!(!vectors.data.is_empty() && !queries.data.is_empty(), "there are no vectors or no queries");
        if matches!(args.distance, DistanceName::Cosine) {
            [&mut vectors.data, &mut queries.data].into_iter().for_each(|data| normalise(data, dims));
        }
        let truth = read_truth(args, queries.data.len() / dims)?;
        let spec = described(args, dims)?;
        let distance = vectors::distance(&spec);
        let [vectors, queries] = match args.datatype {
            DatatypeName::F32 => [vectors.data, queries.data],
            _ => [vectors.data, queries.data].map(|data| packed(args, &spec, &data, dims)),
        };
        Ok(Self { vectors, queries, dims: vectors::words(&spec), distance, truth })
    }

    pub(super) fn rows(&self) -> Result<Rows<'_>> {
        Ok(Rows::new(&self.vectors, self.dims)?)
    }
}

fn read_truth(args: &EngineArgs, queries: usize) -> Result<Vec<Vec<i64>>> {
    let mut reader = npy::open(&args.truth)?;
    ensure!(reader.columns() >= args.limit, "the truth has {} neighbours per query", reader.columns());
    ensure!(reader.rows() == queries as u64, "the truth has {} queries, not {queries}", reader.rows());
    let (mut truth, mut row) = (Vec::with_capacity(queries), Vec::new());
    while reader.next_i64(&mut row).context("reading the truth")? {
        truth.push(row[..args.limit].to_vec());
    }
    Ok(truth)
}

fn normalise(data: &mut [f32], dims: usize) {
    for row in data.chunks_exact_mut(dims) {
        let norm = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() as f32;
        if norm > 0.0 {
            row.iter_mut().for_each(|x| *x /= norm);
        }
    }
}

fn measure<I: VectorIndex>(args: &EngineArgs, input: &Input, params: &I::Params) -> Result<()> {
    let rows = input.rows()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    let index = I::build(rows, input.distance, params, args.threads.unwrap_or(cores), &Progress::new())?;
    let build_s = started.elapsed().as_secs_f64();
    let bytes = (input.vectors.len() * size_of::<f32>() + index.to_bytes().len()) as f64;
    for ef in &args.ef {
        let line = Line {
            build_s,
            bytes_per_vector: bytes / rows.len() as f64,
            ..search(args, input, &index, *ef)?
        };
        line.print()?;
        if args.exact {
            break;
        }
    }
    Ok(())
}

/// The index at one `ef`.
fn search<I: VectorIndex>(args: &EngineArgs, input: &Input, index: &I, ef: usize) -> Result<Line> {
    let (rows, distance) = (input.rows()?, input.distance);
    let mut stats = Stats::default();
    let rescored = args.oversampling.map(|times| (args.limit as f64 * f64::from(times)).ceil() as usize);
    let effort = Effort { width: ef.max(rescored.unwrap_or(0)), rescored };
    let one =
        |query: &[f32]| Ok(index.search(rows, distance, query, args.limit, effort, Accept::All, &mut stats));
    let line = passes(args, input, one)?;
    let searches = (input.truth.len() * (args.passes + 1)) as f64;
    Ok(Line { ef, distances_per_query: stats.distances as f64 / searches, ..line })
}

/// One warm-up pass and the measured ones.
pub(super) fn passes(
    args: &EngineArgs,
    input: &Input,
    mut one: impl FnMut(&[f32]) -> Result<Vec<Neighbor>>,
) -> Result<Line> {
    let (rows, distance) = (input.rows()?, input.distance);
    let queries = || input.queries.chunks_exact(input.dims);
    let (mut hit, mut wanted) = (0, 0);
    for (query, truth) in queries().zip(&input.truth) {
        hit += hits(&one(query)?, truth, rows, distance, query);
        wanted += truth.len();
    }
    let (mut times, cpu_before) = (Vec::new(), cpu_time());
    for query in (0..args.passes).flat_map(|_| queries()) {
        let started = Instant::now();
        std::hint::black_box(one(query)?);
        times.push(started.elapsed());
    }
    let (cpu, wall) = (cpu_time().saturating_sub(cpu_before), times.iter().sum::<Duration>());
    times.sort_unstable();
    let searches = times.len() as f64;
    let at = |share: f64| times[((searches * share) as usize).min(times.len() - 1)].as_nanos() as f64 / 1e3;
    Ok(Line {
        recall: hit as f64 / wanted.max(1) as f64,
        qps: searches / wall.as_secs_f64(),
        cpu_qps: searches / cpu.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        ..Line::default()
    })
}

/// How many of the found rows are true neighbours. A row as near as the last true one (to rounding) counts too:
/// which of two equally near rows comes first is nobody's fault.
fn hits(found: &[Neighbor], truth: &[i64], rows: Rows<'_>, distance: Distance, query: &[f32]) -> usize {
    let last = truth.last().and_then(|row| u32::try_from(*row).ok());
    let last = last.map_or(f32::NEG_INFINITY, |row| distance.between(query, rows.row(row)));
    let bound = last + 2e-6 * last.abs().max(1.0);
    let is_true = |hit: &&Neighbor| hit.distance <= bound || truth.contains(&i64::from(hit.row));
    found.iter().filter(is_true).count().min(truth.len())
}

/// Processor time of this process so far, all threads.
fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(kind: &str, rows: usize, columns: usize, body: Vec<u8>) -> Vec<u8> {
        let header =
            format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}\n");
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &body].concat()
    }

    /// Rows on a circle: the true neighbours of row i are i, i+1, i-1.
    fn files(folder: &std::path::Path) -> EngineArgs {
        let circle: Vec<u8> = (0..64)
            .map(|i| i as f32 * std::f32::consts::TAU / 64.0)
            .flat_map(|angle| [angle.cos().to_le_bytes(), angle.sin().to_le_bytes()].concat())
            .collect();
        let truth: Vec<u8> = (0..64i64)
            .flat_map(|i| [i, (i + 1) % 64, (i + 63) % 64])
            .flat_map(|row| row.to_le_bytes())
            .collect();
        std::fs::write(folder.join("v.npy"), npy("<f4", 64, 2, circle)).unwrap();
        std::fs::write(folder.join("t.npy"), npy("<i8", 64, 3, truth)).unwrap();
        EngineArgs {
            vectors: folder.join("v.npy"),
            queries: folder.join("v.npy"),
            truth: folder.join("t.npy"),
            limit: 3,
            ef: vec![10, 20],
            oversampling: None,
            m: 8,
            ef_construction: 50,
            distance: DistanceName::Cosine,
            threads: Some(1),
            quantization: QuantizationName::Scalar,
            index: IndexName::Hnsw,
            datatype: DatatypeName::F32,
            exact: false,
            passes: 1,
            records: None,
            filter: None,
        }
    }

    #[test]
    fn recall_of_a_small_exact_set_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        for distance in [DistanceName::Cosine, DistanceName::Dot, DistanceName::Euclidean] {
            let args = EngineArgs { distance, ..files(folder.path()) };
            let input = Input::read(&args).unwrap();
            let rows = input.rows().unwrap();
            let graph =
                QuantizedGraph::build(rows, input.distance, &params(&args), 1, &Progress::new()).unwrap();
            assert_eq!(search(&args, &input, &graph, 20).unwrap().recall, 1.0);
            let flat = Flat::build(rows, input.distance, &(), 1, &Progress::new()).unwrap();
            assert_eq!(search(&args, &input, &flat, 0).unwrap().recall, 1.0);
        }
    }

    #[test]
    fn every_kind_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        let args = files(folder.path());
        for (index, datatype) in [
            (IndexName::Hnsw, DatatypeName::F16),
            (IndexName::Flat, DatatypeName::I8),
            (IndexName::Lsh, DatatypeName::F32),
            (IndexName::Flat, DatatypeName::Bit),
        ] {
            let args = EngineArgs { index, datatype, ..args.clone() };
            let input = Input::read(&args).unwrap();
            let flat = Flat::build(input.rows().unwrap(), input.distance, &(), 1, &Progress::new()).unwrap();
            assert!(search(&args, &input, &flat, 0).unwrap().recall > 0.9, "{index:?} {datatype:?}");
            run(args).unwrap();
        }
    }

    #[test]
    fn a_segment_of_records_is_searched_with_its_filter() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("r.jsonl");
        let lines: Vec<String> = (0..64).map(|row| format!("{{\"row\":{row}}}\n")).collect();
        std::fs::write(&records, lines.concat()).unwrap();
        let args = files(folder.path());
        let inner: Vec<u8> = (0..64).flat_map(|_| [30i64, 31, 32]).flat_map(i64::to_le_bytes).collect();
        std::fs::write(folder.path().join("t.npy"), npy("<i8", 64, 3, inner)).unwrap();
        let filter = Some(r#"{"row": {"gte": 30, "lt": 33}}"#.to_owned());
        let args = EngineArgs { records: Some(records), filter, ..args };
        let input = Input::read(&args).unwrap();
        let lines = super::super::segment::lines(&args, &input).unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.recall == 1.0 && line.plan == "exact"), "{lines:?}");
        assert!(run(EngineArgs { filter: Some("{".into()), ..args }).is_err());
    }

    #[test]
    fn files_that_do_not_fit_each_other_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let args = files(folder.path());
        assert!(run(EngineArgs { limit: 4, ..args.clone() }).is_err(), "the truth has 3 columns");
        assert!(run(EngineArgs { queries: folder.path().join("t.npy"), ..args.clone() }).is_err(), "dims");
        assert!(run(EngineArgs { truth: folder.path().join("v.npy"), ..args.clone() }).is_err(), "floats");
        assert!(run(EngineArgs { passes: 0, ..args.clone() }).is_err());
        let records = folder.path().join("r.jsonl");
        std::fs::write(&records, "{\"a\":1}\n".repeat(63)).unwrap();
        let why = run(EngineArgs { records: Some(records), ..args }).unwrap_err().to_string();
        assert!(why.contains("no record for vector 63"), "{why}");
    }
}
