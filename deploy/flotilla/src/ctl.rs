//! `flotilla ctl`: the cluster's nodes and partitions, and what moves between them.
//!
//! Every verb that moves data shows its plan first (`plan ...`, or with `--dry-run`), and queues it otherwise; `moves` tells how
//! far it is, `--wait` stays until it is done.

mod fleet;

use std::time::Duration;

use clap::{Args, Subcommand};
use flotilla_client::Client;
use flotilla_proto::placement::{NodeState, PlacementMap, Role};
use flotilla_proto::v1;
use flotilla_proto::v1::plan_request::Goal;
use serde_json::json;

use crate::output::Output;
use crate::table::{Align, Table};
use crate::target::{self, Access};

const POLL: Duration = Duration::from_millis(250);

/// Arguments of `flotilla ctl`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla ctl nodes --to http://127.0.0.1:15010
  flotilla ctl rebalance --dry-run               what a new node would get
  flotilla ctl drain 3 --wait                    moves everything away from node 3
  flotilla ctl remove 3                          an empty node leaves for ever
  flotilla ctl replace 2 --by 4                  a dead node's replicas are made anew
  flotilla ctl move 17 --from 1 --into 4
  flotilla ctl status                            how many shard nodes there are, should be and must be
  flotilla ctl scale --nodes 2 --wait            drains the highest ordinals until two are left
  flotilla ctl rate 20000000                     copies at most 20 MB/s from each node")]
pub struct CtlArgs {
    /// Address of a router
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15010", global = true)]
    to: String,
    #[command(flatten)]
    access: Access,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "table", global = true)]
    output: Output,
    #[command(subcommand)]
    action: Action,
}

#[derive(Args, Clone, Copy, Debug)]
struct How {
    /// Shows the plan and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Stays until the moves have ended
    #[arg(long)]
    wait: bool,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Lists the nodes
    #[command(after_help = "Examples:\n  flotilla ctl nodes\n  flotilla ctl nodes --output json")]
    Nodes,
    /// Lists the partitions and where their replicas are
    #[command(after_help = "Examples:\n  flotilla ctl partitions")]
    Partitions,
    /// Lists the moves queued, under way and lately ended
    #[command(after_help = "Examples:\n  flotilla ctl moves")]
    Moves,
    /// Spreads replicas evenly over the nodes, for their weights and zones
    #[command(after_help = "Examples:\n  flotilla ctl rebalance --dry-run\n  flotilla ctl rebalance --wait")]
    Rebalance {
        #[command(flatten)]
        how: How,
    },
    /// Moves everything away from a node, which gets nothing new
    #[command(after_help = "Examples:\n  flotilla ctl drain 3 --wait")]
    Drain {
        /// The node's number
        node: u64,
        #[command(flatten)]
        how: How,
    },
    /// Takes a node without replicas out of the cluster, for ever
    #[command(after_help = "Examples:\n  flotilla ctl remove 3")]
    Remove {
        /// The node's number
        node: u64,
    },
    /// Makes a dead node's replicas anew elsewhere
    #[command(after_help = "Examples:\n  flotilla ctl replace 2\n  flotilla ctl replace 2 --by 4 --wait")]
    Replace {
        /// The node's number
        node: u64,
        /// The node that gets them [default: wherever there is room]
        #[arg(long)]
        by: Option<u64>,
        #[command(flatten)]
        how: How,
    },
    /// Moves one replica
    #[command(after_help = "Examples:\n  flotilla ctl move 17 --from 1 --into 4")]
    Move {
        /// The partition's number
        partition: u64,
        /// The node that has it
        #[arg(long)]
        from: u64,
        /// The node that gets it
        #[arg(long)]
        into: u64,
        #[command(flatten)]
        how: How,
    },
    /// Shows how many shard nodes there are, should be and must be
    #[command(after_help = "Examples:\n  flotilla ctl status\n  flotilla ctl status --output json")]
    Status,
    /// Asks for fewer shard nodes: drains those of the highest ordinals
    #[command(after_help = "Examples:\n  flotilla ctl scale --nodes 2 --wait\n  flotilla ctl scale --cancel")]
    Scale(fleet::ScaleArgs),
    /// Starts no more moves
    #[command(after_help = "Examples:\n  flotilla ctl pause")]
    Pause,
    /// Starts moves again
    #[command(after_help = "Examples:\n  flotilla ctl resume")]
    Resume,
    /// Calls off a move, or all of them
    #[command(after_help = "Examples:\n  flotilla ctl abort 12\n  flotilla ctl abort")]
    Abort {
        /// The move's number [default: all]
        id: Option<u64>,
    },
    /// Bounds the bytes per second that a node copies to others; 0: as fast as it goes
    #[command(after_help = "Examples:\n  flotilla ctl rate 20000000")]
    Rate {
        /// Bytes per second
        bytes: u64,
    },
}

