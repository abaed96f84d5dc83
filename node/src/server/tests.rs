//! Three nodes of one process, over TCP: what their replicas answer, and when they do not.

use std::time::Duration;

use flotilla_port::{Bounds, Doors, Kind};
use flotilla_proto::convert::{key_to_wire, record_to_wire, spec_to_wire};
use flotilla_proto::placement::PlacementMap;
use flotilla_proto::record::{Key, Record};
use flotilla_proto::refusal::{Advice, advice};
use flotilla_proto::schema::CollectionSpec;
use flotilla_proto::shard::meta_client::MetaClient;
use flotilla_proto::shard::shard_client::ShardClient;
use flotilla_proto::{shard, v1};
use tokio::sync::watch;

use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::*;
use crate::meta::catalogue::Change;
use crate::meta::catalogue::moves::{Kind as MoveKind, NewMove};

const SOON: Duration = Duration::from_secs(30);

/// A running node, and what ends it.
struct Member {
    node: Arc<Node>,
    stop: watch::Sender<bool>,
    serving: Vec<task::JoinHandle<()>>,
    shard: ShardClient<Channel>,
    address: String,
    _folder: tempfile::TempDir,
}

impl Member {
    async fn start(seeds: Vec<String>) -> (Member, String) {
        let folder = tempfile::tempdir().unwrap();
        let data = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peers = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = data.local_addr().unwrap().to_string();
        let peer_address = peers.local_addr().unwrap().to_string();
        let mut options = Options::new(folder.path().to_owned());
        options.address = address.clone();
        options.raft.entries_kept = 1_000;
        options.log.segment_bytes = 1 << 20;
        let join_within = SOON;
        let peer_address_given = peer_address.clone();
        options.cluster = Some(ClusterOptions {
            peer_address: peer_address_given,
            seeds,
            join_within,
            ..Default::default()
        });
        let node = Arc::new(Node::open(options).await.unwrap());
        let (stop, stopped) = watch::channel(false);
        let told = |mut stopped: watch::Receiver<bool>| async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let (behind, before) = (node.for_peers(), node.in_process());
        let doors = Doors::new(Bounds::default()).unwrap();
        let (back, front) = (doors.door(Kind::PEERS), doors.door(Kind::ROUTERS));
        let (one, other) = (told(stopped.clone()), told(stopped));
        let serving = vec![
            task::spawn(async move { back.listen(peers, behind.into_axum_router(), one).await }),
            task::spawn(async move { front.listen(data, before.into_axum_router(), other).await }),
        ];
        node.ready(SOON).await.unwrap();
        let shard = ShardClient::connect(format!("http://{address}")).await.unwrap();
        (Member { node, stop, serving, shard, address, _folder: folder }, peer_address)
    }

    async fn end(&self) {
        self.stop.send_replace(true);
        self.serving.iter().for_each(task::JoinHandle::abort);
        self.node.stop().await;
    }

    async fn count(&self, target: shard::Target, within: Duration) -> Result<shard::CountResponse, Status> {
        let mut request = Request::new(shard::CountRequest { target: Some(target), filter: None });
        request.set_timeout(within);
        Ok(self.shard.clone().count(request).await?.into_inner())
    }
}

