//! The server layer.
