//! A bug that the simulator plants, to prove that it would be found. There is none in the product (feature `sim`).

#[cfg(feature = "sim")]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(feature = "sim")]
static HIDES_MISSING: AtomicBool = AtomicBool::new(false);

/// From now on answers do not tell which partitions are missing.
#[cfg(feature = "sim")]
pub fn hide_missing() {
    HIDES_MISSING.store(true, Ordering::Relaxed);
}

/// Whether answers hide what they miss.
pub(crate) fn hides_missing() -> bool {
    #[cfg(feature = "sim")]
    return HIDES_MISSING.load(Ordering::Relaxed);
    #[cfg(not(feature = "sim"))]
    false
}
