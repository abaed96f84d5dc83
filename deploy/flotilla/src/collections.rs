//! `flotilla collections`: list, create, describe and delete.

use std::io::Write as _;

use clap::{Args, Subcommand};
use flotilla_client::{Client, Collection};
use flotilla_proto::schema::{
    CollectionSpec, Datatype, Distance, FieldType, Form, IndexKind, Quantization, Strategy, VectorSpec,
};
use flotilla_proto::v1::{CollectionStatus, PartitionIndexing};
use serde_json::json;

use crate::import::{PARTITIONS_OF_SERVER, index_kind};
use crate::output::{self, Output};
use crate::table::{Align, Table};
use crate::target::{self, Target};

const DISTANCES: [Distance; 5] =
    [Distance::Cosine, Distance::Dot, Distance::Euclidean, Distance::Manhattan, Distance::Hamming];

const DATATYPES: [Datatype; 4] = [Datatype::F32, Datatype::F16, Datatype::I8, Datatype::Bit];

/// Arguments of `flotilla collections`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla collections list
  flotilla collections create docs --vector default:384:cosine --field title:keyword --field year:integer
  flotilla collections create logs --field at:datetime --field level:keyword
  flotilla collections create sites --field id:uuid --field office.at:geo --field about:text:english
  flotilla collections create files --shard-delimiter / --field subject:text
  flotilla collections describe docs
  flotilla collections delete docs --yes")]
pub struct CollectionsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Lists the collections
    #[command(
        after_help = "Examples:\n  flotilla collections list\n  flotilla collections list --to http://db:15002"
    )]
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Creates a collection
    #[command(after_help = "Examples:
  flotilla collections create docs --vector default:384:cosine --field title:keyword --field year:integer
  flotilla collections create docs --vector text:768:dot:high_recall --vector image:512:euclidean:flat
  flotilla collections create docs --vector text:768/f16 --vector words:sparse --vector tokens:128/multi")]
    Create(CreateArgs),
    /// Shows a collection: its vectors, fields, and how it stands
    #[command(
        after_help = "Examples:\n  flotilla collections describe docs\n  flotilla collections describe docs --output json"
    )]
    Describe {
        #[command(flatten)]
        target: Target,
        /// The collection
        name: String,
        /// Form of the answer
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Deletes a collection with everything in it
    #[command(after_help = "Examples:\n  flotilla collections delete docs --yes")]
    Delete {
        #[command(flatten)]
        target: Target,
        /// The collection
        name: String,
        /// Really: there is no way back
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
struct CreateArgs {
    #[command(flatten)]
    target: Target,
    /// Its name: 1 to 255 of A-Z a-z 0-9 _ - . and not starting with a dot
    name: String,
    /// A vector, NAME:DIMS[/f16|/i8|/bit][/multi][:cosine|dot|euclidean|manhattan|hamming[:INDEX]]; INDEX is fast,
    /// balanced, high_recall or maximum_recall, each also with /scalar (as without), /binary, /product or /none for its
    /// quantization, or lsh or flat; without it the server's. NAME:sparse is a sparse one; it takes no INDEX
    #[arg(long = "vector", value_name = "VECTOR", value_parser = vector_from_word)]
    vectors: Vec<(String, VectorSpec)>,
    /// A declared field, PATH:TYPE; TYPE is keyword, integer, float, bool, datetime, uuid, geo, text, or text:LANGUAGE
    /// such as text:english, whose words count by their stems
    #[arg(long = "field", value_name = "FIELD", value_parser = field_from_word)]
    fields: Vec<(String, FieldType)>,
    /// Partitions [default: the server's]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Keep records together whose keys are the same up to the first of this character, such as / in file-17/000003: in
    /// one partition, which alone is asked for them. It never changes
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter_from_word)]
    shard_delimiter: Option<u8>,
    /// Refuse fields that are not declared
    #[arg(long)]
    strict: bool,
}

