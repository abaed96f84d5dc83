//! The one type configuration of all groups, and how its parts are written.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::alias::{LogIdOf, StoredMembershipOf, VoteOf};
use openraft::{BasicNode, EntryPayload, Membership};
use serde::{Deserialize, Serialize};

use crate::machine::Reply;

/// A command on its way: opaque to Raft.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

impl std::fmt::Debug for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl std::fmt::Display for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    /// Commands are bytes, replies are the machine's.
    pub Types:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = BasicNode,
);

/// Position of an entry: term, leader, index.
pub type LogId = LogIdOf<Types>;
/// A vote.
pub type Vote = VoteOf<Types>;
/// A membership and the entry that made it.
pub type StoredMembership = StoredMembershipOf<Types>;
/// An entry.
pub type Entry = openraft::alias::EntryOf<Types>;

/// Where a machine's durable state stands: the last applied entry, and the membership in force there. To the machine
/// this is an opaque mark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The last applied entry.
    pub applied: Option<LogId>,
    /// The membership in force.
    pub membership: StoredMembership,
}

#[derive(Serialize, Deserialize)]
enum Head {
    Blank,
    Normal,
    Membership(Membership<u64, BasicNode>),
}

/// An entry as the log holds it: length of the head (u32, little endian), head (postcard: log id and kind), command.
/// The command is not copied when it is read.
pub fn encode_entry(entry: &Entry) -> Result<Bytes, postcard::Error> {
    let (head, command) = match &entry.payload {
        EntryPayload::Blank => (Head::Blank, &[][..]),
        EntryPayload::Normal(proposal) => (Head::Normal, &proposal.0[..]),
        EntryPayload::Membership(membership) => (Head::Membership(membership.clone()), &[][..]),
    };
    let head = postcard::to_stdvec(&(&entry.log_id, head))?;
    let mut body = BytesMut::with_capacity(4 + head.len() + command.len());
    body.put_u32_le(u32::try_from(head.len()).unwrap_or(u32::MAX));
    body.put_slice(&head);
    body.put_slice(command);
    Ok(body.freeze())
}

/// The entry of such bytes; `None` if they are not one.
pub fn decode_entry(body: &Bytes) -> Option<Entry> {
    let head_len = u32::from_le_bytes(body.get(..4)?.try_into().ok()?) as usize;
    let head = body.get(4..4usize.checked_add(head_len)?)?;
    let (log_id, head): (LogId, Head) = postcard::from_bytes(head).ok()?;
    let payload = match head {
        Head::Blank => EntryPayload::Blank,
        Head::Normal => EntryPayload::Normal(Proposal(body.slice(4 + head_len..))),
        Head::Membership(membership) => EntryPayload::Membership(membership),
    };
    Some(Entry { log_id, payload })
}
