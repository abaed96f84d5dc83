//! A bound on how deep values and filters nest in their stored form.
//!
//! A decoder calls itself once for each level, and a level takes two bytes: without a bound, a payload of the size that is
//! admitted could claim half a million levels and end the process for lack of stack. What is admitted from users is bounded
//! where it is checked; this bounds what is read from files and peers, before any check can see it.

use std::cell::Cell;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::limits::NESTING_MAX;

thread_local! {
    /// Levels that this thread is in.
    static LEVELS: Cell<usize> = const { Cell::new(0) };
}

/// One level more, for as long as it lives.
struct Level;

impl Level {
    fn enter() -> Option<Level> {
        let levels = LEVELS.get();
        (levels < NESTING_MAX).then(|| {
            LEVELS.set(levels + 1);
            Level
        })
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        LEVELS.set(LEVELS.get() - 1);
    }
}

/// Decodes what lies one level deeper; refuses the level beyond [`NESTING_MAX`].
pub fn deeper<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    let Some(_level) = Level::enter() else {
        return Err(D::Error::custom(format!("nested deeper than {NESTING_MAX} levels")));
    };
    T::deserialize(from)
}
