//! Count, sum, least and greatest of values, exactly and in any order.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::datum::{Datum, time_value};
use super::sum::Sum;
use crate::filter::Scalar;
use crate::record::Value;
use crate::schema::FieldType;

/// See the module. Whole numbers (points in time are microseconds) and floats are kept apart until they are told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    others: u64,
    wholes: u64,
    whole_sum: i128,
    whole_min: i64,
    whole_max: i64,
    floats: u64,
    float_sum: Sum,
    float_min: f64,
    float_max: f64,
}

impl Default for Moments {
    fn default() -> Moments {
        Moments {
            others: 0,
            wholes: 0,
            whole_sum: 0,
            whole_min: i64::MAX,
            whole_max: i64::MIN,
            floats: 0,
            float_sum: Sum::default(),
            float_min: f64::INFINITY,
            float_max: f64::NEG_INFINITY,
        }
    }
}

impl Moments {
    /// Adds a value.
    pub fn add(&mut self, datum: Datum<'_>) {
        match datum {
            Datum::Whole(whole) | Datum::Time(whole) => {
                self.wholes += 1;
                self.whole_sum += i128::from(whole);
                self.whole_min = self.whole_min.min(whole);
                self.whole_max = self.whole_max.max(whole);
            }
            Datum::Float(float) => {
                self.floats += 1;
                self.float_sum.add(float);
                self.float_min = self.float_min.min(float);
                self.float_max = self.float_max.max(float);
            }
            Datum::Truth(_) | Datum::Text(_) | Datum::Uuid(_) | Datum::Map => self.others += 1,
        }
    }

    /// Adds other values.
    pub fn merge(&mut self, other: &Moments) {
        self.others = self.others.saturating_add(other.others);
        self.wholes = self.wholes.saturating_add(other.wholes);
        self.whole_sum = self.whole_sum.saturating_add(other.whole_sum);
        self.whole_min = self.whole_min.min(other.whole_min);
        self.whole_max = self.whole_max.max(other.whole_max);
        self.floats = self.floats.saturating_add(other.floats);
        self.float_sum.merge(&other.float_sum);
        self.float_min = self.float_min.min(other.float_min);
        self.float_max = self.float_max.max(other.float_max);
    }

    /// Values of any type.
    pub fn values(&self) -> u64 {
        self.others.saturating_add(self.numbers())
    }

    fn numbers(&self) -> u64 {
        self.wholes.saturating_add(self.floats)
    }

    /// The sum of the numbers; none of points in time.
    pub fn sum(&self, kind: Option<FieldType>) -> Option<Value> {
        if kind == Some(FieldType::Datetime) {
            return None;
        }
        match i64::try_from(self.whole_sum) {
            Ok(whole) if self.floats == 0 && kind != Some(FieldType::Float) => Some(Value::Int(whole)),
            _ => finite(self.total().value()),
        }
    }

    fn total(&self) -> Sum {
        let mut total = self.float_sum.clone();
        total.add_whole(self.whole_sum);
        total
    }

    /// The mean of the numbers; a point in time of points in time.
    pub fn avg(&self, kind: Option<FieldType>) -> Option<Value> {
        let numbers = self.numbers();
        if numbers == 0 {
            return None;
        }
        if kind == Some(FieldType::Datetime) {
            let mean = self.whole_sum.checked_div_euclid(i128::from(self.wholes.max(1)))?;
            return Some(time_value(i64::try_from(mean).ok()?));
        }
        finite(self.total().value() / numbers as f64)
    }

    /// The least number.
    pub fn min(&self, kind: Option<FieldType>) -> Option<Value> {
        self.end(kind, (self.whole_min, self.float_min), Ordering::Less)
    }

    /// The greatest number.
    pub fn max(&self, kind: Option<FieldType>) -> Option<Value> {
        self.end(kind, (self.whole_max, self.float_max), Ordering::Greater)
    }

    fn end(&self, kind: Option<FieldType>, (whole, float): (i64, f64), side: Ordering) -> Option<Value> {
        let is_float = match (self.wholes, self.floats) {
            (0, 0) => return None,
            (_, 0) => false,
            (0, _) => true,
            _ => Scalar::Float(float).compare(&Scalar::Int(whole)) == Some(side),
        };
        Some(match kind {
            _ if is_float => Value::Float(float),
            Some(FieldType::Datetime) => time_value(whole),
            Some(FieldType::Float) => Value::Float(whole as f64),
            _ => Value::Int(whole),
        })
    }

    /// Whether it is of a size that [`Moments::add`] makes; what came from elsewhere may not be.
    pub(super) fn is_sound(&self) -> bool {
        self.float_sum.is_sound()
    }
}

/// No value of a record is infinite, and no figure is: a sum beyond all floats is the greatest.
fn finite(value: f64) -> Option<Value> {
    (!value.is_nan()).then(|| Value::Float(value.clamp(f64::MIN, f64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[Datum<'_>]) -> Moments {
        let mut moments = Moments::default();
        values.iter().for_each(|value| moments.add(*value));
        moments
    }

    #[test]
    fn integers_stay_integers_as_long_as_they_fit() {
        let moments = of(&[Datum::Whole(i64::MAX), Datum::Whole(i64::MAX), Datum::Whole(-i64::MAX)]);
        assert_eq!(moments.sum(None), Some(Value::Int(i64::MAX)));
        let beyond = of(&[Datum::Whole(i64::MAX), Datum::Whole(i64::MAX)]);
        assert_eq!(beyond.sum(None), Some(Value::Float(i64::MAX as f64 * 2.0)));
        assert_eq!(beyond.avg(None), Some(Value::Float(i64::MAX as f64)));
        let mixed = of(&[Datum::Whole(1), Datum::Float(0.5), Datum::Text("x"), Datum::Truth(true)]);
        assert_eq!((mixed.values(), mixed.sum(None)), (4, Some(Value::Float(1.5))));
        assert_eq!((mixed.min(None), mixed.max(None)), (Some(Value::Float(0.5)), Some(Value::Int(1))));
        assert_eq!(mixed.avg(None), Some(Value::Float(0.75)));
    }

    #[test]
    fn there_is_no_least_of_nothing() {
        let nothing = of(&[Datum::Text("x")]);
        assert_eq!((nothing.values(), nothing.min(None), nothing.avg(None)), (1, None, None));
        assert_eq!(nothing.sum(None), Some(Value::Int(0)));
    }

    #[test]
    fn points_in_time_have_a_mean_and_no_sum() {
        let kind = Some(FieldType::Datetime);
        let moments = of(&[Datum::Time(0), Datum::Time(2_000_000)]);
        assert_eq!(moments.avg(kind), Some("1970-01-01T00:00:01Z".into()));
        assert_eq!((moments.sum(kind), moments.max(kind)), (None, Some("1970-01-01T00:00:02Z".into())));
    }

    #[test]
    fn a_sum_beyond_all_floats_is_the_greatest() {
        let moments = of(&[Datum::Float(f64::MAX), Datum::Float(f64::MAX)]);
        assert_eq!(moments.sum(None), Some(Value::Float(f64::MAX)));
    }
}
