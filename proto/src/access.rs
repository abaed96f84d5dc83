//! Who may call what: one row for every method of every service, and nothing for a method without a row.
//!
//! [`RULES`] is the only table. A server asks it in one place, where a call enters ([`Gate`]), before the message is read:
//! a method whose right the caller does not have, or that has no row, is refused with `PERMISSION_DENIED`. The port decides
//! what a caller can have at most: [`Rights::DATA`] on a data port, [`Rights::PEER`] on a peer port. A port with an
//! [`Authenticator`] asks it besides who the [`Caller`] is: a call that does not say so is refused with `UNAUTHENTICATED`,
//! and the caller has only what its grants give. Which collection a call is about stands in its message, so that is checked
//! behind the gate, by [`Entry`].
//!
//! A test walks the descriptors: a method without a row fails it, and so does a row without a method.

mod caller;
mod gate;
#[cfg(test)]
mod tests;

pub use self::caller::{Caller, Collections, Grant, Role};
pub use self::gate::{Authenticator, Entry, Gate, Note};
use crate::refusal::Refusal;

/// What a caller must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Nothing: anybody may ask whether the server lives and what it speaks.
    Open,
    /// To see records and where they lie.
    Read,
    /// To change records.
    Write,
    /// To change collections and the cluster, or to have it work for them.
    Admin,
    /// To be a member of the cluster.
    Peer,
}

use Right::{Admin, Open, Peer, Read, Write};

/// Each method and the right that it takes, sorted by name.
pub const RULES: &[(&str, Right)] = &[
    ("flotilla.peer.v1.Peer/Digest", Peer),
    ("flotilla.peer.v1.Peer/Join", Peer),
    ("flotilla.peer.v1.Peer/ReadIndexes", Peer),
    ("flotilla.peer.v1.Peer/Status", Peer),
    ("flotilla.peer.v1.Peer/Submit", Peer),
    ("flotilla.peer.v1.Raft/Append", Peer),
    ("flotilla.peer.v1.Raft/Leave", Peer),
    ("flotilla.peer.v1.Raft/Offer", Peer),
    ("flotilla.peer.v1.Raft/PreVote", Peer),
    ("flotilla.peer.v1.Raft/Send", Peer),
    ("flotilla.peer.v1.Raft/Transfer", Peer),
    ("flotilla.peer.v1.Raft/Vote", Peer),
    ("flotilla.shard.v1.Meta/Apply", Admin),
    ("flotilla.shard.v1.Meta/Control", Admin),
    ("flotilla.shard.v1.Meta/Create", Admin),
    ("flotilla.shard.v1.Meta/Delete", Admin),
    ("flotilla.shard.v1.Meta/Describe", Read),
    ("flotilla.shard.v1.Meta/Lease", Read),
    ("flotilla.shard.v1.Meta/Moves", Read),
    ("flotilla.shard.v1.Meta/Plan", Admin),
    ("flotilla.shard.v1.Meta/Replace", Write),
    ("flotilla.shard.v1.Meta/Scale", Admin),
    ("flotilla.shard.v1.Meta/Status", Read),
    ("flotilla.shard.v1.Meta/Update", Admin),
    ("flotilla.shard.v1.Meta/Watch", Read),
    ("flotilla.shard.v1.Shard/Aggregate", Read),
    ("flotilla.shard.v1.Shard/Count", Read),
    ("flotilla.shard.v1.Shard/Digests", Admin),
    ("flotilla.shard.v1.Shard/Get", Read),
    ("flotilla.shard.v1.Shard/Import", Write),
    ("flotilla.shard.v1.Shard/Scan", Read),
    ("flotilla.shard.v1.Shard/Search", Read),
    ("flotilla.shard.v1.Shard/Status", Read),
    ("flotilla.shard.v1.Shard/Weigh", Read),
    ("flotilla.shard.v1.Shard/Write", Write),
    ("flotilla.v1.Cluster/Apply", Admin),
    ("flotilla.v1.Cluster/Control", Admin),
    ("flotilla.v1.Cluster/Describe", Read),
    ("flotilla.v1.Cluster/Moves", Read),
    ("flotilla.v1.Cluster/Plan", Admin),
    ("flotilla.v1.Cluster/Scale", Admin),
    ("flotilla.v1.Cluster/Status", Read),
    ("flotilla.v1.Cluster/Usage", Read),
    ("flotilla.v1.Cluster/Verify", Admin),
    ("flotilla.v1.Cluster/Watch", Read),
    ("flotilla.v1.Collections/Create", Admin),
    ("flotilla.v1.Collections/Delete", Admin),
    ("flotilla.v1.Collections/Get", Read),
    ("flotilla.v1.Collections/List", Read),
    ("flotilla.v1.Collections/Update", Admin),
    ("flotilla.v1.Records/Aggregate", Read),
    ("flotilla.v1.Records/Count", Read),
    ("flotilla.v1.Records/Delete", Write),
    ("flotilla.v1.Records/Get", Read),
    ("flotilla.v1.Records/Patch", Write),
    ("flotilla.v1.Records/Replace", Write),
    ("flotilla.v1.Records/Scan", Read),
    ("flotilla.v1.Records/ScanStream", Read),
    ("flotilla.v1.Records/Upsert", Write),
    ("flotilla.v1.Records/UpsertStream", Write),
    ("flotilla.v1.Search/Search", Read),
    // Not ours, served beside ours.
    ("grpc.health.v1.Health/Check", Open),
    ("grpc.health.v1.Health/Watch", Open),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Open),
];

/// What a caller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(&'static [Right]);

impl Rights {
    /// Everything that a data port gives.
    pub const DATA: Rights = Rights(&[Read, Write, Admin]);
    /// Everything that a peer port gives.
    pub const PEER: Rights = Rights(&[Peer]);
    /// What the members of a cluster, its routers too, have with each other.
    pub const CLUSTER: Rights = Rights(&[Read, Write, Admin, Peer]);

    /// Whether they include this one.
    pub fn include(self, right: Right) -> bool {
        right == Open || self.0.contains(&right)
    }
}

/// The right that a method takes, by its name `package.Service/Method`; none if there is no such row.
pub fn right_of(method: &str) -> Option<Right> {
    let row = RULES.binary_search_by(|(name, _)| (*name).cmp(method)).ok()?;
    Some(RULES.get(row)?.1)
}

/// The row of a method, if a port that gives these rights serves it.
///
/// # Errors
/// [`Refusal::Denied`] if it does not, or if no row names the method.
pub fn admit(method: &str, port: Rights) -> Result<(&'static str, Right), Refusal> {
    let row = RULES.binary_search_by(|(name, _)| (*name).cmp(method)).ok().and_then(|row| RULES.get(row));
    match row {
        Some(row) if port.include(row.1) => Ok(*row),
        Some((_, right)) => {
            Err(Refusal::Denied(format!("{method} takes the right {right:?}, which this port does not give")))
        }
        None => Err(Refusal::Denied("there is no such method here".to_owned())),
    }
}
