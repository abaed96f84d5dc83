//! Searches for words on the wire.

use flotilla_proto::convert::{clauses_from_wire, kin_from_wire};
use flotilla_proto::fulltext::{Need, check_text_field};
use flotilla_proto::limits::TEXT_LISTED_MAX;
use flotilla_proto::refusal::Violation;
use flotilla_proto::schema::CollectionSpec;
use flotilla_proto::{shard, v1};

use crate::query::{TextSearch, Weighing, Weights};

/// What to weigh.
pub(super) fn weighing_from_wire(
    request: shard::WeighRequest,
    spec: &CollectionSpec,
) -> Result<Weighing, Violation> {
    let language = check_text_field("field", &request.field, spec)?;
    let kin = kin_from_wire("kin", request.kin)?;
    let clauses = clauses_from_wire("clauses", request.clauses)?;
    Ok(Weighing::new(&request.field, language, kin, TEXT_LISTED_MAX, &clauses))
}

/// What was weighed, in the view at `log_index`.
pub(super) fn weights_to_wire(weights: Weights, log_index: u64) -> shard::WeighResponse {
    let word = |(word, records): (String, u64)| shard::KinWord { word, records };
    let list = |(words, cut): (Vec<(String, u64)>, bool)| shard::KinList {
        words: words.into_iter().map(word).collect(),
        cut,
    };
    shard::WeighResponse {
        log_index,
        records: weights.weighed.records,
        words: weights.weighed.words,
        containing: weights.weighed.containing,
        kin: weights.kin.into_iter().map(list).collect(),
    }
}

/// What to search for; what the query stands for, and what it weighs, is the router's to say.
pub(super) fn text_from_wire(
    text: &v1::TextQuery,
    scoring: Option<shard::TextScoring>,
    spec: &CollectionSpec,
) -> Result<TextSearch, Violation> {
    let language = check_text_field("text.field", &text.field, spec)?;
    let scoring = scoring.ok_or_else(|| Violation::new("scoring", "is missing"))?;
    if !scoring.mean_length.is_finite() || scoring.mean_length <= 0.0 {
        let why = format!("is {}, not a number above 0", scoring.mean_length);
        return Err(Violation::new("scoring.mean_length", why));
    }
    let clauses = clauses_from_wire("scoring.clauses", scoring.clauses)?;
    if clauses.is_empty() {
        return Err(Violation::new("scoring.clauses", "at least 1 is needed, got 0"));
    }
    let need = match (text.phrase, text.operator()) {
        (true, _) => Need::Phrase,
        (false, v1::TextOperator::All) => Need::All,
        (false, v1::TextOperator::Any | v1::TextOperator::Unspecified) => Need::Any,
    };
    Ok(TextSearch::new(&text.field, language, need, &clauses, scoring.mean_length))
}
