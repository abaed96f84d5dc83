use std::collections::BTreeMap;

use flotilla_proto::ids::PartitionId;
use flotilla_proto::placement::Role;
use flotilla_proto::schema::Strategy;

use super::moves::{Kind, State};
use super::replaces::Turn;
use super::*;
use crate::meta::plan;

fn node(n: u128) -> Node {
    Node::new(NodeId(0), Uuid::from_u128(n), format!("h{n}:1"))
}

fn with_nodes(count: u128) -> Catalogue {
    let mut catalogue = Catalogue::default();
    for n in 1..=count {
        assert_eq!(catalogue.introduce(node(n)), Ok(Outcome::Node(NodeId(n as u64))));
    }
    catalogue
}

fn spec(name: &str) -> CollectionSpec {
    CollectionSpec { name: name.into(), partitions: 3, replication_factor: 1, ..Default::default() }
}

fn everybody(catalogue: &Catalogue) -> Vec<NodeId> {
    catalogue.map.nodes.iter().map(|node| node.id).collect()
}

fn create(catalogue: &mut Catalogue, spec: CollectionSpec) -> CollectionPlacement {
    let alive = everybody(catalogue);
    match catalogue.create(Uuid::from_u128(7), spec, &alive, None).unwrap() {
        Outcome::Placement(placement) => placement,
        other => panic!("{other:?}"),
    }
}

fn refused(outcome: Result<Outcome, Refused>) -> String {
    Refusal::from(outcome.unwrap_err()).to_string()
}

