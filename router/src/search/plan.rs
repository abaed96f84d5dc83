//! A checked search: what the caller gets, and what each partition is asked.

use flotilla_proto::convert::{
    check_effort, filter_from_wire, value_from_wire, vector_from_wire, vector_to_wire,
};
use flotilla_proto::filter::Compiled;
use flotilla_proto::group::{GroupBy, GroupKey, group_size};
use flotilla_proto::limits::{LIMIT_DEFAULT, LIMIT_MAX};
use flotilla_proto::refusal::Violation;
use flotilla_proto::schema::VectorSpec;
use flotilla_proto::{shard, v1};

use super::recommend::{Examples, Target};
use crate::merge::Partial;
use crate::placement::View;

/// See the module.
pub(super) struct Plan {
    pub(super) offset: usize,
    /// Hits, or groups, that the caller gets.
    pub(super) limit: usize,
    /// The vector searched by.
    pub(super) vector: VectorSpec,
    /// What is still to be made a vector of.
    pub(super) examples: Option<Examples>,
    /// What makes a group, and its size.
    pub(super) groups: Option<(GroupBy, usize)>,
    pub(super) explain: bool,
    threshold: Option<f32>,
    partial: v1::SearchRequest,
    without: Vec<v1::Key>,
}

impl Plan {
    /// Checks `request` against its collection.
    ///
    /// # Errors
    /// A violation that names the field, its limit and its value.
    pub(super) fn new(view: &View, request: &v1::SearchRequest) -> Result<Plan, Violation> {
        let (name, vector) = view.spec.vector(&request.vector_name)?;
        let limit = request.limit.unwrap_or(LIMIT_DEFAULT);
        if limit == 0 || limit > LIMIT_MAX {
            return Err(Violation::range("limit", 1, LIMIT_MAX, limit));
        }
        let reach = u64::from(request.offset) + u64::from(limit);
        if reach > u64::from(LIMIT_MAX) {
            return Err(Violation::range("offset + limit", 1, LIMIT_MAX, reach));
        }
        check_effort(request)?;
        if request.score_threshold.is_some_and(f32::is_nan) {
            return Err(Violation::new("score_threshold", "is NaN, not a number"));
        }
        let examples = match (&request.recommend, &request.vector) {
            (Some(_), Some(_)) => {
                return Err(Violation::new(
                    "recommend",
                    "goes without vector: one of the two says what to look for",
                ));
            }
            (Some(recommend), None) => Some(Examples::new(recommend, vector)?),
            (None, asked) => {
                vector.check_vector("vector", &vector_from_wire("vector", asked.clone())?)?;
                None
            }
        };
        if let Some(filter) = &request.filter {
            Compiled::new(&filter_from_wire(filter.clone())?, &view.spec)?;
        }
        let partial = v1::SearchRequest {
            vector_name: name.to_owned(),
            limit: Some(reach as u32),
            offset: 0,
            with_payload: false,
            with_vectors: false,
            recommend: None,
            ..request.clone()
        };
        Ok(Plan {
            offset: request.offset as usize,
            limit: limit as usize,
            vector: *vector,
            examples,
            groups: groups(view, request, limit)?,
            explain: request.explain,
            threshold: request.score_threshold,
            partial,
            without: Vec::new(),
        })
    }

    /// The vector searched by, and its name.
    pub(super) fn aimed(&self) -> (&str, &VectorSpec) {
        (&self.partial.vector_name, &self.vector)
    }

    /// Searches for what the examples told of.
    pub(super) fn aim(&mut self, target: Target) {
        self.partial.vector = Some(vector_to_wire(target.vector.into()));
        self.without = target.without;
    }

    /// What a partition is asked.
    pub(super) fn message(&self, target: Option<shard::Target>) -> shard::SearchRequest {
        let (search, without) = (Some(self.partial.clone()), self.without.clone());
        shard::SearchRequest { target, search, without, ..Default::default() }
    }

    /// A group of this value, as a node names it.
    pub(super) fn group(&self, value: Option<v1::Value>) -> Result<(GroupKey, v1::Value), Violation> {
        let at = "groups.value";
        let value = value.ok_or_else(|| Violation::new(at, "is missing"))?;
        let domain = value_from_wire(at, value.clone())?;
        let key = self.groups.as_ref().and_then(|(by, _)| by.key(&domain));
        Ok((key.ok_or_else(|| Violation::new(at, "makes no group"))?, value))
    }

    /// Leaves out what scores below the threshold.
    pub(super) fn cut(&self, mut hits: Vec<Partial>) -> Vec<Partial> {
        if let Some(threshold) = self.threshold {
            hits.retain(|hit| self.vector.score(hit.distance) >= threshold);
        }
        hits
    }
}

fn groups(
    view: &View,
    request: &v1::SearchRequest,
    limit: u32,
) -> Result<Option<(GroupBy, usize)>, Violation> {
    if request.group_by.is_empty() {
        if request.group_size != 0 {
            let why = format!("is {}, and goes with group_by only", request.group_size);
            return Err(Violation::new("group_size", why));
        }
        return Ok(None);
    }
    let by = GroupBy::new(&request.group_by, &view.spec)?;
    let size = group_size(request.group_size, limit)?;
    if request.offset != 0 {
        return Err(Violation::new(
            "offset",
            format!("is {}, and does not go with group_by", request.offset),
        ));
    }
    Ok(Some((by, size as usize)))
}