impl CtlArgs {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(1, async {
            let client = self.access.client(&self.to).await?;
            self.act(&client).await
        })
    }

    async fn act(&self, client: &Client) -> anyhow::Result<()> {
        let plan = |goal| v1::PlanRequest { goal: Some(goal) };
        match self.action {
            Action::Nodes => self.print(nodes_table, nodes_json, &client.describe().await?.0),
            Action::Partitions => self.print(partitions_table, partitions_json, &client.describe().await?.0),
            Action::Moves => {
                let moves = client.moves().await?;
                match self.output {
                    Output::Table => print!("{}", moves_table(&moves.moves)),
                    Output::Json => println!("{}", moves_json(&moves.moves)),
                }
                if moves.paused {
                    eprintln!("paused: no move starts");
                }
            }
            Action::Rebalance { how } => {
                self.plan(client, plan(Goal::Rebalance(v1::Rebalance {})), how).await?
            }
            Action::Drain { node, how } => self.plan(client, plan(Goal::Drain(node)), how).await?,
            Action::Remove { node } => {
                client.apply(plan(Goal::Remove(node)), 0).await?;
                eprintln!("node {node} has left the cluster");
            }
            Action::Replace { node, by, how } => {
                let replace = v1::Replace { node, by: by.unwrap_or(0) };
                self.plan(client, plan(Goal::Replace(replace)), how).await?;
            }
            Action::Move { partition, from, into, how } => {
                let one = v1::MoveReplica { partition, from, to: into };
                self.plan(client, plan(Goal::MoveReplica(one)), how).await?;
            }
            Action::Status => fleet::status(client, self.output).await?,
            Action::Scale(args) => args.run(client, self.output).await?,
            Action::Pause => control(client, v1::MoveControl::Pause, 0, None).await?,
            Action::Resume => control(client, v1::MoveControl::Resume, 0, None).await?,
            Action::Abort { id } => control(client, v1::MoveControl::Abort, id.unwrap_or(0), None).await?,
            Action::Rate { bytes } => {
                control(client, v1::MoveControl::Unspecified, 0, Some(bytes)).await?;
            }
        }
        Ok(())
    }

    fn print(
        &self,
        table: impl Fn(&PlacementMap) -> String,
        json: impl Fn(&PlacementMap) -> serde_json::Value,
        map: &PlacementMap,
    ) {
        match self.output {
            Output::Table => print!("{}", table(map)),
            Output::Json => println!("{}", json(map)),
        }
    }

    async fn plan(&self, client: &Client, goal: v1::PlanRequest, how: How) -> anyhow::Result<()> {
        let plan = client.plan(goal.clone()).await?;
        match self.output {
            Output::Table => print!("{}", moves_table(&plan.moves)),
            Output::Json => println!("{}", moves_json(&plan.moves)),
        }
        eprintln!("{} moves, {} bytes, about {:.0} s", plan.moves.len(), plan.bytes, plan.seconds);
        for warning in &plan.warnings {
            eprintln!("warning: {warning}");
        }
        if how.dry_run {
            return Ok(());
        }
        let queued = client.apply(goal, plan.epoch).await?;
        if how.wait { wait(client, &queued).await } else { Ok(()) }
    }
}

async fn control(
    client: &Client,
    control: v1::MoveControl,
    id: u64,
    rate: Option<u64>,
) -> anyhow::Result<()> {
    let message = v1::ControlRequest { control: control.into(), r#move: id, bytes_per_second: rate };
    Ok(client.control(message).await?)
}

/// Stays until these moves have ended.
async fn wait(client: &Client, ids: &[u64]) -> anyhow::Result<()> {
    let has_ended = |m: &v1::Move| {
        matches!(m.state(), v1::MoveState::Done | v1::MoveState::Failed | v1::MoveState::Aborted)
    };
    loop {
        let moves = client.moves().await?.moves;
        let mine: Vec<&v1::Move> = moves.iter().filter(|m| ids.contains(&m.id)).collect();
        if mine.iter().all(|m| has_ended(m)) {
            let failed: Vec<String> = mine
                .iter()
                .filter(|m| m.state() != v1::MoveState::Done)
                .map(|m| format!("move {}: {} {}", m.id, state_word(m.state()), m.note))
                .collect();
            anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn listed<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

fn nodes_table(map: &PlacementMap) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[
        ("node", right, 8),
        ("role", left, 8),
        ("state", left, 10),
        ("address", left, 40),
        ("peers", left, 40),
        ("zone", left, 20),
        ("weight", right, 8),
        ("replicas", right, 8),
        ("meta", left, 6),
    ]);
    for node in &map.nodes {
        let held = map.partitions().filter(|(_, p)| p.holders().any(|holder| holder == node.id)).count();
        table.row([
            node.id.to_string(),
            role_word(node.role).to_owned(),
            node_state_word(node.state).to_owned(),
            node.address.clone(),
            node.peer_address.clone(),
            node.zone.clone(),
            node.weight.to_string(),
            held.to_string(),
            if map.meta.contains(&node.id) { "votes" } else { "learns" }.to_owned(),
        ]);
    }
    table.render()
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Shard => "shard",
        Role::Replica => "replica",
    }
}

fn node_state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Draining => "draining",
    }
}

