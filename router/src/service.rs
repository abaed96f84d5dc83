//! The edge: one thin file per public service. Each method hands its request to the verb's own file.

mod cluster;
mod collections;
mod records;
mod search;

use std::sync::Arc;

use crate::Router;

/// Serves one public service.
#[derive(Clone, Debug)]
pub(crate) struct Edge(pub(crate) Arc<Router>);
