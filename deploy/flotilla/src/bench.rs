//! `flotilla bench`: measurements that need no cluster.

pub mod engine;
