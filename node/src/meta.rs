//! The meta layer.
