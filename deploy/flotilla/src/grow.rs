//! `flotilla grow`: more partitions for a collection, online, with a progress bar.
//!
//! The server does the work; this command plans it, has it queued and watches. So it may be interrupted at any time, and
//! so may the server: run again, it finds the moves that are left and watches those.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use flotilla_client::{Client, Kind};
use flotilla_node::env::clock;
use flotilla_proto::v1::plan_request::Goal;
use flotilla_proto::v1::{Grow, Move, MoveState, PlanRequest};

use crate::progress::Progress;
use crate::target::{self, Target};

/// How often the server is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a server that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a plan is made anew because the map changed meanwhile.
const PLANS_MAX: usize = 20;
/// The bar counts thousandths of moves.
const PARTS: u64 = 1_000;

/// Arguments of `flotilla grow`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla grow docs --partitions 10
  flotilla grow docs --partitions 16 --to http://db:15010
  flotilla grow docs --partitions 10 --plan            what would move; nothing happens

Reads and writes go on. Interrupted, here or at the server, it goes on when it is run again.")]
pub struct GrowArgs {
    #[command(flatten)]
    target: Target,
    /// The collection
    collection: String,
    /// Partitions that it has then
    #[arg(long, value_name = "N")]
    partitions: u32,
    /// Show what would move, and stop
    #[arg(long)]
    plan: bool,
}

impl GrowArgs {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(1, async {
            let client = self.target.client().await?;
            self.grow(&client).await
        })
    }

    fn goal(&self) -> PlanRequest {
        let grow = Grow { collection: self.collection.clone(), partitions: self.partitions };
        PlanRequest { goal: Some(Goal::Grow(grow)) }
    }

    async fn grow(&self, client: &Client) -> anyhow::Result<()> {
        if self.plan {
            return self.show(client).await;
        }
        let has = self.partitions_now(client).await?;
        let mut watched = self.open(client).await?;
        if watched.is_empty() || has < self.partitions {
            watched.extend(self.queue(client).await?);
        }
        if watched.is_empty() {
            println!(
                "collection `{}` has {} partitions; nothing is left to move",
                self.collection, self.partitions
            );
            return Ok(());
        }
        self.watch(client, &watched).await?;
        let has = self.partitions_now(client).await?;
        println!("collection `{}` has {has} partitions", self.collection);
        Ok(())
    }

    async fn partitions_now(&self, client: &Client) -> anyhow::Result<u32> {
        let (map, _) = client.describe().await?;
        let placement = map.collection(&self.collection);
        let placement = placement.with_context(|| format!("there is no collection `{}`", self.collection))?;
        Ok(placement.partitions.len() as u32)
    }

    async fn show(&self, client: &Client) -> anyhow::Result<()> {
        let plan = client.plan(self.goal()).await?;
        for warning in &plan.warnings {
            println!("warning: {warning}");
        }
        let slots: usize = plan.moves.iter().map(|m| m.slots.len()).sum();
        println!(
            "{} moves of {slots} slots in all, about {} bytes, about {:.0} s",
            plan.moves.len(),
            plan.bytes,
            plan.seconds
        );
        Ok(())
    }

    /// Moves of slots of the collection that have not ended.
    async fn open(&self, client: &Client) -> anyhow::Result<Vec<u64>> {
        let moves = client.moves().await?.moves;
        let is_open = |m: &&Move| {
            let is_ours = m.collection == self.collection && !m.slots.is_empty();
            is_ours && matches!(m.state(), MoveState::Queued | MoveState::Running)
        };
        Ok(moves.iter().filter(is_open).map(|m| m.id).collect())
    }

    /// Has the growth planned and queued; again if something else changed the map between the two.
    async fn queue(&self, client: &Client) -> anyhow::Result<Vec<u64>> {
        for _ in 0..PLANS_MAX {
            let plan = client.plan(self.goal()).await?;
            match client.apply(self.goal(), plan.epoch).await {
                Ok(moves) => return Ok(moves),
                // The map changed, or an answer was lost: then there are moves to watch, or there is more to plan.
                Err(error) if *error.kind() == Kind::Retry => {
                    clock::sleep(LOOK_EVERY).await;
                    let open = self.open(client).await?;
                    if !open.is_empty() {
                        return Ok(open);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        bail!("the map changes all the time; try again when the cluster is calmer")
    }

    async fn watch(&self, client: &Client, watched: &[u64]) -> anyhow::Result<()> {
        let progress = Progress::new(&format!("grow {}", self.collection), watched.len() as u64 * PARTS);
        let mut silent_since = None;
        loop {
            match client.moves().await {
                Ok(answer) => {
                    silent_since = None;
                    let known: BTreeMap<u64, &Move> = answer.moves.iter().map(|m| (m.id, m)).collect();
                    let parts = watched.iter().map(|id| known.get(id).map_or(PARTS, |m| parts(m)));
                    progress.set(parts.sum());
                    if !watched.iter().any(|id| known.get(id).is_some_and(|m| is_open(m))) {
                        progress.finish();
                        return outcome(watched.iter().filter_map(|id| known.get(id).copied()));
                    }
                    ensure!(!answer.paused, "moves are paused: `flotilla ctl resume`, then run this again");
                }
                Err(error) if *error.kind() == Kind::Retry => {
                    let since = *silent_since.get_or_insert_with(clock::now);
                    if since.elapsed() > PATIENCE {
                        return Err(error).context("the server does not answer; run this again to go on");
                    }
                }
                Err(error) => return Err(error.into()),
            }
            clock::sleep(LOOK_EVERY).await;
        }
    }
}

fn is_open(m: &Move) -> bool {
    matches!(m.state(), MoveState::Queued | MoveState::Running)
}

/// How much of a move is done.
fn parts(m: &Move) -> u64 {
    if is_open(m) { (m.progress.clamp(0.0, 1.0) * PARTS as f64) as u64 } else { PARTS }
}

/// Every move must have gone well. One that is not remembered any more ended long ago.
fn outcome<'a>(ended: impl Iterator<Item = &'a Move>) -> anyhow::Result<()> {
    let failed: Vec<String> = ended
        .filter(|m| m.state() != MoveState::Done)
        .map(|m| format!("move {} from partition {}: {:?} {}", m.id, m.partition, m.state(), m.note))
        .collect();
    ensure!(
        failed.is_empty(),
        "not everything moved; run this again to plan the rest\n  {}",
        failed.join("\n  ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(state: MoveState, progress: f64) -> Move {
        Move { id: 1, state: state.into(), progress, ..Default::default() }
    }

    #[test]
    fn ended_moves_count_in_full_and_failed_ones_are_told() {
        assert_eq!(parts(&of(MoveState::Running, 0.25)), 250);
        assert_eq!(parts(&of(MoveState::Done, 0.3)), PARTS);
        assert!(outcome([&of(MoveState::Done, 1.0)].into_iter()).is_ok());
        let told = outcome([&of(MoveState::Aborted, 0.1)].into_iter()).unwrap_err().to_string();
        assert!(told.contains("move 1") && told.contains("run this again"), "{told}");
    }
}
