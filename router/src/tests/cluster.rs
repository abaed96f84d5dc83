//! Several nodes that hold the same: which one is asked, what happens when one is silent, slow, damaged or cut off, and what
//! an answer says about it.

use std::time::{Duration, Instant};

use flotilla_proto::refusal::Refusal;
use flotilla_proto::v1::{Consistency, Partial, ReadPreference};
use tonic::{Code, Request};

use super::*;
use crate::fake::Fault;

/// Three nodes over TCP that share one store, and a router in front of them. Node 1 leads.
struct Cluster {
    nodes: Vec<Fake>,
    router: Arc<Router>,
    records: RecordsClient<Channel>,
    search: SearchClient<Channel>,
}

const PATIENCE: Duration = Duration::from_millis(150);

impl Cluster {
    async fn new(partitions: u32, count: u64) -> Cluster {
        let listeners: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        let names: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let first = Fake::new(1, &names);
        let nodes = vec![first.clone(), first.beside(2), first.beside(3)];
        for (node, listener) in nodes.iter().zip(listeners) {
            node.serve_apart(listener);
        }
        let options = Options { nodes: addresses, patience: PATIENCE, seed: Some(1), ..Options::default() };
        let router = Router::start(options, None, Registry::new()).unwrap();
        let channel = server::in_process(router.clone(), server::Options::default());
        let mut one = spec("vms");
        one.partitions = partitions;
        let request = v1::CreateCollectionRequest { spec: Some(spec_to_wire(&one)) };
        CollectionsClient::new(channel.clone()).create(request).await.unwrap();
        first.lead(Some(1));
        let mut records = RecordsClient::new(channel.clone());
        if count > 0 {
            records.upsert(upsert((0..count).map(record))).await.unwrap();
        }
        Cluster { nodes, router, records, search: SearchClient::new(channel) }
    }

    async fn count(&mut self, read: v1::ReadOptions) -> Result<v1::CountResponse, tonic::Status> {
        self.count_within(read, Duration::from_secs(5)).await
    }

    async fn count_within(
        &mut self,
        read: v1::ReadOptions,
        time: Duration,
    ) -> Result<v1::CountResponse, tonic::Status> {
        let message = v1::CountRequest { collection: "vms".into(), filter: None, read: Some(read) };
        let mut request = Request::new(message);
        request.set_timeout(time);
        Ok(self.records.count(request).await?.into_inner())
    }

    /// How often each node was asked.
    fn asked(&self, operation: &str) -> Vec<usize> {
        self.nodes.iter().map(|node| node.seen(operation).len()).collect()
    }

    /// Pays for a known speed of counts, so that the next hedge comes soon.
    async fn warm_up(&mut self, read: v1::ReadOptions) {
        for _ in 0..25 {
            self.count(read.clone()).await.unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter().for_each(Fake::kill);
    }
}

fn read(consistency: Consistency, preference: ReadPreference) -> v1::ReadOptions {
    let (consistency, preference) = (consistency.into(), preference.into());
    v1::ReadOptions { consistency, preference, ..Default::default() }
}

fn any(preference: ReadPreference) -> v1::ReadOptions {
    read(Consistency::Any, preference)
}

fn nodes_of(coverage: Option<v1::Coverage>) -> Vec<u64> {
    coverage.unwrap().indexes.iter().map(|index| index.node).collect()
}

#[tokio::test]
async fn wrong_read_options_are_refused_by_every_verb_before_a_node_is_asked() {
    let mut cluster = Cluster::new(1, 10).await;
    let wrong = Some(v1::ReadOptions { max_lag_ms: 5, ..Default::default() });
    let count = v1::CountRequest { collection: "vms".into(), filter: None, read: wrong.clone() };
    let get = v1::GetRequest { collection: "vms".into(), read: wrong.clone(), ..Default::default() };
    let all = [
        cluster.records.count(count).await.unwrap_err(),
        cluster.records.get(get).await.unwrap_err(),
        cluster.records.scan(v1::ScanRequest { read: wrong.clone(), ..scan(1) }).await.unwrap_err(),
        cluster.records.scan_stream(v1::ScanRequest { read: wrong.clone(), ..scan(1) }).await.unwrap_err(),
        cluster.search.search(v1::SearchRequest { read: wrong, ..nearest(1.0, 1) }).await.unwrap_err(),
    ];
    for refused in all {
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.message(), "read.max_lag_ms: is 5, and goes with consistency bounded only");
    }
    assert_eq!(cluster.asked("count"), [0, 0, 0]);
}