fn nodes_json(map: &PlacementMap) -> serde_json::Value {
    let node = |node: &flotilla_proto::placement::Node| {
        json!({
            "node": node.id.0, "role": role_word(node.role), "state": node_state_word(node.state),
            "address": node.address, "peer_address": node.peer_address, "zone": node.zone,
            "weight": node.weight, "votes": map.meta.contains(&node.id),
        })
    };
    json!({"epoch": map.epoch.0, "nodes": map.nodes.iter().map(node).collect::<Vec<_>>()})
}

fn partitions_table(map: &PlacementMap) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[
        ("partition", right, 10),
        ("collection", left, 30),
        ("replicas", left, 30),
        ("learners", left, 30),
        ("slots", right, 8),
        ("change", left, 20),
    ]);
    for (collection, partition) in map.partitions() {
        let ordinal = collection.partitions.iter().position(|p| p.id == partition.id);
        let slots = collection.slots.iter().filter(|owner| Some(usize::from(**owner)) == ordinal).count();
        let change = partition.change.map_or_else(String::new, |change| {
            let named = |sign: &str, node: Option<flotilla_proto::ids::NodeId>| {
                node.map(|node| format!("{sign}{node}")).unwrap_or_default()
            };
            format!("{}{}", named("+", change.add), named("-", change.remove))
        });
        table.row([
            partition.id.to_string(),
            collection.spec.name.clone(),
            listed(&partition.replicas),
            listed(&partition.learners),
            slots.to_string(),
            change,
        ]);
    }
    table.render()
}

fn partitions_json(map: &PlacementMap) -> serde_json::Value {
    let partition = |(collection, partition): (
        &flotilla_proto::placement::CollectionPlacement,
        &flotilla_proto::placement::Partition,
    )| {
        let ids = |nodes: &[flotilla_proto::ids::NodeId]| nodes.iter().map(|n| n.0).collect::<Vec<u64>>();
        json!({
            "partition": partition.id.0, "collection": collection.spec.name,
            "replicas": ids(&partition.replicas), "learners": ids(&partition.learners),
        })
    };
    json!({"epoch": map.epoch.0, "partitions": map.partitions().map(partition).collect::<Vec<_>>()})
}

fn state_word(state: v1::MoveState) -> &'static str {
    match state {
        v1::MoveState::Unspecified => "planned",
        v1::MoveState::Queued => "queued",
        v1::MoveState::Running => "running",
        v1::MoveState::Done => "done",
        v1::MoveState::Failed => "failed",
        v1::MoveState::Aborted => "aborted",
    }
}

/// What moves, in one line each.
pub fn moves_table(moves: &[v1::Move]) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[
        ("move", right, 8),
        ("collection", left, 24),
        ("partition", right, 10),
        ("what", left, 30),
        ("bytes", right, 14),
        ("seconds", right, 8),
        ("state", left, 8),
        ("progress", right, 8),
        ("reason", left, 30),
        ("note", left, 50),
    ]);
    for m in moves {
        let what = match (m.slots.len(), m.add, m.remove) {
            (0, add, 0) => format!("+ node {add}"),
            (0, 0, remove) => format!("- node {remove}"),
            (0, add, remove) => format!("node {remove} -> node {add}"),
            (slots, ..) => format!("{slots} slots -> partition {}", m.to_partition),
        };
        table.row([
            if m.id == 0 { "-".to_owned() } else { m.id.to_string() },
            m.collection.clone(),
            m.partition.to_string(),
            what,
            m.bytes.to_string(),
            format!("{:.1}", m.seconds),
            state_word(m.state()).to_owned(),
            format!("{:.0} %", m.progress * 100.0),
            m.reason.clone(),
            m.note.clone(),
        ]);
    }
    table.render()
}

fn moves_json(moves: &[v1::Move]) -> serde_json::Value {
    let one = |m: &v1::Move| {
        json!({
            "move": m.id, "collection": m.collection, "partition": m.partition, "add": m.add, "remove": m.remove,
            "slots": m.slots.len(), "to_partition": m.to_partition, "bytes": m.bytes, "seconds": m.seconds,
            "state": state_word(m.state()), "progress": m.progress, "reason": m.reason, "note": m.note,
        })
    };
    moves.iter().map(one).collect()
}
