//! Comparing replicas: the verdict, and what becomes of who is wrong.

use std::collections::BTreeMap;

use flotilla_proto::record::Key;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::*;
use crate::partition::Write;
use crate::partition::house::{FRESH, House, SELF, SOON, stopped, upsert, whole};
use crate::storage::quarantine::MARK;

fn comparison(leader: u64, digests: &[(u64, &str)]) -> Comparison {
    let digest = |(node, digest): &(u64, &str)| match *digest {
        "" => (NodeId(*node), Err("gone".to_owned())),
        digest => (NodeId(*node), Ok(digest.to_owned())),
    };
    Comparison { index: 9, leader: NodeId(leader), digests: digests.iter().map(digest).collect() }
}

#[test]
fn the_majority_is_right_and_without_one_the_leader() {
    let divergent = |leader, digests: &[(u64, &str)]| -> Vec<u64> {
        comparison(leader, digests).divergent().into_iter().map(|node| node.0).collect()
    };
    assert_eq!(divergent(1, &[(1, "a"), (2, "a"), (3, "a")]), [0; 0]);
    assert_eq!(divergent(1, &[(1, "a"), (2, "a"), (3, "b")]), [3]);
    assert_eq!(divergent(3, &[(1, "a"), (2, "a"), (3, "b")]), [3], "the leader too may be wrong");
    assert_eq!(divergent(2, &[(1, "a"), (2, "b")]), [1]);
    assert_eq!(divergent(2, &[(1, "a"), (2, "b"), (3, "c")]), [1, 3]);
    assert_eq!(divergent(2, &[(1, "a"), (2, "b"), (3, "a"), (4, "b")]), [1, 3]);
    assert_eq!(divergent(1, &[(1, "a"), (2, ""), (3, "b")]), [3], "who is silent has no vote");
    assert_eq!(divergent(1, &[(1, ""), (2, "a"), (3, "b")]), [0; 0], "nobody to go by");
    assert!(comparison(1, &[(1, "a"), (2, "a")]).is_equal());
    assert!(!comparison(1, &[(1, "a"), (2, "")]).is_equal(), "silence is no equality");
}

async fn count(house: &House, id: u64) -> u64 {
    house.replica(id).await.unwrap().count(None, FRESH, &whole()).await.unwrap().0
}

/// What a fake holder says; `None`: what the replica itself would.
type Says = Option<Result<&'static str, &'static str>>;

/// Other holders of a partition that this node leads.
struct Others {
    replica: Arc<Replica>,
    says: BTreeMap<NodeId, Says>,
    asked: Mutex<Vec<(NodeId, Question)>>,
}

impl Others {
    fn new(replica: &Arc<Replica>, says: &[(u64, Says)]) -> Arc<Others> {
        let says = says.iter().map(|(node, says)| (NodeId(*node), *says)).collect();
        Arc::new(Others { replica: replica.clone(), says, asked: Mutex::default() })
    }

    /// (node, majority) of those who were told that they are wrong.
    fn told(&self) -> Vec<(NodeId, String)> {
        let asked = self.asked.lock();
        asked.iter().filter_map(|(node, question)| Some((*node, question.majority.clone()?))).collect()
    }
}

impl Ask for Others {
    fn ask(&self, node: NodeId, question: Question) -> BoxFuture<'_, Result<String, Refusal>> {
        self.asked.lock().push((node, question.clone()));
        async move {
            match self.says[&node] {
                None => Ok(self.replica.digest_at(question.index, question.deep).await?.to_string()),
                Some(said) => said.map(str::to_owned).map_err(|why| Refusal::Unavailable(why.to_owned())),
            }
        }
        .boxed()
    }
}

/// The background over one replica, and the replicas it reported.
/// Divergent replicas that the hook heard of: (partition, node).
type Heard = Arc<Mutex<Vec<(u64, u64)>>>;

fn background(house: &House, others: &Arc<Others>) -> (Equality, Heard) {
    let reported = Arc::new(Mutex::new(Vec::new()));
    let report = reported.clone();
    let hook: OnDivergent = Arc::new(move |partition, node| report.lock().push((partition.0, node.0)));
    (Equality::new(SELF, house.registry.clone(), others.clone(), Options::default(), hook), reported)
}

fn counted(equality: &Equality) -> u64 {
    equality.divergences().unwrap().with_label_values(&["1"]).get()
}

