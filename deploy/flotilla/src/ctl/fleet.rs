//! `flotilla ctl status` and `flotilla ctl scale`: how many shard nodes there are, should be and must be.
//!
//! Scaling in drains first. `scale --nodes N` asks the cluster to empty the nodes of the highest ordinals and returns at once, or with
//! `--wait` when they hold nothing; only then may their processes end. `scale --cancel` takes them back.

use clap::Args;
use flotilla_client::Client;
use flotilla_proto::v1;
use serde_json::json;

use super::POLL;
use crate::output::Output;
use crate::table::{Align, Table};

/// Arguments of `flotilla ctl scale`.
#[derive(Args, Clone, Copy, Debug)]
pub struct ScaleArgs {
    /// So many shard nodes stay: those whose ordinals are below
    #[arg(long, value_name = "N", required_unless_present = "cancel", conflicts_with = "cancel")]
    nodes: Option<u32>,
    /// Calls a former request off: nodes that were to leave stay
    #[arg(long)]
    cancel: bool,
    /// Stays until the nodes that leave hold nothing
    #[arg(long, conflicts_with = "cancel")]
    wait: bool,
}

impl ScaleArgs {
    /// Asks, and waits if it is to.
    pub async fn run(&self, client: &Client, output: Output) -> anyhow::Result<()> {
        let mut status = client.scale(self.nodes.filter(|_| !self.cancel)).await?;
        while self.wait && status.target == self.nodes && !is_done(&status) {
            tokio::time::sleep(POLL).await;
            status = client.status().await?;
        }
        print(&status, output);
        anyhow::ensure!(!self.wait || is_done(&status), "the request was called off or changed meanwhile");
        Ok(())
    }
}

/// Shows how it stands.
pub async fn status(client: &Client, output: Output) -> anyhow::Result<()> {
    print(&client.status().await?, output);
    Ok(())
}

/// Whether every node that leaves for the request holds nothing.
fn is_done(status: &v1::StatusResponse) -> bool {
    let Some(target) = status.target else { return status.leaving.iter().all(|node| node.released) };
    let goes = |node: &&v1::LeavingNode| node.ordinal.is_some_and(|ordinal| ordinal >= target);
    status.leaving.iter().filter(goes).all(|node| node.released)
}

fn print(status: &v1::StatusResponse, output: Output) {
    match output {
        Output::Table => print!("{}", table(status)),
        Output::Json => println!("{}", as_json(status)),
    }
}

fn table(status: &v1::StatusResponse) -> String {
    let mut table =
        Table::new(&[("shard nodes", Align::Left, 20), ("", Align::Right, 8), ("why", Align::Left, 90)]);
    let mut row = |what: &str, value: String, why: String| table.row([what.to_owned(), value, why]);
    let heard = format!("{} heard of lately", status.shard_nodes_heard);
    row("members", status.shard_nodes.to_string(), heard);
    let why = format!("{}: {}", status.desired_reason, status.desired_note);
    let hold =
        if status.hold.is_empty() { String::new() } else { format!("; not fewer now: {}", status.hold) };
    match status.desired_shard_nodes {
        0 => row("desired", "-".to_owned(), "nothing was decided yet".to_owned()),
        desired => row("desired", desired.to_string(), why + &hold),
    }
    row("floor", status.shard_nodes_floor.to_string(), "with fewer, something would be lost".to_owned());
    let asked = status.target.map_or_else(|| "-".to_owned(), |target| target.to_string());
    row("asked for", asked, String::new());
    let safe = if status.scale_in_safe { "yes" } else { "no" };
    row(
        "scale-in safe",
        safe.to_owned(),
        "whether the node of the highest ordinal may end for good".to_owned(),
    );
    for node in &status.leaving {
        let ordinal = node.ordinal.map_or_else(|| "-".to_owned(), |ordinal| ordinal.to_string());
        let held = if node.released {
            "holds nothing".to_owned()
        } else {
            format!("{} replicas to move", node.replicas)
        };
        row(&format!("leaving: node {}", node.node), ordinal, held);
    }
    table.render()
}

fn as_json(status: &v1::StatusResponse) -> serde_json::Value {
    let leaving = |node: &v1::LeavingNode| json!({"node": node.node, "ordinal": node.ordinal, "replicas": node.replicas, "released": node.released});
    json!({
        "epoch": status.epoch, "shard_nodes": status.shard_nodes, "shard_nodes_heard": status.shard_nodes_heard,
        "desired_shard_nodes": status.desired_shard_nodes, "desired_reason": status.desired_reason,
        "desired_note": status.desired_note, "hold": status.hold, "shard_nodes_floor": status.shard_nodes_floor,
        "scale_in_safe": status.scale_in_safe, "target": status.target,
        "leaving": status.leaving.iter().map(leaving).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_when_all_that_leave_hold_nothing() {
        let leaving =
            |ordinal, released| v1::LeavingNode { node: 9, ordinal: Some(ordinal), replicas: 3, released };
        let mut status =
            v1::StatusResponse { target: Some(2), leaving: vec![leaving(2, false)], ..Default::default() };
        assert!(!is_done(&status));
        assert!(table(&status).contains("3 replicas to move"), "{}", table(&status));
        status.leaving[0].released = true;
        status.leaving.push(leaving(1, false));
        assert!(is_done(&status), "what was drained by hand is not waited for");
        assert_eq!(as_json(&status)["leaving"][0]["released"], true);
    }
}
