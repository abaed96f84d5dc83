//! The raft layer.
