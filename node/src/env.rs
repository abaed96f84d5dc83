//! The world outside the program: clock, randomness, tasks, files and memory.
//!
//! Everything that could answer differently on a second run passes through here, as free functions and thin
//! types with static dispatch. A simulator swaps the bodies behind these signatures, so the layers above
//! neither know nor pay for it. No other module of this crate names `std::fs`, a system clock or a random
//! source (tests excepted).
//!
//! File functions are synchronous: the caller runs them on its own task when they are short, and through
//! [`task::spawn_cpu`] when they are long. Nothing here retries; in particular a failed sync is reported once and the
//! caller must treat the file as lost, since the kernel may already have dropped the dirty pages.

pub mod clock;
#[cfg(any(test, feature = "faults"))]
pub mod faults;
pub mod fs;
pub mod memory;
pub mod mmap;
pub mod net;
pub mod random;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod task;
