//! `flotilla bench segments`: the work of an index of files and their segments, on a running server or on a folder of its own.
//!
//! A segment's key is its file's name, a slash and its number, and the collection's `shard_delimiter` is the slash: all segments of
//! a file are in one partition, and their keys begin alike. How far an upload is stands in a collection of its own, by
//! upload: in the other one, uploads would be among the segments of a file that is read by its keys' beginning. The rows are
//! made up from a seed ([`files`]), so every answer can be checked ([`shapes`]); a wrong one ends the run with an error.
//!
//! Each client sends its next call when the answer to the last one is there; with a rate, questions come when they are due, and
//! what one waited for a client that was not free yet is part of its time. For each shape and number of clients, a quarter as many
//! questions, of which everything is compared, come before those that are timed.

mod files;
mod shapes;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flotilla_client::{Client, CollectionSpec, FieldType, Strategy, WriteMode};
use flotilla_node::env::clock;
use serde::Serialize;
use tokio::task::JoinSet;

use self::files::Files;
use self::shapes::{SHAPES, Shape, Turn, Work};
use crate::import::PARTITIONS_OF_SERVER;
use crate::import::send::upsert;
use crate::progress::Progress;
use crate::target;

/// Arguments of `flotilla bench segments`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  flotilla bench segments
  flotilla bench segments --rows 100000 --clients 1,16
  flotilla bench segments --to http://127.0.0.1:15010 --rows 1000000 --partitions 8
  flotilla bench segments --to http://127.0.0.1:15010 --rows 1000000 --loaded
  flotilla bench segments --rows 1000000 --clients 64 --rate 1000

Loads the rows, prints how many per second, then measures get by key, lookup by file and segment, all segments of a file,
lookup by message, the best ten by words, uploads that are interrupted and resumed, and lists of 10, 100 and 1,000.
Prints one JSON line per shape and number of clients: shape, clients, count, p50_ms, p95_ms, p99_ms, queries_per_s; of progress
each step counts. Without --to it is a temporary folder in this process; on a server the collections stay.")]
pub struct SegmentsArgs {
    /// Address of a running server
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    #[command(flatten)]
    access: target::Access,
    /// Collection to make; uploads get another one, NAME-uploads
    #[arg(long, value_name = "NAME", default_value = "segments")]
    collection: String,
    /// Segments, all files together
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rows: u64,
    /// What the rows are made from
    #[arg(long, value_name = "N", default_value_t = 17)]
    seed: u64,
    /// Partitions [default: the server's]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Records of one upsert
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    batch: u64,
    /// Upserts at a time
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// Connections that ask at a time: one line each
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,64", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    clients: Vec<u32>,
    /// Questions of each shape, all clients together
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    queries: u64,
    /// Questions per second, all clients together [default: as fast as they are answered]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// The same rows were loaded by a run before
    #[arg(long, requires = "to")]
    loaded: bool,
}

/// How the rows came in.
#[derive(Debug, Serialize)]
struct Load {
    shape: &'static str,
    rows: u64,
    batch: u64,
    workers: u32,
    seconds: f64,
    rows_per_s: f64,
}

/// How a shape did.
#[derive(Debug, Serialize)]
struct Line {
    shape: String,
    clients: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    count: u64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    queries_per_s: f64,
}

impl SegmentsArgs {
    /// Measures and prints.
    pub fn run(self) -> Result<()> {
        target::run(0, self.bench(|line| Ok(writeln!(std::io::stdout().lock(), "{line}")?)))
    }

    async fn bench(self, mut print: impl FnMut(String) -> Result<()>) -> Result<()> {
        // One more: who goes on with the uploads of the others.
        let most = self.clients.iter().max().map_or(1, |most| *most as usize) + 1;
        let mut clients = Vec::with_capacity(most);
        if let Some(url) = &self.to {
            for _ in 0..most {
                clients.push(self.access.client(url).await?);
            }
            return self.measure(&clients, &mut print).await;
        }
        let folder = tempfile::Builder::new().prefix("flotilla-bench-").tempdir()?;
        let client = crate::open(folder.path()).await?;
        clients.resize(most, client.clone());
        let measured = self.measure(&clients, &mut print).await;
        client.close().await?;
        measured
    }

    async fn measure(&self, clients: &[Client], print: &mut impl FnMut(String) -> Result<()>) -> Result<()> {
        let heir = clients.last().context("there are no clients")?.clone();
        let work = Arc::new(Work {
            collection: self.collection.clone(),
            uploads: format!("{}-uploads", self.collection),
            files: Files::new(self.seed, self.rows),
            run: format!("u{}", clock::unix_millis()),
            passes: AtomicU64::new(0),
            heir,
        });
        if !self.loaded {
            print(serde_json::to_string(&self.load(&work).await?)?)?;
        }
        let count = work.heir.count(&work.collection, None).await?.count;
        ensure!(count == self.rows, "{count} records are there, and {} should be", self.rows);
        for shape in SHAPES {
            for number in &self.clients {
                let clients = clients.get(..*number as usize).context("there are fewer clients")?;
                print(serde_json::to_string(&self.line(&work, clients, shape).await?)?)?;
            }
        }
        Ok(())
    }

