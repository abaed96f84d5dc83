//! The doors for fuzzing of what replicas send each other: log entries and heads, and a raft snapshot's files.

// What was read is written again, or nothing can be said of it.
#![allow(clippy::expect_used)]

mod transfer;

use bytes::Bytes;

use super::door;
use super::types::{Entry, decode_entry, encode_entry};
use crate::machine::command::{Body, Command};
use crate::storage::row::{StoredRow, decode_payload};

#[cfg(test)]
pub use transfer::samples;
pub use transfer::snapshot;

/// The first byte says what the others may be: a log entry, a command, or the head of a snapshot's offer.
///
/// **Promise.** It reads or is refused, without a panic, however deep it claims to nest. What was read and is written again
/// reads the same.
pub fn log_entry(bytes: &[u8]) {
    let Some((what, bytes)) = bytes.split_first() else { return };
    let bytes = Bytes::copy_from_slice(bytes);
    match what % 3 {
        0 => entry(&bytes),
        1 => command(&bytes),
        _ => drop((door::end_of_offer(&bytes), door::vote_of_offer(&bytes))),
    }
}

fn entry(bytes: &Bytes) {
    let Some(read) = decode_entry(bytes) else { return };
    if let openraft::EntryPayload::Normal(proposal) = &read.payload {
        command(&proposal.0);
    }
    let write = |entry: &Entry| encode_entry(entry).expect("what was read encodes");
    let written = write(&read);
    let again = decode_entry(&written).expect("what was written reads");
    assert_eq!(again.log_id, read.log_id);
    assert_eq!(write(&again), written);
}

/// Compared as bytes, in which NaN equals itself.
fn command(bytes: &[u8]) {
    let Ok(command) = Command::decode(bytes) else { return };
    if let Body::Upsert(rows) = &command.body {
        rows.iter().for_each(row);
    }
    let written = command.encode().expect("what was read encodes");
    let again = Command::decode(&written).expect("what was written reads");
    assert_eq!(again.encode().ok(), Some(written));
}

fn row(row: &StoredRow) {
    let is_whole = row.to_domain(&crate::storage::fuzz::spec(), 1).is_some();
    assert!(!is_whole || decode_payload(&row.payload).is_ok());
}

/// Entries and commands, for the corpus.
#[cfg(test)]
pub fn entries() -> Vec<Vec<u8>> {
    use std::collections::{BTreeMap, BTreeSet};

    use flotilla_proto::ids::CollectionId;
    use openraft::vote::RaftLeaderId as _;
    use openraft::{BasicNode, EntryPayload, Membership};

    use super::types::{LogId, Proposal};
    use crate::machine::command::RequestId;
    use crate::storage::fuzz::{rows, some_filter, spec};

    let bodies = [
        Body::Upsert(rows(3)),
        Body::Delete(vec![7.into(), "key".into()]),
        Body::DeleteFilter { filter: some_filter(), fields: spec().fields },
        Body::Digest { deep: true },
    ];
    let command = |body| Command {
        collection: CollectionId::from_u128(7),
        request: Some(RequestId { client: 3, serial: 4 }),
        body,
    };
    let commands: Vec<Bytes> = bodies.into_iter().map(|body| command(body).encode().unwrap()).collect();
    let mut kept: Vec<Vec<u8>> = commands.iter().map(|bytes| [&[1], &bytes[..]].concat()).collect();
    let nodes: BTreeMap<u64, BasicNode> =
        (1..4).map(|n| (n, BasicNode::new(format!("http://n{n}")))).collect();
    let members = Membership::new(vec![BTreeSet::from([1, 2, 3])], nodes).unwrap();
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(Proposal(commands[0].clone())),
        EntryPayload::Membership(members),
    ];
    let leader = openraft::alias::LeaderIdOf::<super::types::Types>::new(2, 1).to_committed();
    for (index, payload) in (5..).zip(payloads) {
        let log_id = LogId::new(leader, index);
        kept.push([&[0], &encode_entry(&Entry { log_id, payload }).unwrap()[..]].concat());
    }
    kept
}
