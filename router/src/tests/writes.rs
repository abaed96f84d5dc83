//! Writes that are decided record by record: what is sent to whom, and how the answers become one.

use flotilla_proto::convert::{edit_to_wire, patch_to_wire};
use flotilla_proto::patch::{Edit, Patch};
use flotilla_proto::v1::WriteMode;
use flotilla_proto::v1::patch_request::Target;
use tonic::Code;

use super::*;

fn upsert_in(mode: WriteMode, records: impl Iterator<Item = Record>) -> v1::UpsertRequest {
    v1::UpsertRequest { mode: mode.into(), ..upsert(records) }
}

/// (key, place, version) of each conflict.
fn conflicts(conflicts: &[v1::Conflict]) -> Vec<(u64, u32, u64)> {
    let number = |key: &Option<v1::Key>| match key.as_ref().unwrap().kind {
        Some(v1::key::Kind::Number(n)) => n,
        _ => panic!("not a number: {key:?}"),
    };
    conflicts.iter().map(|c| (number(&c.key), c.place, c.version)).collect()
}

#[tokio::test]
async fn what_a_mode_leaves_as_it_was_comes_back_in_the_order_of_the_request() {
    let mut house = House::with_records(10).await;
    let insert = upsert_in(WriteMode::InsertOnly, [12, 3, 11, 0, 9, 13].into_iter().map(record));
    let done = house.records.upsert(insert).await.unwrap().into_inner();
    assert_eq!(done.upserted, 3);
    let told = conflicts(&done.conflicts);
    assert_eq!(
        told.iter().map(|(key, place, _)| (*key, *place)).collect::<Vec<_>>(),
        [(3, 1), (0, 3), (9, 4)]
    );
    assert!(told.iter().all(|(_, _, version)| *version > 0));

    let update = upsert_in(WriteMode::UpdateOnly, [20, 12, 21].into_iter().map(record));
    let done = house.records.upsert(update).await.unwrap().into_inner();
    assert_eq!((done.upserted, conflicts(&done.conflicts)), (1, vec![(20, 0, 0), (21, 2, 0)]));

    let versions =
        [Record { version: told[0].2, ..record(3) }, Record { version: 777, ..record(0) }, record(9)];
    let done = house.records.upsert(upsert_in(WriteMode::IfVersion, versions.into_iter())).await.unwrap();
    let done = done.into_inner();
    assert_eq!((done.upserted, conflicts(&done.conflicts)), (1, vec![(0, 1, told[1].2), (9, 2, told[2].2)]));
}

#[tokio::test]
async fn a_stream_counts_what_its_modes_left() {
    let mut house = House::with_records(10).await;
    let batches = vec![upsert_in(WriteMode::InsertOnly, (5..15).map(record)), upsert((0..3).map(record))];
    let done = house.records.upsert_stream(tokio_stream::iter(batches)).await.unwrap().into_inner();
    assert_eq!((done.upserted, done.batches, done.conflicts), (8, 2, 5));
}

#[tokio::test]
async fn a_mode_that_is_none_writes_nothing() {
    let mut house = House::with_collection().await;
    let request = v1::UpsertRequest { mode: 4, ..upsert((0..1).map(record)) };
    let refused = house.records.upsert(request).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "mode: must be 0 to 3, got 4"));
    assert_eq!(house.fake.seen("write").len(), 0);
}

fn patches(patches: Vec<Patch>) -> v1::PatchRequest {
    let patches = patches.into_iter().map(patch_to_wire).collect();
    let target = Some(Target::Patches(v1::PatchList { patches }));
    v1::PatchRequest { collection: "vms".into(), target, request: None }
}

fn matching(filter: Option<v1::Filter>, edit: Edit) -> v1::PatchRequest {
    let (set, unset) = edit_to_wire(edit);
    let target = Some(Target::Matching(v1::PatchMatching { filter, set, unset }));
    v1::PatchRequest { collection: "vms".into(), target, request: None }
}

#[tokio::test]
async fn patches_go_to_their_partitions_and_conflicts_come_back_in_order() {
    let mut house = House::with_records(10).await;
    let list = [20, 3, 21, 7, 0].map(|n| Patch::new(n).set("power.state", "on")).to_vec();
    let done = house.records.patch(patches(list)).await.unwrap().into_inner();
    assert_eq!((done.patched, done.conflicted), (3, 2));
    assert_eq!(conflicts(&done.conflicts), [(20, 0, 0), (21, 2, 0)]);
    assert_eq!(done.coverage.unwrap().partitions_answered, 3);

    let edit = Patch::new(0).set("seen", true).unset("power.state").edit;
    let done = house.records.patch(matching(cpu(3), edit)).await.unwrap().into_inner();
    assert_eq!((done.patched, done.conflicted), (2, 0), "3 and 7");
    let count = |filter: Filter| v1::CountRequest {
        collection: "vms".into(),
        filter: Some(filter_to_wire(&filter)),
        read: None,
    };
    let on = house.records.count(count(Filter::Equal("power.state".into(), "on".into()))).await.unwrap();
    let seen = house.records.count(count(Filter::Equal("seen".into(), true.into()))).await.unwrap();
    assert_eq!((on.into_inner().count, seen.into_inner().count), (1, 2));
}

#[tokio::test]
async fn nothing_is_patched_when_one_patch_of_a_batch_is_bad() {
    let mut house = House::with_records(3).await;
    let before = house.fake.seen("write").len();
    for (request, why) in [
        (patches(vec![Patch::new(1).set("a", 1), Patch::new(2)]), "patches[1]: changes nothing"),
        (patches(vec![Patch::new(1).set("a", 1).set("a.b", 1)]), "patches[0]: `a.b` lies within `a`"),
        (patches(vec![Patch::new(1).vector("default", vec![1.0])]), "patches[0].vectors[default]"),
        (matching(None, Patch::new(0).set("a", 1).edit), "matching.filter: a filter is needed"),
        (matching(cpu(1), Edit::default()), "matching: changes nothing"),
        (v1::PatchRequest { collection: "vms".into(), ..Default::default() }, "target: "),
    ] {
        let refused = house.records.patch(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(why), "{}", refused.message());
    }
    assert_eq!(house.fake.seen("write").len(), before);
}
