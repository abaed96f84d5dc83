//! `flotilla demo`: the five-minute run. Makes up an inventory of virtual machines, imports it into a temporary folder,
//! asks four questions, waits for the index, stops, starts again from disk and checks that the answers are the same.
//!
//! It goes through the same client as everybody. Whatever differs after the restart is an error, and exit code 1.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use flotilla_client::{Client, WriteMode};
use flotilla_node::env::clock;
use flotilla_proto::schema::{CollectionSpec, Distance, FieldType, IndexKind, VectorSpec};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::config::Config;
use crate::embedded::{Embedded, Options};
use crate::import::send::upsert;
use crate::progress::Progress;
use crate::{target, up};

pub mod inventory;
mod questions;
pub mod text_vector;

use inventory::{HOSTS, Inventory, VCENTERS};
use questions::Answers;

const COLLECTION: &str = "vms";
const SEED: u64 = 20_260_101;
const BATCH: usize = 500;
const UPSERTS_UNDER_WAY: usize = 4;
/// How long indexing may stand still before the demo calls it broken.
const STILL_AT_MOST: Duration = Duration::from_secs(300);

/// Arguments of `flotilla demo`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla demo                       50,000 machines in a temporary folder; removed at the end
  flotilla demo --rows 2000           a quick one
  flotilla demo --keep --port 15002   keeps the folder and serves it until Ctrl-C")]
pub struct DemoArgs {
    /// Keep the folder, and go on serving it until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Virtual machines to make up
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(100..=5_000_000))]
    rows: u64,
    /// Port to serve on; 0 takes any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
}

impl Default for DemoArgs {
    fn default() -> DemoArgs {
        DemoArgs { keep: false, rows: 50_000, port: 0 }
    }
}

impl DemoArgs {
    /// Runs the demo.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.demo())
    }

    async fn demo(self) -> anyhow::Result<()> {
        let temporary = tempfile::Builder::new().prefix("flotilla-demo-").tempdir()?;
        let folder = temporary.path().to_owned();
        say(&format!("Flotilla demo. Data in {}", folder.display()))?;
        let running = self.start(&folder).await?;
        let client = running.client();
        self.import(&client).await?;
        say("\nEvery record can be found as soon as its batch is acknowledged:")?;
        say(&Answers::ask(&client).await?.tables())?;
        wait_for_index(&client, self.rows).await?;
        let before = Answers::ask(&client).await?;
        say(&format!("With everything indexed: {}", before.times()))?;
        running.stop().await.context("stopping")?;
        let running = self.reopen(&folder, &before).await?;
        if self.keep {
            let kept = temporary.keep();
            return serve_on(running, &kept).await;
        }
        running.stop().await.context("stopping")?;
        say(GOING_ON)
    }

    async fn start(&self, folder: &Path) -> anyhow::Result<Embedded> {
        let mut config = Config::default();
        config.server.port = self.port;
        let listen = SocketAddr::new(config.server.bind, config.server.port);
        up::start(Options::from_config(&config, folder)?, listen, folder).await
    }

    async fn import(&self, client: &Client) -> anyhow::Result<()> {
        client.create_collection(&collection(COLLECTION)).await?;
        let rows = self.rows;
        say(&format!(
            "\nImporting an inventory: {VCENTERS} vCenters, {HOSTS} hosts, {rows} virtual machines"
        ))?;
        let progress = Progress::new("import", self.rows);
        let mut records = Inventory::new(SEED, self.rows).records();
        let batches = std::iter::from_fn(|| {
            let batch: Vec<_> = records.by_ref().take(BATCH).collect();
            (!batch.is_empty()).then_some(batch)
        });
        let progress = &progress;
        let upserts = futures::stream::iter(batches).map(|batch| async move {
            let count = batch.len() as u64;
            upsert(client, COLLECTION, &batch, (WriteMode::Upsert, Duration::ZERO)).await?;
            progress.advance(count);
            anyhow::Ok(())
        });
        upserts.buffer_unordered(UPSERTS_UNDER_WAY).try_collect::<()>().await?;
        progress.finish();
        Ok(())
    }

    async fn reopen(&self, folder: &Path, before: &Answers) -> anyhow::Result<Embedded> {
        let started = clock::now();
        let running = self.start(folder).await.context("starting again")?;
        let client = running.client();
        let count = client.count(COLLECTION, None).await?.count;
        let seconds = started.elapsed().as_secs_f64();
        say(&format!("Stopped, and started again from disk: {count} records answer after {seconds:.2} s"))?;
        ensure!(count == self.rows, "{} records were acknowledged, {count} are there", self.rows);
        let after = Answers::ask(&client).await?;
        before.compare(&after).context("the answers after the restart differ")?;
        say("The same questions get the same answers.")?;
        Ok(running)
    }
}

