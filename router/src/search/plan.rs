//! A checked search: what the caller gets, and what each partition is asked.

use std::collections::BTreeMap;

use flotilla_proto::convert::{
    aggregations_from_wire, check_effort, filter_from_wire, text_query_from_wire, value_from_wire,
    value_to_wire, vector_from_wire, vector_to_wire,
};
use flotilla_proto::filter::Compiled;
use flotilla_proto::fulltext::TextQuery;
use flotilla_proto::group::{GroupBy, GroupKey, group_size};
use flotilla_proto::limits::{LIMIT_DEFAULT, LIMIT_MAX};
use flotilla_proto::projection::Projection;
use flotilla_proto::refusal::Violation;
use flotilla_proto::schema::VectorSpec;
use flotilla_proto::{shard, v1};

use super::fuse::Fusion;
use super::highlights::{Form, Highlighter};
use super::recommend::{Examples, Target};
use crate::merge::Partial;
use crate::placement::View;

/// See the module.
pub(super) struct Plan {
    pub(super) offset: usize,
    /// Hits, or groups, that the caller gets.
    pub(super) limit: usize,
    /// The vector searched by; none in a search for words alone.
    vector: Option<VectorSpec>,
    /// The words searched for.
    pub(super) text: Option<TextQuery>,
    /// How hits by vector and hits by words become one list, where both are searched.
    pub(super) fusion: Option<Fusion>,
    /// How the words found are shown.
    highlight: Option<Form>,
    /// What is still to be made a vector of.
    pub(super) examples: Option<Examples>,
    /// What makes a group, and its size.
    pub(super) groups: Option<(GroupBy, usize)>,
    pub(super) explain: bool,
    threshold: Option<f32>,
    /// What partitions are asked: of two searches, the one by vector.
    partial: v1::SearchRequest,
    /// The other one.
    partial_text: Option<v1::SearchRequest>,
    scoring: Option<shard::TextScoring>,
    without: Vec<v1::Key>,
    shows_payload: bool,
    fields: Option<Projection>,
}

/// What is fetched of each winner.
pub(super) struct Wanted {
    pub payload: bool,
    /// Of the payload, these paths alone; none: all.
    pub fields: Vec<String>,
    pub vectors: bool,
}

impl Plan {
    /// Checks `request` against its collection.
    ///
    /// # Errors
    /// A violation that names the field, its limit and its value.
    pub(super) fn new(view: &View, request: &v1::SearchRequest) -> Result<Plan, Violation> {
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
        let text = request.text.as_ref().map(|text| text_query_from_wire(text, &view.spec)).transpose()?;
        let reach = reach as u32;
        let fusion = request.fusion.as_ref().map(|fusion| Fusion::new(fusion, reach)).transpose()?;
        check_parts(request)?;
        let highlight = request.highlight.as_ref().map(Form::new).transpose()?;
        let (aimed, examples) = match text.is_some() && fusion.is_none() {
            true => (None, None),
            false => by_vector(view, request)?,
        };
        let fields = Projection::new(&request.fields)?;
        if !request.aggregations.is_empty() {
            aggregations_from_wire(request.aggregations.clone(), &view.spec)?;
        }
        if let Some(filter) = &request.filter {
            Compiled::new(&filter_from_wire(filter.clone())?, &view.spec)?;
        }
        let mut partial = v1::SearchRequest {
            vector_name: aimed.map(|(name, _)| name.to_owned()).unwrap_or_default(),
            limit: Some(fusion.map_or(reach, |fusion| fusion.candidates)),
            offset: 0,
            with_payload: false,
            with_vectors: false,
            recommend: None,
            fusion: None,
            highlight: None,
            aggregations: BTreeMap::new(),
            fields: Vec::new(),
            ..request.clone()
        };
        let partial_text = fusion.map(|_| {
            // What a fused list scores is not known before.
            partial.score_threshold = None;
            let text = partial.text.take();
            v1::SearchRequest { text, vector: None, vector_name: String::new(), ..partial.clone() }
        });
        Ok(Plan {
            offset: request.offset as usize,
            limit: limit as usize,
            vector: aimed.map(|(_, vector)| *vector),
            text,
            fusion,
            highlight,
            examples,
            groups: groups(view, request, limit)?,
            explain: request.explain,
            threshold: request.score_threshold,
            shows_payload: request.with_payload,
            fields,
            partial,
            partial_text,
            scoring: None,
            without: Vec::new(),
        })
    }

    /// The vector searched by, and its name.
    pub(super) fn aimed(&self) -> Option<(&str, &VectorSpec)> {
        Some((&self.partial.vector_name, self.vector.as_ref()?))
    }

