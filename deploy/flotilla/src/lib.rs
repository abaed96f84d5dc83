//! Flotilla as a library, and the one binary: node, router and client assembled, and nothing else.
//!
//! [`open`] opens a folder in this process; [`connect`] dials a server. Both give the same [`Client`]:
//!
//! ```
//! use flotilla::{CollectionSpec, Distance, IndexKind, Record, Search, VectorSpec};
//!
//! # async fn example(folder: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! let client = flotilla::open(folder).await?;
//! let vector = VectorSpec::new(3, Distance::Cosine, IndexKind::default());
//! let spec = CollectionSpec {
//!     name: "vms".into(),
//!     vectors: [("default".into(), vector)].into(),
//!     fields: Default::default(),
//!     partitions: 2,
//!     strict: false,
//!     ..Default::default()
//! };
//! client.create_collection(&spec).await?;
//! client.upsert("vms", vec![Record::new("vm-1").field("cpu", 4).vector("default", vec![0.1, 0.7, 0.2])]).await?;
//! let found = client.search("vms", Search::new(vec![0.1, 0.6, 0.3]).limit(5)).await?;
//! assert_eq!(found.hits[0].record.key, "vm-1".into());
//! client.close().await?;
//!
//! let again = flotilla::open(folder).await?;
//! assert_eq!(again.count("vms", None).await?.count, 1);
//! again.close().await?;
//! # Ok(())
//! # }
//! # let folder = tempfile::tempdir().unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(example(folder.path())).unwrap();
//! ```
//!
//! [`embedded`] runs a whole Flotilla in this process over one folder; [`config`] says how. Every other module is a command
//! of the binary, named as the user types it, or what several commands share: [`cells`], [`csv`], [`filter_arg`], [`filter_json`], [`json`],
//! [`npy`], [`output`], [`progress`], [`security`], [`table`], [`target`], [`telemetry`]. Commands talk to the database through `flotilla_client` only, as any
//! other user does.

mod aggregate;
pub mod bench;
pub mod cells;
pub mod cli;
pub mod collections;
pub mod config;
pub mod csv;
pub mod ctl;
pub mod datetime;
pub mod demo;
pub mod embedded;
pub mod export;
pub mod filter_arg;
pub mod filter_json;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
#[cfg(test)]
#[path = "../../../tests/golden/main.rs"]
mod golden;
pub mod grow;
pub mod import;
pub mod json;
pub mod keys;
pub mod node;
pub mod npy;
pub mod output;
pub mod patch;
pub mod plan;
pub mod progress;
pub mod query;
pub mod reading;
pub mod router;
pub mod scan;
pub mod search;
pub mod security;
pub mod table;
pub mod target;
pub mod telemetry;
pub mod tenants;
pub mod up;
pub mod verify;

use std::path::Path;
use std::sync::Arc;

pub use flotilla_client::{
    Client, CollectionSpec, Consistency, Count, Credentials, Distance, Error, FieldType, Filter, Get, Hit,
    Hnsw, Hosts, IndexKind, Key, Kind, Language, Quantization, Read, ReadPreference, Record, Scan, Search,
    Secret, Strategy, Tokens, Value, VectorSpec, With, filter,
};

/// Opens the folder, made if it is missing, and gives a client of it. Everything runs in this process; no port is opened.
/// The folder stays open until [`Client::close`], or until the client and its clones are gone.
///
/// # Errors
/// A folder that is in use by another process, not writable, damaged, or of a newer format.
pub async fn open(folder: impl AsRef<Path>) -> anyhow::Result<Client> {
    let options = embedded::Options::new(folder.as_ref().to_owned());
    let running = embedded::Embedded::start(options).await?;
    let client = running.client();
    Ok(client.owning(Arc::new(embedded::Owned::new(running))))
}

/// Connects to a server, such as `http://127.0.0.1:15002`; later it reconnects by itself.
///
/// ```no_run
/// # async fn example() -> Result<(), flotilla::Error> {
/// let client = flotilla::connect("http://127.0.0.1:15002").await?;
/// println!("{} records", client.count("vms", None).await?.count);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If `url` is none, or nobody answers there.
pub async fn connect(url: &str) -> Result<Client, Error> {
    Client::connect(url).await
}
