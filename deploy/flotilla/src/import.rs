//! `flotilla import`: files of records and vectors into a collection.
//!
//! Row `i` of the records gets row `i` of the vectors; both are streamed, and their lengths are compared before anything is
//! written. One thread reads and cuts batches; a few workers upsert them; a bounded channel lies between, so that memory
//! stays at a handful of batches whatever the files' size. A batch counts once the server has acknowledged it durably.
//! Keys are the same on every run, so that an import that was cut short can simply be run again; a file of how far it is
//! ([`resume`]) spares it what was acknowledged.
//!
//! The first row that is no record ends the import, or such rows are set aside with their reasons ([`rejects`]). Where records
//! come from is [`source`]'s to say: JSON lines, [`csv`], Parquet, standard input; what would happen, [`dry_run`]'s.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use flotilla_client::{Client, Filter, Kind, WriteMode};
use flotilla_node::env::clock;
use flotilla_proto::schema::{
    CollectionSpec, Datatype, Distance, FieldType, Form, IndexKind, Lsh, PRESETS, Quantization, VectorSpec,
};

use crate::filter_arg;
use crate::npy;
use crate::progress::Progress;
use crate::target::{self, Target};

pub mod batches;
pub mod csv;
pub mod dry_run;
pub mod infer;
mod jsonl;
mod parquet;
pub mod records;
pub mod rejects;
mod replace;
pub mod resume;
pub mod send;
pub mod source;

use batches::{Batches, Vectors};
use records::Records;
use rejects::Rejects;
use resume::{Fingerprint, Import, Resume};
use send::{Outcome, Sink};
use source::{FormArgs, Source};

/// Arguments of `flotilla import`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla import --collection docs --records docs.jsonl --key id --create
  flotilla import --collection docs --records docs.parquet --vectors docs.npy --create
  flotilla import --collection vms --records vms.csv --key id --create --dry-run
  flotilla import --collection docs --records docs.jsonl --rejects bad.jsonl --resume docs.progress
  flotilla import --collection docs --records new.jsonl --key id --mode insert     leaves what is there as it is
  flotilla import --collection docs --records today.jsonl --key id --ttl 30d         deletes them after 30 days
  flotilla import --collection bench --vectors base.npy --create          vectors alone; keys are row numbers
  flotilla import --collection vms --records vms.jsonl --key id --replace 'vcenter = 17'   these and no others, at once
  flotilla import --collection vms --records - --format csv --key id      from standard input
  flotilla import --collection vms --records vms.jsonl --whole-records    what `flotilla export` wrote

Row i of the records gets vector i. Without --key, the key is the row number, from 0. Running it again writes the same
keys again: an import that was cut short is finished by starting it anew, where --resume spares it what was acknowledged.

The first row of CSV names the columns: `owner.team` is the field `team` in the map `owner`. An empty cell is absent. A
column has the type that the collection declares, else the one that all of its cells have: whole numbers, numbers, true
and false, or text (of standard input: the first 10,000 rows).

The last line of output is JSON:
  {\"records\": 100000, \"seconds\": 9.1, \"records_per_s\": 10989, \"rejected\": 0, \"conflicts\": 0}
conflicts counts the rows that --mode left unwritten.")]
pub struct ImportArgs {
    #[command(flatten)]
    target: Target,
    /// Collection to write to
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Records: JSON lines (.jsonl), CSV (.csv, .tsv) or Parquet (.parquet); - is standard input
    #[arg(long, value_name = "FILE", required_unless_present = "vectors")]
    records: Option<PathBuf>,
    #[command(flatten)]
    form: FormArgs,
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
    /// Field or column that becomes the key: text, or a whole number from 0 [default: the row number]
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
    /// With --create: fast | balanced | high_recall | maximum_recall (each also with /scalar, /binary, /product or /none
    /// for its quantization), lsh, or flat for exact scans [default: the server's]
    #[arg(long, value_name = "NAME")]
    index: Option<String>,
    /// With --create: partitions [default: the server's]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Records per request, 1 to 1,000
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Which records are written: all, those whose key has no record yet, or those whose key has one
    #[arg(long, value_enum, default_value = "upsert")]
    mode: ModeWord,
    /// How long the records live, such as 30d, 12h, 90m or 45s [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = crate::datetime::span)]
    ttl: Option<Duration>,
    /// The records that match become those of the file, in one step for every reader; each of the file must match
    #[arg(long, value_name = "FILTER", value_parser = filter_arg::parse,
          conflicts_with_all = ["mode", "ttl", "rejects", "keep_going", "resume"])]
    replace: Option<Filter>,
    #[command(flatten)]
    run: RunArgs,
}