#[tokio::test]
async fn the_preference_says_who_is_asked_and_the_answer_who_answered() {
    let mut cluster = Cluster::new(1, 10).await;
    let by_leader = cluster.count(any(ReadPreference::Leader)).await.unwrap();
    assert_eq!(nodes_of(by_leader.coverage), [1]);
    let mut others = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let answer = cluster.count(any(ReadPreference::Replica)).await.unwrap();
        others.extend(nodes_of(answer.coverage));
    }
    assert_eq!(others.into_iter().collect::<Vec<u64>>(), [2, 3], "the load is spread over the replicas");
    for preference in [ReadPreference::Replica, ReadPreference::Nearest] {
        let answer = cluster.count(read(Consistency::Linearizable, preference)).await.unwrap();
        assert_eq!(nodes_of(answer.coverage), [1], "linearizable is the leader's, whatever is preferred");
    }
}

#[tokio::test]
async fn the_nearest_is_the_one_that_answers_fastest() {
    let mut cluster = Cluster::new(1, 10).await;
    for node in [0, 1] {
        // As often as they can be asked: a busy machine is slow now and then too.
        for _ in 0..20 {
            cluster.nodes[node].fault("count", Fault::Slow(Duration::from_millis(300)));
        }
    }
    for _ in 0..3 {
        cluster.count(any(ReadPreference::Nearest)).await.unwrap();
    }
    let mut by_third = 0;
    for _ in 0..10 {
        let answer = cluster.count(any(ReadPreference::Nearest)).await.unwrap();
        by_third += usize::from(nodes_of(answer.coverage) == [3]);
    }
    assert!(by_third > 5, "{by_third} of 10");
}

#[tokio::test]
async fn tokens_and_lag_go_to_the_partition_they_are_for() {
    let mut cluster = Cluster::new(2, 20).await;
    let written = cluster.records.upsert(upsert((20..30).map(record))).await.unwrap().into_inner();
    let tokens = written.coverage.unwrap().indexes;
    assert_eq!(tokens.len(), 2);
    let options = v1::ReadOptions {
        tokens: tokens.clone(),
        max_lag_ms: 700,
        ..read(Consistency::Bounded, ReadPreference::Replica)
    };
    cluster.count(options).await.unwrap();
    let seen: Vec<_> = cluster.nodes.iter().flat_map(|node| node.seen("count")).collect();
    assert_eq!(seen.len(), 2);
    for call in seen {
        let fresh = call.fresh.unwrap();
        assert_eq!((fresh.consistency(), fresh.max_lag_ms), (Consistency::Bounded, 700));
        let token = tokens.iter().find(|token| token.partition == call.partition).unwrap();
        assert_eq!(fresh.at_least, token.log_index);
    }
}

#[tokio::test]
async fn a_paused_node_costs_a_read_little_and_soon_nothing() {
    let mut cluster = Cluster::new(1, 10).await;
    cluster.nodes[0].pause(true);
    let started = Instant::now();
    let options = read(Consistency::Bounded, ReadPreference::Leader);
    let answer = cluster.count(options.clone()).await.unwrap();
    assert_eq!(answer.count, 10);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    for _ in 0..4 {
        cluster.count(options.clone()).await.unwrap();
    }
    assert!(cluster.router.metrics.circuit_opens.get() >= 1);
    let before = cluster.asked("count")[0];
    for _ in 0..5 {
        cluster.count(options.clone()).await.unwrap();
    }
    assert!(
        cluster.asked("count")[0] <= before + 2,
        "its circuit is open: it is asked last, but for a probe"
    );

    cluster.nodes[0].pause(false);
    let answered_by_it = async {
        while nodes_of(cluster.count(options.clone()).await.unwrap().coverage) != [1] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, answered_by_it).await.expect("a probe closes the circuit");
}

#[tokio::test]
async fn a_new_leader_is_hidden_from_reads_and_writes() {
    let mut cluster = Cluster::new(1, 10).await;
    cluster.nodes[0].pause(true);
    cluster.nodes[0].lead(None);
    let follower = cluster.nodes[1].clone();
    let elected = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        follower.lead(Some(3));
    });
    let mut write = Request::new(upsert((10..12).map(record)));
    write.set_timeout(Duration::from_secs(5));
    let mut records = cluster.records.clone();
    let (written, counted) = tokio::join!(records.upsert(write), cluster.count(v1::ReadOptions::default()));
    assert_eq!(written.unwrap().into_inner().upserted, 2);
    assert!((10..=12).contains(&counted.unwrap().count));
    elected.await.unwrap();
    assert_eq!(nodes_of(cluster.count(v1::ReadOptions::default()).await.unwrap().coverage), [3]);
}