fn vector_from_word(word: &str) -> Result<(String, VectorSpec), String> {
    let parts: Vec<&str> = word.split(':').collect();
    let (name, dims) = match parts.as_slice() {
        [name, dims, ..] if parts.len() <= 4 => (*name, *dims),
        _ => return Err("expected NAME:DIMS[:DISTANCE[:INDEX]]".to_owned()),
    };
    let (dims, form) = form_from_word(dims)?;
    let distance = match parts.get(2) {
        None => form.distance(),
        Some(word) => {
            *DISTANCES.iter().find(|distance| distance_word(**distance) == *word).ok_or_else(|| {
                format!(
                    "there is no distance `{word}`; there are {}",
                    DISTANCES.map(distance_word).join(", ")
                )
            })?
        }
    };
    let index = match (parts.get(3), form) {
        (Some(word), _) => index_kind(word).map_err(|error| error.to_string())?,
        (None, Form::Dense(_)) => IndexKind::OF_SERVER,
        (None, _) => IndexKind::Flat,
    };
    Ok((name.to_owned(), VectorSpec { dims, distance, index, form }))
}

/// What stands behind a vector's name: how many dimensions, and what its components are.
fn form_from_word(word: &str) -> Result<(u32, Form), String> {
    if word == Form::Sparse.name() {
        return Ok((0, Form::Sparse));
    }
    let (word, is_multi) = word.strip_suffix("/multi").map_or((word, false), |word| (word, true));
    let (dims, datatype) = word.split_once('/').unwrap_or((word, Datatype::F32.name()));
    let known = DATATYPES.iter().find(|known| known.name() == datatype);
    let names = || DATATYPES.map(Datatype::name).join(", ");
    let datatype =
        known.ok_or_else(|| format!("there is no datatype `{datatype}`; there are {}", names()))?;
    let dims = dims.parse().map_err(|_| format!("`{dims}` is not a number of dimensions"))?;
    Ok((dims, if is_multi { Form::Multi(*datatype) } else { Form::Dense(*datatype) }))
}

fn field_from_word(word: &str) -> Result<(String, FieldType), String> {
    let (_, last) = word.rsplit_once(':').ok_or("expected PATH:TYPE")?;
    // A type has one colon at most, and a path may have some.
    let read = |(at, _): (usize, &str)| {
        let (path, kind) = (word.get(..at)?, word.get(at + 1..)?);
        Some((path.to_owned(), FieldType::named(kind)?))
    };
    word.rmatch_indices(':').take(2).find_map(read).ok_or_else(|| {
        let names: Vec<&str> = FieldType::all().map(FieldType::name).collect();
        format!("there is no field type `{last}`; there are {}", names.join(", "))
    })
}

fn delimiter_from_word(word: &str) -> Result<u8, String> {
    match word.as_bytes() {
        [byte] if byte.is_ascii() && !byte.is_ascii_control() => Ok(*byte),
        _ => Err("expected one ASCII character".to_owned()),
    }
}

impl CollectionsArgs {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, async {
            match self.action {
                Action::List { target } => list(&target.client().await?).await,
                Action::Create(args) => args.create().await,
                Action::Describe { target, name, output } => {
                    describe(&target.client().await?, &name, output).await
                }
                Action::Delete { name, yes: false, .. } => {
                    anyhow::bail!("this would delete `{name}` with everything in it; say --yes")
                }
                Action::Delete { target, name, yes: true } => {
                    target.client().await?.delete_collection(&name).await?;
                    Ok(writeln!(std::io::stdout().lock(), "deleted collection `{name}`")?)
                }
            }
        })
    }
}