/// How an import goes about what is wrong, and about being cut short.
#[derive(Args, Debug)]
struct RunArgs {
    /// Go on past rows that are refused, and write them with their reasons to this file, as JSON lines
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Refused rows at which the import stops
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    rejects_max: u64,
    /// The same as --rejects rejects.jsonl
    #[arg(long = "continue")]
    keep_going: bool,
    /// Keep in this file how far the import is; if it is there, go on behind what was acknowledged
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Show the types of the fields, the collection and the rows that would be refused; write nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
}

/// What is to be imported, looked through, and where to.
struct Ready {
    records: Records,
    spec: CollectionSpec,
    /// Rows, if they are known.
    total: Option<u64>,
    /// The input's name in messages.
    name: String,
}

/// A mode of writing as a user writes it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ModeWord {
    /// All of them.
    Upsert,
    /// Those whose key has no record.
    Insert,
    /// Those whose key has a record.
    Update,
}

impl From<ModeWord> for WriteMode {
    fn from(word: ModeWord) -> WriteMode {
        match word {
            ModeWord::Upsert => WriteMode::Upsert,
            ModeWord::Insert => WriteMode::InsertOnly,
            ModeWord::Update => WriteMode::UpdateOnly,
        }
    }
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
        let source = self.source()?;
        if self.run.dry_run && self.create {
            let ready = self.prepare(source, None)?;
            return self.dry_run(ready, true);
        }
        let client = self.target.client().await?;
        self.import_by(client, source).await
    }

    fn source(&self) -> anyhow::Result<Option<Source>> {
        self.records.as_deref().map(|path| Source::new(path, &self.form)).transpose()
    }

    async fn import_by(&self, client: Client, source: Option<Source>) -> anyhow::Result<()> {
        let resume = self.resume(source.as_ref())?;
        let there = self.there(&client, resume.as_ref()).await?;
        let is_new = there.is_none();
        let mut ready = self.prepare(source, there)?;
        if self.run.dry_run {
            return self.dry_run(ready, is_new);
        }
        if is_new {
            self.create_collection(&client, &ready.spec).await?;
            ready.spec = self.collection(&client).await?;
        }
        self.write(client, ready, resume).await
    }

    async fn write(&self, client: Client, ready: Ready, resume: Option<Resume>) -> anyhow::Result<()> {
        if let Some(filter) = self.replace.clone() {
            let (batches, spec, total) = self.batches(ready)?;
            let started = clock::now();
            let done =
                replace::replace(&client, spec, filter, batches, Progress::new("replace", total)).await?;
            return replace::report(&done, started.elapsed().as_secs_f64());
        }
        let name = ready.name.clone();
        let (mut batches, spec, total) = self.batches(ready)?;
        let skipped = resume.as_ref().map_or(0, Resume::rows);
        batches.skip(skipped).with_context(|| name.clone())?;
        let rejects = self.rejects(resume.as_ref())?;
        let progress = Progress::new("import", total);
        let (mode, ttl) = (self.mode.into(), self.ttl.unwrap_or_default());
        let sink = Sink::new(client, spec, progress, rejects).resuming(resume).in_mode(mode, ttl);
        let sink = Arc::new(sink);
        let started = clock::now();
        let outcome = send::send_all(batches, Arc::clone(&sink), self.workers as usize).await;
        let written = sink.close()?;
        let stopped = || format!("stopped after {} acknowledged records", written.records);
        outcome.context(name).with_context(stopped)?;
        report(written, started.elapsed().as_secs_f64())
    }

    fn batches(&self, ready: Ready) -> anyhow::Result<(Batches, CollectionSpec, Option<u64>)> {
        let field = self.vector_field.clone().map(|field| (self.vector_name.clone(), field));
        let batches =
            Batches::new(ready.records, self.open_vectors()?, self.key.clone(), self.batch as usize);
        Ok((batches.vector_from(field).whole(self.form.whole_records), ready.spec, ready.total))
    }

    fn dry_run(&self, ready: Ready, is_new: bool) -> anyhow::Result<()> {
        let name = ready.name.clone();
        let (batches, spec, total) = self.batches(ready)?;
        dry_run::run(batches, &spec, is_new, total).context(name)
    }

    fn rejects(&self, resume: Option<&Resume>) -> anyhow::Result<Option<Rejects>> {
        let beside = self.run.keep_going.then(|| PathBuf::from("rejects.jsonl"));
        let Some(path) = self.run.rejects.clone().or(beside) else { return Ok(None) };
        let max = self.run.rejects_max;
        match resume.filter(|resume| resume.has_begun()) {
            Some(resume) => Rejects::append(&path, max, resume.rejected()).map(Some),
            None => Rejects::create(&path, max).map(Some),
        }
    }

    fn resume(&self, source: Option<&Source>) -> anyhow::Result<Option<Resume>> {
        let Some(path) = &self.run.resume else { return Ok(None) };
        let records = source
            .map(|source| source.path().context("standard input cannot be read again: --resume needs a file"))
            .transpose()?;
        let vector = self.vector_field.as_ref().map_or("", String::as_str);
        let import = Import {
            collection: self.collection.clone(),
            records: records.map(Fingerprint::of).transpose()?,
            vectors: self.vectors.as_deref().map(Fingerprint::of).transpose()?,
            reading: format!("{} {vector}", source.map(Source::reading).unwrap_or_default()),
            key: self.key.clone(),
        };
        Resume::open(path, import).map(Some)
    }

    /// The collection to write to; none if it is still to be created.
    async fn there(
        &self,
        client: &Client,
        resume: Option<&Resume>,
    ) -> anyhow::Result<Option<CollectionSpec>> {
        if !self.create {
            return self.collection(client).await.map(Some);
        }
        let Some(resume) = resume.filter(|resume| resume.has_begun()) else { return Ok(None) };
        // A run before may have created it, and may have written to it.
        match client.get_collection(&self.collection).await {
            Ok((collection, _)) => Ok(Some(collection.spec)),
            Err(error) if error.kind() == &Kind::NotFound => {
                let (rows, name) = (resume.rows(), &self.collection);
                ensure!(
                    rows == 0,
                    "{rows} rows were acknowledged and collection `{name}` is gone: remove the file of --resume"
                );
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Looks the input through and opens it.
    fn prepare(&self, source: Option<Source>, there: Option<CollectionSpec>) -> anyhow::Result<Ready> {
        let Some(mut source) = source else {
            let rows = self.open_vectors()?.map(|(_, file)| file.rows());
            let rows = rows.context("nothing to import: name --records or --vectors")?;
            let spec = there.map_or_else(|| self.new_spec(BTreeMap::new()), Ok)?;
            let name = self.vectors.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            return Ok(Ready { records: Records::bare(rows), spec, total: Some(rows), name });
        };
        let none = BTreeMap::new();
        let rows = source.look(there.as_ref().map_or(&none, |spec| &spec.fields))?;
        let vectors = self.open_vectors()?.map(|(_, file)| file.rows());
        if let (Some(records), Some(vectors)) = (rows, vectors) {
            ensure!(records == vectors, "{records} records and {vectors} vectors: row i needs vector i");
        }
        let (mut records, total) = (source.open()?, rows.or(vectors));
        let spec = match there {
            Some(spec) => spec,
            None => {
                let progress = Progress::new("looking at field types", total);
                let survey = source.survey(&mut records, || progress.advance(1))?;
                progress.finish();
                self.new_spec(survey.types())?
            }
        };
        Ok(Ready { records, spec, total, name: source.name() })
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

    /// The collection to create.
    fn new_spec(&self, fields: BTreeMap<String, FieldType>) -> anyhow::Result<CollectionSpec> {
        Ok(CollectionSpec {
            name: self.collection.clone(),
            vectors: self.vector_spec()?.into_iter().collect(),
            fields,
            partitions: self.partitions.unwrap_or(PARTITIONS_OF_SERVER),
            strict: false,
            ..Default::default()
        })
    }

    async fn create_collection(&self, client: &Client, spec: &CollectionSpec) -> anyhow::Result<()> {
        eprint!("{}", dry_run::fields_table(&spec.fields));
        client.create_collection(spec).await.context("creating the collection")?;
        eprintln!("created collection `{}`, {} declared fields", spec.name, spec.fields.len());
        Ok(())
    }

    fn vector_spec(&self) -> anyhow::Result<Option<(String, VectorSpec)>> {
        let Some((name, file)) = self.open_vectors()? else { return Ok(None) };
        let dims = u32::try_from(file.columns())?;
        let form = Form::Dense(self.datatype.into());
        let distance = self.distance.map_or(form.distance(), Distance::from);
        let index = self.index.as_deref().map_or(Ok(IndexKind::OF_SERVER), index_kind)?;
        Ok(Some((name, VectorSpec { dims, distance, index, form })))
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
    let mut line = serde_json::json!({
        "records": written.records,
        "seconds": (seconds * 1e3).round() / 1e3,
        "records_per_s": (written.records as f64 / seconds.max(1e-9)).round(),
        "rejected": written.rejected,
        "conflicts": written.conflicts,
    });
    if written.skipped > 0 {
        line["skipped"] = written.skipped.into();
    }
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

#[cfg(test)]
pub(crate) mod tests;
