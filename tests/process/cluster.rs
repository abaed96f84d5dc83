//! The proof of the cluster: real nodes, replicas and routers under load, while what can go wrong goes wrong.
//!
//! Eight clients work on keys that they share and write down what they are told; nodes are killed, stopped, drained, cut off
//! and moved away from meanwhile. At the end every key is read once more, the replicas prove that they are equal, and the
//! whole history goes to the judges of `flotilla_tests::checker`: linearizable for each key, nothing lost, nothing back from
//! the dead, nothing twice, no answer that is not what its log index says.
//!
//! Where a promise says that no call fails, no call may: the clients do not try again themselves.
//!
//! One cluster runs at a time: what is measured here is the cluster, not its neighbour.

mod crash;
mod damage;
mod factors;
mod folder;
mod generations;
mod links;
mod memory;
mod moves;
mod pause;
mod planted;
mod power;
mod replica;
mod rolling;
mod scale;
mod snapshot;
mod split;
mod storm;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::cluster::network::Network;
use flotilla_tests::cluster::{Cluster, Shape};
use flotilla_tests::history::{History, Recorder};
use flotilla_tests::load::{self, Client, Load, Work};
use flotilla_tests::seed::Seed;
use rand::rngs::SmallRng;
use tokio::sync::{Mutex, MutexGuard};

/// The collection that the clients work on.
const COLLECTION: &str = "proof";
const PARTITIONS: u32 = 4;
/// How long calls may take to be acknowledged in a number that a test waits for.
const PROGRESS_WITHIN: Duration = Duration::from_secs(40);

static ALONE: Mutex<()> = Mutex::const_new(());

/// The right to be the only cluster.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// Rounds of a test: so many, or what `FLOTILLA_TEST_KILLS` says.
fn rounds(usual: usize) -> usize {
    std::env::var("FLOTILLA_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// A cluster, its clients' record, and the right to be the only one.
struct Scene {
    cluster: Cluster,
    recorder: Arc<Recorder>,
    work: Work,
    seed: Seed,
    draw: SmallRng,
    name: &'static str,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// A cluster with the collection, ready for clients.
    async fn set(name: &'static str, shape: Shape) -> Scene {
        Scene::set_on(name, shape, None).await
    }

    async fn set_on(name: &'static str, shape: Shape, network: Option<Network>) -> Scene {
        let is_alone = alone().await;
        let is_new = shape.first_folder.is_none();
        let cluster = Cluster::start_on(crate::binary(), shape, network).await;
        let cluster = cluster.unwrap_or_else(|why| panic!("{why:?}"));
        let seed = Seed::of(name);
        let draw = seed.generator(u64::MAX);
        let (recorder, work) = (Arc::default(), Work::on(COLLECTION));
        let scene = Scene { cluster, recorder, work, seed, draw, name, _alone: is_alone };
        if is_new {
            scene.create(load::collection(COLLECTION, PARTITIONS)).await;
        }
        scene
    }

    async fn create(&self, spec: v1::CollectionSpec) {
        let name = spec.name.clone();
        let client = self.cluster.client().await.unwrap();
        client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
        self.cluster.led(&name, &[]).await.unwrap();
    }

    async fn load(&self) -> Load {
        Load::start(&self.recorder, &self.cluster.urls(), &self.seed, &self.work).await.unwrap()
    }

    async fn progress(&self, load: &Load, calls: usize) {
        load.progress(calls, PROGRESS_WITHIN).await.unwrap_or_else(|why| panic!("{why:?}"));
    }

    async fn one_client(&self) -> Client {
        Client::new(&self.recorder, &self.cluster.urls(), &self.seed, &self.work).await.unwrap()
    }

    /// The end: clients rest, every key is read once more, the history is judged, nobody panicked, and the
    /// replicas are compared.
    async fn judge(&self, load: Load) -> History {
        load.note_moved().await.unwrap();
        load.stop().await;
        self.one_client().await.get_all().await;
        let history = self.judge_record();
        assert_eq!(self.cluster.panics(), Vec::<String>::new(), "nothing panics");
        self.cluster.caught_up(&self.work.collection).await.unwrap_or_else(|why| panic!("{why:?}"));
        self.cluster.verified(&self.work.collection).await.unwrap_or_else(|why| panic!("{why:?}"));
        history
    }

    /// Judges what is recorded, whatever state the cluster is in.
    fn judge_record(&self) -> History {
        let history = self.recorder.history();
        let (gap, since) = history.longest_gap(|call| call.freshness.is_none());
        match flotilla_tests::checker::check(&history) {
            Ok(tally) => println!(
                "{}: {tally}; longest time without an acknowledged write: {gap:?}, from {} ms on",
                self.name,
                since / 1_000
            ),
            Err(why) => panic!("{}: {why}", self.name),
        }
        for failure in history.failures().take(8) {
            println!("  not acknowledged: {failure}");
        }
        history
    }
}

/// Every call was acknowledged.
fn none_failed(history: &History) {
    let failures: Vec<String> = history.failures().map(|call| format!("\n  {call}")).collect();
    assert!(
        failures.is_empty(),
        "{} calls failed:{}",
        failures.len(),
        failures[..failures.len().min(12)].concat()
    );
}

/// Asserts a bound that a slow machine keeps too; the figure is printed, so that it can be read.
fn took(what: &str, time: Duration, at_most: Duration) {
    println!("{what}: {time:?}");
    assert!(time < at_most, "{what}: {time:?}, more than {at_most:?}");
}
