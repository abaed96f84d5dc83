use std::collections::BTreeMap;

use flotilla_proto::v1::plan_request::Goal;
use flotilla_proto::v1::{Grow, MoveState, PlanRequest};

use super::*;

fn args(seed: u64) -> SegmentsArgs {
    SegmentsArgs {
        to: None,
        access: target::Access::default(),
        collection: "segments".into(),
        rows: 2_000,
        seed,
        partitions: Some(2),
        batch: 300,
        workers: 3,
        clients: vec![1, 4],
        queries: 24,
        loaded: false,
    }
}

/// What is printed, by shape and number of clients: how many calls were timed.
async fn measured(args: &SegmentsArgs, client: &Client) -> Result<BTreeMap<(String, u64), u64>> {
    let mut lines = BTreeMap::new();
    let mut print = |line: String| {
        let line: serde_json::Value = serde_json::from_str(&line)?;
        let number = |name: &str| line[name].as_u64().unwrap_or(0);
        let shape = line["shape"].as_str().context("a line without a shape")?.to_owned();
        lines.insert((shape, number("clients")), number("count") + number("rows"));
        Ok(())
    };
    args.measure(&vec![client.clone(); 5], &mut print).await?;
    Ok(lines)
}

async fn grow(client: &Client, collection: &str, partitions: u32) {
    let goal = PlanRequest { goal: Some(Goal::Grow(Grow { collection: collection.to_owned(), partitions })) };
    let moves = client.apply(goal, 0).await.unwrap();
    assert!(!moves.is_empty());
    loop {
        let known = client.moves().await.unwrap().moves;
        let states: Vec<MoveState> =
            known.iter().filter(|m| moves.contains(&m.id)).map(|m| m.state()).collect();
        assert!(!states.iter().any(|s| matches!(s, MoveState::Failed | MoveState::Aborted)), "{known:?}");
        if states.iter().all(|state| *state == MoveState::Done) {
            return;
        }
        clock::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_right_before_and_after_the_collection_grows() {
    let folder = tempfile::tempdir().unwrap();
    let client = crate::open(folder.path()).await.unwrap();
    let lines = measured(&args(17), &client).await.unwrap();
    assert_eq!(lines.len(), 1 + 2 * SHAPES.len(), "{lines:?}");
    assert_eq!(lines[&("load".to_owned(), 0)], 2_000);
    for clients in [1, 4] {
        for shape in
            ["get", "lookup", "segments_of_a_file", "message_id", "words_top_10", "list_10", "list_100"]
        {
            assert_eq!(lines[&(shape.to_owned(), clients)], 24, "{shape}");
        }
        assert_eq!(lines[&("list_1000".to_owned(), clients)], 6);
        assert!(lines[&("progress".to_owned(), clients)] >= 12, "each upload has two steps at least");
    }

    let shown = client.get_collection("segments").await.unwrap().0.spec;
    assert_eq!(shown.strategy, Strategy::ShardKey { delimiter: b'/' });
    grow(&client, "segments", 5).await;
    let placement = client.describe().await.unwrap().0;
    let placement = placement.collection("segments").unwrap();
    assert_eq!(placement.partitions.len(), 5);
    let owned: Vec<usize> = (0..5).map(|n| placement.slots.iter().filter(|o| **o == n).count()).collect();
    assert!(owned.iter().all(|slots| *slots > 150), "{owned:?}");
    let again = SegmentsArgs { loaded: true, queries: 12, ..args(17) };
    measured(&again, &client).await.unwrap();

    // Rows that were made from something else are other rows.
    let why = measured(&SegmentsArgs { seed: 18, ..again }, &client).await.unwrap_err();
    assert!(format!("{why:#}").starts_with("get, of segment "), "{why:#}");
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_its_own_is_made_and_gone() {
    let mut lines = Vec::new();
    let print = |line| {
        lines.push(line);
        Ok(())
    };
    let args = SegmentsArgs { rows: 300, clients: vec![2], queries: 4, ..args(3) };
    args.bench(print).await.unwrap();
    assert_eq!(lines.len(), 1 + SHAPES.len(), "{lines:?}");
}