#[test]
fn partition_ids_are_never_reused_and_each_change_is_an_epoch() {
    let mut catalogue = with_nodes(1);
    let first = create(&mut catalogue, spec("a"));
    assert_eq!(first.partitions.iter().map(|p| p.id.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(first.epoch, Epoch(2));
    catalogue.delete("a").unwrap();
    let again = create(&mut catalogue, spec("a"));
    assert_eq!(again.partitions[0].id, PartitionId(4));
    assert_eq!(again.epoch, Epoch(4));
    assert!(again.partitions.iter().all(|p| p.replicas == [NodeId(1)]));
}

#[test]
fn refusals_change_nothing_and_survive_encoding() {
    let mut catalogue = with_nodes(1);
    create(&mut catalogue, spec("a"));
    let before = catalogue.clone();
    let refused = |catalogue: &mut Catalogue, change: Change| {
        let answer = catalogue.apply(&change.encode().unwrap()).unwrap();
        decode_outcome(&answer).unwrap().expect_err("refused")
    };
    let again = Change::Create { id: Uuid::nil(), spec: spec("a"), alive: vec![NodeId(1)] };
    assert_eq!(refused(&mut catalogue, again), Refusal::AlreadyExists("collection", "a".into()));
    let gone = Change::Delete { name: "b".into() };
    assert_eq!(refused(&mut catalogue, gone), Refusal::NotFound("collection", "b".into()));
    let ef = Change::Update {
        name: "a".into(),
        add_fields: BTreeMap::new(),
        ef_search: [("v".to_owned(), 9)].into(),
    };
    assert!(refused(&mut catalogue, ef).to_string().contains("ef_search[v]"));
    let three = CollectionSpec { replication_factor: 3, ..spec("b") };
    let three = Change::Create { id: Uuid::nil(), spec: three, alive: vec![NodeId(1)] };
    assert!(
        refused(&mut catalogue, three).to_string().contains("3 replicas need as many shard nodes; 1 are")
    );
    assert_eq!(catalogue, before);
}

#[test]
fn a_declared_field_keeps_its_type() {
    let mut catalogue = with_nodes(1);
    create(&mut catalogue, spec("a"));
    let add = |kind| [("f".to_owned(), kind)].into();
    catalogue.update("a", add(FieldType::Integer), BTreeMap::new()).unwrap();
    catalogue.update("a", add(FieldType::Integer), BTreeMap::new()).unwrap();
    let why = refused(catalogue.update("a", add(FieldType::Bool), BTreeMap::new()));
    assert!(why.contains("declared as integer and cannot become bool"));
}

#[test]
fn identities_are_kept_and_never_come_back_once_gone() {
    let mut catalogue = with_nodes(3);
    let epoch = catalogue.map.epoch;
    let known = Node { id: NodeId(2), ..node(2) };
    assert_eq!(catalogue.introduce(known), Ok(Outcome::Node(NodeId(2))));
    assert_eq!(catalogue.map.epoch, epoch, "nothing new, no epoch");
    let moved = Node { address: "elsewhere:1".into(), ..node(2) };
    catalogue.introduce(moved).unwrap();
    assert_eq!(catalogue.map.node(NodeId(2)).unwrap().address, "elsewhere:1");
    assert!(refused(catalogue.introduce(Node { id: NodeId(3), ..node(2) })).contains("belongs to node 2"));
    assert!(refused(catalogue.introduce(Node { id: NodeId(3), ..node(9) })).contains("not a member"));
    catalogue.remove(NodeId(3)).unwrap();
    assert!(refused(catalogue.introduce(node(3))).contains("has left the cluster"));
    assert_eq!(catalogue.introduce(node(4)), Ok(Outcome::Node(NodeId(4))), "an id is never used twice");
    let ordinal = |n, ordinal| Node { ordinal: Some(ordinal), ..node(n) };
    catalogue.introduce(ordinal(5, 0)).unwrap();
    assert!(refused(catalogue.introduce(ordinal(6, 0))).contains("ordinal 0 belongs to node 5"));
}

#[test]
fn learners_are_on_every_replica_node() {
    let mut catalogue = with_nodes(1);
    create(&mut catalogue, spec("a"));
    catalogue.introduce(Node { role: Role::Replica, ..node(8) }).unwrap();
    let placement = create(&mut catalogue, spec("b"));
    let has_learner =
        |p: &flotilla_proto::placement::Partition| p.learners == [NodeId(2)] && p.replicas == [NodeId(1)];
    assert!(placement.partitions.iter().all(has_learner));
    assert!(catalogue.map.partitions().all(|(_, p)| has_learner(p)));
    catalogue.remove(NodeId(2)).unwrap();
    assert!(catalogue.map.partitions().all(|(_, p)| p.learners.is_empty()));
}

#[test]
fn a_learner_goes_and_comes_again_and_stays_where_that_is_given_up() {
    let mut catalogue = with_nodes(1);
    catalogue.introduce(Node { role: Role::Replica, ..node(8) }).unwrap();
    let placement = create(&mut catalogue, spec("a"));
    let (collection, partition, learner) = (placement.id, placement.partitions[0].id, NodeId(2));
    let rebuild = |catalogue: &mut Catalogue| {
        let goal = plan::Goal::Rebuild(partition, learner);
        let planned = plan::plan(&catalogue.map, &goal, &plan::Facts::default()).unwrap();
        let before = catalogue.moves.all().count() as u64;
        catalogue.queue(catalogue.map.epoch, planned.moves).unwrap();
        (before + 1..=catalogue.moves.all().count() as u64).collect::<Vec<u64>>()
    };
    let learners = |catalogue: &Catalogue| catalogue.map.partition(partition).unwrap().1.learners.clone();
    let [goes, comes] = rebuild(&mut catalogue)[..] else { panic!("it goes and comes") };
    let epoch = catalogue.map.collection_by_id(collection).unwrap().epoch;
    catalogue.start_move(goes).unwrap();
    assert!(learners(&catalogue).is_empty(), "it is gone while it goes");
    assert!(catalogue.map.collection_by_id(collection).unwrap().epoch > epoch);
    catalogue.end_move(goes, None).unwrap();
    assert!(learners(&catalogue).is_empty());
    catalogue.start_move(comes).unwrap();
    catalogue.end_move(comes, None).unwrap();
    assert_eq!((learners(&catalogue), voters(&catalogue, partition)), (vec![learner], vec![NodeId(1)]));
    let [goes, comes] = rebuild(&mut catalogue)[..] else { panic!("it goes and comes") };
    catalogue.start_move(goes).unwrap();
    catalogue.end_move(goes, Some("given up".into())).unwrap();
    assert_eq!(learners(&catalogue), [learner], "it stays");
    catalogue.start_move(comes).unwrap();
    assert_eq!(learners(&catalogue), [learner], "once");
}

fn voters(catalogue: &Catalogue, partition: PartitionId) -> Vec<NodeId> {
    catalogue.map.partition(partition).unwrap().1.replicas.clone()
}

#[test]
fn the_meta_group_has_one_voter_or_three_and_replaces_the_lost() {
    let mut catalogue = with_nodes(2);
    catalogue.map.meta = vec![NodeId(1)];
    assert_eq!(catalogue.voters_wanted(|_| true), [NodeId(1)]);
    catalogue.introduce(node(3)).unwrap();
    catalogue.introduce(node(4)).unwrap();
    assert_eq!(catalogue.voters_wanted(|_| true), [NodeId(1), NodeId(2), NodeId(3)]);
    catalogue.map.meta = vec![NodeId(1), NodeId(2), NodeId(3)];
    assert_eq!(catalogue.voters_wanted(|n| n != NodeId(2)), [NodeId(1), NodeId(3), NodeId(4)]);
    let few = catalogue.voters_wanted(|n| n == NodeId(1));
    assert_eq!(few, [NodeId(1), NodeId(2), NodeId(3)], "nobody can stand in");
    catalogue.set_state(NodeId(1), NodeState::Draining).unwrap();
    assert_eq!(catalogue.voters_wanted(|_| true), [NodeId(2), NodeId(3), NodeId(4)]);
}

fn replica_move(collection: CollectionId, add: Option<u64>, remove: Option<u64>) -> NewMove {
    let kind = Kind::Replica { partition: PartitionId(1), add: add.map(NodeId), remove: remove.map(NodeId) };
    NewMove { collection, kind, bytes: 0, reason: "test".into() }
}

#[test]
fn moves_of_a_partition_run_one_after_the_other_and_change_the_map_at_their_end() {
    let mut catalogue = with_nodes(3);
    let placement =
        create(&mut catalogue, CollectionSpec { partitions: 1, replication_factor: 2, ..spec("a") });
    assert_eq!(placement.partitions[0].replicas, [NodeId(1), NodeId(2)]);
    let epoch = catalogue.map.epoch;
    let moves =
        vec![replica_move(placement.id, Some(3), Some(1)), replica_move(placement.id, Some(1), Some(2))];
    assert!(refused(catalogue.queue(Epoch(0), moves.clone())).contains("plan again"));
    assert_eq!(catalogue.queue(epoch, moves), Ok(Outcome::Moves(vec![1, 2])));
    let due = |c: &Catalogue| c.moves.due().iter().map(|m| m.id).collect::<Vec<_>>();
    assert_eq!(due(&catalogue), [1]);
    catalogue.start_move(1).unwrap();
    assert!(due(&catalogue).is_empty());
    let partition = catalogue.map.partition(PartitionId(1)).unwrap().1.clone();
    assert_eq!(partition.wanted(), [NodeId(3), NodeId(2)]);
    assert_eq!(partition.holders().collect::<Vec<_>>(), [NodeId(1), NodeId(2), NodeId(3)]);
    catalogue.end_move(1, None).unwrap();
    catalogue.end_move(1, None).unwrap();
    assert_eq!(catalogue.map.partition(PartitionId(1)).unwrap().1.replicas, [NodeId(3), NodeId(2)]);
    assert_eq!(due(&catalogue), [2]);
    catalogue.control(Control::Pause).unwrap();
    assert!(due(&catalogue).is_empty());
    catalogue.control(Control::Resume).unwrap();
    catalogue.start_move(2).unwrap();
    catalogue.control(Control::Abort(Some(2))).unwrap();
    let partition = catalogue.map.partition(PartitionId(1)).unwrap().1.clone();
    assert_eq!((partition.replicas, partition.change), (vec![NodeId(3), NodeId(2)], None));
    assert!(catalogue.end_move(2, None).is_err(), "too late");
    assert!(catalogue.control(Control::Abort(Some(1))).is_err());
}

#[test]
fn a_move_that_makes_no_sense_any_more_fails() {
    let mut catalogue = with_nodes(2);
    let placement = create(&mut catalogue, CollectionSpec { partitions: 1, ..spec("a") });
    let moves = vec![replica_move(placement.id, None, Some(1)), replica_move(placement.id, Some(9), Some(1))];
    catalogue.queue(catalogue.map.epoch, moves).unwrap();
    for id in [1, 2] {
        catalogue.start_move(id).unwrap();
        assert_eq!(catalogue.moves.get(id).unwrap().state, State::Failed);
    }
    assert_eq!(catalogue.map.partition(PartitionId(1)).unwrap().1.change, None);
}

#[test]
fn slots_change_their_owner_at_the_end_of_their_move() {
    let mut catalogue = with_nodes(1);
    let placement = create(&mut catalogue, CollectionSpec { partitions: 1, ..spec("a") });
    let grown = match catalogue.grow("a", 2, &[NodeId(1)], Vec::new()).unwrap() {
        Outcome::Placement(grown) => grown,
        other => panic!("{other:?}"),
    };
    assert_eq!((grown.partitions.len(), grown.spec.partitions), (2, 2));
    assert!(grown.slots.iter().all(|owner| *owner == 0));
    let kind = Kind::Slots { from: grown.partitions[0].id, to: grown.partitions[1].id, slots: vec![3, 9] };
    let new = NewMove { collection: placement.id, kind, bytes: 0, reason: "grow".into() };
    catalogue.queue(catalogue.map.epoch, vec![new]).unwrap();
    catalogue.start_move(1).unwrap();
    assert_eq!(catalogue.map.collection("a").unwrap().slot_move.as_ref().unwrap().slots, [3, 9]);
    catalogue.end_move(1, None).unwrap();
    let after = catalogue.map.collection("a").unwrap();
    assert_eq!(after.slot_move, None);
    assert_eq!(
        after.slots.iter().enumerate().filter(|(_, o)| **o == 1).map(|(n, _)| n).collect::<Vec<_>>(),
        [3, 9]
    );
}

#[test]
fn keys_with_one_shard_key_stay_together_while_their_collection_grows() {
    let mut catalogue = with_nodes(1);
    let strategy = Strategy::ShardKey { delimiter: b'/' };
    create(&mut catalogue, CollectionSpec { partitions: 2, strategy, ..spec("a") });
    let together = |placement: &CollectionPlacement| {
        for file in 0..200 {
            let owner = |key: String| placement.partition_of(&key.into()).unwrap().id;
            let area = placement.area(owner(format!("file-{file}")));
            let may_own = |n: &usize| placement.may_own_prefix(*n, &format!("file-{file}/0"));
            let ordinals: Vec<usize> = (0..placement.partitions.len()).filter(may_own).collect();
            assert_eq!(ordinals.len(), 1, "{ordinals:?}");
            assert_eq!(placement.partitions[ordinals[0]].id, owner(format!("file-{file}")));
            for key in [format!("file-{file}/000000"), format!("file-{file}/000001/x")] {
                assert_eq!(owner(key.clone()), owner(format!("file-{file}")));
                assert!(area.contains(&flotilla_proto::record::Key::Text(key).to_bytes()));
            }
        }
    };
    together(catalogue.map.collection("a").unwrap());
    catalogue.grow("a", 5, &[NodeId(1)], Vec::new()).unwrap();
    let moves = plan::slot_moves(catalogue.map.collection("a").unwrap());
    assert!(moves.iter().map(|(_, _, slots)| slots.len()).sum::<usize>() > 500, "{moves:?}");
    for (id, (from, to, slots)) in (1..).zip(moves) {
        let placement = catalogue.map.collection("a").unwrap().clone();
        let of = |ordinal: u16| placement.partitions[usize::from(ordinal)].id;
        let kind = Kind::Slots { from: of(from), to: of(to), slots };
        let new = NewMove { collection: placement.id, kind, bytes: 0, reason: "grow".into() };
        catalogue.queue(catalogue.map.epoch, vec![new]).unwrap();
        catalogue.start_move(id).unwrap();
        let moving = catalogue.map.collection("a").unwrap().moving();
        assert!(moving.is_within(&placement.area(of(from))) && !moving.overlaps(&placement.area(of(to))));
        catalogue.end_move(id, None).unwrap();
        together(catalogue.map.collection("a").unwrap());
    }
    let grown = catalogue.map.collection("a").unwrap();
    assert_eq!(grown.slots, super::collections::proposed(5));
}

#[test]
fn ranges_split_where_they_are() {
    let mut catalogue = with_nodes(1);
    let strategy = Strategy::Range { splits: vec!["m".into()] };
    create(&mut catalogue, CollectionSpec { partitions: 2, strategy, ..spec("a") });
    catalogue.grow("a", 3, &[NodeId(1)], vec!["f".into(), "m".into()]).unwrap();
    let after = catalogue.map.collection("a").unwrap();
    assert_eq!(after.spec.strategy, Strategy::Range { splits: vec!["f".into(), "m".into()] });
    assert_eq!(after.slots, [0, 0, 1]);
    assert_eq!(after.partition_of(&"a".into()).unwrap().id, after.partition_of(&"g".into()).unwrap().id);
}

#[test]
fn a_replacement_is_open_until_it_is_committed_closed_or_the_layout_changes() {
    let mut catalogue = with_nodes(1);
    let placement = create(&mut catalogue, spec("a"));
    let (of, open) = (placement.id, Turn::Open { now_ms: 1 });
    let generation = |outcome: Result<Outcome, Refused>| match outcome.unwrap() {
        Outcome::Replaced { epoch, generation } => (epoch.0, generation),
        other => panic!("{other:?}"),
    };
    let epoch = placement.epoch.0;
    assert_eq!(generation(catalogue.replace(of, (1, 1), open)), (epoch + 1, 0));
    assert_eq!(generation(catalogue.replace(of, (1, 1), open)), (epoch + 1, 0), "again, it is open");
    assert_eq!(catalogue.map.collections[0].epoch.0, epoch, "readers notice nothing");
    let commit = Turn::Commit { settled: 0 };
    assert_eq!(generation(catalogue.replace(of, (1, 1), commit)), (epoch + 2, 1));
    assert_eq!(catalogue.map.collections[0].epoch.0, epoch + 2, "now they do");
    for turn in [commit, open, Turn::Close] {
        assert_eq!(generation(catalogue.replace(of, (1, 1), turn)), (epoch + 2, 1), "{turn:?}");
    }
    generation(catalogue.replace(of, (1, 2), open));
    generation(catalogue.replace(of, (1, 2), Turn::Close));
    assert!(refused(catalogue.replace(of, (1, 2), commit)).contains("given up"));
    generation(catalogue.replace(of, (1, 3), open));
    catalogue.update("a", BTreeMap::from([("f".into(), FieldType::Bool)]), BTreeMap::new()).unwrap();
    assert!(refused(catalogue.replace(of, (1, 3), commit)).contains("given up"));
    assert!(matches!(catalogue.replace(Uuid::from_u128(99), (1, 3), open), Err(Refused::NoCollection(_))));
}

#[test]
fn no_committed_replacement_is_forgotten_that_a_partition_has_still_to_take_up() {
    use flotilla_proto::limits::{REPLACES_KEPT_MAX, REPLACES_OPEN_MAX};
    let mut catalogue = with_nodes(1);
    let of = create(&mut catalogue, spec("a")).id;
    let kept = REPLACES_KEPT_MAX as u64;
    for n in 1..=kept + 1 {
        catalogue.replace(of, (1, n), Turn::Open { now_ms: 0 }).unwrap();
        let committed = catalogue.replace(of, (1, n), Turn::Commit { settled: 0 });
        assert_eq!(committed.is_ok(), n <= kept, "{n}");
    }
    catalogue.replace(of, (1, kept + 1), Turn::Commit { settled: 1 }).unwrap();
    let replaces = &catalogue.map.collections[0].replaces;
    assert_eq!((replaces.generation, replaces.committed.len() as u64), (kept + 1, kept));
    assert_eq!((replaces.begun_by((1, 1)), replaces.begun_by((1, 2))), (None, Some(2)));
    let open = REPLACES_OPEN_MAX as u64;
    for n in 0..=open {
        let opened = catalogue.replace(of, (2, n), Turn::Open { now_ms: 1_000 });
        assert_eq!(opened.is_ok(), n < open, "{n}");
    }
    // What was opened long ago gives way.
    catalogue.replace(of, (2, open), Turn::Open { now_ms: 3_601_000 }).unwrap();
    assert_eq!(catalogue.map.collections[0].replaces.open, [((2, open), 3_601_000)]);
}
