//! Records that come faster than they are indexed: the import waits, searches scan few of them, and the state tells how far it is.

use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::process::{Service, command};
use flotilla_tests::seed::unit_vector;
use flotilla_tests::server::Server;
use flotilla_tests::wait::eventually;
use flotilla_tests::{api, http};

const ROWS: u64 = 12_000;
const DIMS: usize = 64;
const BACKLOG_MAX: u64 = 2_000;
const SEAL_ROWS: u64 = 1_000;
/// What two workers may have under way when the bound is reached, and what is sealed at once.
const SLACK: u64 = 2 * 100 + SEAL_ROWS;
/// Searches whose recall is held against what they were asked for.
const QUERIES: u64 = 40;
const SOON: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_waits_for_the_index_and_searches_scan_little() {
    let dir = crate::folder();
    let settings = dir.path().join("flotilla.yaml");
    let text = format!(
        "storage:\n  seal_rows: {SEAL_ROWS}\nindex:\n  backlog_max: {BACKLOG_MAX}\n  recall_seconds: 1\n"
    );
    std::fs::write(&settings, text).unwrap();
    let data = dir.path().join("data");
    let args = ["--config", settings.to_str().unwrap()];
    let server = Server::start(crate::binary(), &data, &args).unwrap();
    let client = server.client().await.unwrap();
    let records = dir.path().join("records.jsonl");
    let line = |n| serde_json::json!({"n": n, "v": unit_vector(n, DIMS)}).to_string() + "\n";
    std::fs::write(&records, (0..ROWS).map(line).collect::<String>()).unwrap();
    let spec = v1::CollectionSpec { partitions: 1, ..api::collection("flood", DIMS as u32, vec![]) };
    client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();

    let url = server.url();
    let words = ["import", "--to", &url, "--collection", "flood", "--records", records.to_str().unwrap()];
    let more = ["--vector-field", "v", "--key", "n", "--workers", "2", "--batch", "100"];
    let words: Vec<&str> = words.into_iter().chain(more).collect();
    let mut import = Service::spawn(command(crate::binary(), &words)).unwrap();
    let query_of = |n, exact, target_recall| v1::SearchRequest {
        exact,
        target_recall,
        explain: true,
        ..api::search("flood", unit_vector(ROWS + n, DIMS), 10)
    };
    let query = |exact, target_recall| query_of(7, exact, target_recall);
    let status = async || {
        let request = v1::GetCollectionRequest { name: "flood".into() };
        client.collection(request).await.unwrap().status.unwrap()
    };
    let mut most = 0;
    while !import.has_ended() {
        let state = status().await;
        let [part] = state.indexing.as_slice() else { panic!("{state:?}") };
        assert!(part.waiting_vectors <= BACKLOG_MAX + SLACK, "{part:?}");
        most = most.max(part.waiting_vectors);
        let scanned = client.search(query(false, None)).await.unwrap().plans[0].unindexed;
        // And those that still grow.
        assert!(scanned <= BACKLOG_MAX + SLACK + SEAL_ROWS + 2 * 100, "{scanned} were scanned");
    }
    println!("at most {most} vectors waited");
    import.stopped().unwrap();
    assert_eq!(client.total("flood", None).await.unwrap(), ROWS);
    let indexed = eventually("all is indexed", SOON, async || {
        let state = status().await;
        // A few that still grow are not worth an index.
        (state.indexing[0].waiting_vectors == 0 && state.unindexed_vectors < SEAL_ROWS).then_some(state)
    });
    let state = indexed.await.unwrap();
    assert_eq!((state.index_eta_ms, state.index_progress), (Some(0), 1.0), "{state:?}");
    assert!(state.indexing[0].vectors_per_second.is_some_and(|pace| pace > 0.0), "{state:?}");

    let hits = |answer: &v1::SearchResponse| -> Vec<v1::Key> {
        answer.hits.iter().filter_map(|hit| hit.record.as_ref()?.key.clone()).collect()
    };
    let exact = hits(&client.search(query(true, None)).await.unwrap());
    let all = client.search(query(false, Some(1.0))).await.unwrap();
    assert_eq!(hits(&all), exact, "{:?}", all.plans);
    // A target is one for the mean of many searches: a single one may find half as many.
    let mut found = 0;
    for n in 0..QUERIES {
        let exact = hits(&client.search(query_of(n, true, None)).await.unwrap());
        let most = hits(&client.search(query_of(n, false, Some(0.8))).await.unwrap());
        found += most.iter().filter(|key| exact.contains(key)).count() as u64;
    }
    println!("{found} of {} were found where 8 of 10 are to be", 10 * QUERIES);
    assert!(found >= 15 * QUERIES / 2, "{found} of {} where 8 of 10 are to be found", 10 * QUERIES);
    let watched = eventually("searches are compared with scans", SOON, async || {
        client.search(query(false, None)).await.unwrap();
        let page = http::get(server.address(), "/metrics").unwrap();
        let line = page.body.lines().find(|line| line.starts_with("flotilla_recall_at_k{"))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    });
    let recall = watched.await.unwrap();
    assert!((0.5..=1.0).contains(&recall), "{recall}");
    server.terminate().unwrap();
}