#[tokio::test]
async fn a_dead_node_is_no_error() {
    let mut cluster = Cluster::new(3, 30).await;
    cluster.nodes[0].kill();
    cluster.nodes[1].lead(Some(2));
    for _ in 0..3 {
        let mut request = Request::new(v1::SearchRequest { with_payload: true, ..nearest(5.0, 3) });
        request.set_timeout(Duration::from_secs(5));
        let found = cluster.search.search(request).await.unwrap().into_inner();
        assert_eq!(nodes_of(found.coverage), [2, 2, 2]);
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_sent_again_and_applied_once() {
    let mut cluster = Cluster::new(1, 0).await;
    cluster.nodes[0].fault("write", Fault::Swallow);
    let leader = cluster.nodes[0].clone();
    let swallowed = tokio::spawn(async move {
        while leader.log_index() == 0 {
            tokio::task::yield_now().await;
        }
        leader.lead(Some(2));
    });
    let written = cluster.records.upsert(upsert((0..5).map(record))).await.unwrap().into_inner();
    assert_eq!(
        nodes_of(written.coverage),
        [2],
        "the new leader answered from its memory of the first sending"
    );
    swallowed.await.unwrap();
    assert_eq!((cluster.nodes[0].log_index(), cluster.nodes[0].len()), (1, 5));
    let more = cluster.records.upsert(upsert((5..7).map(record))).await.unwrap().into_inner();
    assert_eq!(more.upserted, 2, "another write is another id");
}

#[tokio::test]
async fn a_hedge_is_sent_when_the_first_is_slow_and_the_faster_wins() {
    let mut cluster = Cluster::new(1, 10).await;
    let options = any(ReadPreference::Leader);
    cluster.warm_up(options.clone()).await;
    let operation = ["count"];
    cluster.nodes[0].fault("count", Fault::Hang);
    let started = Instant::now();
    let answer = cluster.count(options.clone()).await.unwrap();
    assert_ne!(nodes_of(answer.coverage), [1]);
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert_eq!(cluster.router.metrics.hedges.with_label_values(&operation).get(), 1);
    assert_eq!(cluster.router.metrics.hedges_won.with_label_values(&operation).get(), 1);
    tokio::time::timeout(SOON, cluster.nodes[0].cancelled()).await.expect("the slow one was dropped");

    cluster.nodes[0].fault("count", Fault::Slow(PATIENCE / 2));
    let whole = read(Consistency::Linearizable, ReadPreference::Leader);
    cluster.count(whole).await.unwrap();
    let hedges = cluster.router.metrics.hedges.with_label_values(&operation).get();
    assert_eq!(hedges, 1, "a hedge of a linearizable read helps nobody");
}

#[tokio::test]
async fn one_slow_node_is_not_given_up() {
    let mut cluster = Cluster::new(1, 10).await;
    cluster.nodes[0].fault("count", Fault::Slow(PATIENCE * 4));
    let answer = cluster.count(v1::ReadOptions::default()).await.unwrap();
    assert_eq!(nodes_of(answer.coverage), [1], "the others do not lead; the first try goes on meanwhile");
    assert_eq!(cluster.asked("count")[0], 1);
}

#[tokio::test]
async fn a_damaged_or_lagging_replica_is_passed_over() {
    let mut cluster = Cluster::new(1, 10).await;
    cluster.nodes[0].fault("count", Fault::Refuse(Refusal::DataLoss("segment 4".into())));
    cluster.nodes[1].fault("count", Fault::Refuse(Refusal::Unavailable("lags".into())));
    let answer = cluster.count(any(ReadPreference::Leader)).await.unwrap();
    assert_ne!(nodes_of(answer.coverage), [1]);
    for node in &cluster.nodes {
        node.fault("get", Fault::Refuse(Refusal::DataLoss("segment 4".into())));
    }
    let read = Some(any(ReadPreference::Leader));
    let get = v1::GetRequest { collection: "vms".into(), keys: vec![key(1)], read, ..Default::default() };
    let refused = cluster.records.get(get).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::DataLoss, "segment 4"));
}

