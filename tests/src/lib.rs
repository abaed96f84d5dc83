//! The harness of the process tests: the real binary as a child process, spoken to over its real port.
//!
//! [`server::Server`] starts, kills and drains it; [`api::Api`] speaks `flotilla.v1` with nothing in between that could hide
//! an error (no retries); [`http`] reads the plain pages; [`seed::Seed`] makes every random choice replayable and prints how
//! when a test fails; [`wait`] waits for conditions, never for time. Nothing here judges: what must hold is said in the
//! tests (`tests/process`, compiled as one test of the package `flotilla`, which knows where its binary lies).
//!
//! Everything stays on loopback, on free ports, in temporary folders, and every child ends with its owner.

pub mod api;
pub mod http;
pub mod seed;
pub mod server;
pub mod wait;
