//! Three nodes over loopback, one of which does not do what it answered: it is found, taken out, and made anew.

use std::net::SocketAddr;

use flotilla_port::{Bounds, Doors, Kind};
use flotilla_proto::record::{Key, Record};
use flotilla_proto::schema::CollectionSpec;
use tokio::net::TcpListener;

use super::*;
use crate::partition::Write;
use crate::partition::fresh::{Consistency, Fresh};

const SOON: Duration = Duration::from_secs(60);
const LINEARIZABLE: Fresh = Fresh { consistency: Consistency::Linearizable, at_least: 0, within: SOON };

struct Cluster {
    _dirs: Vec<tempfile::TempDir>,
    nodes: Vec<Arc<Node>>,
}

async fn start(dir: &std::path::Path, seeds: &[SocketAddr]) -> (Arc<Node>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut options = Options::new(dir.to_owned());
    options.threads = 2;
    options.log.lanes = 1;
    options.log.segment_bytes = 1 << 20;
    options.raft.heartbeat_ms = 150;
    options.equality.every = Duration::ZERO;
    options.cluster = Some(ClusterOptions {
        peer_address: address.to_string(),
        seeds: seeds.iter().map(ToString::to_string).collect(),
        join_within: SOON,
        ..Default::default()
    });
    let node = Arc::new(Node::open(options).await.unwrap());
    let (routes, door) = (node.for_peers(), Doors::new(Bounds::default()).unwrap().door(Kind::PEERS));
    task::spawn(
        async move { door.listen(listener, routes.into_axum_router(), std::future::pending()).await },
    );
    node.ready(SOON).await.unwrap();
    (node, address)
}

/// Asks again and again until there is an answer.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            clock::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, asking).await.unwrap_or_else(|_| panic!("in time: {what}"))
}

impl Cluster {
    /// Three nodes, and a collection of one partition with a replica on each.
    async fn new() -> Cluster {
        let dirs: Vec<tempfile::TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let (first, seed) = start(dirs[0].path(), &[]).await;
        let mut nodes = vec![first];
        for dir in &dirs[1..] {
            nodes.push(start(dir.path(), &[seed]).await.0);
        }
        let spec =
            CollectionSpec { name: "c".into(), partitions: 1, replication_factor: 3, ..Default::default() };
        let (nodes_of, spec) = (&nodes, &spec);
        until("a collection of three replicas", || async move {
            let leads = nodes_of.iter().find(|node| node.meta.group().leads())?;
            if leads.meta.alive().len() < 3 {
                return None;
            }
            leads.meta.create(spec.clone(), None).await.ok()
        })
        .await;
        Cluster { _dirs: dirs, nodes }
    }

    /// The node that leads the partition, and its replica, once all three have one that serves.
    async fn leader(&self) -> (Arc<Node>, Arc<Replica>) {
        let find = || async {
            let serving: Vec<_> =
                self.nodes.iter().filter_map(|node| node.registry.serving().pop()).collect();
            let at = serving.iter().position(|replica| replica.group().leads())?;
            let all = serving.len() == 3 && serving[at].group().members().voters.len() == 3;
            all.then(|| (self.nodes[at].clone(), serving[at].clone()))
        };
        until("a leader of three replicas", find).await
    }

    async fn write(&self, write: impl Fn() -> Write) {
        until("a write", || async {
            let (_, replica) = self.leader().await;
            replica.write(None, write(), &replica.owned()).await.ok()
        })
        .await;
    }

    /// Waits until all three replicas are there and hold the same, to the bit.
    async fn equal(&self) {
        until("three equal replicas", || async {
            let (_, replica) = self.leader().await;
            let compared = replica.digest_now(true, Duration::from_secs(5)).await.ok()?;
            (compared.digests.len() == 3 && compared.is_equal()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_went_its_own_way_is_found_and_made_anew_whether_it_follows_or_leads() {
    let cluster = Cluster::new().await;
    cluster.write(|| Write::Upsert((0..50_u64).map(Record::new).collect())).await;
    cluster.equal().await;
    for (round, is_leader) in [(1, false), (2, true)] {
        let leads = cluster.leader().await.0.id();
        let wrong = cluster.nodes.iter().find(|other| (other.id() == leads) == is_leader).unwrap();
        wrong.registry.serving()[0].skip_next_delete();
        cluster.write(|| Write::Delete(vec![Key::Number(round)])).await;
        // Whoever leads by then finds it.
        until("it is found", || async {
            let (node, leader) = cluster.leader().await;
            for deep in [false, true] {
                let compared = leader.digest_now(deep, SOON).await.ok()?;
                assert_eq!(compared.divergent(), [wrong.id()], "{compared:?}");
            }
            node.equality.look_at(&leader, leader.group().holders()).await.ok()?;
            let quarantined = wrong.registry.quarantined();
            assert!(quarantined[0].1.contains("differs from the other replicas"), "{quarantined:?}");
            let asked = wrong.registry.replica(leader.id(), Default::default(), SOON).await;
            assert!(matches!(asked, Err(Refusal::DataLoss(_))));
            Some(())
        })
        .await;
        let counted = |node: &Arc<Node>| node.equality.divergences().unwrap().with_label_values(&["1"]).get();
        assert_eq!(cluster.nodes.iter().map(counted).sum::<u64>(), round);
        cluster.equal().await;
        assert!(wrong.registry.quarantined().is_empty(), "made anew");
        let count = until("a count", || async {
            let (_, replica) = cluster.leader().await;
            replica.count(None, LINEARIZABLE, &replica.owned()).await.ok()
        })
        .await;
        assert_eq!(count.0, 50 - round);
    }
    for node in &cluster.nodes {
        node.stop().await;
    }
}
