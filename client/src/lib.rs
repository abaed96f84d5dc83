//! The Rust client of Flotilla: the same [`Client`] for a server at an address and for a folder opened in this process.
//!
//! ```no_run
//! use flotilla_client::{Client, Search, filter, filter::Combine as _};
//! use flotilla_client::{CollectionSpec, Distance, IndexKind, Record, VectorSpec};
//!
//! # async fn example() -> Result<(), flotilla_client::Error> {
//! let client = Client::connect("http://localhost:15010").await?;
//! let vector = VectorSpec::new(3, Distance::Cosine, IndexKind::default());
//! let spec = CollectionSpec {
//!     name: "vms".into(),
//!     vectors: [("default".into(), vector)].into(),
//!     fields: Default::default(),
//!     partitions: 4,
//!     strict: false,
//!     ..Default::default()
//! };
//! client.create_collection(&spec).await?;
//! let record = Record::new("vm-1").field("cpu", 4).vector("default", vec![0.1, 0.7, 0.2]);
//! client.upsert("vms", vec![record]).await?;
//! let search = Search::new(vec![0.1, 0.6, 0.3])
//!     .filter(filter::eq("cpu", 4).or(filter::exists("gpu")))
//!     .limit(5)
//!     .with_payload();
//! for hit in client.search("vms", search).await?.hits {
//!     println!("{} {}", hit.record.key, hit.score);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Writes carry a random client id and a serial number and are sent again with the same pair, within the time limit, when
//! their fate is unknown: each is applied once. What is refused says so by [`Error::kind`], which is an advice: mend the
//! request, wait, try again, or give up.
//!
//! Reads go to the master and see every acknowledged write, unless they, or their client, say otherwise ([`Read`]). On
//! replicas, the tokens of a write ([`Upserted::tokens`]) make a read see it; a [`Client::session`] carries them by itself.
//!
//! It keeps no map of the cluster and no cache; it splits nothing. The router does.

pub mod filter;

mod aggregate;
mod client;
mod cluster;
mod collections;
mod credentials;
mod error;
mod hosts;
mod identity;
mod read;
mod records;
mod replace;
mod search;
mod session;
mod write;

pub use aggregate::{Aggregate, Aggregated, Aggregation, Bucket, Figure, Unit};
pub use client::{Client, Options, Owned};
pub use collections::Collection;
pub use credentials::Credentials;
pub use error::{Error, Kind};
pub use hosts::Hosts;
pub use read::{Consistency, Read, ReadPreference, Tokens};
pub use records::{Count, Counted, Deleted, Get, Got, Page, Scan, Upserted, With};
pub use replace::Replaced;
pub use search::{Found, Fusion, Group, Highlight, Hit, Recommend, Search, TextQuery};
pub use write::{Conflict, Patched, WriteMode};

pub use filter::Filter;
pub use flotilla_proto::fulltext::Language;
pub use flotilla_proto::ids::{CollectionId, Epoch, NodeId, PartitionId};
pub use flotilla_proto::patch::{Edit, Patch};
pub use flotilla_proto::placement::{CollectionPlacement, Node, Partition, PlacementMap};
pub use flotilla_proto::record::{Key, Payload, Record, Value};
pub use flotilla_proto::schema::{
    CollectionSpec, Distance, FieldType, Hnsw, IndexKind, Quantization, Strategy, VectorSpec,
};
pub use flotilla_proto::v1::{CollectionStatus, Coverage, PartitionPlan, ReplicaDigest, VerifyResponse};
pub use flotilla_security::Secret;

/// What a call gives.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests;
