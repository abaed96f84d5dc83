//! The machine layer.
