//! What to look for, told by examples.
//!
//! Examples are vectors, or keys of records whose vectors are read first: by the request's view of the map, from the
//! partitions that own them, as fresh as the request asks. They are read whole even where the answer may be partial:
//! without one of its examples a search would be another search.
//!
//! **Average vector.** With `p` and `n` the means of the positive and of the negative examples, the search is by
//! `p + (p - n)`; by `p` if there are no negatives. Where the distance is cosine every example counts by its
//! direction alone, so each is brought to unit length first.

use std::collections::BTreeMap;

use flotilla_proto::convert::{decode_record, key_from_wire, key_to_wire, vector_from_wire};
use flotilla_proto::limits::EXAMPLES_MAX;
use flotilla_proto::record::{Key, Vector};
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::{Datatype, Distance, Form, VectorSpec, at_most, check_key};
use flotilla_proto::v1;
use tonic::Status;

use crate::Router;
use crate::admission::Deadline;
use crate::fanout::Miss;
use crate::placement::View;
use crate::read::get_once;
use crate::read::options::ReadOptions;

/// Examples of unit length whose sum is shorter than this leave no direction but that of rounding.
const LENGTH_MIN: f64 = 1e-6;

/// Checked examples.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Examples {
    positive: Vec<Example>,
    negative: Vec<Example>,
}

/// An example, and its place in the request.
#[derive(Clone, Debug, PartialEq)]
struct Example {
    at: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Key(Key),
    Vector(Vec<f32>),
}

/// What examples come to.
pub(super) struct Target {
    /// The vector to search by.
    pub(super) vector: Vec<f32>,
    /// The examples' own records, which are not hits.
    pub(super) without: Vec<v1::Key>,
}

impl Examples {
    /// Checks a recommendation by the vector that `spec` describes.
    pub(super) fn new(recommend: &v1::Recommend, spec: &VectorSpec) -> Result<Examples, Violation> {
        use v1::RecommendStrategy::{AverageVector, Unspecified};
        match v1::RecommendStrategy::try_from(recommend.strategy) {
            Ok(Unspecified | AverageVector) => {}
            Err(_) => return Err(Violation::range("recommend.strategy", 0, 1, recommend.strategy)),
        }
        at_most("recommend", "examples", EXAMPLES_MAX, recommend.positive.len() + recommend.negative.len())?;
        if recommend.positive.is_empty() {
            return Err(Violation::new("recommend.positive", "at least 1 example is needed, got 0"));
        }
        let Form::Dense(Datatype::F32 | Datatype::F16 | Datatype::I8) = spec.form else {
            let why = format!("goes with dense vectors of numbers, not with {} ones", described(spec));
            return Err(Violation::new("recommend", why));
        };
        let list = |name: &str, examples: &[v1::Example]| {
            let example = |(n, example)| Example::new(format!("recommend.{name}[{n}]"), example, spec);
            examples.iter().enumerate().map(example).collect::<Result<Vec<_>, _>>()
        };
        Ok(Examples {
            positive: list("positive", &recommend.positive)?,
            negative: list("negative", &recommend.negative)?,
        })
    }

