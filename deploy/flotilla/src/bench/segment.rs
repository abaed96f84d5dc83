//! `flotilla bench engine --records`: one sealed segment, with payloads and their index, searched as a partition is.
//!
//! Everything that a search of a partition does is in the figures but the wire and the log: the filter, the choice of a plan, the
//! walk or scan, and the keys of the hits. The segment lies in a temporary folder, mapped, as a server's does.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use flotilla_node::index::{Neighbor, Progress};
use flotilla_node::query::{self, Search};
use flotilla_node::storage::{Options, SegmentView, Store, StoredRow};
use flotilla_proto::filter::Compiled;
use flotilla_proto::record::{Key, Record};
use flotilla_proto::schema::{self, CollectionSpec, Hnsw, IndexKind, VectorSpec};

use super::engine::{DistanceName, EngineArgs, Input, Line, QuantizationName, passes};
use crate::filter_arg;
use crate::import::infer::Survey;
use crate::import::records::Records;

const VECTOR: &str = "vector";
/// Records written at once.
const BATCH: usize = 1_000;

/// Builds the segment and searches it at each `ef`.
pub(super) fn lines(args: &EngineArgs, input: &Input) -> Result<Vec<Line>> {
    let folder = tempfile::tempdir().context("a folder for the segment")?;
    let (spec, store, build_s) = build(args, input, folder.path())?;
    let filter = args.filter.as_deref().map(|text| -> Result<Compiled> {
        let filter = filter_arg::parse(text)?;
        Compiled::new(&filter, &spec).map_err(|why| anyhow!("{}: {}", why.field, why.description))
    });
    let filter = filter.transpose()?;
    let view = store.view();
    let segments: Vec<&dyn SegmentView> = view.segments().collect();
    let rows = input.rows()?.len();
    let bytes = folder_bytes(folder.path())? as f64;
    let mut lines = Vec::new();
    for ef in &args.ef {
        let (mut plan, mut distances, mut searches) = (String::new(), 0, 0u64);
        let one = |query: &[f32]| {
            let ask = Search {
                vector: VECTOR,
                query,
                filter: filter.as_ref(),
                limit: args.limit,
                ef: *ef,
                exact: args.exact,
                ..Search::default()
            };
            let answer = query::search(&segments, &spec, &ask, &|| false)?;
            (plan, searches) = (answer.plan.words(), searches + 1);
            distances += answer.plan.distances;
            let neighbor = |hit: &query::PartialHit| match hit.key {
                Key::Number(row) => Ok(Neighbor { row: u32::try_from(row)?, distance: hit.distance }),
                Key::Text(_) => Err(anyhow!("a key that was never written")),
            };
            answer.hits.iter().map(neighbor).collect()
        };
        let line = passes(args, input, one)?;
        let distances_per_query = distances as f64 / searches.max(1) as f64;
        let bytes_per_vector = bytes / rows as f64;
        lines.push(Line { ef: *ef, plan, build_s, bytes_per_vector, distances_per_query, ..line });
        if args.exact {
            break;
        }
    }
    Ok(lines)
}

/// The segment, sealed and indexed, and how long its graph took.
fn build(args: &EngineArgs, input: &Input, folder: &Path) -> Result<(Arc<CollectionSpec>, Store, f64)> {
    let path = args.records.as_deref().context("no records are named")?;
    let spec = Arc::new(spec(args, input, path)?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options { index_threads: args.threads.unwrap_or(cores), ..Options::default() };
    let (store, _) = Store::open(folder, Arc::clone(&spec), options)?;
    let (mut records, mut index, mut row) = (Records::open(path)?, 0, 0u64);
    for vectors in input.vectors.chunks(BATCH * input.dims) {
        let mut batch = Vec::with_capacity(BATCH);
        for vector in vectors.chunks_exact(input.dims) {
            let payload =
                records.next_row()?.with_context(|| format!("there is no record for vector {row}"))?;
            let payload = payload.map_err(|bad| anyhow!(bad.reason))?;
            let record = Record { payload, ..Record::new(row).vector(VECTOR, vector.to_vec()) };
            batch.push(
                StoredRow::from_domain(&record, &spec).map_err(|why| anyhow!("record {row}: {why:?}"))?,
            );
            row += 1;
        }
        index += 1;
        store.upsert(index, batch)?;
    }
    ensure!(records.next_row()?.is_none(), "there are more than {row} records");
    store.publish(index);
    ensure!(store.freeze(index, Vec::new()), "nothing to seal");
    store.seal()?;
    let started = Instant::now();
    store.build_graph(&Progress::new())?;
    Ok((spec, store, started.elapsed().as_secs_f64()))
}

fn spec(args: &EngineArgs, input: &Input, records: &Path) -> Result<CollectionSpec> {
    let (mut survey, mut records) = (Survey::default(), Records::open(records)?);
    while let Some(payload) = records.next_row()? {
        survey.add(&payload.map_err(|bad| anyhow!(bad.reason))?);
    }
    let hnsw = Hnsw { m: args.m.into(), ef_construction: args.ef_construction.into(), ..Hnsw::default() };
    let index = match args.quantization {
        QuantizationName::None => IndexKind::Hnsw(hnsw),
        QuantizationName::Scalar => IndexKind::Quantized(hnsw, schema::Quantization::Scalar),
        QuantizationName::Binary => IndexKind::Quantized(hnsw, schema::Quantization::Binary),
        QuantizationName::Product => IndexKind::Quantized(hnsw, schema::Quantization::Product),
    };
    let distance = match args.distance {
        DistanceName::Cosine => schema::Distance::Cosine,
        DistanceName::Dot => schema::Distance::Dot,
        DistanceName::Euclidean => schema::Distance::Euclidean,
    };
    let dims = u32::try_from(input.dims).context("dims")?;
    let vectors = [(VECTOR.to_owned(), VectorSpec::new(dims, distance, index))].into();
    Ok(CollectionSpec {
        name: "bench".into(),
        vectors,
        fields: survey.types(),
        partitions: 1,
        ..CollectionSpec::default()
    })
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
