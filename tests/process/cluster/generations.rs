//! Generations are replaced on a cluster while a node dies: whoever is asked shows one of them, whole.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flotilla_tests::api::Api;
use flotilla_tests::cluster::Shape;
use tonic::Code;

use super::*;
use crate::replace::{COLLECTION as RECORDS, id, looked, messages, replace, set, spec};

/// Tries of one replacement, each under the same id.
const TRIES: usize = 30;

fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled | Code::Unknown
    )
}

async fn replaced(api: &Api, generation: i64) {
    let mut last = None;
    for _ in 0..TRIES {
        match replace(api, messages(id(generation as u64), &set(generation))).await {
            Ok(done) => return assert_eq!(done.written as usize, set(generation).len()),
            Err(why) => {
                assert!(is_passing(why.code()), "{why}");
                last = Some(why);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    panic!("generation {generation} is not there after {TRIES} tries: {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_change_as_one_while_a_node_dies() {
    let mut scene = Scene::set("cluster::generations::", Shape::of(3, 0, 2)).await;
    scene.create(spec()).await;
    let api = scene.cluster.client().await.unwrap();
    replaced(&api, 1).await;
    let (is_over, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let any = v1::ReadOptions {
        preference: v1::ReadPreference::Replica.into(),
        consistency: v1::Consistency::Any.into(),
        ..Default::default()
    };
    let mut readers = Vec::new();
    for url in scene.cluster.urls() {
        for read in [None, Some(any.clone())] {
            let (api, is_over, looks) = (Api::connect(&url).await.unwrap(), is_over.clone(), looks.clone());
            readers.push(tokio::spawn(async move {
                let mut last = 1;
                while !is_over.load(Ordering::SeqCst) {
                    let found = match looked(&api, read.clone()).await {
                        Ok(found) => found,
                        Err(why) => {
                            assert!(is_passing(why.code()), "{why}");
                            continue;
                        }
                    };
                    let [(generation, count)] = found[..] else { panic!("{found:?}") };
                    assert_eq!(count as usize, set(generation).len(), "of generation {generation}");
                    assert!(read.is_some() || generation >= last, "back from {last} to {generation}");
                    last = generation;
                    looks.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
    }
    let victim = scene.cluster.busiest(RECORDS).await.unwrap();
    for generation in 2..=9 {
        if generation == 4 {
            scene.cluster.kill9(victim);
        }
        if generation == 7 {
            scene.cluster.restart(victim).await.unwrap();
        }
        let before = looks.load(Ordering::SeqCst);
        replaced(&api, generation).await;
        while looks.load(Ordering::SeqCst) < before + 2 && readers.iter().all(|reader| !reader.is_finished())
        {
            tokio::task::yield_now().await;
        }
    }
    is_over.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(looked(&api, None).await.unwrap(), [(9, set(9).len() as u64)]);
    scene.cluster.caught_up(RECORDS).await.unwrap_or_else(|why| panic!("{why:?}"));
    scene.cluster.verified(RECORDS).await.unwrap_or_else(|why| panic!("{why:?}"));
}