    /// Makes the collections and writes the rows.
    async fn load(&self, work: &Arc<Work>) -> Result<Load> {
        let client = &work.heir;
        client.create_collection(&self.segments()).await?;
        client.create_collection(&self.uploads(&work.uploads)).await?;
        let progress = Arc::new(Progress::new("load", self.rows));
        let (next, started) = (Arc::new(AtomicU64::new(0)), clock::now());
        let mut writing = JoinSet::new();
        for _ in 0..self.workers {
            let (work, progress, next, batch) =
                (Arc::clone(work), Arc::clone(&progress), Arc::clone(&next), self.batch);
            writing.spawn(async move {
                loop {
                    let from = next.fetch_add(batch, Ordering::Relaxed);
                    let rows = from..work.files.rows().min(from + batch);
                    if rows.is_empty() {
                        return anyhow::Ok(());
                    }
                    let records: Vec<_> = rows.map(|row| work.files.record(row)).collect();
                    upsert(&work.heir, &work.collection, &records, (WriteMode::Upsert, Duration::ZERO))
                        .await?;
                    progress.advance(records.len() as u64);
                }
            });
        }
        while let Some(ended) = writing.join_next().await {
            ended.context("a worker of the load was lost")??;
        }
        let seconds = started.elapsed().as_secs_f64();
        progress.finish();
        let rows_per_s = self.rows as f64 / seconds.max(1e-9);
        let (rows, batch, workers) = (self.rows, self.batch, self.workers);
        Ok(Load { shape: "load", rows, batch, workers, seconds, rows_per_s })
    }

    fn segments(&self) -> CollectionSpec {
        use FieldType::{Datetime, Integer, Keyword, Text};
        let keywords = ["file_id", "message_id", "group", "state"].map(|path| (path, Keyword));
        let integers = ["segment_index", "bytes", "crc"].map(|path| (path, Integer));
        let others = [("subject", Text), ("uploaded_at", Datetime)];
        let fields = keywords.into_iter().chain(integers).chain(others);
        CollectionSpec {
            name: self.collection.clone(),
            fields: fields.map(|(path, kind)| (path.to_owned(), kind)).collect(),
            partitions: self.partitions.unwrap_or(PARTITIONS_OF_SERVER),
            strategy: Strategy::ShardKey { delimiter: b'/' },
            ..Default::default()
        }
    }

    fn uploads(&self, name: &str) -> CollectionSpec {
        let integers = ["segments", "confirmed"].map(|path| (path.to_owned(), FieldType::Integer));
        let keywords = ["state", "by"].map(|path| (path.to_owned(), FieldType::Keyword));
        CollectionSpec {
            name: name.to_owned(),
            fields: integers.into_iter().chain(keywords).collect(),
            partitions: self.partitions.unwrap_or(PARTITIONS_OF_SERVER),
            ..Default::default()
        }
    }

    async fn line(&self, work: &Arc<Work>, clients: &[Client], shape: Shape) -> Result<Line> {
        let queries = shape.share(self.queries);
        pass(work, clients, shape, (queries.div_ceil(4), true), None).await?;
        let started = clock::now();
        let mut times = pass(work, clients, shape, (queries, false), self.rate).await?;
        let seconds = started.elapsed().as_secs_f64();
        times.sort_unstable();
        Ok(Line {
            shape: shape.name(),
            clients: clients.len() as u32,
            rate: self.rate,
            count: times.len() as u64,
            p50_ms: quantile_ms(&times, 0.5),
            p95_ms: quantile_ms(&times, 0.95),
            p99_ms: quantile_ms(&times, 0.99),
            queries_per_s: times.len() as f64 / seconds.max(1e-9),
        })
    }
}

/// Asks so many questions that were not asked before, each client one at a time; the times of their calls.
async fn pass(
    work: &Arc<Work>,
    clients: &[Client],
    shape: Shape,
    (questions, is_whole): (u64, bool),
    rate: Option<u32>,
) -> Result<Vec<Duration>> {
    // Each pass has numbers of its own: uploads are named by them.
    let first = work.passes.fetch_add(1, Ordering::Relaxed) << 32;
    let (next, end) = (Arc::new(AtomicU64::new(first)), first + questions);
    let started = clock::now();
    let mut running = JoinSet::new();
    for client in clients {
        let (work, client, next) = (Arc::clone(work), client.clone(), Arc::clone(&next));
        running.spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return anyhow::Ok(times);
                }
                let mut late = Duration::ZERO;
                if let Some(rate) = rate {
                    let due = started + Duration::from_secs_f64((number - first) as f64 / f64::from(rate));
                    tokio::time::sleep_until(due.to_tokio()).await;
                    late = due.elapsed();
                }
                let before = times.len();
                shape.ask(&work, &client, Turn { number, is_whole }, &mut times).await?;
                if let Some(time) = times.get_mut(before) {
                    *time += late;
                }
            }
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = running.join_next().await {
        all.extend(ended.context("a client was lost")??);
    }
    Ok(all)
}

fn quantile_ms(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests;
