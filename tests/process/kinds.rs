//! Vectors of every kind over the real API and the commands: created, imported, searched, and the same after a restart.

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::process::{command, run};
use flotilla_tests::server::Server;

const ROWS: u64 = 900;

fn done(args: &[&str]) -> String {
    let ended = run(command(crate::binary(), args)).unwrap();
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    ended.stdout
}

/// The vectors of a row: small whole numbers, which every datatype holds.
fn dense(row: u64, dims: u64, below: u64) -> Vec<f32> {
    (0..dims).map(|dim| ((row * 7 + dim * (row % 11 + 3)) % below) as f32).collect()
}

fn pairs(row: u64) -> (Vec<u32>, Vec<f32>) {
    let indices: std::collections::BTreeSet<u32> =
        (0..5).map(|n| ((row * 31 + n * n * 7) % 200) as u32).collect();
    let values = indices.iter().map(|index| (u64::from(*index) + row) as f32 % 5.0 + 1.0).collect();
    (indices.into_iter().collect(), values)
}

fn members(row: u64) -> Vec<Vec<f32>> {
    (0..row % 4 + 1).map(|n| dense(row + n * 13, 4, 9)).collect()
}

fn record(row: u64) -> v1::Record {
    let (indices, values) = pairs(row);
    let several = members(row).into_iter().map(|values| v1::Member { values }).collect();
    let vectors = [
        ("bits", api::dense(dense(row, 40, 2))),
        ("bytes", api::dense(dense(row, 6, 200).into_iter().map(|x| x - 100.0).collect())),
        ("halves", api::dense(dense(row, 6, 50))),
        ("streets", api::dense(dense(row, 6, 50))),
        ("words", v1::Vector { values, indices, ..Default::default() }),
        ("tokens", v1::Vector { members: several, ..Default::default() }),
    ];
    let mut record = api::record(api::number_key(row), vec![], vec![("n", api::int((row % 3) as i64))]);
    record.vectors = vectors.map(|(name, vector)| (name.to_owned(), vector)).into();
    record
}

/// How near two vectors of this name are, term by term.
fn score(name: &str, a: &v1::Vector, b: &v1::Vector) -> f32 {
    let sum = |a: &[f32], b: &[f32], term: &dyn Fn(f32, f32) -> f32| -> f32 {
        a.iter().zip(b).map(|(x, y)| term(*x, *y)).sum()
    };
    let dot = |a: &[f32], b: &[f32]| sum(a, b, &|x, y| x * y);
    match name {
        "bits" | "streets" => -sum(&a.values, &b.values, &|x, y| (x - y).abs()),
        "bytes" => dot(&a.values, &b.values),
        "halves" => -sum(&a.values, &b.values, &|x, y| (x - y) * (x - y)).sqrt(),
        "words" => {
            let other = |index: &u32| b.indices.iter().position(|i| i == index).map(|at| b.values[at]);
            a.indices.iter().zip(&a.values).filter_map(|(index, value)| Some(value * other(index)?)).sum()
        }
        _ => {
            let best =
                |a: &v1::Member| b.members.iter().map(|b| dot(&a.values, &b.values)).fold(f32::MIN, f32::max);
            a.members.iter().map(best).sum()
        }
    }
}

