//! Searching one partition: the frozen view, the curtain before it, and the query over it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::filter::Compiled;
use flotilla_proto::group::{GroupBy, GroupKey};
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::CollectionSpec;

use super::answers::{Flight, Found, Question, Scene};
use super::fresh::Fresh;
use super::{Owned, Replica};
use crate::env::{clock, task};
use crate::query::{self, Curtain};
use crate::storage::{Fault, SegmentView, View};

/// A question for the partition, already checked against the collection's limits.
#[derive(Debug, Default)]
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
    /// The share of the nearest records that is to be found, instead of `ef`.
    pub target_recall: Option<f32>,
    /// So many times `limit` candidates by codes are ordered by their vectors, instead of as many as the codes need.
    pub oversampling: Option<f32>,
    /// Scan instead of walking graphs.
    pub exact: bool,
    /// Leave out what is further away.
    pub max_distance: Option<f32>,
    /// Leave out these records.
    pub without: Vec<Key>,
    /// Hits in groups.
    pub groups: Option<Groups>,
    /// Words to search for, instead of the vector.
    pub text: Option<query::TextSearch>,
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
    /// still at hand. With its `question`, the answer may be one that was computed for another caller.
    pub async fn search(
        &self,
        search: Search,
        question: Option<Question>,
        at: LogIndex,
        fresh: Fresh,
        owned: &Owned,
    ) -> Result<Searched, Refusal> {
        let called = clock::now();
        let view = self.view_of_at(at, fresh, owned).await?;
        let curtain = self.seat.curtain(&view, owned)?;
        let at = view.at;
        let look = Arc::new(Look { view, curtain, spec: self.store.spec(), search });
        let flight = match question.filter(|question| self.answers.is_on() && question.is_of(&look.spec)) {
            Some(question) => match self.ask(&question, &look).await {
                Asked::Answered(answer) => {
                    self.room.load().searched(called.elapsed());
                    self.watch(look, &answer);
                    return Ok(Searched { answer, at, cached: Some(called.elapsed()) });
                }
                Asked::Compute(flight) => flight,
            },
            None => None,
        };
        let alive = flight.as_ref().map_or_else(Arc::default, Flight::alive);
        let begun = flight.map(Flight::begun);
        let asked = look.clone();
        let answer = self
            .compute_for(alive, move |cancelled| {
                let began = clock::now();
                let mut answer = asked.take(asked.search.exact, cancelled)?;
                answer.plan.took(began.duration_since(called), began.elapsed());
                let answer = Arc::new(answer);
                if let Some(begun) = begun {
                    begun.done(&answer);
                }
                Ok(answer)
            })
            .await?;
        self.room.load().searched(called.elapsed());
        self.watch(look, &answer);
        Ok(Searched { answer, at, cached: None })
    }

    /// Looks for an answer that is kept, or that somebody is about to have.
    async fn ask(&self, question: &Question, look: &Look) -> Asked {
        let scene = Scene { serial: look.view.serial(), curtain: look.curtain.clone() };
        loop {
            match self.answers.find(question, &scene) {
                Found::Kept(answer) => return Asked::Answered(answer),
                Found::Coming(coming) => {
                    if let Some(answer) = coming.answer().await {
                        return Asked::Answered(answer);
                    }
                }
                Found::Nothing(flight) => return Asked::Compute(flight),
            }
        }
    }

    /// What words weigh in this partition, and the log index of the view that was looked at: as for a search.
    pub async fn weigh(
        &self,
        ask: query::Weighing,
        at: LogIndex,
        fresh: Fresh,
        owned: &Owned,
    ) -> Result<(query::Weights, LogIndex), Refusal> {
        let view = self.view_of_at(at, fresh, owned).await?;
        let curtain = self.seat.curtain(&view, owned)?;
        let at = view.at;
        let weights = self
            .compute(move |cancelled| {
                let segments: Vec<&dyn SegmentView> = view.segments().collect();
                Curtain::over(curtain.as_deref(), &segments, |segments| {
                    query::weigh(segments, &ask, cancelled)
                })
            })
            .await?;
        Ok((weights, at))
    }

    /// Compares the answer with that of a scan, if it is time; the caller does not wait for it.
    fn watch(&self, look: Arc<Look>, answer: &Arc<query::Answer>) {
        let Search { exact, groups, text, .. } = &look.search;
        if *exact || groups.is_some() || text.is_some() {
            return;
        }
        let Some(sample) = self.recall.sample() else { return };
        let (answer, partition, quarantine) = (answer.clone(), self.id, self.quarantine.clone());
        drop(task::spawn(async move {
            let compared = task::spawn_cpu(move || {
                let exact = look.take(true, &|| sample.is_idle())?;
                sample.compare(&answer, &exact);
                Ok::<_, Fault>(())
            });
            match compared.await {
                Ok(Ok(()) | Err(Fault::Cancelled)) => {}
                Ok(Err(fault)) => {
                    tracing::error!(%partition, %fault, "a search could not be compared");
                    if matches!(fault, Fault::Damaged { .. }) {
                        quarantine.note(&fault);
                    }
                }
                Err(lost) => tracing::warn!(%partition, %lost, "a search could not be compared"),
            }
        }));
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Searched {
    /// The hits.
    pub answer: Arc<query::Answer>,
    /// The log index of the view.
    pub at: LogIndex,
    /// If the answer was computed for another caller, or kept: what it took to find that.
    pub cached: Option<Duration>,
}

/// What the cache has to say.
enum Asked {
    Answered(Arc<query::Answer>),
    Compute(Option<Flight>),
}

/// A search of a view that stands still.
struct Look {
    view: View,
    curtain: Option<Arc<Curtain>>,
    spec: Arc<CollectionSpec>,
    search: Search,
}

impl Look {
    fn take(&self, exact: bool, cancelled: &dyn Fn() -> bool) -> Result<query::Answer, Fault> {
        let Look { search, spec, .. } = self;
        let ask = query::Search {
            vector: &search.vector,
            query: &search.query,
            filter: search.filter.as_ref(),
            limit: search.limit,
            ef: search.ef,
            target_recall: search.target_recall,
            oversampling: search.oversampling,
            exact,
            max_distance: search.max_distance,
            without: &search.without,
            text: search.text.as_ref(),
        };
        let segments: Vec<&dyn SegmentView> = self.view.segments().collect();
        Curtain::over(self.curtain.as_deref(), &segments, |segments| {
            let Some(Groups { by, size, only }) = &search.groups else {
                return query::search(segments, spec, &ask, cancelled);
            };
            let only = only.as_ref();
            let grouping = query::Grouping { by, groups: search.limit, size: *size, only };
            query::grouped(segments, spec, &ask, &grouping, cancelled)
        })
    }
}
