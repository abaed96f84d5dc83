//! What two Flotilla processes must agree on, and nothing else: the wire messages, ids, the way from a key to its
//! slot and partition ([`ring`]), the placement map, the meaning of a filter and of a word ([`fulltext`]), every bound ([`limits`]), every
//! status ([`refusal`]) and who may call what ([`access`]). Pure: no I/O, no runtime, no clock. A thing belongs here only if two processes that disagree
//! on it would lose data or fail to talk.
//!
//! A record has three shapes: **wire** ([`v1::Record`]), **domain** ([`record::Record`]) and **stored** (in the node).
//! Each conversion between wire and domain stands in one file of [`convert`].

pub mod access;
pub mod aggregate;
pub mod area;
pub mod convert;
pub mod filter;
pub mod fulltext;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod geo;
pub mod group;
pub mod ids;
pub mod limits;
mod nesting;
pub mod order;
pub mod passed;
pub mod patch;
pub mod placement;
pub mod projection;
pub mod record;
pub mod refusal;
pub mod ring;
pub mod schema;
pub mod stored;
pub mod tenant;

/// The modules as the generator names them, so that its relative paths hold.
#[allow(missing_docs, clippy::all)]
mod wire {
    pub mod v1 {
        tonic::include_proto!("flotilla.v1");
    }
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("flotilla.peer.v1");
        }
    }
    pub mod shard {
        pub mod v1 {
            tonic::include_proto!("flotilla.shard.v1");
        }
    }
}

/// Node to node, `flotilla.peer.v1`: not for users.
pub use wire::peer::v1 as peer;
/// Router to shard node, `flotilla.shard.v1`: not for users.
pub use wire::shard::v1 as shard;
/// The public API, `flotilla.v1`, as generated from `proto/flotilla/v1/*.proto`.
pub use wire::v1;

/// The encoded descriptors of every service, for gRPC reflection and for tests that walk all methods.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flotilla.bin"));