impl CreateArgs {
    async fn create(self) -> anyhow::Result<()> {
        let strategy = match self.shard_delimiter {
            Some(delimiter) => Strategy::ShardKey { delimiter },
            None => Strategy::ConsistentHash,
        };
        let spec = CollectionSpec {
            name: self.name,
            strategy,
            vectors: self.vectors.into_iter().collect(),
            fields: self.fields.into_iter().collect(),
            partitions: self.partitions.unwrap_or(PARTITIONS_OF_SERVER),
            strict: self.strict,
            ..Default::default()
        };
        self.target.client().await?.create_collection(&spec).await?;
        Ok(writeln!(std::io::stdout().lock(), "created collection `{}`", spec.name)?)
    }
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let left = Align::Left;
    let mut table = Table::new(&[
        ("collection", left, 40),
        ("partitions", Align::Right, 10),
        ("vectors", left, 60),
        ("fields", Align::Right, 8),
    ]);
    for Collection { spec, .. } in client.list_collections().await? {
        let vectors: Vec<String> =
            spec.vectors.iter().map(|(name, v)| format!("{name}:{}", size_word(v))).collect();
        let (partitions, fields) = (spec.partitions.to_string(), spec.fields.len().to_string());
        table.row([spec.name, partitions, vectors.join(" "), fields]);
    }
    Ok(std::io::stdout().lock().write_all(table.render().as_bytes())?)
}

async fn describe(client: &Client, name: &str, output: Output) -> anyhow::Result<()> {
    let (Collection { spec, .. }, status) = client.get_collection(name).await?;
    let text = match output {
        Output::Table => description(&spec, &status),
        Output::Json => format!("{}\n", document(&spec, &status)),
    };
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn description(spec: &CollectionSpec, status: &CollectionStatus) -> String {
    let mut table = Table::new(&[("", Align::Left, 30), ("", Align::Left, 100)]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("collection", spec.name.clone());
    row("partitions", spec.partitions.to_string());
    row("slots", slots_words(&spec.strategy));
    row("undeclared fields", if spec.strict { "refused" } else { "accepted" }.to_owned());
    for (name, vector) in &spec.vectors {
        row(&format!("vector {name}"), vector_words(vector));
    }
    for (path, kind) in &spec.fields {
        row(&format!("field {path}"), kind.name().to_owned());
    }
    row("records", status.records.to_string());
    row("segments", status.segments.to_string());
    row("not yet sealed", status.growing_records.to_string());
    row("searched by scanning", format!("{} vectors", status.unindexed_vectors));
    row("indexed", format!("{:.1} %{}", status.index_progress * 100.0, eta_words(status.index_eta_ms)));
    if status.stale_records > 0 {
        row("fields to be indexed", format!("in {} records", status.stale_records));
    }
    for part in status.indexing.iter().filter(|part| part.waiting_vectors > 0) {
        let pace = part.vectors_per_second.map(|pace| format!(", {pace:.0} a second")).unwrap_or_default();
        let (waiting, eta) = (part.waiting_vectors, eta_words(part.eta_ms));
        row(
            &format!("partition {}", part.partition),
            format!("{:.1} %{eta}, {waiting} vectors wait{pace}", part.progress * 100.0),
        );
    }
    row("on disk", format!("{} bytes", status.disk_bytes));
    if let Some(coverage) = &status.coverage {
        row("coverage", output::coverage_words(coverage));
    }
    table.render().lines().skip(2).map(|line| format!("{line}\n")).collect()
}

/// How keys fall into slots.
fn slots_words(strategy: &Strategy) -> String {
    match strategy {
        Strategy::ConsistentHash => format!("{} by the hash of the key", strategy.slots()),
        Strategy::ShardKey { delimiter } => {
            let slots = strategy.slots();
            format!("{slots} by the hash of the key up to the first `{}`", char::from(*delimiter))
        }
        Strategy::Range { .. } => format!("{} ranges of keys", strategy.slots()),
    }
}

/// How long indexing goes on.
fn eta_words(eta_ms: Option<u64>) -> String {
    match eta_ms {
        Some(0) => String::new(),
        Some(ms) => format!(", about {} s left", ms.div_ceil(1_000)),
        None => ", time left not known yet".to_owned(),
    }
}

fn size_word(vector: &VectorSpec) -> String {
    match vector.form {
        Form::Dense(_) => vector.dims.to_string(),
        Form::Sparse => Form::Sparse.name().to_owned(),
        Form::Multi(_) => format!("{}/multi", vector.dims),
    }
}

fn vector_words(vector: &VectorSpec) -> String {
    let values = match vector.form {
        Form::Dense(datatype) => format!("{} dims of {}", vector.dims, datatype.name()),
        Form::Sparse => return "sparse, dot, inverted index".to_owned(),
        Form::Multi(datatype) => format!("several of {} dims of {}", vector.dims, datatype.name()),
    };
    let distance = distance_word(vector.distance);
    match vector.index {
        IndexKind::Flat => format!("{values}, {distance}, flat"),
        IndexKind::Lsh(lsh) => format!("{values}, {distance}, lsh coarse {} fine {}", lsh.coarse, lsh.fine),
        IndexKind::Hnsw(hnsw) | IndexKind::Quantized(hnsw, _) => format!(
            "{values}, {distance}, hnsw m {} ef_construction {} ef_search {}, quantization {}",
            hnsw.m,
            hnsw.ef_construction,
            hnsw.ef_search,
            quantization_word(&vector.index)
        ),
    }
}

fn quantization_word(index: &IndexKind) -> &'static str {
    match index.quantization() {
        Some(Quantization::Scalar) => "scalar",
        Some(Quantization::Binary) => "binary",
        Some(Quantization::Product) => "product",
        None => "none",
    }
}

fn distance_word(distance: Distance) -> &'static str {
    match distance {
        Distance::Cosine => "cosine",
        Distance::Dot => "dot",
        Distance::Euclidean => "euclidean",
        Distance::Manhattan => "manhattan",
        Distance::Hamming => "hamming",
    }
}

