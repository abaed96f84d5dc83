//! Batches on their way to the server, a few at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use flotilla_client::{Client, Error, Kind, Upserted, WriteMode};
use flotilla_node::env::{clock, task};
use flotilla_proto::record::Record;
use flotilla_proto::schema::CollectionSpec;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::batches::{Batch, Batches, Content, Reject};
use super::rejects::Rejects;
use super::resume::Resume;
use crate::progress::Progress;

/// How long one batch is offered to a server that asks to wait.
const PATIENCE: Duration = Duration::from_secs(300);

/// Batches that wait for a worker, at most.
const BATCHES_AHEAD: usize = 2;

/// What an import came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records acknowledged.
    pub records: u64,
    /// Rows refused and set aside, those of the runs before that it goes on with too.
    pub rejected: u64,
    /// Rows acknowledged by the runs before that it goes on with.
    pub skipped: u64,
    /// Rows that the mode left unwritten.
    pub conflicts: u64,
}

/// Where batches go: a collection, and a file for the rows that it refuses.
pub struct Sink {
    client: Client,
    spec: CollectionSpec,
    progress: Progress,
    rejects: Option<Mutex<Rejects>>,
    resume: Option<Resume>,
    mode: WriteMode,
    ttl: Duration,
    records: AtomicU64,
    conflicts: AtomicU64,
}

impl Sink {
    /// A sink; without a file for them, the first refused row ends the import.
    pub fn new(client: Client, spec: CollectionSpec, progress: Progress, rejects: Option<Rejects>) -> Sink {
        Sink {
            client,
            spec,
            progress,
            rejects: rejects.map(Mutex::new),
            resume: None,
            mode: WriteMode::Upsert,
            ttl: Duration::ZERO,
            records: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
        }
    }

    /// That keeps how far it is.
    pub fn resuming(self, resume: Option<Resume>) -> Sink {
        if let Some(resume) = &resume {
            self.progress.advance(resume.rows());
        }
        Sink { resume, ..self }
    }

    /// Writes in this mode, what lives for so long; zero: for ever.
    pub fn in_mode(self, mode: WriteMode, ttl: Duration) -> Sink {
        Sink { mode, ttl, ..self }
    }

    /// Ends the progress and tells what was done.
    pub fn close(&self) -> anyhow::Result<Outcome> {
        self.progress.finish();
        let rejected = self.sync_rejects()?;
        if let Some(resume) = &self.resume {
            resume.finish(|| self.sync_rejects())?;
        }
        let skipped = self.resume.as_ref().map_or(0, Resume::rows);
        let (records, conflicts) =
            (self.records.load(Ordering::Relaxed), self.conflicts.load(Ordering::Relaxed));
        Ok(Outcome { records, rejected, skipped, conflicts })
    }

    fn sync_rejects(&self) -> anyhow::Result<u64> {
        let Some(rejects) = &self.rejects else { return Ok(0) };
        rejects.lock().unwrap_or_else(PoisonError::into_inner).sync()
    }

    /// Writes a batch, and keeps how far the import is.
    async fn write(self: &Arc<Sink>, batch: Batch) -> anyhow::Result<()> {
        let rows = batch.rows.clone();
        self.write_records(batch).await?;
        let has_grown = self.resume.as_ref().is_some_and(|resume| resume.acknowledge(rows));
        if !has_grown {
            return Ok(());
        }
        let sink = Arc::clone(self);
        task::spawn_cpu(move || {
            sink.resume.as_ref().map_or(Ok(()), |resume| resume.save(|| sink.sync_rejects()))
        })
        .await?
    }

    /// Writes a batch. What does not fit the collection is set aside here, by the check that the server makes as well. A record
    /// that the server refuses all the same is set aside too and the rest is sent again: a refused batch has written nothing.
    async fn write_records(&self, batch: Batch) -> anyhow::Result<()> {
        let mut batch = fitting(&self.spec, batch);
        batch.rejects.sort_by_key(|reject| reject.place);
        for reject in std::mem::take(&mut batch.rejects) {
            self.set_aside(reject)?;
        }
        while !batch.records.is_empty() {
            match upsert(&self.client, &self.spec.name, &batch.records, (self.mode, self.ttl)).await {
                Ok(done) => {
                    let (all, left) = (batch.records.len() as u64, done.conflicts.len() as u64);
                    self.records.fetch_add(all.saturating_sub(left), Ordering::Relaxed);
                    self.conflicts.fetch_add(left, Ordering::Relaxed);
                    self.progress.advance(all);
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
            bail!("{}: {} (--rejects FILE sets such rows aside)", reject.place, reject.reason);
        };
        self.progress.advance(1);
        rejects.lock().unwrap_or_else(PoisonError::into_inner).add(&reject)
    }
}

/// The batch without the records that do not fit the collection: those are among its rejects.
pub fn fitting(spec: &CollectionSpec, batch: Batch) -> Batch {
    let mut kept = Batch { rows: batch.rows, rejects: batch.rejects, whole: batch.whole, ..Batch::default() };
    for (place, record) in batch.places.into_iter().zip(batch.records) {
        match spec.check_record("", &record) {
            Ok(()) => {
                kept.places.push(place);
                kept.records.push(record);
            }
            Err(violation) => {
                let reason = reason(&violation.field, &violation.description);
                kept.rejects.push(Reject { place, reason, content: Content::of(record, batch.whole) });
            }
        }
    }
    kept
}

fn reason(field: &str, description: &str) -> String {
    format!("{}: {description}", field.trim_start_matches('.'))
}

fn take(batch: &mut Batch, at: usize, reason: String) -> Reject {
    let (place, record) = (batch.places.remove(at), batch.records.remove(at));
    Reject { place, reason, content: Content::of(record, batch.whole) }
}

fn unwritten(batch: &Batch, error: Error) -> anyhow::Error {
    let rows = match (batch.places.first(), batch.places.last()) {
        (Some(first), Some(last)) => format!("{first} to {last}"),
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
pub async fn upsert(
    client: &Client,
    collection: &str,
    records: &[Record],
    (mode, ttl): (WriteMode, Duration),
) -> Result<Upserted, Error> {
    let started = clock::now();
    loop {
        match client.upsert_for(collection, records.to_vec(), mode, ttl).await {
            Ok(done) => return Ok(done),
            Err(error) => match error.kind() {
                Kind::Wait(pause) if started.elapsed() < PATIENCE => clock::sleep(*pause).await,
                _ => return Err(error),
            },
        }
    }
}

/// Reads all batches and writes them with so many workers. The first error stops everything.
pub async fn send_all(mut batches: Batches, sink: Arc<Sink>, workers: usize) -> anyhow::Result<()> {
    let (send, receive) = mpsc::channel::<Batch>(BATCHES_AHEAD);
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
        if let Err(why) = ended.context("a worker of the import was lost").and_then(|ended| ended) {
            // Waited for: what they still acknowledge counts.
            writing.shutdown().await;
            return Err(why);
        }
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

    use super::super::records::Place;
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
        let places = [10, 11, 12].map(|row| Place { row, line: None }).to_vec();
        let batch = fitting(&spec, Batch { rows: 10..13, places, records, ..Batch::default() });
        assert_eq!((batch.rows, batch.places.len(), batch.records.len()), (10..13, 1, 1));
        let told: Vec<(u64, &str)> = batch
            .rejects
            .iter()
            .map(|reject| (reject.place.row, reject.reason.split(':').next().unwrap()))
            .collect();
        assert_eq!(told, [(11, "payload.cpu"), (12, "key")]);
    }
}
