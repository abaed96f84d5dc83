//! Promises that the code keeps at every moment, each with a name and a file of its own: what must hold, why the system is
//! wrong without it, and the check. The checks stand where the promise could be broken and run in production too: a replica
//! that finds one broken stops rather than goes on from a state that cannot be. What one node cannot see alone is checked by
//! the simulator, which sees all of them (`tests/sim`).
//!
//! | id | promise | checked |
//! |---|---|---|
//! | `applied-in-order` | log entries are applied one after the other, each once | by every replica |
//! | `vote-goes-forward` | what a replica has voted for never goes back | by every replica |
//! | `committed-stays` | what is committed is never cut off the log | by every replica |
//! | `purge-behind-state` | the log is purged only as far as the durable state reaches | by every replica |
//! | `one-lease` | at most one replica of a group is sure to lead | by the simulator |
//! | `synced-stays` | committed entries and votes that were synced are there after a restart | by the simulator |

pub mod applied_in_order;
pub mod committed_stays;
pub mod purge_behind_state;
pub mod vote_goes_forward;

use std::fmt;
use std::io;

/// A promise that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub id: &'static str,
    /// What was found.
    pub found: String,
}

impl Broken {
    /// Says that it is broken, loudly: this is a defect of the program or of the machine below it.
    fn report(id: &'static str, found: String) -> Broken {
        let broken = Broken { id, found };
        tracing::error!(invariant = id, found = broken.found, "an invariant is broken");
        // Nothing else may hide it from the simulator; tests look at the error.
        debug_assert!(cfg!(test) || broken.found.is_empty(), "{broken}");
        broken
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {}: {}", self.id, self.found)
    }
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> io::Error {
        io::Error::other(broken.to_string())
    }
}