    /// Searches for words that weigh so much.
    pub(super) fn weighed(&mut self, scoring: shard::TextScoring) {
        self.scoring = Some(scoring);
    }

    /// What is fetched: payloads even where the caller does not want them, if words found are shown from them.
    pub(super) fn wanted(&self, request: &v1::SearchRequest) -> Wanted {
        let reads = self.highlight.is_some();
        let payload = self.shows_payload || self.fields.is_some() || reads;
        let fields = if reads { Vec::new() } else { request.fields.clone() };
        Wanted { payload, fields, vectors: request.with_vectors }
    }

    /// What the caller wants of a payload that was fetched.
    pub(super) fn shown(&self, payload: BTreeMap<String, v1::Value>) -> BTreeMap<String, v1::Value> {
        match &self.fields {
            Some(fields) if self.highlight.is_some() => {
                // It came whole.
                let value = |(name, value)| Some((name, value_from_wire("payload", value).ok()?));
                let known = payload.into_iter().filter_map(value).collect();
                fields.of(known).iter().map(|(name, value)| (name.clone(), value_to_wire(value))).collect()
            }
            None if !self.shows_payload => BTreeMap::new(),
            _ => payload,
        }
    }

    /// What shows the words found.
    pub(super) fn highlighter(&self) -> Option<Highlighter> {
        Some(Highlighter::new(self.highlight.as_ref()?, self.text.as_ref()?, self.scoring.as_ref()?))
    }

    /// Searches for what the examples told of.
    pub(super) fn aim(&mut self, target: Target) {
        self.partial.vector = Some(vector_to_wire(target.vector.into()));
        self.without = target.without;
    }

    /// What a partition is asked.
    pub(super) fn message(&self, target: Option<shard::Target>) -> shard::SearchRequest {
        let (search, without) = (Some(self.partial.clone()), self.without.clone());
        let scoring = self.scoring.clone().filter(|_| self.partial.text.is_some());
        shard::SearchRequest { target, search, without, scoring, ..Default::default() }
    }

    /// What a partition is asked for words, where the other search is by vector.
    pub(super) fn text_message(&self, target: Option<shard::Target>) -> shard::SearchRequest {
        let (search, scoring) = (self.partial_text.clone(), self.scoring.clone());
        shard::SearchRequest { target, search, scoring, without: self.without.clone(), ..Default::default() }
    }

    /// What a hit of the answer scores.
    pub(super) fn score(&self, distance: f32) -> f32 {
        match &self.vector {
            Some(vector) if self.fusion.is_none() => vector.score(distance),
            _ => -distance,
        }
    }

    /// What a hit of the search by vector scores.
    pub(super) fn vector_score(&self, distance: f32) -> f32 {
        self.vector.as_ref().map_or(-distance, |vector| vector.score(distance))
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
            hits.retain(|hit| self.score(hit.distance) >= threshold);
        }
        hits
    }
}

/// Refuses parts of a request that do not go together.
fn check_parts(request: &v1::SearchRequest) -> Result<(), Violation> {
    let has_vector = request.vector.is_some() || request.recommend.is_some();
    let refuse = |field: &str, why: &str| Err(Violation::new(field, why));
    match (&request.fusion, &request.text) {
        (Some(_), Some(_)) if !request.group_by.is_empty() => refuse("group_by", "does not go with fusion"),
        (Some(_), Some(_)) if has_vector => Ok(()),
        (Some(_), _) => refuse("fusion", "needs both text and a vector, or examples"),
        (None, Some(_)) if has_vector => {
            refuse("text", "goes without vector and recommend, unless fusion says how hits become one list")
        }
        (None, None) if request.highlight.is_some() => refuse("highlight", "goes with text"),
        (None, _) => Ok(()),
    }
}

/// What to look for by vector: the vector's name and kind, and the examples that are still to be made one of.
type Aim<'a> = (Option<(&'a str, &'a VectorSpec)>, Option<Examples>);

fn by_vector<'a>(view: &'a View, request: &'a v1::SearchRequest) -> Result<Aim<'a>, Violation> {
    let (name, vector) = view.spec.vector(&request.vector_name)?;
    let examples = match (&request.recommend, &request.vector) {
        (Some(_), Some(_)) => {
            let why = "goes without vector: one of the two says what to look for";
            return Err(Violation::new("recommend", why));
        }
        (Some(recommend), None) => Some(Examples::new(recommend, vector)?),
        (None, asked) => {
            vector.check_vector("vector", &vector_from_wire("vector", asked.clone())?)?;
            None
        }
    };
    Ok((Some((name, vector)), examples))
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
