//! Answers that are kept: never of another state than the one that the search may be answered from, and computed once.

use flotilla_tests::wait::eventually;

use super::super::answers::Question;
use super::super::house::*;
use super::super::*;

const WRITES: u64 = 150;
const QUESTIONS: u64 = 4;
const SEARCHERS: u64 = 4;

fn search(n: u64) -> Search {
    let query = vec![n as f32, 1.0];
    Search { vector: "default".into(), query, limit: 5, ef: 10, exact: true, ..Search::default() }
}

fn question(replica: &Replica, n: u64) -> Option<Question> {
    Some(Question::new(replica.id(), n.to_le_bytes().to_vec(), replica.spec()))
}

async fn ask(replica: &Replica, n: u64) -> Searched {
    replica.search(search(n), question(replica, n), 0, FRESH, &whole()).await.unwrap()
}

/// The same search of the same state, computed; none if the state is not at hand any more.
async fn anew(replica: &Replica, n: u64, at: LogIndex) -> Option<Searched> {
    let found = replica.search(search(n), None, at, FRESH, &whole()).await.unwrap();
    assert_eq!(found.cached, None);
    (found.at == at).then_some(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_is_never_older_than_what_was_acknowledged_before_it_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 1).await;
    let replica = house.replica(1).await.unwrap();
    let acked = Arc::new(AtomicU64::new(0));
    let writer = {
        let (replica, acked) = (replica.clone(), acked.clone());
        tokio::spawn(async move {
            for n in 0..WRITES {
                // Some keys again and again, so that hits change and go.
                let written = match n % 5 {
                    4 => replica.write(None, Write::Delete(vec![Key::Number(n % 13)]), &whole()).await,
                    _ => upsert(&replica, n % 13..n % 13 + 2).await,
                };
                acked.fetch_max(written.unwrap().log_index, std::sync::atomic::Ordering::SeqCst);
            }
        })
    };
    let searchers = (0..SEARCHERS).map(|seed| {
        let (replica, acked) = (replica.clone(), acked.clone());
        tokio::spawn(async move {
            let (mut compared, mut n) = (0, seed);
            while acked.load(std::sync::atomic::Ordering::SeqCst) == 0 || compared < 100 {
                n = (n * 7 + 3) % QUESTIONS;
                let before = acked.load(std::sync::atomic::Ordering::SeqCst);
                let found = ask(&replica, n).await;
                assert!(found.at >= before, "it is as of {}, {before} was acknowledged", found.at);
                if let Some(same) = anew(&replica, n, found.at).await {
                    assert_eq!(found.answer.hits, same.answer.hits, "question {n} at {}", found.at);
                    compared += 1;
                }
            }
            compared
        })
    });
    let mut compared = 0;
    for searcher in searchers.collect::<Vec<_>>() {
        compared += searcher.await.unwrap();
    }
    writer.await.unwrap();
    // At rest, what is asked again is kept.
    for n in (0..QUESTIONS).cycle().take(3 * QUESTIONS as usize) {
        ask(&replica, n).await;
    }
    let kept = ask(&replica, 1).await;
    assert!(kept.cached.is_some());
    assert_eq!(kept.answer.hits, anew(&replica, 1, kept.at).await.unwrap().answer.hits);
    let figures = house.answers.figures();
    println!("{compared} answers compared, {figures:?}");
    assert!(figures.hits > 0 && figures.misses > 0, "{figures:?}");
    drop(replica);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_searches_are_computed_once_whoever_gives_up() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 1).await;
    let replica = house.replica(1).await.unwrap();
    upsert(&replica, 0..20).await.unwrap();
    for gives_up in [false, true] {
        let before = house.answers.figures();
        let reads = house.reads.clone().acquire_many_owned(READS).await.unwrap();
        let spawn = || {
            let replica = replica.clone();
            tokio::spawn(async move { ask(&replica, 9).await })
        };
        let first = spawn();
        let waits = |misses, shared| {
            let (answers, before) = (house.answers.clone(), before);
            eventually("they wait for one", SOON, async move || {
                let now = answers.figures();
                (now.misses - before.misses == misses && now.shared - before.shared >= shared).then_some(())
            })
        };
        waits(1, 0).await.unwrap();
        let others: Vec<_> = (0..7).map(|_| spawn()).collect();
        waits(1, 7).await.unwrap();
        if gives_up {
            first.abort();
            let _ = first.await;
            // One of the others begins anew, the rest waits for it.
            waits(2, 13).await.unwrap();
        } else {
            drop(reads);
            assert_eq!(first.await.unwrap().cached, None);
            for other in others {
                assert!(other.await.unwrap().cached.is_some());
            }
            // Another state, for the second round.
            upsert(&replica, 0..1).await.unwrap();
            continue;
        }
        drop(reads);
        let mut computed = 0;
        for other in others {
            let found = other.await.unwrap();
            assert_eq!(found.answer.hits.len(), 5);
            computed += u32::from(found.cached.is_none());
        }
        assert_eq!(computed, 1);
    }
    drop(replica);
    house.close().await;
}
