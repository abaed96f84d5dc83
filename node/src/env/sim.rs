//! The simulated world: what stands in for disks, tasks, clocks and connections when a whole cluster runs in one process
//! under a seed. There is nothing of it in the product (feature `sim`); the simulator is `tests/sim`.
//!
//! A path below the root of a [`Disk`] is on that disk, whoever asks (unit tests use disks alone). Everything else of the simulated world begins with
//! [`enter`], once for the process: from then on computations and blocking loops are tasks of the calling runtime, time is the
//! runtime's, and connections are made by the given function.

pub mod disk;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

pub use self::disk::{Cut, Disk, Rates};

/// What the simulator answers for.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Connects within the simulated network.
    pub connect: fn(&Endpoint) -> Channel,
    /// How far the wall clock of the calling host is off, in milliseconds.
    pub skew: fn() -> i64,
    /// How long the next computation of the calling host takes.
    pub effort: fn() -> Duration,
    /// How long the next sync of the calling host's log takes.
    pub sync: fn() -> Duration,
}

static WORLD: OnceLock<World> = OnceLock::new();

/// Enters the simulated world, for good. A second call changes nothing.
pub fn enter(world: World) {
    let _ = WORLD.set(world);
}

/// The simulated world, if this process is in it.
pub(super) fn world() -> Option<&'static World> {
    WORLD.get()
}

/// Whether this path is on a simulated disk.
pub fn is_simulated(path: &Path) -> bool {
    disk::of(path).is_some()
}
