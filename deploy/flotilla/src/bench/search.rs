//! `flotilla bench search`: a running server, over the wire, as its users see it.
//!
//! Every client has a connection of its own and sends its next query when the answer to the last one is there. For each
//! `ef` one pass measures recall (and warms up), further ones are timed; one JSON line each. CPU is the server's, so
//! `cpu_qps` is known only where its process runs on this machine and is named.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use flotilla_client::{Client, Search};
use flotilla_node::env::{clock, fs};
use flotilla_proto::filter::Filter;
use flotilla_proto::record::Key;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::filter_arg;
use crate::npy::{self, Matrix};
use crate::target::{self, Target};

/// Ticks per second in which Linux tells processor time to user space, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Arguments of `flotilla bench search`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  flotilla bench search --collection bench --queries query.npy --truth truth.npy --ef 16,32,64,128
  flotilla bench search --collection bench --queries query.npy --clients 8 --seconds-per-ef 10
  flotilla bench search --collection bench --queries query.npy --truth truth.npy --server-pid $(pidof flotilla)

The truth holds row numbers, nearest first: import the vectors without --key, so that keys are row numbers.
Queries that come again are answered from the server's cache: start it with FLOTILLA_CACHE_ENABLED=false to measure searches.

Prints one JSON line per ef: ef, recall, qps, cpu_qps, p50_us, p99_us, build_s, bytes_per_vector, clients. What cannot be
known from outside (build_s, bytes_per_vector; recall without --truth; cpu_qps without --server-pid) is null.")]
pub struct BenchSearchArgs {
    #[command(flatten)]
    target: Target,
    /// Collection to search
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Vectors to search for, one per row
    #[arg(long, value_name = "FILE.npy")]
    queries: PathBuf,
    /// Row numbers of each query's true neighbours, nearest first
    #[arg(long, value_name = "FILE.npy")]
    truth: Option<PathBuf>,
    /// Vector to search by, where the collection has several
    #[arg(long, value_name = "NAME", default_value = "")]
    vector_name: String,
    /// Hits asked for
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Candidates kept while searching: one line each
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "16,32,64,128,256")]
    ef: Vec<u32>,
    /// Compare so many times the limit by whole vectors in the end [default: as many as the codes need]
    #[arg(long, value_name = "TIMES")]
    oversampling: Option<f32>,
    /// Connections that search at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    clients: u32,
    /// Condition on the hits, as text or JSON; the truth must be that of the same condition
    #[arg(long, value_name = "FILTER", value_parser = filter_arg::parse)]
    filter: Option<Filter>,
    /// Timed passes over the queries
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    passes: u64,
    /// Time so many seconds instead
    #[arg(long, value_name = "S", conflicts_with = "passes")]
    seconds_per_ef: Option<u64>,
    /// The server's process, if it runs on this machine: its processor time makes cpu_qps
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Line {
    ef: u32,
    recall: Option<f64>,
    qps: f64,
    cpu_qps: Option<f64>,
    p50_us: f64,
    p99_us: f64,
    build_s: Option<f64>,
    bytes_per_vector: Option<f64>,
    clients: u32,
}

impl BenchSearchArgs {
    /// Measures and prints.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.measure())
    }

    async fn measure(self) -> anyhow::Result<()> {
        let work = Arc::new(Work::read(&self)?);
        let mut clients = Vec::new();
        for _ in 0..self.clients {
            clients.push(self.target.client().await?);
        }
        for ef in &self.ef {
            let line = self.line(&work, &clients, *ef).await?;
            writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&line)?)?;
        }
        Ok(())
    }

    async fn line(&self, work: &Arc<Work>, clients: &[Client], ef: u32) -> anyhow::Result<Line> {
        let warm = pass(work, clients, ef, End::after_passes(work, 1)).await?;
        let end = match self.seconds_per_ef {
            Some(seconds) => End { queries: u64::MAX, at: clock::now() + Duration::from_secs(seconds) },
            None => End::after_passes(work, self.passes),
        };
        let cpu_before = self.server_cpu()?;
        let started = clock::now();
        let timed = pass(work, clients, ef, end).await?;
        let wall = started.elapsed().as_secs_f64();
        let searches = timed.times.len() as f64;
        let cpu = self.server_cpu()?.zip(cpu_before).map(|(after, before)| after - before);
        let recall = work.truth.as_ref().map(|_| warm.found as f64 / warm.wanted.max(1) as f64);
        let mut times = timed.times;
        times.sort_unstable();
        Ok(Line {
            ef,
            recall,
            qps: searches / wall,
            cpu_qps: cpu.filter(|seconds| *seconds > 0.0).map(|seconds| searches / seconds),
            p50_us: quantile_us(&times, 0.5),
            p99_us: quantile_us(&times, 0.99),
            build_s: None,
            bytes_per_vector: None,
            clients: self.clients,
        })
    }

    fn server_cpu(&self) -> anyhow::Result<Option<f64>> {
        let Some(pid) = self.server_pid else { return Ok(None) };
        let stat = fs::read(Path::new(&format!("/proc/{pid}/stat"))).context("--server-pid")?;
        let seconds =
            cpu_seconds(&String::from_utf8_lossy(&stat)).context("--server-pid: /proc has no times")?;
        Ok(Some(seconds))
    }
}

