//! Searches by examples, in groups, above a threshold and explained: what four partitions answer is what one answers,
//! and what the obvious way over all records does.

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::process::{Finished, command, run};
use flotilla_tests::seed::unit_vector;
use flotilla_tests::server::Server;

const DIMS: usize = 8;
const ROWS: u64 = 700;
const COLLECTIONS: [(&str, u32); 2] = [("whole", 1), ("spread", 4)];

/// The shelf of a row, which its vector leans towards; some stand on two, some on none.
fn shelves(row: u64) -> Vec<String> {
    match row % 29 {
        0 => vec![],
        1 => vec![format!("s{}", row % 5), "rare".to_owned()],
        _ => vec![format!("s{}", row % 5)],
    }
}

fn vector(row: u64) -> Vec<f32> {
    let mut vector = unit_vector(row, DIMS);
    vector[(row % 5) as usize] += 1.5;
    vector
}

fn record(row: u64) -> v1::Record {
    let shelves = shelves(row).into_iter().map(api::text).collect();
    let payload = vec![
        ("shelf", api::list(shelves)),
        ("free", api::int((row % 90 / 30) as i64)),
        ("n", api::int(row as i64)),
    ];
    api::record(api::number_key(row), vector(row), payload)
}

async fn fill(client: &Api) {
    use v1::FieldType::{Integer, Keyword};
    for (name, partitions) in COLLECTIONS {
        let mut spec = api::collection(name, DIMS as u32, vec![("shelf", Keyword), ("n", Integer)]);
        spec.partitions = partitions;
        client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
        let rows: Vec<u64> = (0..ROWS).collect();
        for batch in rows.chunks(100) {
            client.put(name, batch.iter().map(|row| record(*row)).collect()).await.unwrap();
        }
        let gone = (0..ROWS).filter(|row| is_gone(*row)).map(api::number_key).collect();
        client.remove(name, gone).await.unwrap();
    }
}

fn is_gone(row: u64) -> bool {
    row.is_multiple_of(17)
}

fn unit(vector: &[f64]) -> Vec<f64> {
    let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
    vector.iter().map(|v| v / length).collect()
}

fn direction(row: u64) -> Vec<f64> {
    unit(&vector(row).into_iter().map(f64::from).collect::<Vec<_>>())
}

/// The rows by their cosine similarity to `query`, with it.
fn by_score(query: &[f64]) -> Vec<(u64, f64)> {
    let query = unit(query);
    let score = |row: u64| direction(row).iter().zip(&query).map(|(a, b)| a * b).sum::<f64>();
    let mut rows: Vec<(u64, f64)> =
        (0..ROWS).filter(|row| !is_gone(*row)).map(|row| (row, score(row))).collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    rows
}

/// The mean of some rows' directions.
fn mean(rows: &[u64]) -> Vec<f64> {
    let mut mean = vec![0.0; DIMS];
    for row in rows {
        mean.iter_mut().zip(direction(*row)).for_each(|(sum, v)| *sum += v / rows.len() as f64);
    }
    mean
}

fn keys(hits: &[v1::Hit]) -> Vec<u64> {
    let key = |hit: &v1::Hit| match hit.record.as_ref().and_then(|record| record.key.clone()?.kind) {
        Some(v1::key::Kind::Number(number)) => number,
        other => panic!("{other:?}"),
    };
    hits.iter().map(key).collect()
}

