//! `flotilla collections`: list, create, describe and delete.

use std::io::Write as _;

use clap::{Args, Subcommand};
use flotilla_client::{Client, Collection};
use flotilla_proto::schema::{CollectionSpec, Distance, FieldType, IndexKind, Quantization, VectorSpec};
use flotilla_proto::v1::CollectionStatus;
use serde_json::json;

use crate::import::{PARTITIONS_OF_SERVER, index_kind};
use crate::output::{self, Output};
use crate::table::{Align, Table};
use crate::target::{self, Target};

const FIELD_TYPES: [FieldType; 6] = [
    FieldType::Keyword,
    FieldType::Integer,
    FieldType::Float,
    FieldType::Bool,
    FieldType::Datetime,
    FieldType::Text,
];

/// Arguments of `flotilla collections`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla collections list
  flotilla collections create docs --vector default:384:cosine --field title:keyword --field year:integer
  flotilla collections create logs --field at:datetime --field level:keyword
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
  flotilla collections create docs --vector text:768:dot:high_recall --vector image:512:euclidean:flat")]
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
    /// A vector, NAME:DIMS[:cosine|dot|euclidean[:INDEX]]; INDEX is fast, balanced, high_recall, maximum_recall or flat
    #[arg(long = "vector", value_name = "VECTOR", value_parser = vector_from_word)]
    vectors: Vec<(String, VectorSpec)>,
    /// A declared field, PATH:TYPE; TYPE is keyword, integer, float, bool, datetime or text
    #[arg(long = "field", value_name = "FIELD", value_parser = field_from_word)]
    fields: Vec<(String, FieldType)>,
    /// Partitions [default: the server's]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
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
    let dims = dims.parse().map_err(|_| format!("`{dims}` is not a number of dimensions"))?;
    let distance = match parts.get(2).copied().unwrap_or("cosine") {
        "cosine" => Distance::Cosine,
        "dot" => Distance::Dot,
        "euclidean" => Distance::Euclidean,
        other => return Err(format!("there is no distance `{other}`; there are cosine, dot, euclidean")),
    };
    let index = index_kind(parts.get(3).copied().unwrap_or("balanced")).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), VectorSpec { dims, distance, index }))
}

fn field_from_word(word: &str) -> Result<(String, FieldType), String> {
    let (path, kind) = word.rsplit_once(':').ok_or("expected PATH:TYPE")?;
    let known = FIELD_TYPES.iter().find(|known| known.name() == kind);
    let names = || FIELD_TYPES.map(FieldType::name).join(", ");
    let kind = known.ok_or_else(|| format!("there is no field type `{kind}`; there are {}", names()))?;
    Ok((path.to_owned(), *kind))
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
        let spec = CollectionSpec {
            name: self.name,
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
            spec.vectors.iter().map(|(name, v)| format!("{name}:{}", v.dims)).collect();
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
    row("indexed", format!("{:.1} %", status.index_progress * 100.0));
    row("on disk", format!("{} bytes", status.disk_bytes));
    if let Some(coverage) = &status.coverage {
        row("coverage", output::coverage_words(coverage));
    }
    table.render().lines().skip(2).map(|line| format!("{line}\n")).collect()
}

fn vector_words(vector: &VectorSpec) -> String {
    let distance = distance_word(vector.distance);
    match vector.index {
        IndexKind::Flat => format!("{} dims, {distance}, flat", vector.dims),
        IndexKind::Hnsw(hnsw) | IndexKind::Quantized(hnsw, _) => format!(
            "{} dims, {distance}, hnsw m {} ef_construction {} ef_search {}, quantization {}",
            vector.dims,
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
        None => "none",
    }
}

fn distance_word(distance: Distance) -> &'static str {
    match distance {
        Distance::Cosine => "cosine",
        Distance::Dot => "dot",
        Distance::Euclidean => "euclidean",
    }
}

fn document(spec: &CollectionSpec, status: &CollectionStatus) -> serde_json::Value {
    let vector = |(name, vector): (&String, &VectorSpec)| {
        let index = match vector.index {
            IndexKind::Flat => json!({"type": "flat"}),
            IndexKind::Hnsw(hnsw) | IndexKind::Quantized(hnsw, _) => json!({
                "type": "hnsw", "m": hnsw.m,
                "ef_construction": hnsw.ef_construction, "ef_search": hnsw.ef_search,
                "quantization": quantization_word(&vector.index),
            }),
        };
        let json = json!({"dims": vector.dims, "distance": distance_word(vector.distance), "index": index});
        (name.clone(), json)
    };
    let fields = spec.fields.iter().map(|(path, kind)| (path.clone(), json!(kind.name())));
    json!({
        "name": spec.name,
        "partitions": spec.partitions,
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
            "coverage": status.coverage.as_ref().map(output::coverage_json),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_and_fields_from_words() {
        let (name, vector) = vector_from_word("default:384").unwrap();
        assert_eq!((name.as_str(), vector.dims, vector.distance), ("default", 384, Distance::Cosine));
        let (_, vector) = vector_from_word("image:512:dot:flat").unwrap();
        assert_eq!((vector.distance, vector.index), (Distance::Dot, IndexKind::Flat));
        for wrong in ["default", "a:x", "a:1:near", "a:1:dot:lsh", "a:1:dot:fast:more"] {
            vector_from_word(wrong).unwrap_err();
        }
        assert_eq!(field_from_word("a.b:datetime"), Ok(("a.b".to_owned(), FieldType::Datetime)));
        assert!(field_from_word("a:string").unwrap_err().contains("keyword"));
    }
}