/// User and system seconds out of `/proc/PID/stat`; the command's name may hold blanks and ends at the last `)`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS_PER_SECOND)
}

/// What every client needs.
struct Work {
    collection: String,
    vector_name: String,
    filter: Option<Filter>,
    limit: u32,
    oversampling: Option<f32>,
    queries: Matrix,
    truth: Option<Vec<HashSet<u64>>>,
}

impl Work {
    fn read(args: &BenchSearchArgs) -> anyhow::Result<Work> {
        let queries = npy::read_f32_matrix(&args.queries)?;
        ensure!(!queries.data.is_empty(), "{} holds no queries", args.queries.display());
        let rows = queries.data.len() / queries.columns;
        let truth =
            args.truth.as_deref().map(|path| read_truth(path, rows, args.limit as usize)).transpose()?;
        Ok(Work {
            collection: args.collection.clone(),
            vector_name: args.vector_name.clone(),
            filter: args.filter.clone(),
            limit: args.limit,
            oversampling: args.oversampling,
            queries,
            truth,
        })
    }

    fn len(&self) -> u64 {
        (self.queries.data.len() / self.queries.columns) as u64
    }

    fn request(&self, query: usize, ef: u32) -> Search {
        let at = query * self.queries.columns;
        let vector = self.queries.data[at..at + self.queries.columns].to_vec();
        let request = Search::new(vector).vector_name(&self.vector_name).limit(self.limit).ef(ef);
        let request = match self.oversampling {
            Some(times) => request.oversampling(times),
            None => request,
        };
        match &self.filter {
            Some(filter) => request.filter(filter.clone()),
            None => request,
        }
    }
}

/// The true neighbours of each query; negative numbers (a filter left fewer than that) are none.
fn read_truth(path: &Path, queries: usize, limit: usize) -> anyhow::Result<Vec<HashSet<u64>>> {
    let mut file = npy::open(path)?;
    ensure!(file.rows() == queries as u64, "the truth has {} rows, the queries {queries}", file.rows());
    ensure!(file.columns() >= limit, "the truth has {} neighbours, --limit is {limit}", file.columns());
    let (mut truth, mut row) = (Vec::with_capacity(queries), Vec::new());
    while file.next_i64(&mut row)? {
        truth.push(row.iter().take(limit).filter_map(|id| u64::try_from(*id).ok()).collect());
    }
    Ok(truth)
}

/// When a pass ends: after so many queries, or at a time.
#[derive(Clone, Copy)]
struct End {
    queries: u64,
    at: clock::Instant,
}

impl End {
    fn after_passes(work: &Work, passes: u64) -> End {
        End { queries: work.len().saturating_mul(passes), at: clock::now() + Duration::MAX }
    }
}

/// What a pass found, and how long each search took.
#[derive(Default)]
struct Tally {
    times: Vec<Duration>,
    found: u64,
    wanted: u64,
}

async fn pass(work: &Arc<Work>, clients: &[Client], ef: u32, end: End) -> anyhow::Result<Tally> {
    let next = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for client in clients {
        running.spawn(search_on(client.clone(), Arc::clone(work), Arc::clone(&next), ef, end));
    }
    let mut total = Tally::default();
    while let Some(ended) = running.join_next().await {
        let tally = ended.context("a client was lost")??;
        total.times.extend(tally.times);
        total.found += tally.found;
        total.wanted += tally.wanted;
    }
    Ok(total)
}

async fn search_on(
    client: Client,
    work: Arc<Work>,
    next: Arc<AtomicU64>,
    ef: u32,
    end: End,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= end.queries || clock::now() >= end.at {
            return Ok(tally);
        }
        let query = (number % work.len()) as usize;
        let request = work.request(query, ef);
        let started = clock::now();
        let hits = client.search(&work.collection, request).await?;
        tally.times.push(started.elapsed());
        if let Some(truth) = &work.truth {
            let truth = &truth[query];
            let is_true = |key: &Key| matches!(key, Key::Number(row) if truth.contains(row));
            tally.found += hits.hits.iter().filter(|hit| is_true(&hit.record.key)).count() as u64;
            tally.wanted += truth.len() as u64;
        }
    }
}

fn quantile_us(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |time| time.as_nanos() as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("42 (a"), None);
    }

    #[test]
    fn quantiles_of_few_and_of_none() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_micros).collect();
        assert_eq!((quantile_us(&times, 0.5), quantile_us(&times, 0.99)), (51.0, 100.0));
        assert_eq!(quantile_us(&times[..1], 0.99), 1.0);
        assert_eq!(quantile_us(&[], 0.5), 0.0);
    }
}