    /// The keys of examples that are records, each once.
    fn keys(&self) -> Vec<Key> {
        let keys = self.positive.iter().chain(&self.negative).filter_map(|example| match &example.kind {
            Kind::Key(key) => Some(key.clone()),
            Kind::Vector(_) => None,
        });
        let mut keys: Vec<Key> = keys.collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

impl Example {
    fn new(at: String, example: &v1::Example, spec: &VectorSpec) -> Result<Example, Violation> {
        let kind = match &example.kind {
            Some(v1::example::Kind::Key(key)) => {
                let key = key_from_wire(&at, Some(key.clone()))?;
                check_key(&at, &key)?;
                Kind::Key(key)
            }
            Some(v1::example::Kind::Vector(vector)) => {
                let vector = vector_from_wire(&at, Some(vector.clone()))?;
                spec.check_vector(&at, &vector)?;
                match vector {
                    Vector::Dense(values) => Kind::Vector(values),
                    Vector::Sparse(_) | Vector::Multi(_) => return Err(Violation::new(at, "is not dense")),
                }
            }
            None => return Err(Violation::new(at, "a key or a vector is needed")),
        };
        Ok(Example { at, kind })
    }
}

/// Reads the examples and makes a vector of them.
///
/// # Errors
/// `NOT_FOUND` for the first example whose record is not there; a violation if one has no such vector, or if they
/// cancel each other out.
pub(super) async fn target(
    router: &Router,
    view: &View,
    examples: Examples,
    (name, spec): (&str, &VectorSpec),
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Target, Miss> {
    let keys = examples.keys();
    let without: Vec<v1::Key> = keys.iter().map(key_to_wire).collect();
    let mut read = BTreeMap::new();
    if !keys.is_empty() {
        let request = v1::GetRequest { keys: without.clone(), with_vectors: true, ..Default::default() };
        for record in get_once(router, view, &request, &keys, &options.whole(), deadline).await?.records {
            let record = decode_record("record", &record).map_err(Status::from)?;
            read.insert(key_from_wire("record.key", record.key.clone()).map_err(Status::from)?, record);
        }
    }
    let vectors = |list: Vec<Example>| {
        list.into_iter().map(|example| example.vector(&read, name)).collect::<Result<Vec<_>, _>>()
    };
    let positive = vectors(examples.positive).map_err(Status::from)?;
    let negative = vectors(examples.negative).map_err(Status::from)?;
    let vector = average(spec, &positive, &negative).map_err(Status::from)?;
    Ok(Target { vector, without })
}

impl Example {
    /// The example's vector, among the records that were read.
    fn vector(self, read: &BTreeMap<Key, v1::Record>, name: &str) -> Result<Vec<f32>, Refusal> {
        match self.kind {
            Kind::Vector(values) => Ok(values),
            Kind::Key(key) => {
                let record = read.get(&key).ok_or_else(|| Refusal::NotFound("record", key.to_string()))?;
                let vector = record.vectors.get(name).ok_or_else(|| {
                    Violation::new(self.at, format!("record `{key}` has no vector `{name}`"))
                })?;
                Ok(vector.values.clone())
            }
        }
    }
}

/// The mean of the positives, plus its difference to the mean of the negatives.
fn average(spec: &VectorSpec, positive: &[Vec<f32>], negative: &[Vec<f32>]) -> Result<Vec<f32>, Violation> {
    let is_cosine = spec.distance == Distance::Cosine;
    let dims = spec.dims as usize;
    let mut sum = mean(positive, dims, is_cosine);
    if !negative.is_empty() {
        let against = mean(negative, dims, is_cosine);
        sum.iter_mut().zip(against).for_each(|(p, n)| *p += *p - n);
    }
    if is_cosine && length(sum.iter().copied()) < LENGTH_MIN {
        let why =
            "the examples cancel each other out: their average has no direction, and the distance is cosine";
        return Err(Violation::new("recommend", why));
    }
    let vector: Vec<f32> = fitting(spec, sum).into_iter().map(|v| v as f32).collect();
    spec.check_vector("recommend", &Vector::Dense(vector.clone()))?;
    Ok(vector)
}

/// Components that a narrow datatype holds: an average may lie beyond what its examples may. A direction is scaled, anything else cut.
fn fitting(spec: &VectorSpec, mut values: Vec<f64>) -> Vec<f64> {
    let most = match spec.form.datatype() {
        Datatype::F32 | Datatype::Bit => return values,
        Datatype::F16 => 65_504.0,
        Datatype::I8 => 127.0,
    };
    let greatest = values.iter().fold(0.0f64, |greatest, value| greatest.max(value.abs()));
    let scale = if spec.distance == Distance::Cosine && greatest > most { most / greatest } else { 1.0 };
    values.iter_mut().for_each(|value| *value = (*value * scale).clamp(-most, most));
    values
}

fn described(spec: &VectorSpec) -> &'static str {
    match spec.form {
        Form::Dense(datatype) => datatype.name(),
        form => form.name(),
    }
}

fn mean(vectors: &[Vec<f32>], dims: usize, is_cosine: bool) -> Vec<f64> {
    let mut mean = vec![0.0; dims];
    for vector in vectors {
        let scale = if is_cosine { length(vector.iter().copied().map(f64::from)) } else { 1.0 };
        let weight = 1.0 / (scale * vectors.len() as f64);
        mean.iter_mut().zip(vector).for_each(|(sum, v)| *sum += f64::from(*v) * weight);
    }
    mean
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use flotilla_proto::schema::IndexKind;

    use super::*;

    fn spec(distance: Distance) -> VectorSpec {
        VectorSpec::new(2, distance, IndexKind::Flat)
    }

    #[test]
    fn the_average_moves_away_from_the_negatives() {
        let (a, b, c) = (vec![4.0, 0.0], vec![0.0, 2.0], vec![1.0, 1.0]);
        let euclidean = spec(Distance::Euclidean);
        assert_eq!(average(&euclidean, &[a.clone(), b.clone()], &[]).unwrap(), [2.0, 1.0]);
        assert_eq!(average(&euclidean, &[a.clone(), b.clone()], &[c]).unwrap(), [3.0, 1.0]);
        let cosine = average(&spec(Distance::Cosine), &[a, b], &[]).unwrap();
        assert_eq!(cosine, [0.5, 0.5], "directions count, not lengths");
    }

    #[test]
    fn an_average_beyond_a_narrow_datatype_is_brought_inside() {
        let narrow = |distance| VectorSpec { form: Form::Dense(Datatype::I8), ..spec(distance) };
        let (high, low) = ([vec![100.0, 50.0]], [vec![-100.0, 50.0]]);
        assert_eq!(average(&narrow(Distance::Dot), &high, &low).unwrap(), [127.0, 50.0]);
        let turned = average(&narrow(Distance::Cosine), &high, &low).unwrap();
        let wanted = average(&spec(Distance::Cosine), &high, &low).unwrap();
        assert_eq!(turned, wanted, "it fits");
    }

    #[test]
    fn examples_that_cancel_out_are_refused() {
        let opposite = [vec![0.3, 0.9], vec![-0.1, -0.3]];
        let refused = average(&spec(Distance::Cosine), &opposite, &[]).unwrap_err().to_string();
        assert!(refused.starts_with("recommend: the examples cancel each other out"), "{refused}");
        let huge = [vec![f32::MAX, 0.0]];
        let refused = average(&spec(Distance::Dot), &huge, &[vec![-f32::MAX, 0.0]]).unwrap_err().to_string();
        assert!(refused.contains("component 0 is inf"), "{refused}");
    }
}