fn holders(n: u64) -> Vec<NodeId> {
    (1..=n).map(NodeId).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_replicas_are_asked_again_only_after_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 1).await;
    let replica = house.replica(1).await.unwrap();
    upsert(&replica, 0..120).await.unwrap();
    let others = Others::new(&replica, &[(2, None), (3, None)]);
    let (equality, reported) = background(&house, &others);
    for _ in 0..3 {
        equality.look_at(&replica, holders(3)).await.unwrap();
    }
    assert_eq!((others.asked.lock().len(), reported.lock().len(), counted(&equality)), (2, 0, 0));
    upsert(&replica, 0..1).await.unwrap();
    equality.look_at(&replica, holders(3)).await.unwrap();
    assert_eq!(others.asked.lock().len(), 4);
    // Alone there is nobody to differ from, and nothing is proposed.
    let written = upsert(&replica, 0..1).await.unwrap();
    equality.look_at(&replica, holders(1)).await.unwrap();
    assert_eq!(replica.store.view().at, written.log_index);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_divergent_holder_is_counted_told_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 1).await;
    let replica = house.replica(1).await.unwrap();
    upsert(&replica, 0..20).await.unwrap();
    let others = Others::new(&replica, &[(2, None), (3, Some(Ok("bad"))), (4, Some(Err("it is down")))]);
    let (equality, reported) = background(&house, &others);
    equality.look_at(&replica, holders(4)).await.unwrap();
    let digest = replica.store.digest().to_string();
    assert_eq!((counted(&equality), reported.lock().clone()), (1, vec![(1, 3)]));
    assert_eq!(others.told(), [(NodeId(3), digest)]);
    assert_eq!(replica.quarantined(), None);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_in_the_minority_goes_itself_and_stays_out_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 2).await;
    let replica = house.replica(1).await.unwrap();
    upsert(&replica, 0..20).await.unwrap();
    let others = Others::new(&replica, &[(2, Some(Ok("good"))), (3, Some(Ok("good")))]);
    let (equality, reported) = background(&house, &others);
    equality.look_at(&replica, holders(3)).await.unwrap();
    assert_eq!(reported.lock().clone(), [(1, 1)]);
    assert!(replica.quarantined().unwrap().contains("differs from the other replicas"));
    // Whoever holds it gets no answer, nor does who asks for it; it takes no part in its group.
    for refused in [
        upsert(&replica, 0..1).await.map(drop),
        replica.count(None, FRESH, &whole()).await.map(drop),
        replica.view_at(3, FRESH).await.map(drop),
        replica.digest_at(3, false).await.map(drop),
        house.replica(1).await.map(drop),
    ] {
        assert!(matches!(&refused, Err(Refusal::DataLoss(why)) if why.contains("rebuilt")), "{refused:?}");
    }
    stopped(&replica).await;
    assert_eq!(house.registry.serving().len(), 1, "the other serves");
    upsert(&house.replica(2).await.unwrap(), 0..1).await.unwrap();
    drop((replica, equality, others));
    house.close().await;

    let house = House::open(dir.path(), 2).await;
    assert!(matches!(house.replica(1).await, Err(Refusal::DataLoss(_))));
    assert_eq!(house.registry.quarantined()[0].0, PartitionId(1));
    assert_eq!(count(&house, 2).await, 1);
    house.close().await;
    // An operator who knows better.
    std::fs::remove_file(dir.path().join("partitions/1").join(MARK)).unwrap();
    let house = House::open(dir.path(), 2).await;
    assert_eq!(count(&house, 1).await, 20);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_hears_of_another_majority_quarantines_itself() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 1).await;
    let replica = house.replica(1).await.unwrap();
    let comparison = replica.digest_now(false, SOON).await.unwrap();
    let own = comparison.digests[&SELF].clone().unwrap();
    replica.digest_or_quarantine(comparison.index, false, "").await.unwrap();
    replica.digest_or_quarantine(comparison.index, false, &own).await.unwrap();
    assert_eq!(replica.quarantined(), None);
    assert!(house.registry.quarantined().is_empty());
    let told = replica.digest_or_quarantine(comparison.index, false, "other").await.unwrap();
    assert_eq!(told.to_string(), own, "it still says what it has");
    assert!(replica.quarantined().is_some());
    assert!(house.registry.serving().is_empty());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_digests_are_taken_at_one_index_while_writes_go_on() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut deep = Vec::new();
    for dir in &dirs {
        let house = House::open(dir.path(), 1).await;
        let replica = house.replica(1).await.unwrap();
        upsert(&replica, 0..120).await.unwrap();
        replica.write(None, Write::Delete(vec![Key::Number(3)]), &whole()).await.unwrap();
        let comparison = replica.digest_now(true, SOON).await.unwrap();
        upsert(&replica, 0..50).await.unwrap();
        let digest = comparison.digests[&SELF].clone().unwrap();
        let again = replica.digest_at(comparison.index, true).await.unwrap();
        assert_eq!(again.to_string(), digest, "of then, not of now");
        assert_ne!(replica.digest_at(comparison.index, false).await.unwrap(), again);
        let unknown = replica.digest_at(comparison.index - 1, false).await.unwrap_err();
        assert!(matches!(unknown, Refusal::Aborted(_)), "{unknown:?}");
        deep.push((comparison.index, digest));
        house.close().await;
    }
    assert_eq!(deep[0], deep[1], "two replicas of one history");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_divergence_is_found() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let houses = [House::open(dirs[0].path(), 1).await, House::open(dirs[1].path(), 1).await];
    let [one, other] = [houses[0].replica(1).await.unwrap(), houses[1].replica(1).await.unwrap()];
    for replica in [&one, &other] {
        upsert(replica, 0..20).await.unwrap();
    }
    other.store.skips_delete.store(true, std::sync::atomic::Ordering::SeqCst);
    for replica in [&one, &other] {
        let gone = replica.write(None, Write::Delete(vec![Key::Number(7)]), &whole()).await.unwrap();
        assert_eq!(gone.affected, 1);
    }
    for deep in [false, true] {
        let digests =
            [one.digest_now(deep, SOON).await.unwrap(), other.digest_now(deep, SOON).await.unwrap()];
        assert_eq!(digests[0].index, digests[1].index);
        assert_ne!(digests[0].digests, digests[1].digests);
    }
    for house in houses {
        house.close().await;
    }
}
