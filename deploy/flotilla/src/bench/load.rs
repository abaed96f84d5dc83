//! `flotilla bench load`: records written to, or read from, a running server as fast as so many clients can.
//!
//! Every client has a connection of its own and sends its next call when the answer to the last one is there. A call is
//! counted when it is acknowledged within the time; its time runs from before it is sent until its answer is there.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use flotilla_client::{Client, Get, With};
use flotilla_node::env::clock;
use flotilla_proto::record::{Key, Record};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::target::{self, Target};

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verb {
    /// Upsert records of random keys
    Upsert,
    /// Get records by key, as the collection reads: linearizable
    Get,
}

/// Arguments of `flotilla bench load`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  flotilla bench load --collection load --clients 64 --batch 100 --seconds 10
  flotilla bench load --collection load --verb get --clients 8 --batch 1

The collection must be there, and take records without vectors (flotilla collections create load).
Prints one JSON line: verb, clients, batch, records_per_s, calls_per_s, p50_ms, p99_ms, failed.")]
pub struct LoadArgs {
    #[command(flatten)]
    target: Target,
    /// Collection to write to and read from
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// What the clients do
    #[arg(long, value_enum, default_value = "upsert")]
    verb: Verb,
    /// Connections that work at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    clients: u32,
    /// Records of one call
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Bytes of one record's payload
    #[arg(long, value_name = "N", default_value_t = 1_600, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    bytes: u32,
    /// Distinct keys
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    keys: u64,
    /// How long
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u64,
}

/// The result.
#[derive(Debug, Serialize)]
struct Line {
    verb: &'static str,
    clients: u32,
    batch: u32,
    bytes: u32,
    records_per_s: f64,
    calls_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    failed: u64,
}

/// What one client did.
#[derive(Default)]
struct Done {
    times: Vec<Duration>,
    failed: u64,
}

impl LoadArgs {
    /// Loads and prints.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.load())
    }

    async fn load(self) -> anyhow::Result<()> {
        let mut clients = Vec::new();
        for _ in 0..self.clients {
            clients.push(self.target.client().await?);
        }
        let began = clock::now();
        let until = began + Duration::from_secs(self.seconds);
        let mut running = JoinSet::new();
        for (n, client) in clients.into_iter().enumerate() {
            running.spawn(one(self.clone(), client, n as u64, until));
        }
        let mut all = Done::default();
        while let Some(done) = running.join_next().await {
            let done = done.context("a client broke off")?;
            all.times.extend(done.times);
            all.failed += done.failed;
        }
        let seconds = began.elapsed().as_secs_f64();
        all.times.sort_unstable();
        let at = |part: f64| {
            let place = (all.times.len() as f64 * part) as usize;
            all.times.get(place.min(all.times.len().saturating_sub(1))).map_or(0.0, |t| t.as_secs_f64() * 1e3)
        };
        let calls_per_s = all.times.len() as f64 / seconds;
        let line = Line {
            verb: if self.verb == Verb::Upsert { "upsert" } else { "get" },
            clients: self.clients,
            batch: self.batch,
            bytes: self.bytes,
            records_per_s: calls_per_s * f64::from(self.batch),
            calls_per_s,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            failed: all.failed,
        };
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&line)?)?;
        Ok(())
    }
}

async fn one(args: LoadArgs, client: Client, n: u64, until: clock::Instant) -> Done {
    let mut done = Done::default();
    let mut draw = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let text = "x".repeat(args.bytes as usize);
    while clock::now() < until {
        let keys: Vec<u64> = (0..args.batch)
            .map(|_| {
                // xorshift64: any spread of keys will do.
                draw ^= draw << 13;
                draw ^= draw >> 7;
                draw ^= draw << 17;
                draw % args.keys.max(1)
            })
            .collect();
        let since = clock::now();
        let acknowledged = match args.verb {
            Verb::Upsert => {
                let record = |key: &u64| Record::new(*key).field("text", text.as_str());
                client.upsert(&args.collection, keys.iter().map(record).collect()).await.is_ok()
            }
            Verb::Get => {
                let get = Get::new(keys.into_iter().map(Key::Number)).with(With::PAYLOAD);
                client.get(&args.collection, get).await.is_ok()
            }
        };
        if acknowledged {
            done.times.push(since.elapsed());
        } else {
            done.failed += 1;
        }
    }
    done
}
