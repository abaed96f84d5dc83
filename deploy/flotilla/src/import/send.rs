//! Batches on their way to the server, a few at a time.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use flotilla_client::{Client, Error, Kind};
use flotilla_node::env::{clock, fs, task};
use flotilla_proto::record::Record;
use flotilla_proto::schema::CollectionSpec;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::batches::{Batch, Batches, Reject};
use crate::json;
use crate::progress::Progress;

/// How long one batch is offered to a server that asks to wait.
const PATIENCE: Duration = Duration::from_secs(300);

/// What an import came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records acknowledged.
    pub records: u64,
    /// Rows refused and set aside.
    pub rejected: u64,
}

/// Where batches go: a collection, and a file for the rows that it refuses.
pub struct Sink {
    client: Client,
    spec: CollectionSpec,
    progress: Progress,
    rejects: Option<Mutex<Rejects>>,
    records: AtomicU64,
}

/// The file of refused rows: JSON lines of row, reason and record.
pub struct Rejects {
    file: fs::File,
    count: u64,
}

impl Rejects {
    /// Begins the file anew.
    pub fn create(path: &Path) -> anyhow::Result<Rejects> {
        Ok(Rejects { file: fs::create(path)?, count: 0 })
    }

    fn add(&mut self, reject: &Reject) -> anyhow::Result<()> {
        let line = serde_json::json!({
            "row": reject.row,
            "reason": reject.reason,
            "record": reject.payload.as_ref().map(json::payload_to),
        });
        self.count += 1;
        self.file.write_all(format!("{line}\n").as_bytes()).context("writing the file of refused rows")
    }
}

impl Sink {
    /// A sink; without a file for them, the first refused row ends the import.
    pub fn new(client: Client, spec: CollectionSpec, progress: Progress, rejects: Option<Rejects>) -> Sink {
        Sink { client, spec, progress, rejects: rejects.map(Mutex::new), records: AtomicU64::new(0) }
    }

    /// Ends the progress and tells what was done.
    pub fn close(&self) -> anyhow::Result<Outcome> {
        self.progress.finish();
        let records = self.records.load(Ordering::Relaxed);
        let Some(rejects) = &self.rejects else { return Ok(Outcome { records, rejected: 0 }) };
        let rejects = rejects.lock().unwrap_or_else(PoisonError::into_inner);
        rejects.file.sync_all()?;
        Ok(Outcome { records, rejected: rejects.count })
    }

    /// Writes a batch. What does not fit the collection is set aside here, by the check that the server makes as well. A record
    /// that the server refuses all the same is set aside too and the rest is sent again: a refused batch has written nothing.
    async fn write(&self, batch: Batch) -> anyhow::Result<()> {
        let mut batch = fitting(&self.spec, batch);
        batch.rejects.sort_by_key(|reject| reject.row);
        for reject in std::mem::take(&mut batch.rejects) {
            self.set_aside(reject)?;
        }
        while !batch.records.is_empty() {
            match upsert(&self.client, &self.spec.name, &batch.records).await {
                Ok(()) => {
                    let written = batch.records.len() as u64;
                    self.records.fetch_add(written, Ordering::Relaxed);
                    self.progress.advance(written);
                    return Ok(());
                }
                Err(error) => match rejection(&error, batch.records.len()) {
                    Some((at, reason)) => self.set_aside(take(&mut batch, at, reason))?,
                    None => return Err(unwritten(&batch, error)),
                },
            }
        }
        Ok(())
    }

    fn set_aside(&self, reject: Reject) -> anyhow::Result<()> {
        let Some(rejects) = &self.rejects else {
            bail!("row {}: {} (--continue sets such rows aside)", reject.row, reject.reason);
        };
        self.progress.advance(1);
        rejects.lock().unwrap_or_else(PoisonError::into_inner).add(&reject)
    }
}

/// The batch without the records that do not fit the collection.
fn fitting(spec: &CollectionSpec, batch: Batch) -> Batch {
    let mut kept = Batch { rejects: batch.rejects, ..Batch::default() };
    for (row, record) in batch.rows.into_iter().zip(batch.records) {
        match spec.check_record("", &record) {
            Ok(()) => {
                kept.rows.push(row);
                kept.records.push(record);
            }
            Err(violation) => {
                let reason = reason(&violation.field, &violation.description);
                kept.rejects.push(Reject { row, reason, payload: Some(record.payload) });
            }
        }
    }
    kept
}

