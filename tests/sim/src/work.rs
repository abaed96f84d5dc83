//! The clients' host: it makes the collection, lets clients work through the storm, and demands at the end what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_proto::v1::plan_request::Goal;
use flotilla_tests::api::Api;
use flotilla_tests::history::Recorder;
use flotilla_tests::load::{self, Client, Owners, Work};
use flotilla_tests::seed::Seed;
use parking_lot::Mutex;
use tonic::Status;
use tonic::transport::Endpoint;

use crate::host::DATA;
use crate::net;
use crate::plan::Plan;

/// The collection that all work on.
pub const COLLECTION: &str = "sim";
/// The one whose groups are replaced, in some plans.
pub const GROUPS: &str = "sim-groups";
/// The partitions that it has at first.
pub const GROUP_PARTITIONS: u32 = 2;
const CALL_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Where the run stands; the storm and the clients tell each other here.
#[derive(Debug, Default)]
pub struct Stage {
    /// The collection is there.
    pub is_set: AtomicBool,
    /// The storm is over: clients end.
    pub is_over: AtomicBool,
    /// All that was demanded at the end held.
    pub is_done: AtomicBool,
    /// What is not yet as demanded.
    pub lacks: Mutex<String>,
    /// What an operator wants done.
    pub wishes: Mutex<Vec<Wish>>,
    /// Whether one of them is being planned or applied.
    pub is_planning: AtomicBool,
    /// Goals that were taken up.
    pub applied: Mutex<Vec<String>>,
}

/// What an operator may want.
#[derive(Clone, Debug)]
pub enum Wish {
    /// A plan, made and applied.
    Plan(Goal),
    /// So many shard nodes; none: as many as there are.
    Scale(Option<u32>),
}

impl Stage {
    fn lacks(&self, what: impl Into<String>) {
        *self.lacks.lock() = what.into();
    }
}

fn api(router: usize) -> Api {
    let uri = format!("http://router{router}:{DATA}");
    let endpoint = Endpoint::from_shared(uri).unwrap_or_else(|_| Endpoint::from_static("http://router1"));
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(1))
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true);
    Api::over(net::connect(&endpoint)).within(CALL_WITHIN)
}

/// The host's program.
pub async fn run(plan: Plan, stage: Arc<Stage>, recorder: Arc<Recorder>) -> turmoil::Result {
    let routers: Vec<Api> = (1..=plan.routers).map(api).collect();
    set_up(&plan, &stage, &routers).await;
    let work = Work {
        clients: plan.clients,
        keys: plan.keys,
        pace: plan.pace,
        deadline: CALL_WITHIN,
        clocks_off: plan.clocks_off(),
        groups: plan.has_groups.then(|| GROUPS.to_owned()),
        ..Work::on(COLLECTION)
    };
    let owners = owners(&stage, &routers[0], &work).await;
    let seed = Seed::fixed(plan.seed);
    let mut clients = Vec::new();
    for _ in 0..plan.clients {
        let mut client = Client::over(&recorder, routers.clone(), &seed, &work);
        let stage = stage.clone();
        clients.push(tokio::spawn(async move {
            while !stage.is_over.load(Ordering::SeqCst) {
                client.step().await;
                tokio::time::sleep(client.pace()).await;
            }
        }));
    }
    let operator = tokio::spawn(operate(routers.clone(), stage.clone()));
    for client in clients {
        client.await?;
    }
    operator.abort();
    settle(&plan, &stage, &routers, &recorder, &seed, &work).await?;
    owners.note_moved(&self::owners(&stage, &routers[0], &work).await, &recorder);
    stage.is_done.store(true, Ordering::SeqCst);
    Ok(())
}

