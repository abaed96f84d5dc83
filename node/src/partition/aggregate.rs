//! Figures over the records of a partition that pass.

use flotilla_proto::aggregate::{Counted, Named};
use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::refusal::{Refusal, Violation};

use super::fresh::Fresh;
use super::{Owned, Replica};
use crate::query::Curtain;
use crate::query::aggregate::{Refused, aggregate};
use crate::storage::SegmentView;

/// What to count, already checked against the collection.
#[derive(Debug)]
pub struct Aggregate {
    /// By name.
    pub aggregations: Vec<Named>,
    /// The condition.
    pub filter: Option<Compiled>,
}

impl Replica {
    /// What is counted over the records that pass, and the log index of the view: that of `at` if it is still at hand.
    pub async fn aggregate(
        &self,
        ask: Aggregate,
        at: LogIndex,
        fresh: Fresh,
        owned: &Owned,
    ) -> Result<(Counted, LogIndex), Refusal> {
        let view = self.view_of_at(at, fresh, owned).await?;
        let curtain = self.seat.curtain(&view, owned)?;
        let at = view.at;
        let counted = self
            .compute(move |cancelled| {
                let segments: Vec<&dyn SegmentView> = view.segments().collect();
                let Aggregate { aggregations, filter } = &ask;
                Curtain::over(curtain.as_deref(), &segments, |segments| {
                    match aggregate(segments, aggregations, filter.as_ref(), cancelled) {
                        Ok(counted) => Ok(Ok(counted)),
                        Err(Refused::TooLarge(why)) => Ok(Err(why)),
                        Err(Refused::Fault(fault)) => Err(fault),
                    }
                })
            })
            .await?;
        let counted = counted.map_err(|why| Violation::new("aggregations", why))?;
        Ok((counted, at))
    }
}
