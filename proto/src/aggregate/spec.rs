//! A question, checked.

use super::calendar::Steps;
use super::{Datum, GroupName};
use crate::filter::Scalar;
use crate::limits::GROUPS_MAX;
use crate::schema::{FieldType, uuid_text};

/// An aggregation and its caller's name for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// Itself.
    pub aggregation: Aggregation,
}

/// What to count.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregation {
    /// Of which field; none for a count of records.
    pub field: Option<Field>,
    /// What.
    pub kind: Kind,
    /// Of histograms: also the groups without a record that lie between others.
    pub with_empty: bool,
    /// Within each group, by name.
    pub nested: Vec<Named>,
}

/// A field of payloads.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its path as named.
    pub name: String,
    /// Its path, split.
    pub path: Vec<String>,
    /// Its declared type, if declared.
    pub kind: Option<FieldType>,
}

/// What is counted.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One figure.
    Metric(Metric),
    /// The values at these percents.
    Percentiles(Vec<f64>),
    /// Different values.
    Cardinality,
    /// A group for each value.
    Terms {
        /// Groups in the answer.
        size: usize,
        /// Which come first.
        order: Order,
        /// Characters of text that count; 0: all.
        prefix: usize,
    },
    /// A group for each range.
    Ranges(Vec<Span>),
    /// Groups of numbers.
    Histogram {
        /// Between the beginnings of two groups.
        interval: f64,
        /// Where one of them begins.
        offset: f64,
    },
    /// Groups of points in time.
    DateHistogram(Steps),
}

/// One figure over values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// How many.
    Count,
    /// Their sum.
    Sum,
    /// Their mean.
    Avg,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// All of these.
    Stats,
}

/// The order of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The largest first, ties by value.
    Count,
    /// By value.
    Value,
}

/// A range of values, its end not in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Of its bucket.
    pub name: String,
    /// The least value in it.
    pub from: Option<Scalar>,
    /// The least value above it.
    pub to: Option<Scalar>,
}

impl Span {
    fn holds(&self, value: &Scalar) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let is_above = |bound: &Scalar| matches!(value.compare(bound), Some(Equal | Greater));
        let is_below = |bound: &Scalar| value.compare(bound) == Some(Less);
        self.from.as_ref().is_none_or(is_above) && self.to.as_ref().is_none_or(is_below)
    }
}

impl Aggregation {
    /// Whether it groups records.
    pub fn makes_groups(&self) -> bool {
        matches!(
            self.kind,
            Kind::Terms { .. } | Kind::Ranges(_) | Kind::Histogram { .. } | Kind::DateHistogram(_)
        )
    }

    /// The groups that a value puts its record in.
    pub fn groups_of(&self, datum: Datum<'_>, seen: &mut dyn FnMut(GroupName)) {
        match &self.kind {
            Kind::Terms { prefix, .. } => GroupName::of(datum, *prefix).into_iter().for_each(seen),
            Kind::Ranges(spans) => {
                let Some(value) = scalar(datum) else { return };
                for (place, span) in (0..).zip(spans) {
                    if span.holds(&value) {
                        seen(GroupName::Place(place));
                    }
                }
            }
            Kind::Histogram { interval, offset } => {
                if let Some(place) = place(datum, *interval, *offset) {
                    seen(GroupName::Place(place));
                }
            }
            Kind::DateHistogram(steps) => {
                if let Datum::Time(micros) = datum {
                    seen(GroupName::Time(steps.begin(micros)));
                }
            }
            Kind::Metric(_) | Kind::Percentiles(_) | Kind::Cardinality => {}
        }
    }

    /// Groups that a partition sends, at most: enough that the first are right unless values are many and spread unevenly.
    pub fn sent_max(&self) -> usize {
        match &self.kind {
            Kind::Terms { size, order: Order::Value, .. } => *size,
            Kind::Terms { size, order: Order::Count, .. } => size.saturating_mul(4).max(10_000),
            _ => GROUPS_MAX,
        }
    }
}

/// The ordinal of the interval that a number lies in.
fn place(datum: Datum<'_>, interval: f64, offset: f64) -> Option<i64> {
    if let Datum::Whole(whole) = datum
        && let (Some(interval), Some(offset)) = (whole_of(interval), whole_of(offset))
        && let Some(from) = whole.checked_sub(offset)
    {
        return Some(from.div_euclid(interval));
    }
    Some(((datum.number()? - offset) / interval).floor() as i64)
}

/// The integer that equals the float; small ones only.
fn whole_of(float: f64) -> Option<i64> {
    (float.trunc() == float && float.abs() < 9e15).then_some(float as i64)
}

fn scalar(datum: Datum<'_>) -> Option<Scalar> {
    Some(match datum {
        Datum::Truth(_) | Datum::Map => return None,
        Datum::Whole(whole) => Scalar::Int(whole),
        Datum::Float(float) => Scalar::Float(float),
        Datum::Time(micros) => Scalar::Time(micros),
        Datum::Text(text) => Scalar::Text(text.to_owned()),
        Datum::Uuid(id) => Scalar::Text(uuid_text(id)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_begin_at_the_offset() {
        assert_eq!(place(Datum::Whole(-1), 10.0, 0.0), Some(-1));
        assert_eq!(place(Datum::Whole(19), 10.0, 5.0), Some(1));
        assert_eq!(place(Datum::Float(0.25), 0.5, 0.0), Some(0));
        assert_eq!(place(Datum::Float(-0.25), 0.5, 0.0), Some(-1));
        assert_eq!(place(Datum::Float(1e300), 1e-300, 0.0), Some(i64::MAX));
        assert_eq!(place(Datum::Whole(i64::MAX), 1.0, -1.0), Some(i64::MAX));
        assert_eq!(place(Datum::Text("1"), 1.0, 0.0), None);
    }
}
