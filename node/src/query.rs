//! The query layer.