fn groups(answer: &v1::SearchResponse) -> Vec<(String, Vec<u64>)> {
    let word = |value: &v1::Value| match &value.kind {
        Some(v1::value::Kind::Text(text)) => text.clone(),
        Some(v1::value::Kind::Integer(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    answer.groups.iter().map(|group| (word(group.value.as_ref().unwrap()), keys(&group.hits))).collect()
}

/// The groups of rows in order, by what `of` says each is in.
fn grouped(
    rows: &[(u64, f64)],
    of: impl Fn(u64) -> Vec<String>,
    count: usize,
    size: usize,
) -> Vec<(String, Vec<u64>)> {
    let mut found: Vec<(String, Vec<u64>)> = Vec::new();
    for (row, _) in rows {
        let mut names = of(*row);
        names.sort();
        for name in names {
            match found.iter_mut().find(|(known, _)| *known == name) {
                Some((_, rows)) => rows.push(*row),
                None => found.push((name, vec![*row])),
            }
        }
    }
    found.truncate(count);
    found.iter_mut().for_each(|(_, rows)| rows.truncate(size));
    found
}

fn exact(collection: &str, query: &[f64], limit: u32) -> v1::SearchRequest {
    let vector = query.iter().map(|v| *v as f32).collect();
    v1::SearchRequest { exact: true, ..api::search(collection, vector, limit) }
}

fn examples(rows: &[u64]) -> Vec<v1::Example> {
    let example = |row: &u64| v1::Example { kind: Some(v1::example::Kind::Key(api::number_key(*row))) };
    rows.iter().map(example).collect()
}

fn like(collection: &str, positive: &[u64], negative: &[u64], limit: u32) -> v1::SearchRequest {
    let recommend =
        v1::Recommend { positive: examples(positive), negative: examples(negative), ..Default::default() };
    v1::SearchRequest { vector: None, recommend: Some(recommend), ..exact(collection, &[], limit) }
}

async fn thresholds(client: &Api) {
    for seed in 0..6_u64 {
        let query = direction(seed * 100 + 1);
        let rows = by_score(&query);
        for (name, _) in COLLECTIONS {
            let all = client.search(exact(name, &query, 60)).await.unwrap();
            // A hit's own score, to the last bit: it is a hit, and the ones behind it are not.
            let threshold = all.hits[30].score;
            let near = v1::SearchRequest { score_threshold: Some(threshold), ..exact(name, &query, 60) };
            let near = client.search(near).await.unwrap();
            let expected = all.hits.iter().filter(|hit| hit.score >= threshold).count();
            assert_eq!((near.hits.len(), keys(&near.hits)), (expected, keys(&all.hits[..expected])));
            assert_eq!(keys(&near.hits)[..30], rows.iter().map(|(row, _)| *row).collect::<Vec<_>>()[..30]);
        }
    }
}

async fn recommendations(client: &Api) {
    for (positive, negative) in [
        (vec![1, 2, 3], vec![]),
        (vec![10, 11], vec![12]),
        (vec![100], vec![200, 300, 400]),
        (vec![5, 5, 6], vec![5]),
    ] {
        let mut query = mean(&positive);
        if !negative.is_empty() {
            query.iter_mut().zip(mean(&negative)).for_each(|(p, n)| *p += *p - n);
        }
        let others = |row: &u64| !positive.contains(row) && !negative.contains(row);
        let expected: Vec<u64> =
            by_score(&query).into_iter().map(|(row, _)| row).filter(others).take(25).collect();
        for (name, _) in COLLECTIONS {
            let found = client.search(like(name, &positive, &negative, 25)).await.unwrap();
            assert_eq!(keys(&found.hits), expected, "{name}: {positive:?} {negative:?}");
            let grouped_by =
                v1::SearchRequest { group_by: "shelf".into(), ..like(name, &positive, &negative, 3) };
            let found = groups(&client.search(grouped_by).await.unwrap());
            assert!(found.iter().all(|(_, rows)| rows.iter().all(others)), "{found:?}");
        }
    }
    // Row 17 was deleted.
    let gone = client.search(like("spread", &[1, 17], &[], 5)).await.unwrap_err();
    assert_eq!((gone.code(), gone.message()), (tonic::Code::NotFound, "there is no record `17`"));
}

async fn in_groups(client: &Api) {
    for (seed, count, size) in [(1, 3, 4), (2, 10, 3), (3, 6, 60), (44, 1, 100), (5, 100, 100), (6, 2, 1)] {
        let rows = by_score(&direction(seed));
        let shelf = grouped(&rows, shelves, count, size);
        let free = grouped(&rows, |row| vec![(row % 90 / 30).to_string()], count, size);
        let odd: Vec<(u64, f64)> =
            rows.iter().copied().filter(|(row, _)| row % 2 == 1 && *row > 350).collect();
        let odd = grouped(&odd, shelves, count, size);
        for (name, _) in COLLECTIONS {
            let ask = |field: &str| v1::SearchRequest {
                group_by: field.into(),
                group_size: size as u32,
                ..exact(name, &direction(seed), count as u32)
            };
            let found = client.search(ask("shelf")).await.unwrap();
            assert!(found.hits.is_empty() && !found.groups_cut);
            assert_eq!(groups(&found), shelf, "{name} {seed}");
            assert_eq!(groups(&client.search(ask("free")).await.unwrap()), free, "{name} {seed}");
            let odd_keys = (0..ROWS).filter(|row| row % 2 == 1 && *row > 350).map(api::number_key).collect();
            let filter = Some(api::filter(v1::filter::Kind::Keys(v1::filter::Keys { keys: odd_keys })));
            let found = client.search(v1::SearchRequest { filter, ..ask("shelf") }).await.unwrap();
            assert_eq!(groups(&found), odd, "{name} {seed}");
            let full = v1::SearchRequest { with_payload: true, with_vectors: true, ..ask("shelf") };
            let full = client.search(full).await.unwrap();
            assert_eq!(groups(&full), shelf);
            for hit in full.groups.iter().flat_map(|group| &group.hits) {
                let record = hit.record.as_ref().unwrap();
                assert_eq!(
                    api::int_of(record, "n"),
                    keys(std::slice::from_ref(hit)).first().map(|n| *n as i64)
                );
                assert_eq!(api::vector_of(record).len(), DIMS);
            }
        }
    }
}

/// Figures over the hits are those of the records that come back, and of fields that are named nothing else comes.
async fn figures(client: &Api) {
    use v1::aggregation::{Kind, Metric, Terms};
    let terms = Kind::Terms(Terms { size: 100, ..Default::default() });
    let sum = Kind::Metric(Metric::Sum.into());
    let aggregation =
        |field: &str, kind| v1::Aggregation { field: field.into(), kind: Some(kind), ..Default::default() };
    for (name, _) in COLLECTIONS {
        let ask = v1::SearchRequest {
            aggregations: [
                ("shelves".to_owned(), aggregation("shelf", terms.clone())),
                ("sum".to_owned(), aggregation("n", sum.clone())),
            ]
            .into(),
            fields: vec!["n".into(), "none".into()],
            offset: 5,
            ..exact(name, &direction(1), 60)
        };
        let answer = client.search(ask.clone()).await.unwrap();
        assert_eq!(answer.hits.len(), 60);
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        for hit in &answer.hits {
            let record = hit.record.as_ref().unwrap();
            assert_eq!(record.payload.keys().collect::<Vec<_>>(), ["n"]);
            let row = api::int_of(record, "n").unwrap() as u64;
            shelves(row).into_iter().for_each(|shelf| *counts.entry(shelf).or_default() += 1);
        }
        let Some(v1::aggregation_result::Kind::Buckets(found)) = &answer.results["shelves"].kind else {
            panic!("{answer:?}")
        };
        let name_of = |bucket: &v1::aggregation_result::Bucket| match bucket.value.clone().unwrap().kind {
            Some(v1::value::Kind::Text(text)) => text,
            other => panic!("{other:?}"),
        };
        let found = found.buckets.iter().map(|bucket| (name_of(bucket), bucket.count)).collect();
        assert_eq!(counts, found);
        let total: u64 = keys(&answer.hits).iter().sum();
        let value = Some(v1::aggregation_result::Kind::Value(api::int(total as i64)));
        assert_eq!(answer.results["sum"].kind, value);
        // In groups, each record counts once.
        let grouped = v1::SearchRequest { group_by: "shelf".into(), group_size: 5, offset: 0, ..ask.clone() };
        let answer = client.search(grouped).await.unwrap();
        let hits = answer.groups.iter().flat_map(|group| keys(&group.hits));
        let total: u64 = hits.collect::<std::collections::BTreeSet<u64>>().into_iter().sum();
        let value = Some(v1::aggregation_result::Kind::Value(api::int(total as i64)));
        assert_eq!(answer.results["sum"].kind, value);
        let wrong = v1::SearchRequest { fields: vec!["a..b".into()], ..ask };
        assert!(client.search(wrong).await.unwrap_err().message().contains("a..b"));
    }
}

async fn explained(client: &Api) {
    for (name, partitions) in COLLECTIONS {
        let ask = v1::SearchRequest { explain: true, ..exact(name, &direction(1), 5) };
        let plans = client.search(ask.clone()).await.unwrap().plans;
        assert_eq!(plans.len(), partitions as usize);
        let live = (0..ROWS).filter(|row| !is_gone(*row)).count() as u64;
        let sum = |plans: &[v1::PartitionPlan], figure: fn(&v1::PartitionPlan) -> u64| {
            plans.iter().map(figure).sum::<u64>()
        };
        assert_eq!(sum(&plans, |plan| plan.distances), live);
        for plan in &plans {
            assert_eq!((plan.matches, plan.rounds), (None, 1), "{plan:?}");
            assert!(plan.visited >= plan.distances && plan.micros > 0, "{plan:?}");
            assert_eq!(plan.plan.split(',').count() as u64, plan.segments, "{plan:?}");
        }
        let few = Some(api::between("n", Some(api::int(0)), Some(api::int(100))));
        let filtered = client.search(v1::SearchRequest { filter: few, ..ask.clone() }).await.unwrap().plans;
        let matching = (0..100).filter(|row| !is_gone(*row)).count() as u64;
        assert_eq!(sum(&filtered, |plan| plan.matches.unwrap()), matching);
        let grouped = v1::SearchRequest { group_by: "shelf".into(), ..ask };
        let plans = client.search(grouped).await.unwrap().plans;
        assert!(plans.iter().all(|plan| plan.rounds > 0), "{plans:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_partitions_answer_what_one_does_and_what_is_obvious() {
    let dir = crate::folder();
    let settings = crate::small_settings(dir.path());
    let server = Server::start(crate::binary(), &dir.path().join("data"), &["--config", &settings]).unwrap();
    let client = server.client().await.unwrap();
    fill(&client).await;
    thresholds(&client).await;
    recommendations(&client).await;
    in_groups(&client).await;
    explained(&client).await;
    figures(&client).await;
    commands(&server.url());
    drop(client);
    server.terminate().unwrap();
}

/// The same as a user types it.
fn commands(url: &str) {
    let run = |args: &[&str]| {
        let mut all = vec!["search", "--to", url, "--collection", "spread", "--exact"];
        all.extend(args);
        let Finished { code, stdout, stderr } = run(command(crate::binary(), &all)).unwrap();
        (code, stdout, stderr)
    };
    let shown = |args: &[&str]| {
        let (code, stdout, stderr) = run(args);
        assert_eq!(code, Some(0), "{args:?}\n{stderr}");
        stdout
    };
    let json = |args: &[&str]| {
        let text = shown(&[args, &["--output", "json"]].concat());
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    };
    let found = json(&["--positive", "1", "--positive", "2", "--negative", "3", "--limit", "5"]);
    assert!([1, 2, 3].iter().all(|key| !found.contains(&format!("\"key\":{key},"))), "{found}");
    assert_eq!(found.matches("\"key\":").count(), 5, "{found}");
    let table =
        shown(&["--key", "1", "--group-by", "shelf", "--group-size", "2", "--limit", "3", "--explain"]);
    assert!(table.contains("shelf = \"s1\"") && table.contains("3 groups in"), "{table}");
    assert!(table.contains("visited") && table.contains("wait ms"), "{table}");
    let groups = json(&["--key", "1", "--group-by", "free", "--limit", "10"]);
    assert!(groups.contains("\"groups_cut\":false") && groups.matches("\"value\":").count() == 3, "{groups}");
    let near = json(&["--key", "1", "--score-threshold", "0.9999", "--limit", "10"]);
    assert_eq!(near.matches("\"key\":").count(), 1, "{near}");
    assert_eq!(json(&["--key", "1", "--score-threshold=-1", "--limit", "7"]).matches("\"key\":").count(), 7);
    let (code, _, stderr) = run(&["--positive", "17"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("there is no record `17`"), "{stderr}");
    assert_eq!(run(&["--key", "1", "--group-size", "2"]).0, Some(2), "it needs --group-by");
}
