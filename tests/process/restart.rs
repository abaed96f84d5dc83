//! A stop and a start change no answer: after a drain, without the derived store, and in another place.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::seed::unit_vector;
use flotilla_tests::server::Server;
use flotilla_tests::wait::eventually;

const COLLECTION: &str = "inventory";
const DIMS: usize = 24;
const ROWS: u64 = 1_600;

fn record(row: u64) -> v1::Record {
    let payload = vec![
        ("name", api::text(format!("vm-{row:04}"))),
        ("cpu", api::int((row % 33) as i64)),
        ("power", api::flag(row.is_multiple_of(3))),
        ("host", api::map(vec![("rack", api::text(format!("r{}", row % 7)))])),
        ("tags", api::list(vec![api::text(format!("t{}", row % 5)), api::text("all")])),
    ];
    let key = if row.is_multiple_of(2) { api::number_key(row) } else { api::key(format!("vm-{row:04}")) };
    api::record(key, unit_vector(row, DIMS), payload)
}

/// Writes rows in several rounds, so that there are sealed, replaced, deleted and growing ones.
async fn fill(client: &Api) {
    use v1::FieldType::{Bool, Integer, Keyword};
    let fields = vec![("name", Keyword), ("cpu", Integer), ("power", Bool), ("host.rack", Keyword)];
    let spec = api::collection(COLLECTION, DIMS as u32, fields);
    client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
    let rows: Vec<u64> = (0..ROWS).collect();
    for batch in rows.chunks(100) {
        client.put(COLLECTION, batch.iter().map(|row| record(*row)).collect()).await.unwrap();
    }
    let again = (0..ROWS).step_by(11).map(record).collect();
    client.put(COLLECTION, again).await.unwrap();
    let gone = (0..ROWS).step_by(13).map(|row| record(row).key.unwrap()).collect();
    client.remove(COLLECTION, gone).await.unwrap();
    let target = Some(v1::delete_request::Target::Filter(api::equal("cpu", api::int(7))));
    let request = v1::DeleteRequest { collection: COLLECTION.into(), target, request: None };
    client.delete(request).await.unwrap();
}

/// The answers to a fixed set of questions. Coverage is left out: log indexes grow with each election.
async fn answers(client: &Api) -> Vec<(String, String)> {
    let filters = [
        None,
        Some(api::equal("power", api::flag(true))),
        Some(api::between("cpu", Some(api::int(4)), Some(api::int(9)))),
        Some(api::all(vec![
            api::prefix("name", "vm-01"),
            api::not(api::equal("host.rack", api::text("r3"))),
        ])),
        Some(api::among("tags", vec![api::text("t1"), api::text("t4")])),
        Some(api::exists("host")),
    ];
    let mut all = Vec::new();
    for (n, filter) in filters.iter().enumerate() {
        let count = client.total(COLLECTION, filter.clone()).await.unwrap();
        all.push((format!("count {n}"), count.to_string()));
        let items = client.scan_all(COLLECTION, filter.clone()).await.unwrap();
        all.extend(
            items.iter().enumerate().map(|(i, item)| (format!("scan {n} item {i}"), format!("{item:?}"))),
        );
        for (query, offset) in [(5, 0), (1_000_000, 0), (1_000_001, 15)] {
            let mut request = api::search(COLLECTION, unit_vector(query, DIMS), 10);
            (request.exact, request.offset) = (true, offset);
            (request.with_payload, request.with_vectors) = (true, true);
            request.filter = filter.clone();
            let hits = client.search(request).await.unwrap().hits;
            let hits = hits.iter().enumerate();
            all.extend(hits.map(|(i, hit)| (format!("search {n} for {query}, hit {i}"), format!("{hit:?}"))));
        }
    }
    let list = client.list(v1::ListCollectionsRequest {}).await.unwrap();
    all.push(("collections".to_owned(), format!("{list:?}")));
    all
}

fn same(before: &[(String, String)], after: &[(String, String)], when: &str) {
    assert_eq!(before.len(), after.len(), "{when}: number of answers");
    for (before, after) in before.iter().zip(after) {
        assert_eq!(before, after, "{when}");
    }
}

