//! `flotilla import`: files of records and vectors into a collection.
//!
//! Row `i` of the records gets row `i` of the vectors; both are streamed, and their lengths are compared before anything is
//! written. One thread reads and cuts batches; a few workers upsert them; a bounded channel lies between, so that memory
//! stays at a handful of batches whatever the files' size. A batch counts once the server has acknowledged it durably.
//! Keys are the same on every run, so that an import that was cut short can simply be run again.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use flotilla_client::{Client, Kind};
use flotilla_node::env::clock;
use flotilla_proto::schema::{
    CollectionSpec, Datatype, Distance, FieldType, Form, IndexKind, Lsh, PRESETS, Quantization, VectorSpec,
};

use crate::npy;
use crate::progress::Progress;
use crate::target::{self, Target};

pub mod batches;
pub mod infer;
mod jsonl;
mod parquet;
pub mod records;
pub mod send;

use batches::{Batches, Vectors};
use infer::Survey;
use records::Records;
use send::{Outcome, Rejects, Sink};

/// Arguments of `flotilla import`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla import --collection docs --records docs.jsonl --key id --create
  flotilla import --collection docs --records docs.parquet --vectors docs.npy --create
  flotilla import --collection docs --records docs.jsonl --continue --rejects bad.jsonl
  flotilla import --collection bench --vectors base.npy --create          vectors alone; keys are row numbers

Row i of the records gets vector i. Without --key, the key is the row number, from 0. Running it again writes the same
keys again: an import that was cut short is finished by starting it anew. The last line of output is JSON:
  {\"records\": 100000, \"seconds\": 9.1, \"records_per_s\": 10989, \"rejected\": 0}")]
pub struct ImportArgs {
    #[command(flatten)]
    target: Target,
    /// Collection to write to
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Records: JSON lines (.jsonl) or Parquet (.parquet)
    #[arg(long, value_name = "FILE", required_unless_present = "vectors")]
    records: Option<PathBuf>,
    /// Vectors: a numpy array of f2, f4 or f8, one row per record
    #[arg(long, value_name = "FILE.npy")]
    vectors: Option<PathBuf>,
    /// Field of the records that holds the vector: a list of numbers, a list of such lists (several), or
    /// {"indices": [...], "values": [...]} (sparse); it does not become part of the payload
    #[arg(long, value_name = "FIELD", conflicts_with_all = ["vectors", "create"])]
    vector_field: Option<String>,
    /// Name of the vector in the collection
    #[arg(long, value_name = "NAME", default_value = "default")]
    vector_name: String,
    /// Field that becomes the key: text, or a whole number from 0 [default: the row number]
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,
    /// Create the collection first, with the field types that the records show
    #[arg(long)]
    create: bool,
    /// With --create: how near two vectors are [default: cosine; of datatype bit hamming]
    #[arg(long, value_enum)]
    distance: Option<DistanceWord>,
    /// With --create: how each component is stored
    #[arg(long, value_enum, default_value = "f32")]
    datatype: DatatypeWord,
    /// With --create: fast | balanced | high_recall | maximum_recall, or flat for exact scans
    #[arg(long, value_name = "NAME", default_value = "balanced")]
    index: String,
    /// With --create: partitions [default: the server's]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Records per request, 1 to 1,000
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Go on past rows that are refused, and write them with their reasons to the file of --rejects
    #[arg(long = "continue")]
    keep_going: bool,
    /// With --continue: where refused rows go, as JSON lines
    #[arg(long, value_name = "FILE", default_value = "rejects.jsonl")]
    rejects: PathBuf,
}

/// On the wire, no number of partitions: the server takes its default.
pub const PARTITIONS_OF_SERVER: u32 = 0;

/// A distance as a user writes it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DistanceWord {
    /// The angle between them.
    Cosine,
    /// Their dot product.
    Dot,
    /// The length of their difference.
    Euclidean,
    /// The sum of their absolute differences.
    Manhattan,
    /// How many bits differ; of datatype bit.
    Hamming,
}

