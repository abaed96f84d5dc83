//! Searches for words through the whole of a database in this process: client, router, node and storage.

use clap::Parser as _;
use flotilla_client::Collection;
use flotilla_client::filter::{self, Combine as _};
use flotilla_proto::record::{Record, Value};
use flotilla_proto::schema::{CollectionSpec, Distance, FieldType, IndexKind, VectorSpec};

use super::*;

const SUBJECTS: [&str; 5] =
    ["Disk full", "Upload failed: disk full", "Diskette found", "Full backup of the host", "Nothing to tell"];

fn record(n: u64) -> Record {
    let subject = SUBJECTS[(n % 5) as usize];
    let subject =
        if n.is_multiple_of(7) { Value::List(vec![subject.into(), "host".into()]) } else { subject.into() };
    Record::new(n).field("subject", subject).field("n", n as i64).vector("default", vec![n as f32, 1.0])
}

async fn fill(client: &Client, name: &str, partitions: u32) -> anyhow::Result<Collection> {
    let vector = VectorSpec::new(2, Distance::Euclidean, IndexKind::Flat);
    let spec = CollectionSpec {
        name: name.to_owned(),
        vectors: [("default".to_owned(), vector)].into(),
        fields: [("subject".to_owned(), FieldType::Text)].into(),
        partitions,
        ..Default::default()
    };
    let collection = client.create_collection(&spec).await?;
    client.upsert(name, (0..120).map(record).collect()).await?;
    client.delete_keys(name, (0..120_u64).filter(|n| n % 11 == 3)).await?;
    Ok(collection)
}

/// Keys and scores, to the bit.
fn shown(found: &Found) -> Vec<(Key, u32)> {
    found.hits.iter().map(|hit| (hit.record.key.clone(), hit.score.to_bits())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_are_found_the_same_over_one_partition_and_over_four() {
    let folder = tempfile::tempdir().unwrap();
    let client = crate::open(folder.path()).await.unwrap();
    fill(&client, "whole", 1).await.unwrap();
    fill(&client, "spread", 4).await.unwrap();
    let of = |query: &str| TextQuery::new("subject", query);
    let searches = [
        Search::text(of("disk full")).limit(100),
        Search::text(of("full host").all()).limit(100),
        Search::text(of("disk full").phrase()).limit(100),
        Search::text(of("full dis").prefix_last()).limit(100),
        Search::text(of("dusk").fuzzy_edits(1)).limit(100),
        Search::text(of("disk")).filter(filter::lt("n", 60).and(filter::phrase("subject", "disk full"))),
        Search::new(vec![50.5, 1.0]).with_text(of("upload host"), Fusion::rrf()).limit(30),
        Search::new(vec![50.5, 1.0]).with_text(of("upload host"), Fusion::weighted(0.5, 2.0)).limit(30),
    ];
    for search in searches {
        let whole = client.search("whole", search.clone().explain()).await.unwrap();
        let spread = client.search("spread", search.clone().explain()).await.unwrap();
        assert!(!whole.hits.is_empty(), "{search:?}");
        assert_eq!(shown(&spread), shown(&whole), "{search:?}");
        assert_eq!(spread.text_plan, whole.text_plan, "{search:?}");
    }
    let highlight = Highlight::new().marks("[", "]");
    let found =
        client.search("spread", Search::text(of("upload")).highlight(highlight).limit(1)).await.unwrap();
    assert_eq!(found.hits[0].highlights, ["[Upload] failed: disk full"]);
    let refused = client.search("spread", Search::text(TextQuery::new("n", "disk"))).await.unwrap_err();
    assert!(refused.to_string().contains("text.field: `n` is not declared"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_on_words_count_and_delete() {
    let folder = tempfile::tempdir().unwrap();
    let client = crate::open(folder.path()).await.unwrap();
    fill(&client, "docs", 2).await.unwrap();
    let left = |n: &u64| n % 11 != 3;
    let naive = |holds: &dyn Fn(u64) -> bool| (0..120).filter(left).filter(|n| holds(*n)).count() as u64;
    let count = async |filter: &Filter| client.count("docs", Some(filter)).await.unwrap().count;
    assert_eq!(count(&filter::matches("subject", "FULL disk")).await, naive(&|n| n % 5 < 2));
    assert_eq!(
        count(&filter::matches_any("subject", "upload host")).await,
        naive(&|n| n % 5 == 1 || n % 5 == 3 || n.is_multiple_of(7))
    );
    let phrase = filter::phrase("subject", "failed disk");
    assert_eq!(count(&phrase).await, naive(&|n| n % 5 == 1));
    client.delete_filter("docs", &phrase).await.unwrap();
    assert_eq!(count(&phrase).await, 0);
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    search: SearchArgs,
}

#[test]
fn words_on_the_command_line_make_sense_or_are_refused() {
    let parse = |line: &str| {
        let words = ["search", "--collection", "docs"].into_iter().chain(line.split(' '));
        Line::try_parse_from(words).map(|line| line.search)
    };
    let both = parse("--key 7 --text disk --text-field subject --fusion weighted --text-weight 0.5").unwrap();
    assert!(both.query.names_vector() && both.words.fusion == FusionKind::Weighted);
    let alone = parse("--text disk --text-field subject --phrase --prefix").unwrap();
    assert!(!alone.query.names_vector() && alone.words.phrase && alone.words.prefix);
    for wrong in [
        "--text disk",
        "--key 7 --text-field subject",
        "--key 7 --phrase",
        "--text disk --text-field subject --fuzzy 3",
        "--text disk --text-field subject --fuzzy 1 --phrase",
        "--text disk --text-field subject --phrase --text-operator all",
        "--text disk --text-field subject --text-weight 0.5",
        "--text-field subject",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
