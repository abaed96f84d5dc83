//! Exports of a database in this process, read back by the import.

use std::path::Path;

use clap::Parser;
use flotilla_client::{Distance, FieldType, IndexKind, Value, VectorSpec};
use flotilla_proto::record::Payload;
use flotilla_proto::schema::Form;
use futures::TryStreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::import::tests::import;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ExportArgs,
}

async fn export(client: &Client, file: &Path, args: &[&str]) -> anyhow::Result<()> {
    let file = ["export", "--file", file.to_str().unwrap()];
    Line::try_parse_from(file.iter().chain(args))?.args.export(client).await
}

/// A collection with two kinds of vectors.
fn spec(name: &str) -> CollectionSpec {
    let dense = VectorSpec::new(3, Distance::Euclidean, IndexKind::Flat);
    let sparse = VectorSpec { dims: 0, distance: Distance::Dot, index: IndexKind::Flat, form: Form::Sparse };
    CollectionSpec {
        name: name.to_owned(),
        vectors: [("default".to_owned(), dense), ("words".to_owned(), sparse)].into(),
        fields: [("n".to_owned(), FieldType::Integer), ("at".to_owned(), FieldType::Datetime)].into(),
        partitions: 3,
        ..CollectionSpec::default()
    }
}

fn value(random: &mut StdRng, depth: u32) -> Value {
    match random.random_range(0..if depth > 0 { 8 } else { 6 }) {
        0 => Value::Null,
        1 => Value::Bool(random.random()),
        2 => Value::Int(random.random()),
        3 => Value::Float(f64::from_bits(random.random())).finite(),
        4 => Value::Int(random.random_range(-3..3)),
        5 => Value::Text(text(random)),
        6 => Value::List((0..random.random_range(0..4)).map(|_| value(random, depth - 1)).collect()),
        _ => Value::Map(payload(random, depth - 1)),
    }
}

trait Finite {
    fn finite(self) -> Value;
}

impl Finite for Value {
    fn finite(self) -> Value {
        match self {
            Value::Float(float) if !float.is_finite() => Value::Float(-0.0),
            value => value,
        }
    }
}

fn text(random: &mut StdRng) -> String {
    let letters = ['a', '"', '\\', '\n', '\u{0}', 'ä', '中', '\u{1f600}', ',', '\u{2028}'];
    (0..random.random_range(0..6)).map(|_| letters[random.random_range(0..letters.len())]).collect()
}

fn payload(random: &mut StdRng, depth: u32) -> Payload {
    let name =
        |random: &mut StdRng| ["x", "y", "ä b", "a.b", "\"", "key"][random.random_range(0..6)].to_owned();
    (0..random.random_range(0..4)).map(|_| (name(random), value(random, depth))).collect()
}

/// Records of every kind of key, value and vector.
fn records(seed: u64, count: u64) -> Vec<Record> {
    let mut random = StdRng::seed_from_u64(seed);
    let record = |n: u64| {
        let mut record = match n % 3 {
            0 => Record::new(n),
            1 => Record::new(u64::MAX - n),
            _ => Record::new(format!("{n}{}", text(&mut random))),
        };
        record.payload = payload(&mut random, 3);
        record.payload.insert("n".to_owned(), Value::Int(random.random()));
        if random.random_bool(0.7) {
            let vector: Vec<f32> = (0..3).map(|_| random.random_range(-1e15..1e15)).collect();
            record = record.vector("default", vector);
        }
        if random.random_bool(0.3) {
            record = record.vector("words", vec![(random.random_range(0..9), 0.1), (9 + n as u32, 1e-30)]);
        }
        record
    };
    (0..count).map(record).collect()
}