/// Each vector name, asked by the vectors of a few rows, answers as a plain evaluation over all records does.
async fn check(client: &Api) {
    let all: Vec<v1::Record> = (0..ROWS).map(record).collect();
    for name in ["bits", "bytes", "halves", "streets", "words", "tokens"] {
        for row in [0, 17, 450] {
            for filter in [None, Some(api::equal("n", api::int(1)))] {
                let query = &all[row].vectors[name];
                let mut wanted: Vec<(f32, u64)> = (0..ROWS)
                    .filter(|row| filter.is_none() || row % 3 == 1)
                    .map(|row| (score(name, query, &all[row as usize].vectors[name]), row))
                    .collect();
                wanted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                let mut request = api::search("kinds", vec![], 12);
                (request.vector, request.vector_name) = (Some(query.clone()), name.to_owned());
                (request.filter, request.exact, request.with_vectors) = (filter, true, true);
                let hits = client.search(request).await.unwrap().hits;
                let found: Vec<(f32, Option<v1::Key>)> =
                    hits.iter().map(|hit| (hit.score, hit.record.as_ref().unwrap().key.clone())).collect();
                let wanted: Vec<(f32, Option<v1::Key>)> =
                    wanted[..12].iter().map(|(score, row)| (*score, Some(api::number_key(*row)))).collect();
                assert_eq!(found, wanted, "{name} as row {row}");
                for hit in hits {
                    let record = hit.record.unwrap();
                    let Some(v1::key::Kind::Number(row)) = record.key.unwrap().kind else {
                        panic!("a number")
                    };
                    assert_eq!(record.vectors, all[row as usize].vectors);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_kept_and_searched() {
    let dir = crate::folder();
    let (data, config) = (dir.path().join("data"), crate::small_settings(dir.path()));
    let server = Server::start(crate::binary(), &data, &["--config", &config]).unwrap();
    let url = server.url();
    done(&[
        "collections",
        "create",
        "--to",
        &url,
        "kinds",
        "--field",
        "n:integer",
        "--vector",
        "bits:40/bit",
        "--vector",
        "bytes:6/i8:dot",
        "--vector",
        "halves:6/f16:euclidean",
        "--vector",
        "streets:6:manhattan",
        "--vector",
        "words:sparse",
        "--vector",
        "tokens:4/multi:dot",
    ]);
    let told = done(&["collections", "describe", "--to", &url, "kinds"]);
    for words in [
        "40 dims of bit, hamming, hnsw",
        "6 dims of i8, dot",
        "6 dims of f16",
        "sparse, dot, inverted index",
        "several of 4 dims of f32, dot, flat",
    ] {
        assert!(told.contains(words), "{told}");
    }
    let client = server.client().await.unwrap();
    for rows in (0..ROWS).collect::<Vec<u64>>().chunks(100) {
        client.put("kinds", rows.iter().map(|row| record(*row)).collect()).await.unwrap();
    }
    check(&client).await;
    let query = r#"{"indices": [0, 7], "values": [1, 1]}"#;
    let found = done(&[
        "search",
        "--to",
        &url,
        "--collection",
        "kinds",
        "--vector-name",
        "words",
        "--vector",
        query,
        "--limit",
        "2",
    ]);
    assert!(found.contains("2 hits"), "{found}");
    drop(client);
    server.terminate().unwrap();

    let server = Server::start(crate::binary(), &data, &["--config", &config]).unwrap();
    check(&server.client().await.unwrap()).await;
    let lines = [
        r#"{"n": 1, "v": {"indices": [7, 300], "values": [2, 5]}}"#,
        r#"{"n": 2, "v": {"indices": [300, 7], "values": [2, 5]}}"#,
    ];
    let file = dir.path().join("more.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let (url, file, rejects) =
        (server.url(), file.to_str().unwrap().to_owned(), dir.path().join("rejects.jsonl"));
    let report = done(&[
        "import",
        "--to",
        &url,
        "--collection",
        "kinds",
        "--records",
        &file,
        "--vector-field",
        "v",
        "--vector-name",
        "words",
        "--continue",
        "--rejects",
        rejects.to_str().unwrap(),
    ]);
    assert!(report.contains("\"records\":1") && report.contains("\"rejected\":1"), "{report}");
    assert!(std::fs::read_to_string(&rejects).unwrap().contains("300 comes before 7"));
    server.terminate().unwrap();
}

#[test]
fn vectors_of_which_nothing_is_said_get_what_the_server_is_told() {
    let dir = crate::folder();
    let config = dir.path().join("defaults.yaml");
    let settings = "index:\n  hnsw:\n    m: 24\nquantization:\n  type: product\ncluster:\n  partitions: 1\n";
    std::fs::write(&config, settings).unwrap();
    let config = config.to_str().unwrap().to_owned();
    let server = Server::start(crate::binary(), &dir.path().join("data"), &["--config", &config]).unwrap();
    let url = server.url();
    let vectors =
        ["--vector", "plain:8", "--vector", "said:8:dot:fast/none", "--vector", "exact:8:cosine:flat"];
    done(&[&["collections", "create", "--to", &url, "c", "--vector", "bits:64/bit"], &vectors[..]].concat());
    let told = done(&["collections", "describe", "--to", &url, "c"]);
    for words in [
        "8 dims of f32, cosine, hnsw m 24 ef_construction 200 ef_search 100, quantization product",
        "8 dims of f32, dot, hnsw m 8 ",
        "quantization none",
        "8 dims of f32, cosine, flat",
        "64 dims of bit, hamming, hnsw m 24 ",
    ] {
        assert!(told.contains(words), "{words} in {told}");
    }
    drop(server);
}