fn document(spec: &CollectionSpec, status: &CollectionStatus) -> serde_json::Value {
    let vector = |(name, vector): (&String, &VectorSpec)| {
        let index = match vector.index {
            IndexKind::Flat => json!({"type": "flat"}),
            IndexKind::Lsh(lsh) => json!({"type": "lsh", "coarse": lsh.coarse, "fine": lsh.fine}),
            IndexKind::Hnsw(hnsw) | IndexKind::Quantized(hnsw, _) => json!({
                "type": "hnsw", "m": hnsw.m,
                "ef_construction": hnsw.ef_construction, "ef_search": hnsw.ef_search,
                "quantization": quantization_word(&vector.index),
            }),
        };
        let json = json!({
            "dims": vector.dims, "distance": distance_word(vector.distance), "index": index,
            "kind": vector.form.name(), "datatype": vector.form.datatype().name(),
        });
        (name.clone(), json)
    };
    let fields = spec.fields.iter().map(|(path, kind)| (path.clone(), json!(kind.name())));
    let (strategy, delimiter) = match spec.strategy {
        Strategy::ConsistentHash => ("consistent_hash", None),
        Strategy::ShardKey { delimiter } => ("shard_key", Some(char::from(delimiter).to_string())),
        Strategy::Range { .. } => ("range", None),
    };
    json!({
        "name": spec.name,
        "partitions": spec.partitions,
        "strategy": strategy,
        "shard_delimiter": delimiter,
        "strict": spec.strict,
        "vectors": spec.vectors.iter().map(vector).collect::<serde_json::Map<_, _>>(),
        "fields": fields.collect::<serde_json::Map<_, _>>(),
        "status": {
            "records": status.records,
            "segments": status.segments,
            "growing_records": status.growing_records,
            "unindexed_vectors": status.unindexed_vectors,
            "disk_bytes": status.disk_bytes,
            "index_progress": status.index_progress,
            "index_eta_ms": status.index_eta_ms,
            "stale_records": status.stale_records,
            "indexing": status.indexing.iter().map(indexing).collect::<Vec<_>>(),
            "coverage": status.coverage.as_ref().map(output::coverage_json),
        },
    })
}

