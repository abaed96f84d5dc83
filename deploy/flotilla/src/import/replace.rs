//! An import that replaces a generation: one stream, all of it or nothing.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use flotilla_client::{Client, Filter, Replaced};
use flotilla_node::env::task;
use flotilla_proto::record::Record;
use flotilla_proto::schema::CollectionSpec;
use futures::stream;
use tokio::sync::mpsc;

use super::batches::Batches;
use super::send::fitting;
use crate::progress::Progress;

/// Batches read ahead.
const AHEAD: usize = 2;

/// What matches becomes what the batches bring. The first row that is no record, or that does not fit, ends it, and
/// everything is as it was.
pub async fn replace(
    client: &Client,
    spec: CollectionSpec,
    filter: Filter,
    mut batches: Batches,
    progress: Progress,
) -> anyhow::Result<Replaced> {
    // `None` ends the set; a channel that closes without it has not brought all of it.
    let (send, receive) = mpsc::channel::<Option<Vec<Record>>>(AHEAD);
    let name = spec.name.clone();
    let reading = task::spawn_cpu(move || -> anyhow::Result<()> {
        while let Some(batch) = batches.next_batch()? {
            let batch = fitting(&spec, batch);
            if let Some(reject) = batch.rejects.first() {
                bail!("{}: {}", reject.place, reject.reason);
            }
            progress.advance(batch.records.len() as u64);
            if send.blocking_send(Some(batch.records)).is_err() {
                return Ok(());
            }
        }
        progress.finish();
        let _ = send.blocking_send(None);
        Ok(())
    });
    let set = stream::unfold(receive, |mut receive| async {
        match receive.recv().await {
            Some(Some(records)) => Some((records, receive)),
            Some(None) => None,
            None => std::future::pending().await,
        }
    });
    let replacing = client.replace(&name, filter, set);
    tokio::pin!(replacing);
    let read = tokio::select! {
        done = &mut replacing => return Ok(done?),
        read = reading => read.context("the reader of the files was lost: a file holds what it cannot read")?,
    };
    read.context("nothing was replaced")?;
    Ok(replacing.await?)
}

/// The last line.
pub fn report(done: &Replaced, seconds: f64) -> anyhow::Result<()> {
    let line = serde_json::json!({
        "records": done.written,
        "removed": done.removed,
        "seconds": (seconds * 1e3).round() / 1e3,
        "records_per_s": (done.written as f64 / seconds.max(1e-9)).round(),
    });
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}
