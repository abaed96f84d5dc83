//! The shard node: one process that owns replicas of partitions.
//!
//! Layers, downward only:
//!
//! ```text
//! server -> service -> { partition, meta, worker } -> { raft, query } -> machine -> storage -> index
//!                                                       raft -> log
//! env (clock, files, randomness, tasks, memory) lies under all of them, and room (is there some left?) upon it
//! ```
//!
//! An **upsert** comes down as one path: `service` (edge, epoch check) -> `partition` (admit, propose) ->
//! `raft` (log, replicate, commit) -> `machine` (deterministic apply) -> `storage` (growing segment).
//! A **search** comes down as one path: `service` -> `partition` (read fence, frozen view) -> `query` (plan,
//! execute per segment) -> `index` -> partial hits. Background work lives in `worker` and never on these paths.

pub mod env;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod index;
pub mod invariants;
pub mod log;
pub mod machine;
pub mod meta;
pub mod partition;
pub mod peers;
pub mod planted;
pub mod query;
pub mod raft;
pub mod room;
pub mod server;
pub mod service;
pub mod storage;
pub mod worker;