fn indexing(part: &PartitionIndexing) -> serde_json::Value {
    json!({
        "partition": part.partition,
        "records": part.records,
        "unindexed_vectors": part.unindexed_vectors,
        "waiting_vectors": part.waiting_vectors,
        "progress": part.progress,
        "vectors_per_second": part.vectors_per_second,
        "eta_ms": part.eta_ms,
        "stale_records": part.stale_records,
    })
}

#[cfg(test)]
mod tests {
    use flotilla_proto::fulltext::Language;

    use super::*;

    #[test]
    fn a_delimiter_is_one_character_and_is_shown() {
        assert_eq!(delimiter_from_word("/"), Ok(b'/'));
        for wrong in ["", "//", "ß", "\n"] {
            delimiter_from_word(wrong).unwrap_err();
        }
        let strategy = Strategy::ShardKey { delimiter: b'/' };
        let spec = CollectionSpec { name: "files".into(), strategy, ..Default::default() };
        let status = CollectionStatus::default();
        assert!(description(&spec, &status).contains("1024 by the hash of the key up to the first `/`"));
        let shown = document(&spec, &status);
        assert_eq!((&shown["strategy"], &shown["shard_delimiter"]), (&json!("shard_key"), &json!("/")));
        let shown = document(&CollectionSpec::default(), &status);
        assert_eq!(
            (&shown["strategy"], &shown["shard_delimiter"]),
            (&json!("consistent_hash"), &json!(null))
        );
    }

    #[test]
    fn vectors_and_fields_from_words() {
        let (name, vector) = vector_from_word("default:384").unwrap();
        assert_eq!((name.as_str(), vector.dims, vector.distance), ("default", 384, Distance::Cosine));
        let (_, vector) = vector_from_word("image:512:dot:flat").unwrap();
        assert_eq!((vector.distance, vector.index), (Distance::Dot, IndexKind::Flat));
        let (_, vector) = vector_from_word("hash:256/bit").unwrap();
        assert_eq!((vector.form, vector.distance), (Form::Dense(Datatype::Bit), Distance::Hamming));
        let (_, vector) = vector_from_word("small:96/i8:manhattan").unwrap();
        assert_eq!((vector.form, vector.distance), (Form::Dense(Datatype::I8), Distance::Manhattan));
        let (_, vector) = vector_from_word("words:sparse").unwrap();
        assert_eq!((vector.form, vector.dims, vector.index), (Form::Sparse, 0, IndexKind::Flat));
        let (_, vector) = vector_from_word("tokens:128/f16/multi:dot").unwrap();
        assert_eq!((vector.form, vector.distance), (Form::Multi(Datatype::F16), Distance::Dot));
        for wrong in ["default", "a:x", "a:3/f8", "a:multi", "a:1:near", "a:1:dot:annoy", "a:1:dot:fast:more"]
        {
            vector_from_word(wrong).unwrap_err();
        }
        assert_eq!(field_from_word("a.b:datetime"), Ok(("a.b".to_owned(), FieldType::Datetime)));
        assert_eq!(field_from_word("a:text"), Ok(("a".to_owned(), FieldType::Text)));
        assert_eq!(
            field_from_word("a:text:english"),
            Ok(("a".to_owned(), FieldType::TextIn(Language::English)))
        );
        assert_eq!(field_from_word("a:b:uuid"), Ok(("a:b".to_owned(), FieldType::Uuid)));
        for kind in FieldType::all() {
            assert_eq!(field_from_word(&format!("a.b:{}", kind.name())), Ok(("a.b".to_owned(), kind)));
        }
        assert!(field_from_word("a:string").unwrap_err().contains("keyword"));
        assert!(field_from_word("a:text:klingon").unwrap_err().contains("no field type `klingon`"));
        assert!(field_from_word("a:text:klingon").unwrap_err().contains("text:english, text:finnish"));
    }
}
