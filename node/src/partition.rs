//! The partition layer.
