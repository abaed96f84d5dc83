//! How this node goes for good, as whoever stops its process asks: it gives away what it holds first.

use std::time::Duration;

use flotilla_proto::refusal::Refusal;

use super::Node;
use crate::env::clock;
use crate::meta::catalogue::{Change, Outcome, fleet};

/// How a node stands that may have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is to go.
    pub is_leaving: bool,
    /// Voting replicas that it holds.
    pub replicas: usize,
    /// Whether nothing would be lost with it.
    pub is_released: bool,
}

impl Node {
    /// How it stands, as of the call.
    ///
    /// # Errors
    /// If the meta group does not answer `within` this time.
    pub async fn standing(&self, within: Duration) -> Result<Standing, Refusal> {
        self.stand(Change::Touch, within).await
    }

    /// Has it, and the nodes of higher ordinals, give away what they hold.
    ///
    /// # Errors
    /// If it has no ordinal, or the others would be too few; if the meta group does not answer `within` this time.
    pub async fn leave(&self, within: Duration) -> Result<Standing, Refusal> {
        self.stand(Change::Leave(self.id()), within).await
    }

    /// Has it stay after all, and the nodes of lower ordinals.
    ///
    /// # Errors
    /// If the meta group does not answer `within` this time.
    pub async fn stay(&self, within: Duration) -> Result<Standing, Refusal> {
        self.stand(Change::Stay(self.id()), within).await
    }

    async fn stand(&self, change: Change, within: Duration) -> Result<Standing, Refusal> {
        let until = clock::now() + within;
        let Outcome::Epoch(epoch) = self.meta.submit(change, within).await? else {
            return Err(Refusal::Internal("no epoch came of it".to_owned()));
        };
        let mut maps = self.meta.watch();
        let left = until - clock::now();
        let seen = tokio::time::timeout(left, maps.wait_for(|map| map.epoch >= epoch)).await;
        let late = || Refusal::Unavailable(format!("this node does not know epoch {epoch} of the map yet"));
        let map = seen.map_err(|_| late())?.map_err(|_| late())?.clone();
        let known = map.node(self.id()).ok_or_else(|| Refusal::NotFound("node", self.id().to_string()))?;
        Ok(Standing {
            is_leaving: !known.is_open(),
            replicas: fleet::voting(&map, known.id),
            is_released: fleet::is_released(&map, known),
        })
    }
}