/// Asks each member in turn until the one that leads the meta group, whichever it is by then, makes the change.
async fn changed(members: &[Member], change: impl AsyncFn(MetaClient<Channel>) -> Result<(), Status>) {
    let asked = async {
        loop {
            for member in members {
                let meta = MetaClient::connect(format!("http://{}", member.address)).await.unwrap();
                match change(meta).await {
                    Ok(()) => return,
                    Err(refused) => assert!(matches!(advice(&refused), Advice::GoTo(_)), "{refused:?}"),
                }
            }
            clock::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, asked).await.expect("somebody leads the meta group");
}

/// Three nodes with a collection of one partition on each of them.
struct House {
    members: Vec<Member>,
    target: shard::Target,
}

impl House {
    async fn new() -> House {
        let (first, seed) = Member::start(Vec::new()).await;
        let (second, _) = Member::start(vec![seed.clone()]).await;
        let (third, _) = Member::start(vec![seed]).await;
        let members = vec![first, second, third];
        let spec =
            CollectionSpec { name: "vms".into(), partitions: 1, replication_factor: 3, ..Default::default() };
        let request = shard::CreateRequest { spec: Some(spec_to_wire(&spec)), tenancy: None };
        changed(&members, async |mut meta| meta.create(request.clone()).await.map(drop)).await;
        let mut maps = members[0].node.meta.watch();
        let has_one = |map: &Arc<PlacementMap>| map.collections.len() == 1;
        let map = maps.wait_for(has_one).await.unwrap().clone();
        let collection = &map.collections[0];
        let target = shard::Target {
            collection_id: collection.id.to_string(),
            partition: collection.partitions[0].id.0,
            epoch: collection.epoch.0,
            fresh: None,
        };
        for member in &members {
            member.node.registry.wait_for(collection.epoch, SOON).await.unwrap();
        }
        House { members, target }
    }

    fn asks(&self, consistency: v1::Consistency, max_lag_ms: u64, at_least: u64) -> shard::Target {
        let fresh = shard::Freshness { consistency: consistency.into(), max_lag_ms, at_least };
        shard::Target { fresh: Some(fresh), ..self.target.clone() }
    }

    /// Who leads the partition, once somebody does, and who follows.
    async fn roles(&self, of: &[usize]) -> (usize, Vec<usize>) {
        let led = async {
            loop {
                for at in of {
                    let serving = self.members[*at].node.registry.serving();
                    // One that was just elected takes writes once a quorum has answered it.
                    for replica in serving.iter().filter(|replica| replica.group().leads()) {
                        if replica.group().read_index().await.is_ok() {
                            return *at;
                        }
                    }
                }
                clock::sleep(Duration::from_millis(10)).await;
            }
        };
        let leader = tokio::time::timeout(SOON, led).await.expect("somebody leads");
        (leader, of.iter().copied().filter(|at| *at != leader).collect())
    }

    async fn write(&self, leader: usize, key: u64) -> u64 {
        let records = vec![record_to_wire(Record::new(Key::Number(key)))];
        let command = Some(shard::write_request::Command::Upsert(shard::Records { records }));
        let target = Some(self.target.clone());
        let request = shard::WriteRequest { target, request: None, command };
        let written = self.members[leader].shard.clone().write(request).await.unwrap();
        written.into_inner().log_index
    }

    async fn end(self) {
        for member in &self.members {
            member.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_answers_as_fresh_as_it_is_asked_to_or_says_that_it_cannot() {
    use v1::Consistency::{Any, Bounded, Linearizable};
    let house = House::new().await;
    let (leader, followers) = house.roles(&[0, 1, 2]).await;
    let mut token = 0;
    for key in 0..20 {
        token = house.write(leader, key).await;
        // Each follower sees the write that was just acknowledged.
        let follower = &house.members[followers[key as usize % 2]];
        let seen = follower.count(house.asks(Any, 0, token), SOON).await.unwrap();
        assert_eq!(seen.count, key + 1);
        assert!(seen.log_index >= token);
    }
    for follower in &followers {
        let follower = &house.members[*follower];
        let bounded = follower.count(house.asks(Bounded, 5_000, token), SOON).await.unwrap();
        assert_eq!(bounded.count, 20, "the token waits for the last write");
        let refused = follower.count(house.asks(Linearizable, 0, 0), SOON).await.unwrap_err();
        let lead = house.members[leader].node.id().0;
        assert_eq!(advice(&refused), Advice::GoTo(Some(lead)), "{refused:?}");
        let short = Duration::from_millis(300);
        let refused = follower.count(house.asks(Any, 0, token + 1_000), short).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        let (lag, entries) = follower.node.registry.serving()[0].lag_figures();
        assert!(lag.is_some() && entries == 0, "{lag:?}, {entries} entries");
    }
    for consistency in [Linearizable, Bounded, Any] {
        let whole = house.members[leader].count(house.asks(consistency, 0, 0), SOON).await.unwrap();
        assert_eq!(whole.count, 20);
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_cut_off_knows_how_old_it_is() {
    use v1::Consistency::{Any, Bounded};
    let house = House::new().await;
    let (leader, followers) = house.roles(&[0, 1, 2]).await;
    let token = house.write(leader, 1).await;
    let last = &house.members[followers[0]];
    assert_eq!(last.count(house.asks(Bounded, 60_000, token), SOON).await.unwrap().count, 1);
    house.members[leader].end().await;
    house.members[followers[1]].end().await;
    let outdated = async {
        loop {
            match last.count(house.asks(Bounded, 200, 0), Duration::from_millis(400)).await {
                Err(refused) => return refused,
                Ok(_) => clock::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let refused = tokio::time::timeout(SOON, outdated).await.expect("its bound runs out");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("at most 200 ms are asked for"), "{}", refused.message());
    assert_eq!(last.count(house.asks(Bounded, 600_000, 0), SOON).await.unwrap().count, 1);
    assert_eq!(last.count(house.asks(Any, 0, 0), SOON).await.unwrap().count, 1);
    last.end().await;
}

/// A move that was called off, as its node sees it: by the map the replica is others', and it still has its vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_goes_only_once_its_group_has_no_place_for_it() {
    let house = House::new().await;
    let (leader, followers) = house.roles(&[0, 1, 2]).await;
    let token = house.write(leader, 1).await;
    let member = &house.members[followers[0]];
    let (registry, own) = (&member.node.registry, member.node.id());
    let mut map = (*member.node.meta.map()).clone();
    map.collections[0].partitions[0].replicas.retain(|node| *node != own);
    registry.reconcile(&map, true).await;
    assert!(!registry.leave(&map).await, "it has its vote");
    let any = house.asks(v1::Consistency::Any, 0, token);
    assert_eq!(member.count(any, SOON).await.unwrap().count, 1);

    let (collection, partition) = (map.collections[0].id, map.collections[0].partitions[0].id);
    let kind = MoveKind::Replica { partition, add: None, remove: Some(own) };
    let goes = NewMove { collection, kind, bytes: 0, reason: String::new() };
    let queued = async {
        loop {
            for meta in house.members.iter().map(|member| &member.node.meta) {
                let queue = Change::Queue { epoch: meta.map().epoch, moves: vec![goes.clone()] };
                if meta.group().leads() && meta.change(queue).await.is_ok() {
                    return;
                }
            }
            clock::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, queued).await.expect("somebody leads the meta group");
    let folder = registry.folder_of(partition);
    let gone = async {
        while folder.exists() {
            clock::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("its group lets it go");
    assert!(registry.serving().is_empty());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_a_newer_map_waits_for_the_node_and_is_sent_elsewhere_in_the_end() {
    let house = House::new().await;
    let (leader, _) = house.roles(&[0, 1, 2]).await;
    let token = house.write(leader, 1).await;
    let member = &house.members[leader];
    // The third vote in the meta group is the last change that comes by itself.
    let is_settled = |map: &Arc<PlacementMap>| map.meta.len() == 3;
    let settled = member.node.meta.watch().wait_for(is_settled).await.unwrap().epoch;
    // Any replica may answer: another may lead by then.
    let any = house.asks(v1::Consistency::Any, 0, token);
    let ahead = shard::Target { epoch: settled.0 + 1, ..any.clone() };
    let short = Duration::from_millis(200);
    let refused = member.count(ahead.clone(), short).await.unwrap_err();
    assert!(
        matches!(refused.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled),
        "{refused:?}"
    );

    let counting = member.count(ahead.clone(), SOON);
    let fields = [("cpu".to_owned(), v1::FieldType::Integer.into())].into();
    let update = v1::UpdateCollectionRequest { name: "vms".into(), add_fields: fields, ..Default::default() };
    let updating = changed(&house.members, async |mut meta| meta.update(update.clone()).await.map(drop));
    let (counted, ()) = tokio::join!(counting, updating);
    assert_eq!(counted.unwrap().count, 1, "the node follows meanwhile");
    let old = member.count(any, SOON).await.unwrap_err();
    assert!(matches!(advice(&old), Advice::Reroute(Some(_))), "{old:?}");
    let missing = shard::GetRequest {
        target: Some(ahead),
        keys: vec![key_to_wire(&Key::Number(7))],
        ..Default::default()
    };
    assert!(member.shard.clone().get(missing).await.unwrap().into_inner().records.is_empty());
    house.end().await;
}
