//! The harness of the process tests: the real binary as child processes, spoken to over their real ports.
//!
//! [`process`] starts, signals and reaps children; [`server::Server`] is the embedded tier and [`cluster::Cluster`] a whole
//! cluster; [`api::Api`] speaks `flotilla.v1` with nothing in between that could hide an error (no retries); [`http`] reads
//! the plain pages; [`seed::Seed`] makes every random choice replayable and prints how when a test fails; [`wait`] waits for
//! conditions, never for time.
//!
//! [`load`] lets clients work and writes down what they see as a [`history`]; [`checker`] judges it. What else must hold is
//! said in the tests (`tests/process`, compiled as one test of the package `flotilla`, which knows where its binary lies).
//!
//! [`replay`] sends the fuzz corpora through the parsers' doors, in the tests of the crates that own them.
//!
//! Everything stays on loopback or in network namespaces of its own, on free ports, in temporary folders, and every child
//! ends with its owner. [`proxy`] is a link that misbehaves when told to, and [`rpc`] calls any method by its name.

pub mod aggregate;
pub mod api;
pub mod checker;
pub mod cluster;
pub mod history;
pub mod http;
pub mod load;
pub mod process;
pub mod proxy;
pub mod replay;
pub mod rpc;
pub mod seed;
pub mod server;
pub mod wait;