fn reason(field: &str, description: &str) -> String {
    format!("{}: {description}", field.trim_start_matches('.'))
}

fn take(batch: &mut Batch, at: usize, reason: String) -> Reject {
    let row = batch.rows.remove(at);
    let Record { payload, .. } = batch.records.remove(at);
    Reject { row, reason, payload: Some(payload) }
}

fn unwritten(batch: &Batch, error: Error) -> anyhow::Error {
    let rows = match (batch.rows.first(), batch.rows.last()) {
        (Some(first), Some(last)) => format!("rows {first} to {last}"),
        _ => "a batch".to_owned(),
    };
    anyhow::Error::from(error).context(rows)
}

/// The record that the server refused, by its place in the batch, and why.
fn rejection(error: &Error, records: usize) -> Option<(usize, String)> {
    let violation = error.violations().first()?;
    let (at, field) = violation.field.strip_prefix("records[")?.split_once(']')?;
    let at: usize = at.parse().ok().filter(|at| *at < records)?;
    Some((at, reason(field, &violation.description)))
}

/// Upserts, and waits as long as the server says that there is too much at the moment.
///
/// # Errors
/// The server's, or its last call to wait once it has said nothing else for [`PATIENCE`].
pub async fn upsert(client: &Client, collection: &str, records: &[Record]) -> Result<(), Error> {
    let started = clock::now();
    loop {
        match client.upsert(collection, records.to_vec()).await {
            Ok(_) => return Ok(()),
            Err(error) => match error.kind() {
                Kind::Wait(pause) if started.elapsed() < PATIENCE => clock::sleep(*pause).await,
                _ => return Err(error),
            },
        }
    }
}

/// Reads all batches and writes them with so many workers. The first error stops everything.
pub async fn send_all(mut batches: Batches, sink: Arc<Sink>, workers: usize) -> anyhow::Result<()> {
    let (send, receive) = mpsc::channel::<Batch>(workers);
    let receive = Arc::new(tokio::sync::Mutex::new(receive));
    let reading = task::spawn_cpu(move || -> anyhow::Result<()> {
        while let Some(batch) = batches.next_batch()? {
            // Nobody receives any more: a worker has failed, and its error is the one to report.
            if send.blocking_send(batch).is_err() {
                break;
            }
        }
        Ok(())
    });
    let mut writing = JoinSet::new();
    for _ in 0..workers {
        writing.spawn(work(Arc::clone(&receive), Arc::clone(&sink)));
    }
    drop(receive);
    while let Some(ended) = writing.join_next().await {
        // An early return drops the set, which stops the other workers.
        ended.context("a worker of the import was lost")??;
    }
    reading.await.context("the reader of the files was lost: a file holds what it cannot read")?
}

async fn work(
    batches: Arc<tokio::sync::Mutex<mpsc::Receiver<Batch>>>,
    sink: Arc<Sink>,
) -> anyhow::Result<()> {
    loop {
        let next = batches.lock().await.recv().await;
        let Some(batch) = next else { return Ok(()) };
        sink.write(batch).await?;
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::schema::FieldType;

    use super::*;

    #[test]
    fn rows_that_do_not_fit_are_told_apart_by_row_and_reason() {
        let spec = CollectionSpec {
            name: "c".to_owned(),
            vectors: Default::default(),
            fields: [("cpu".to_owned(), FieldType::Integer)].into(),
            partitions: 1,
            strict: false,
            ..Default::default()
        };
        let records =
            vec![Record::new(1).field("cpu", 8), Record::new(2).field("cpu", "many"), Record::new("")];
        let batch = fitting(&spec, Batch { rows: vec![10, 11, 12], records, rejects: Vec::new() });
        assert_eq!((batch.rows, batch.records.len()), (vec![10], 1));
        let told: Vec<(u64, &str)> = batch
            .rejects
            .iter()
            .map(|reject| (reject.row, reject.reason.split(':').next().unwrap()))
            .collect();
        assert_eq!(told, [(11, "payload.cpu"), (12, "key")]);
    }
}