/// All records by key, without their versions.
async fn all(client: &Client, collection: &str) -> Vec<Record> {
    let stream = client.scan_all(collection, Scan::new().with(With::ALL)).await.unwrap();
    let mut records: Vec<Record> = stream.try_collect().await.unwrap();
    records.iter_mut().for_each(|record| record.version = 0);
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_lines_are_read_back_as_the_same_records() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::open(dir.path().join("data")).await.unwrap();
    for name in ["from", "back"] {
        client.create_collection(&spec(name)).await.unwrap();
    }
    for batch in records(11, 2_300).chunks(1_000) {
        client.upsert("from", batch.to_vec()).await.unwrap();
    }
    let (file, again) = (dir.path().join("f.jsonl"), dir.path().join("g.jsonl"));
    export(&client, &file, &["--collection", "from", "--with-vectors"]).await.unwrap();
    let args = ["--collection", "back", "--records", file.to_str().unwrap(), "--whole-records"];
    import(&client, &args).await.unwrap();
    let written = all(&client, "from").await;
    assert_eq!(written.len(), 2_300);
    assert_eq!(all(&client, "back").await, written);
    export(&client, &again, &["--collection", "back", "--with-vectors"]).await.unwrap();
    // Nothing but the versions differs.
    let lines = |path: &Path| -> Vec<serde_json::Value> {
        let bare = |line: &str| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            record.as_object_mut().unwrap().remove("version");
            record
        };
        std::fs::read_to_string(path).unwrap().lines().map(bare).collect()
    };
    assert_eq!(lines(&again), lines(&file));
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csv_and_parquet_tell_what_they_can() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::open(dir.path().join("data")).await.unwrap();
    client.create_collection(&spec("c")).await.unwrap();
    let owner = |team: &str| Value::Map([("team".to_owned(), team.into())].into());
    let mut records = Vec::new();
    for n in 0..1_200 {
        let mut record = Record::new(n).field("n", n as i64).field("on", n % 2 == 0);
        record.payload.insert("owner".to_owned(), owner(&format!("team, {}", n % 5)));
        records.push(record.vector("default", vec![n as f32, 0.5, -1.0]));
    }
    for batch in records.chunks(1_000) {
        client.upsert("c", batch.to_vec()).await.unwrap();
    }
    let file = dir.path().join("f.csv");
    export(&client, &file, &["--collection", "c", "--filter", "n >= 3", "--with-vectors"]).await.unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 1 + 1_197);
    assert!(text.starts_with("key,at,n,on,owner.team,vector:default,vector:words\n"), "{}", &text[..99]);
    assert!(text.contains("\n3,,3,false,\"team, 3\",\"[3.0,0.5,-1.0]\",\n"), "{}", &text[..400]);

    // And back, in another collection of the same fields and vectors.
    client.create_collection(&spec("back")).await.unwrap();
    let args = ["--collection", "back", "--records", file.to_str().unwrap(), "--key", "key"];
    import(&client, &[&args[..], &["--vector-field", "vector:default"]].concat()).await.unwrap();
    let back = all(&client, "back").await;
    assert_eq!(back.len(), 1_197);
    for (mut record, written) in back.into_iter().zip(&records[3..]) {
        record.payload.remove("key");
        assert_eq!(&record, written);
    }

    let file = dir.path().join("f.parquet");
    export(&client, &file, &["--collection", "c", "--with-vectors", "--key-column", "id"]).await.unwrap();
    let args = ["--collection", "back", "--records", file.to_str().unwrap(), "--key", "id"];
    import(&client, &[&args[..], &["--vector-field", "vector:default"]].concat()).await.unwrap();
    let found = all(&client, "back").await;
    let last = found.iter().find(|record| record.key == "1199".into()).unwrap();
    assert_eq!(
        (last.payload["n"].clone(), &last.vectors["default"]),
        (1_199.into(), &records[1_199].vectors["default"])
    );
    assert_eq!(last.payload["payload"], Value::Text(r#"{"on":false,"owner":{"team":"team, 4"}}"#.to_owned()));
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_exported_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::open(dir.path().join("data")).await.unwrap();
    client.create_collection(&spec("c")).await.unwrap();
    client.upsert("c", vec![Record::new(1).field("a.b", 1)]).await.unwrap();
    let file = dir.path().join("f.csv");
    let why = export(&client, &file, &["--collection", "c"]).await.unwrap_err().to_string();
    assert!(why.contains("`a.b` is no step of a path"), "{why}");
    let why = export(&client, &file, &["--collection", "none"]).await.unwrap_err().to_string();
    assert!(why.contains("none"), "{why}");
    let why = export(&client, &file, &["--collection", "c", "--format", "jsonl", "--fields", "a"]).await;
    assert_eq!(why.unwrap_err().to_string(), "--fields is for CSV");
    assert!(!file.exists());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    client.close().await.unwrap();
}