/// Until nothing is left to seal into a graph.
async fn indexed(client: &Api) {
    let done = || async {
        let request = v1::GetCollectionRequest { name: COLLECTION.into() };
        let status = client.collection(request).await.unwrap().status.unwrap();
        (status.index_progress >= 1.0).then_some(())
    };
    eventually("everything is indexed", Duration::from_secs(60), done).await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_folder_gives_the_same_answers_again() {
    let dir = crate::folder();
    let settings = crate::small_settings(dir.path());
    let start = |data: &Path| Server::start(crate::binary(), data, &["--config", &settings]).unwrap();
    let data = dir.path().join("data");

    let server = start(&data);
    let client = server.client().await.unwrap();
    fill(&client).await;
    indexed(&client).await;
    let before = answers(&client).await;
    let collections = before.last().unwrap().clone();
    assert!(collections.1.contains(COLLECTION));
    server.terminate().unwrap();

    let server = start(&data);
    same(&before, &answers(&server.client().await.unwrap()).await, "after a drain");
    server.terminate().unwrap();

    let derived = data.join("meta").join("derived");
    assert!(derived.is_dir(), "the derived store lies elsewhere: {}", derived.display());
    std::fs::remove_dir_all(&derived).unwrap();
    let server = start(&data);
    same(&before, &answers(&server.client().await.unwrap()).await, "without the derived store");
    server.kill9();

    let server = start(&data);
    same(&before, &answers(&server.client().await.unwrap()).await, "after a kill");
    server.terminate().unwrap();

    let elsewhere = dir.path().join("else").join("where");
    copy(&data, &elsewhere);
    std::fs::remove_dir_all(&data).unwrap();
    let server = start(&elsewhere);
    let client = server.client().await.unwrap();
    same(&before, &answers(&client).await, "in another place");
    client.put(COLLECTION, vec![record(ROWS + 1)]).await.unwrap();
    assert_eq!(client.total(COLLECTION, Some(api::equal("name", api::text("vm-1601")))).await.unwrap(), 1);
    server.terminate().unwrap();
}

/// Graph search answers what exact search answers, nearly always, and with a filter too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graph_search_agrees_with_exact_search() {
    let dir = crate::folder();
    let settings = crate::small_settings(dir.path());
    let server = Server::start(crate::binary(), &dir.path().join("data"), &["--config", &settings]).unwrap();
    let client = server.client().await.unwrap();
    fill(&client).await;
    indexed(&client).await;
    let filters = [None, Some(api::equal("power", api::flag(true))), Some(api::equal("cpu", api::int(3)))];
    for filter in filters {
        let (mut found, mut wanted) = (0, 0);
        for query in 0..40 {
            let mut request = api::search(COLLECTION, unit_vector(2_000_000 + query, DIMS), 10);
            request.filter = filter.clone();
            let keys = |answer: v1::SearchResponse| -> Vec<v1::Key> {
                answer.hits.into_iter().map(|hit| hit.record.unwrap().key.unwrap()).collect()
            };
            let graph = keys(client.search(request.clone()).await.unwrap());
            request.exact = true;
            let exact = keys(client.search(request).await.unwrap());
            assert_eq!(graph.len(), exact.len(), "fewer hits than records that pass {filter:?}");
            wanted += exact.len();
            found += exact.iter().filter(|key| graph.contains(key)).count();
        }
        assert!(wanted > 0);
        let recall = found as f64 / wanted as f64;
        assert!(recall >= 0.95, "recall {recall} with {filter:?}");
    }
    server.terminate().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_what_it_has_begun() {
    let dir = crate::folder();
    let data = dir.path().join("data");
    let server = Server::start(crate::binary(), &data, &[]).unwrap();
    let client = server.client().await.unwrap();
    let spec = api::collection(COLLECTION, DIMS as u32, vec![]);
    client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
    let is_stopping = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for writer in 0..4_u64 {
        let client = server.client().await.unwrap();
        let is_stopping = is_stopping.clone();
        tasks.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for row in (writer..).step_by(4) {
                match client.put(COLLECTION, vec![record(row)]).await {
                    Ok(_) => acknowledged.push(row),
                    Err(why) => {
                        assert!(is_stopping.load(Ordering::SeqCst), "before the signal: {why}");
                        break;
                    }
                }
            }
            acknowledged
        }));
    }
    let many = || async { (client.total(COLLECTION, None).await.unwrap() >= 200).then_some(()) };
    eventually("the writers are under way", Duration::from_secs(30), many).await.unwrap();
    is_stopping.store(true, Ordering::SeqCst);
    server.signal_terminate().unwrap();
    let mut acknowledged = Vec::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    drop(client);
    server.drained().unwrap();

    let server = Server::start(crate::binary(), &data, &[]).unwrap();
    let client = server.client().await.unwrap();
    for rows in acknowledged.chunks(1_000) {
        let keys: Vec<v1::Key> = rows.iter().map(|row| record(*row).key.unwrap()).collect();
        let request =
            v1::GetRequest { collection: COLLECTION.into(), keys: keys.clone(), ..Default::default() };
        let found: Vec<v1::Key> =
            client.get(request).await.unwrap().records.into_iter().filter_map(|r| r.key).collect();
        assert_eq!(found, keys, "an acknowledged write is gone");
    }
    server.terminate().unwrap();
}
