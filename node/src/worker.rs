//! The worker layer.