#[tokio::test]
async fn winners_are_fetched_where_they_were_found_and_elsewhere_if_that_node_is_gone() {
    let mut cluster = Cluster::new(1, 10).await;
    let ask = || v1::SearchRequest {
        with_payload: true,
        read: Some(any(ReadPreference::Replica)),
        ..nearest(5.0, 3)
    };
    for _ in 0..8 {
        let found = cluster.search.search(ask()).await.unwrap().into_inner();
        let node = nodes_of(found.coverage)[0] as usize - 1;
        assert_eq!(cluster.nodes[node].seen("search").len(), cluster.nodes[node].seen("get").len());
    }
    for node in &cluster.nodes[1..] {
        node.fault("get", Fault::Refuse(Refusal::Unavailable("going down".into())));
    }
    let found = cluster.search.search(ask()).await.unwrap().into_inner();
    assert_eq!(found.hits.len(), 3);
    let seen = cluster.nodes.iter().flat_map(|node| node.seen("get")).last().unwrap();
    let fresh = seen.fresh.unwrap();
    assert_eq!((fresh.consistency(), fresh.at_least), (Consistency::Any, seen.view));
}

/// Three partitions of which each has one replica, the third on node 3, which is silent.
async fn without_the_third() -> (Cluster, v1::ReadOptions) {
    let cluster = Cluster::new(3, 60).await;
    cluster.nodes[0].change(true, |map| {
        map.epoch.0 += 1;
        map.collections[0].epoch = map.epoch;
        for partition in &mut map.collections[0].partitions {
            partition.replicas.truncate(1);
        }
    });
    cluster.nodes[0].lead_none_named();
    let epoch = cluster.nodes[0].map().epoch;
    cluster.router.placement().wait_for(epoch, crate::admission::Deadline::after(SOON)).await.unwrap();
    cluster.nodes[2].pause(true);
    let allow = v1::ReadOptions { partial: Partial::Allow.into(), ..Default::default() };
    (cluster, allow)
}

fn missing(coverage: Option<v1::Coverage>) -> (u32, u32, usize) {
    let coverage = coverage.unwrap();
    assert!(coverage.missing.iter().all(|missing| !missing.reason.is_empty()));
    (coverage.partitions_asked, coverage.partitions_answered, coverage.missing.len())
}

#[tokio::test]
async fn an_answer_without_a_silent_partition_comes_only_if_allowed_and_says_so() {
    let (mut cluster, allow) = without_the_third().await;
    let time = Duration::from_millis(500);
    let denied = cluster.count_within(v1::ReadOptions::default(), time).await.unwrap_err();
    assert_eq!(denied.code(), Code::DeadlineExceeded);
    let counted = cluster.count_within(allow.clone(), time).await.unwrap();
    assert!(counted.count > 0 && counted.count < 60);
    assert_eq!(missing(counted.coverage), (3, 2, 1));

    let mut search =
        Request::new(v1::SearchRequest { with_payload: true, read: Some(allow.clone()), ..nearest(5.0, 60) });
    search.set_timeout(time);
    let found = cluster.search.search(search).await.unwrap().into_inner();
    assert_eq!(found.hits.len() as u64, counted.count);
    assert_eq!(missing(found.coverage), (3, 2, 1));

    let keys = (0..60).map(key).collect();
    let mut get = Request::new(v1::GetRequest {
        collection: "vms".into(),
        keys,
        read: Some(allow.clone()),
        ..Default::default()
    });
    get.set_timeout(time);
    let got = cluster.records.get(get).await.unwrap().into_inner();
    assert_eq!(got.records.len() as u64, counted.count);
    assert_eq!(missing(got.coverage), (3, 2, 1));
    let of = |operation| cluster.router.metrics.partial_answers.with_label_values(&[operation]).get();
    assert_eq!((of("count"), of("search"), of("get")), (1, 1, 1));

    for node in &cluster.nodes {
        node.pause(true);
    }
    let refused = cluster.count_within(allow, time).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "an answer of nobody is none");
}

#[tokio::test]
async fn pages_without_a_silent_partition_say_so_and_give_no_key_twice() {
    let (mut cluster, allow) = without_the_third().await;
    let mut next = String::new();
    let mut keys = Vec::new();
    for page in 0.. {
        let ask = v1::ScanRequest { read: Some(allow.clone()), next: next.clone(), ..scan(12) };
        let mut request = Request::new(ask);
        request.set_timeout(Duration::from_millis(400));
        let answer = cluster.records.scan(request).await.unwrap().into_inner();
        keys.extend(answer.items.iter().map(number));
        assert_eq!(missing(answer.coverage), if page == 0 { (3, 2, 1) } else { (3, 3, 0) });
        cluster.nodes[2].pause(false);
        next = answer.next;
        if next.is_empty() {
            break;
        }
    }
    assert!(keys.is_sorted_by(|a, b| a < b), "no key twice: {keys:?}");
    assert!(keys.len() > 40 && keys.len() < 60, "the silent partition's first keys are missing");
}
