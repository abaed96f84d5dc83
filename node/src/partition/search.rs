//! Searching one partition: the frozen view, the curtain before it, and the query over it.

use std::collections::BTreeSet;

use flotilla_proto::filter::Compiled;
use flotilla_proto::group::{GroupBy, GroupKey};
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Refusal;

use super::fresh::Fresh;
use super::{Owned, Replica};
use crate::env::clock;
use crate::query::{self, Curtain};
use crate::storage::SegmentView;

/// A question for the partition, already checked against the collection's limits.
#[derive(Debug)]
pub struct Search {
    /// The vector's name, as the spec has it.
    pub vector: String,
    /// The query as the user gave it.
    pub query: Vec<f32>,
    /// The condition.
    pub filter: Option<Compiled>,
    /// Partial hits wanted; groups, if hits are wanted in groups.
    pub limit: usize,
    /// Candidates kept in graphs.
    pub ef: usize,
    /// Scan instead of walking graphs.
    pub exact: bool,
    /// Leave out what is further away.
    pub max_distance: Option<f32>,
    /// Leave out these records.
    pub without: Vec<Key>,
    /// Hits in groups.
    pub groups: Option<Groups>,
}

/// How hits are wanted in groups.
#[derive(Debug)]
pub struct Groups {
    /// What makes a group.
    pub by: GroupBy,
    /// Hits of a group.
    pub size: usize,
    /// Only these groups.
    pub only: Option<BTreeSet<GroupKey>>,
}

impl Replica {
    /// The nearest records of this partition, and the log index of the view that was searched: that of `at` if it is
    /// still at hand.
    pub async fn search(
        &self,
        search: Search,
        at: LogIndex,
        fresh: Fresh,
        owned: &Owned,
    ) -> Result<(query::Answer, LogIndex), Refusal> {
        let called = clock::now();
        let view = self.view_at(at, fresh).await?;
        let curtain = self.seat.curtain(&view, owned)?;
        let spec = self.store.spec();
        let at = view.at;
        let answer = self
            .compute(move |cancelled| {
                let began = clock::now();
                let ask = query::Search {
                    vector: &search.vector,
                    query: &search.query,
                    filter: search.filter.as_ref(),
                    limit: search.limit,
                    ef: search.ef,
                    exact: search.exact,
                    max_distance: search.max_distance,
                    without: &search.without,
                };
                let segments: Vec<&dyn SegmentView> = view.segments().collect();
                let mut answer = Curtain::over(curtain.as_deref(), &segments, |segments| {
                    let Some(Groups { by, size, only }) = &search.groups else {
                        return query::search(segments, &spec, &ask, cancelled);
                    };
                    let only = only.as_ref();
                    let grouping = query::Grouping { by, groups: search.limit, size: *size, only };
                    query::grouped(segments, &spec, &ask, &grouping, cancelled)
                })?;
                answer.plan.took(began.duration_since(called), began.elapsed());
                Ok(answer)
            })
            .await?;
        Ok((answer, at))
    }
}
