//! The stateless front door. It takes the public API (`flotilla.v1`), knows from the placement map which partition owns
//! which key, talks to the shard nodes (`flotilla.shard.v1`) and puts their answers together.
//!
//! Two straight lines run through it, calls only go down: `service` (the edge, thin) -> [`write`], [`read`] or
//! [`search`] (what the verb means) -> [`fanout`] (one call to one partition, with its deadline, retries and rerouting) ->
//! the node; and back through [`merge`] (pure) and [`coverage`]. Beside them stand [`placement`] (the map, watched), [`pool`] (address ->
//! channel), [`admission`] (how many requests at once) and [`server`] (ports, health, metrics, draining).
//!
//! Invariants: a request fixes one view of the map and so sees each slot once; if a node says the view is stale, the
//! request starts over with a newer one. Nothing of a batch is sent before the whole batch is checked. Every answer says which
//! partitions it is made of. Work stops when its caller goes: it all runs inside the caller's future, nothing is spawned.
//!
//! It holds no data and decides no placement: a router can be killed at any time and loses nothing.

pub mod admission;
pub mod aggregate;
pub mod coverage;
pub mod fanout;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod inproc;
pub mod line;
pub mod merge;
pub mod metrics;
pub mod patch;
pub mod placement;
pub mod planted;
pub mod pool;
pub mod read;
pub mod replace;
pub mod search;
pub mod server;
pub mod write;

mod backoff;
mod chance;
mod cluster;
mod collections;
mod health;
mod hedge;
mod router;
mod scope;
mod service;
mod tenant;

pub use router::{Options, Router};
pub use tenant::Hub;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
