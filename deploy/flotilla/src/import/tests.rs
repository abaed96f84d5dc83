//! Imports as a user types them, into a database in this process.

use clap::Parser;
use flotilla_client::{Get, With};
use flotilla_proto::record::{Key, Record};

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ImportArgs,
}

/// Runs an import with these arguments by a client.
pub(crate) async fn import(client: &Client, args: &[&str]) -> anyhow::Result<()> {
    let args = Line::try_parse_from(["import"].iter().chain(args))?.args;
    let source = args.source()?;
    args.import_by(client.clone(), source).await
}

async fn count(client: &Client, collection: &str) -> u64 {
    client.count(collection, None).await.unwrap().count
}

async fn record(client: &Client, key: impl Into<Key>) -> Record {
    let got = client.get("c", Get::new([key]).with(With::ALL)).await.unwrap();
    got.records.into_iter().next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csv_becomes_records_of_the_types_that_its_columns_show() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::open(dir.path().join("data")).await.unwrap();
    let path = dir.path().join("vms.csv");
    let row = |i: u32| format!("vm-{i},{},{}.5,true,team {i},2026-01-02T03:04:05Z\n", i % 9, i);
    let rows: String = (0..2_500).map(row).collect();
    std::fs::write(&path, format!("id,cpu,load,on,owner.team,at\n{rows}")).unwrap();
    let file = path.to_str().unwrap();
    let args = ["--collection", "c", "--records", file, "--key", "id", "--create", "--partitions", "2"];
    import(&client, &args).await.unwrap();
    assert_eq!(count(&client, "c").await, 2_500);
    let spec = client.get_collection("c").await.unwrap().0.spec;
    let kinds: Vec<(&str, &str)> =
        spec.fields.iter().map(|(path, kind)| (path.as_str(), kind.name())).collect();
    let expected = [
        ("at", "datetime"),
        ("cpu", "integer"),
        ("id", "keyword"),
        ("load", "float"),
        ("on", "bool"),
        ("owner.team", "keyword"),
    ];
    assert_eq!(kinds, expected);
    let found = record(&client, "vm-17").await;
    assert_eq!(
        crate::json::payload_to(&found.payload).to_string(),
        r#"{"at":"2026-01-02T03:04:05Z","cpu":8,"id":"vm-17","load":17.5,"on":true,"owner":{"team":"team 17"}}"#
    );
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_rows_are_set_aside_or_end_the_import() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::open(dir.path().join("data")).await.unwrap();
    let (path, rejects) = (dir.path().join("f.jsonl"), dir.path().join("bad.jsonl"));
    let fields = [("n".to_owned(), FieldType::Integer)].into();
    let spec = CollectionSpec { name: "c".into(), fields, partitions: 1, ..CollectionSpec::default() };
    client.create_collection(&spec).await.unwrap();
    std::fs::write(&path, "{\"n\":1}\n\n{\"n\":\"x\"}\nnonsense\n{\"n\":4}\n").unwrap();
    let base = ["--collection", "c", "--records", path.to_str().unwrap()];
    let why = format!("{:#}", import(&client, &base).await.unwrap_err());
    assert!(why.contains("f.jsonl: line 3: payload.n: declared as integer"), "{why}");
    let all = [&base[..], &["--rejects", rejects.to_str().unwrap()]].concat();
    import(&client, &all).await.unwrap();
    assert_eq!(count(&client, "c").await, 2);
    let told = std::fs::read_to_string(&rejects).unwrap();
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told.len(), 2);
    assert!(
        told[0].starts_with(r#"{"line":3,"reason":"payload.n:"#) && told[0].contains(r#"{"n":"x"}"#),
        "{told:?}"
    );
    assert_eq!(told[1], r#"{"line":4,"reason":"column 2: not JSON","record":"nonsense","row":2}"#);
    let few = [&all[..], &["--rejects-max", "1"]].concat();
    let why = format!("{:#}", import(&client, &few).await.unwrap_err());
    assert!(why.contains("more than 1 rows are refused, the limit of --rejects-max; line 4"), "{why}");
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_was_cut_short_goes_on_behind_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::open(dir.path().join("data")).await.unwrap();
    let (path, kept) = (dir.path().join("f.jsonl"), dir.path().join("progress"));
    let line = |i: u32| if i == 2_500 { "{\"id\":-1}\n".to_owned() } else { format!("{{\"id\":{i}}}\n") };
    std::fs::write(&path, (0..4_000).map(line).collect::<String>()).unwrap();
    let base = [
        "--collection",
        "c",
        "--records",
        path.to_str().unwrap(),
        "--key",
        "id",
        "--create",
        "--batch",
        "100",
        "--resume",
        kept.to_str().unwrap(),
    ];
    let why = format!("{:#}", import(&client, &base).await.unwrap_err());
    assert!(why.contains("line 2501: field `id` is -1"), "{why}");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    let rows = state["rows"].as_u64().unwrap();
    assert!(rows <= 2_500 && rows.is_multiple_of(100), "{state}");
    // What was acknowledged is not written again: it stays away once it is deleted.
    client.delete_filter("c", &flotilla_proto::filter::Filter::All(Vec::new())).await.unwrap();
    let rejects = dir.path().join("bad.jsonl");
    let on = [&base[..], &["--rejects", rejects.to_str().unwrap()]].concat();
    import(&client, &on).await.unwrap();
    assert_eq!(count(&client, "c").await, 4_000 - 1 - rows);
    import(&client, &on).await.unwrap();
    assert_eq!(std::fs::read_to_string(&rejects).unwrap().lines().count(), 1);
    client.delete_collection("c").await.unwrap();
    let why = import(&client, &on).await.unwrap_err().to_string();
    assert!(why.contains("4000 rows were acknowledged and collection `c` is gone"), "{why}");
    std::fs::write(&path, "{\"id\":1}\n").unwrap();
    let why = import(&client, &on).await.unwrap_err().to_string();
    assert!(why.contains("the file of records differs"), "{why}");
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::open(dir.path().join("data")).await.unwrap();
    let path = dir.path().join("f.csv");
    std::fs::write(&path, "id,n\n1,2\n").unwrap();
    let args = ["--collection", "c", "--records", path.to_str().unwrap(), "--key", "id", "--dry-run"];
    let why = format!("{:#}", import(&client, &args).await.unwrap_err());
    assert!(why.contains("--create makes the collection"), "{why}");
    let created = [&args[..], &["--create"]].concat();
    let args = Line::try_parse_from(["import"].iter().chain(&created)).unwrap().args;
    args.import().await.unwrap();
    assert!(client.list_collections().await.unwrap().is_empty());
    client.close().await.unwrap();
}

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
