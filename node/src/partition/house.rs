//! For tests: replicas as a whole, over real files, one voter each.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::area::Area;
use flotilla_proto::ids::{CollectionId, Epoch, NodeId, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, Partition, PlacementMap};
use flotilla_proto::record::Record;
use flotilla_proto::schema::{CollectionSpec, Distance, Hnsw, IndexKind, Strategy, VectorSpec};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::registry::Registry;
use super::*;
use crate::log;

pub const SELF: NodeId = NodeId(1);
pub const COLLECTION: CollectionId = CollectionId::from_u128(5);
pub const SOON: Duration = Duration::from_secs(20);
pub const FRESH: Fresh =
    Fresh { consistency: super::fresh::Consistency::Linearizable, at_least: 0, within: SOON };

/// Vectors of a partition that may wait for their index.
pub const BACKLOG_MAX: usize = 150;

/// Reads that may compute at one time.
pub const READS: u32 = 4;

/// Every key, for each partition: these tests route by hand.
pub fn whole() -> Owned {
    Owned { epoch: Epoch(1), area: Area::of(&Strategy::ConsistentHash, 0..1024), ..Owned::default() }
}

/// A node's log and replicas.
pub struct House {
    pub lanes: Arc<Lanes>,
    pub registry: Arc<Registry>,
    pub permits: worker::Permits,
    pub room: Arc<Room>,
    pub answers: Arc<Answers>,
    /// [`READS`] of them.
    pub reads: Arc<Semaphore>,
}

pub fn placement(partitions: u64) -> PlacementMap {
    let vector = VectorSpec::new(2, Distance::Cosine, IndexKind::Hnsw(Hnsw::default()));
    let spec = CollectionSpec {
        name: "c".into(),
        vectors: [("default".into(), vector)].into(),
        partitions: partitions as u32,
        ..Default::default()
    };
    let partitions = (1..=partitions).map(|id| Partition::new(PartitionId(id), vec![SELF])).collect();
    let collection = CollectionPlacement {
        spec,
        id: COLLECTION,
        epoch: Epoch(1),
        partitions,
        slots: vec![0; 1024],
        slot_move: None,
        replaces: Default::default(),
        tenancy: None,
    };
    PlacementMap { epoch: Epoch(1), collections: vec![collection], ..Default::default() }
}

fn log_options() -> log::Options {
    log::Options { lanes: 2, segment_bytes: 64 << 10, ..log::Options::default() }
}

impl House {
    /// Opens what is in `dir`, with partitions 1 to `partitions`.
    pub async fn open(dir: &Path, partitions: u64) -> House {
        House::open_with(dir, partitions, worker::Options::default()).await
    }

    pub async fn open_with(dir: &Path, partitions: u64, worker: worker::Options) -> House {
        let house = House::empty(dir, worker);
        house.registry.trust_map();
        house.registry.reconcile(&placement(partitions), true).await;
        for replica in house.registry.serving() {
            // One whose damage is found meanwhile never gets ready.
            let ready = replica.group.wait_ready(SOON).await;
            assert!(ready.is_ok() || replica.quarantined().is_some(), "{ready:?}");
        }
        house
    }

    /// Opens the log alone: no map is known yet.
    pub fn empty(dir: &Path, worker: worker::Options) -> House {
        let lanes = Lanes::open(&dir.join("log"), log_options()).unwrap().0;
        let room = Arc::<Room>::default();
        let permits = worker::Permits::new(room.clone());
        let answers = Arc::new(Answers::new(answers::Options::default(), room.clone()));
        let reads = Arc::new(Semaphore::new(READS as usize));
        let shared = Shared {
            store: store::Options {
                seal_rows: 50,
                graph_rows_min: 25,
                index_threads: 1,
                backlog_max: BACKLOG_MAX,
                ..Default::default()
            },
            home: raft::Home {
                peers: Arc::new(Peers::new(SELF, Uuid::nil(), Default::default())),
                throttle: Arc::default(),
                options: raft::Options { heartbeat_ms: 80, ..Default::default() },
            },
            read_permits: reads.clone(),
            work_permits: permits.clone(),
            worker,
            recall: recall::Sampling::new(Duration::from_nanos(1)),
            answers: answers.clone(),
            room: room.clone(),
            quotas: Arc::default(),
        };
        let registry = Arc::new(Registry::new(dir.join("partitions"), lanes.clone(), shared));
        House { lanes, registry, permits, room, answers, reads }
    }

    pub async fn replica(&self, id: u64) -> Result<Arc<Replica>, Refusal> {
        let found = self.registry.replica(PartitionId(id), Epoch(1), SOON).await?;
        Ok(found.unwrap())
    }

    pub async fn close(self) {
        self.registry.stop().await;
        self.lanes.close().await;
    }
}

pub async fn upsert(replica: &Replica, keys: std::ops::Range<u64>) -> Result<Written, Refusal> {
    let record = |key: u64| Record::new(key).field("n", key as i64).vector("default", vec![key as f32, 1.0]);
    replica.write(None, Write::Upsert(keys.map(record).collect()), &whole()).await
}

/// Waits until the group has stopped: its warden was told.
pub async fn stopped(replica: &Replica) {
    let asked = async {
        while replica.group.propose(bytes::Bytes::new()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, asked).await.unwrap();
}