/// A datatype as a user writes it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DatatypeWord {
    /// 32 bits.
    F32,
    /// 16 bits, rounded to the nearest.
    F16,
    /// 8 bits: whole numbers from -128 to 127.
    I8,
    /// One bit: 0 or 1.
    Bit,
}

impl From<DatatypeWord> for Datatype {
    fn from(word: DatatypeWord) -> Datatype {
        match word {
            DatatypeWord::F32 => Datatype::F32,
            DatatypeWord::F16 => Datatype::F16,
            DatatypeWord::I8 => Datatype::I8,
            DatatypeWord::Bit => Datatype::Bit,
        }
    }
}

impl From<DistanceWord> for Distance {
    fn from(word: DistanceWord) -> Distance {
        match word {
            DistanceWord::Cosine => Distance::Cosine,
            DistanceWord::Dot => Distance::Dot,
            DistanceWord::Euclidean => Distance::Euclidean,
            DistanceWord::Manhattan => Distance::Manhattan,
            DistanceWord::Hamming => Distance::Hamming,
        }
    }
}

impl ImportArgs {
    /// Imports; the error names the row and the reason.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.import())
    }

    async fn import(self) -> anyhow::Result<()> {
        let total = self.check_lengths()?;
        let client = self.target.client().await?;
        if self.create {
            self.create_collection(&client, total).await?;
        }
        let spec = self.collection(&client).await?;
        let field = self.vector_field.clone().map(|field| (self.vector_name.clone(), field));
        let (records, vectors) = (self.open(total)?, self.open_vectors()?);
        let batches =
            Batches::new(records, vectors, self.key.clone(), self.batch as usize).vector_from(field);
        let rejects = self.keep_going.then(|| Rejects::create(&self.rejects)).transpose()?;
        let progress = Progress::new("import", total);
        let sink = Arc::new(Sink::new(client, spec, progress, rejects));
        let started = clock::now();
        let outcome = send::send_all(batches, Arc::clone(&sink), self.workers as usize).await;
        let written = sink.close()?;
        outcome.with_context(|| format!("stopped after {} acknowledged records", written.records))?;
        report(written, started.elapsed().as_secs_f64())
    }

    /// Rows to import; refuses files of different lengths.
    fn check_lengths(&self) -> anyhow::Result<u64> {
        let records = self.records.as_deref().map(Records::count).transpose()?;
        let vectors = self.open_vectors()?.map(|(_, file)| file.rows());
        match (records, vectors) {
            (Some(records), Some(vectors)) => {
                let differ = || format!("{records} records and {vectors} vectors: row i needs vector i");
                ensure!(records == vectors, differ());
                Ok(records)
            }
            (records, vectors) => {
                records.or(vectors).context("nothing to import: name --records or --vectors")
            }
        }
    }

    fn open(&self, total: u64) -> anyhow::Result<Records> {
        self.records.as_deref().map_or(Ok(Records::Bare(total)), Records::open)
    }

    fn open_vectors(&self) -> anyhow::Result<Option<Vectors>> {
        let Some(path) = &self.vectors else { return Ok(None) };
        Ok(Some((self.vector_name.clone(), npy::open(path)?)))
    }

    /// The collection as it is, with every default that the server filled in.
    async fn collection(&self, client: &Client) -> anyhow::Result<CollectionSpec> {
        match client.get_collection(&self.collection).await {
            Ok((collection, _)) => Ok(collection.spec),
            Err(error) if error.kind() == &Kind::NotFound => {
                Err(anyhow::Error::from(error).context("--create makes the collection"))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn create_collection(&self, client: &Client, total: u64) -> anyhow::Result<()> {
        let fields = self.survey(total)?;
        for (path, kind) in &fields {
            eprintln!("  {path}: {}", kind.name());
        }
        let spec = CollectionSpec {
            name: self.collection.clone(),
            vectors: self.vector_spec()?.into_iter().collect(),
            fields,
            partitions: self.partitions.unwrap_or(PARTITIONS_OF_SERVER),
            strict: false,
            ..Default::default()
        };
        client.create_collection(&spec).await.context("creating the collection")?;
        eprintln!("created collection `{}`, {} declared fields", spec.name, spec.fields.len());
        Ok(())
    }

    fn survey(&self, total: u64) -> anyhow::Result<BTreeMap<String, FieldType>> {
        let Some(path) = &self.records else { return Ok(BTreeMap::new()) };
        let (mut records, mut survey) = (Records::open(path)?, Survey::default());
        let progress = Progress::new("looking at field types", total);
        while let Some(row) = records.next_row()? {
            // A row that is no record is reported when its turn to be written comes.
            if let Ok(payload) = row {
                survey.add(&payload);
            }
            progress.advance(1);
        }
        progress.finish();
        Ok(survey.types())
    }

    fn vector_spec(&self) -> anyhow::Result<Option<(String, VectorSpec)>> {
        let Some((name, file)) = self.open_vectors()? else { return Ok(None) };
        let dims = u32::try_from(file.columns())?;
        let form = Form::Dense(self.datatype.into());
        let distance = self.distance.map_or(form.distance(), Distance::from);
        Ok(Some((name, VectorSpec { dims, distance, index: index_kind(&self.index)?, form })))
    }
}

/// The index that a word means: a preset, with `/none`, `/scalar`, `/binary` or `/product` behind it for its quantization, `flat` or `lsh`.
pub fn index_kind(word: &str) -> anyhow::Result<IndexKind> {
    let (name, quantization) = match word.split_once('/') {
        None => (word, Some(Quantization::default())),
        Some((name, "none")) => (name, None),
        Some((name, "scalar")) => (name, Some(Quantization::Scalar)),
        Some((name, "binary")) => (name, Some(Quantization::Binary)),
        Some((name, "product")) => (name, Some(Quantization::Product)),
        // No preset is called so.
        Some(_) => (word, None),
    };
    match (PRESETS.iter().find(|(known, _)| *known == name), quantization) {
        (Some((_, hnsw)), Some(quantization)) => Ok(IndexKind::Quantized(*hnsw, quantization)),
        (Some((_, hnsw)), None) => Ok(IndexKind::Hnsw(*hnsw)),
        (None, _) if word == "flat" => Ok(IndexKind::Flat),
        (None, _) if word == "lsh" => Ok(IndexKind::Lsh(Lsh::default())),
        (None, _) => {
            let known: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
            bail!(
                "there is no index `{word}`; there are {} (each also with /scalar, /binary, /product or /none for its quantization), flat and lsh",
                known.join(", ")
            )
        }
    }
}

fn report(written: Outcome, seconds: f64) -> anyhow::Result<()> {
    let line = serde_json::json!({
        "records": written.records,
        "seconds": (seconds * 1e3).round() / 1e3,
        "records_per_s": (written.records as f64 / seconds.max(1e-9)).round(),
        "rejected": written.rejected,
    });
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_word_names_a_preset_and_a_quantization() {
        let balanced = PRESETS.iter().find(|(name, _)| *name == "balanced").unwrap().1;
        let quantized = |quantization| IndexKind::Quantized(balanced, quantization);
        assert_eq!(index_kind("balanced").unwrap(), quantized(Quantization::Scalar));
        assert_eq!(index_kind("balanced/scalar").unwrap(), quantized(Quantization::Scalar));
        assert_eq!(index_kind("balanced/binary").unwrap(), quantized(Quantization::Binary));
        assert_eq!(index_kind("balanced/product").unwrap(), quantized(Quantization::Product));
        assert_eq!(index_kind("balanced/none").unwrap(), IndexKind::Hnsw(balanced));
        assert_eq!(index_kind("flat").unwrap(), IndexKind::Flat);
        assert_eq!(index_kind("lsh").unwrap(), IndexKind::Lsh(Lsh::default()));
        for word in ["balanced/pq", "flat/none", "quick", "/none", ""] {
            assert!(index_kind(word).unwrap_err().to_string().contains("there is no index"), "{word}");
        }
    }
}