/// Who owns the keys at the moment.
async fn owners(stage: &Stage, router: &Api, work: &Work) -> Owners {
    loop {
        match Owners::of(router, &work.collection, work.keys).await {
            Ok(owners) => return owners,
            Err(why) => stage.lacks(format!("nobody tells who owns the keys: {why}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for the members, and makes the collections.
async fn set_up(plan: &Plan, stage: &Stage, routers: &[Api]) {
    loop {
        let members = routers[0].placement().await.map_or(0, |map| map.nodes.len());
        if members == plan.nodes + plan.learners {
            match create(plan, &routers[0]).await {
                Ok(()) => break,
                Err(why) => stage.lacks(format!("a collection is not made: {why}")),
            }
        } else {
            stage.lacks(format!("{members} members"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    stage.lacks("");
    stage.is_set.store(true, Ordering::SeqCst);
}

async fn create(plan: &Plan, router: &Api) -> Result<(), Status> {
    let groups = plan.has_groups.then(|| load::groups(GROUPS, GROUP_PARTITIONS));
    for spec in [load::collection(COLLECTION, plan.partitions)].into_iter().chain(groups) {
        let spec = v1::CollectionSpec { replication_factor: 3, ..spec };
        match router.create(v1::CreateCollectionRequest { spec: Some(spec) }).await {
            Err(why) if why.code() != tonic::Code::AlreadyExists => return Err(why),
            _ => {}
        }
    }
    Ok(())
}

/// Does what the storm asks for, one after the other; each by whichever router takes it up.
async fn operate(routers: Vec<Api>, stage: Arc<Stage>) {
    loop {
        let wish = stage.wishes.lock().pop();
        if let Some(wish) = wish {
            stage.is_planning.store(true, Ordering::SeqCst);
            for router in routers.iter().cycle().take(20) {
                if let Ok(applied) = grant(router, &wish).await {
                    stage.applied.lock().push(applied);
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            stage.is_planning.store(false, Ordering::SeqCst);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn grant(router: &Api, wish: &Wish) -> Result<String, Status> {
    match wish {
        Wish::Plan(goal) => {
            let request = v1::PlanRequest { goal: Some(goal.clone()) };
            let plan = router.plan(request.clone()).await?;
            let apply = v1::ApplyRequest { plan: Some(request), epoch: plan.epoch };
            Ok(format!("{:?}", router.apply(apply).await?.moves))
        }
        Wish::Scale(to) => {
            let status = router.scale(v1::ScaleRequest { to: *to }).await?.status;
            Ok(format!("{to:?} nodes: {:?}", status.map(|status| status.leaving)))
        }
    }
}

/// After the storm: every key is read, every replica answers, and all are equal.
async fn settle(
    plan: &Plan,
    stage: &Stage,
    routers: &[Api],
    recorder: &Arc<Recorder>,
    seed: &Seed,
    work: &Work,
) -> turmoil::Result {
    loop {
        match compare(plan, &routers[0]).await {
            Ok(()) => break,
            Err(why) => stage.lacks(why),
        }
        tokio::time::sleep(PAUSE).await;
    }
    let mut reader = Client::over(recorder, routers.to_vec(), seed, work);
    loop {
        match reader.expiring().await {
            Ok(keys) if keys.is_empty() => break,
            Ok(keys) => stage.lacks(format!("records stay, and their time is over: keys {keys:?}")),
            Err(why) => stage.lacks(format!("records that expire are not read: {why}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
    stage.lacks("every key is read once more");
    loop {
        let before = recorder.note(|history| history.acknowledged());
        let calls = reader.get_all().await + 1;
        reader.scan().await;
        if recorder.note(|history| history.acknowledged()) == before + calls {
            break;
        }
    }
    Ok(())
}

fn name(placement: &v1::CollectionPlacement) -> Option<&str> {
    Some(placement.collection.as_ref()?.spec.as_ref()?.name.as_str())
}

async fn compare(plan: &Plan, router: &Api) -> Result<(), String> {
    for collection in [COLLECTION].into_iter().chain(plan.has_groups.then_some(GROUPS)) {
        compare_replicas(router, collection).await?;
    }
    drained(router).await
}

/// Whether nodes that are to go hold nothing any more.
async fn drained(router: &Api) -> Result<(), String> {
    let map = router.placement().await.map_err(|why| format!("no map: {why}"))?;
    let is_leaving = |node: &&v1::Node| node.state() == v1::NodeState::Draining;
    let leaving: BTreeSet<u64> = map.nodes.iter().filter(is_leaving).map(|node| node.id).collect();
    let mut partitions = map.collections.iter().flat_map(|collection| &collection.partitions);
    match partitions.find(|partition| partition.replicas.iter().any(|node| leaving.contains(node))) {
        Some(left) => Err(format!("nodes {leaving:?} are not drained: partition {left:?}")),
        None => Ok(()),
    }
}

/// Whether every replica of the collection gives a digest, and all of a partition are equal.
async fn compare_replicas(router: &Api, called: &str) -> Result<(), String> {
    let map = router.placement().await.map_err(|why| format!("no map: {why}"))?;
    let collection =
        map.collections.iter().find(|c| name(c) == Some(called)).ok_or("a collection is gone")?;
    let mut by_partition: BTreeMap<u64, BTreeSet<(u64, String)>> = BTreeMap::new();
    let answers = router.verify(called, true).await.map_err(|why| format!("no digests: {why}"))?;
    let digests: Vec<v1::ReplicaDigest> = answers.into_iter().flat_map(|answer| answer.replicas).collect();
    let wanted: usize = collection.partitions.iter().map(|p| p.replicas.len() + p.learners.len()).sum();
    if digests.len() < wanted {
        return Err(format!("{} of {wanted} replicas give a digest", digests.len()));
    }
    for digest in digests {
        if !digest.error.is_empty() {
            return Err(format!("partition {} on node {}: {}", digest.partition, digest.node, digest.error));
        }
        by_partition.entry(digest.partition).or_default().insert((digest.log_index, digest.digest));
    }
    match by_partition.iter().find(|(_, digests)| digests.len() != 1) {
        Some(differ) => Err(format!("replicas differ: {differ:?}")),
        None => Ok(()),
    }
}
