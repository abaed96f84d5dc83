//! Slots move, to and fro, while clients write and read and processes crash: nothing is lost, nothing is there twice,
//! nothing that was deleted comes back, and a request that comes again changes nothing.

use std::sync::Arc;

use super::world::{Seen, Way, World};
use crate::worker::slots::{Keeper, Pace, decide};

/// Lets the keepers of all partitions work until nothing is left to do.
async fn settle(world: &Arc<World>, pace: Pace, abort_one_in: u64) {
    for round in 0.. {
        assert!(round < 5_000, "the moves never end");
        let at = world.below(3) as usize;
        let holder = Arc::new(Seen { world: world.clone(), at });
        let keeper = Keeper::new(holder, Arc::new(Way(world.clone()))).with_pace(pace);
        let map = world.map.lock().clone();
        let moves = {
            let shelves = &mut world.shelves.lock();
            let settled = shelves.iter_mut().all(|shelf| shelf.ledger().moves().is_settled());
            if settled && map.collections[0].slot_move.is_none() {
                break;
            }
            shelves[at].ledger().moves()
        };
        if let Some(work) = decide(&map, flotilla_proto::ids::PartitionId(at as u64 + 1), &moves) {
            let _ = keeper.work(&map, &moves, work).await;
        }
        if abort_one_in > 0
            && world.below(abort_one_in) == 0
            && world.map.lock().collections[0].slot_move.is_some()
        {
            world.abort();
        }
        world.bustle();
    }
    *world.faults.lock() = 0;
    while world.is_anyone_waiting() {
        world.nag();
    }
    world.read_all();
}

async fn run(seed: u64, is_range: bool, faults: u32, abort_one_in: u64) {
    let world = World::new(seed, is_range);
    let pace = Pace {
        rows: 4,
        bytes: 1 << 20,
        tail_min: 3,
        touched_max: if seed.is_multiple_of(5) { 6 } else { 100 },
    };
    for _ in 0..30 {
        world.bustle();
    }
    for id in 1..=6 {
        if is_range {
            world.split();
        }
        world.start_move(id);
        *world.faults.lock() = faults;
        settle(&world, pace, abort_one_in).await;
    }
    assert!(*world.reads.lock() > 20, "too few reads to mean anything");
}

/// Says which seed failed.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}: FLOTILLA_TEST_SEED={} replays it", self.0, self.0);
        }
    }
}

async fn seeds(is_range: bool, faults: u32, abort_one_in: u64) {
    let fixed = std::env::var("FLOTILLA_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let count = std::env::var("FLOTILLA_TEST_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let seeds = fixed.map_or(1..=count, |seed: u64| seed..=seed);
    for seed in seeds {
        let _replay = Replay(seed);
        run(seed, is_range, faults, abort_one_in).await;
    }
}

#[tokio::test]
async fn slots_of_the_hash_move_under_writes() {
    seeds(false, 0, 0).await;
}

#[tokio::test]
async fn slots_of_the_hash_move_although_steps_fail_and_moves_are_aborted() {
    seeds(false, 12, 30).await;
}

#[tokio::test]
async fn ranges_move_although_steps_fail_and_moves_are_aborted() {
    seeds(true, 12, 30).await;
}