const GOING_ON: &str = "
Go on with a folder of your own:
  flotilla up --data ./data
  flotilla import --collection docs --records docs.jsonl --vectors docs.npy --key id --create
  flotilla search --collection docs --vector-file docs.npy --row 0 --with-payload
or with this inventory, kept and served:
  flotilla demo --keep --port 15002";

/// The collection of the demo: a vector of the description, and the fields one filters by.
pub fn collection(name: &str) -> CollectionSpec {
    use FieldType::{Datetime, Integer, Keyword, Text};
    let vector = VectorSpec::new(text_vector::DIMS as u32, Distance::Cosine, IndexKind::default());
    let keywords = [
        "name",
        "vcenter",
        "datacenter",
        "cluster",
        "host",
        "power_state",
        "guest_os",
        "ip",
        "tags",
        "tools_version",
        "owner",
        "hardware.firmware",
    ];
    let integers = ["cpu", "memory_mb", "disk_gb", "hardware.version"];
    let fields = keywords.map(|path| (path, Keyword)).into_iter();
    let fields = fields.chain(integers.map(|path| (path, Integer)));
    let fields = fields.chain([("created", Datetime), ("description", Text)]);
    CollectionSpec {
        name: name.to_owned(),
        vectors: [("default".to_owned(), vector)].into(),
        fields: fields.map(|(path, kind)| (path.to_owned(), kind)).collect(),
        partitions: flotilla_proto::limits::PARTITIONS_DEFAULT,
        strict: false,
        ..Default::default()
    }
}

/// Waits until every sealed segment has its index; what is still growing is searched by scanning.
async fn wait_for_index(client: &Client, rows: u64) -> anyhow::Result<()> {
    let progress = Progress::new("index", rows);
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let mut moved = clock::now();
    loop {
        ticks.tick().await;
        let (_, status) = client.get_collection(COLLECTION).await?;
        let indexed = (status.index_progress.clamp(0.0, 1.0) * rows as f64) as u64;
        if indexed != progress.done() {
            moved = clock::now();
        }
        progress.set(indexed);
        if status.index_progress >= 1.0 || status.unindexed_vectors <= status.growing_records {
            progress.finish();
            return Ok(());
        }
        ensure!(moved.elapsed() < STILL_AT_MOST, "the index has not moved for {} s", STILL_AT_MOST.as_secs());
    }
}

async fn serve_on(running: Embedded, folder: &Path) -> anyhow::Result<()> {
    let stop = up::stop_signal()?;
    let address = running.address().map_or(String::new(), |address| format!("http://{address}"));
    say(&format!(
        "\nflotilla ready on {address}, data in {}
Try, in another terminal:
  flotilla search --to {address} --collection {COLLECTION} --key vm-000042 --filter '{{\"cpu\":{{\"gte\":8}}}}' --with-payload
  flotilla count --to {address} --collection {COLLECTION} --filter '{{\"power_state\":\"on\"}}'
Ctrl-C ends it; `flotilla up --data {}` goes on.",
        folder.display(),
        folder.display()
    ))?;
    stop.await;
    running.stop().await.context("stopping")
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
