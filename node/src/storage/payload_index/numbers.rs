//! Conditions on numbers as ranges of a column, exactly as [`Scalar::compare`] orders them.
//!
//! A column holds one class of number while a filter may name the other: a float bound on integers, or an integer
//! beyond 2^53 on floats. Each bound is moved to the nearest number of the column's class that lies inside it, so a plain
//! inclusive range answers it without rounding.

use std::cmp::Ordering;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use flotilla_proto::filter::{Scalar, Test};
use flotilla_proto::group::GroupKey;
use flotilla_proto::record::Value;
use flotilla_proto::schema::FieldType;
use tantivy::fastfield::Column;

use super::fields::exact_float;
use crate::index::Bitset;

/// Rows of one step of a scan: what bounds its scratch.
const STEP: u32 = 1 << 16;
/// Up to this many values are looked for by a scan each; more by one pass over the rows.
const SCANS_MAX: usize = 3;

const TWO_63: f64 = 9_223_372_036_854_775_808.0;

/// The numbers that a test accepts.
pub(super) enum Wanted<T> {
    /// These, ascending.
    Values(Vec<T>),
    /// All of a range.
    Range(RangeInclusive<T>),
    /// All but these, ascending.
    Others(Vec<T>),
}

impl Wanted<i64> {
    /// What `test` accepts of a column of whole numbers; `None` if a column cannot tell.
    pub(super) fn whole(test: &Test, kind: FieldType) -> Option<Wanted<i64>> {
        let fits = |scalar: &&Scalar| match kind {
            FieldType::Datetime => matches!(scalar, Scalar::Time(_)),
            _ => matches!(scalar, Scalar::Int(_) | Scalar::Float(_)),
        };
        match test {
            Test::In(wanted) => {
                let mut values: Vec<i64> = wanted.iter().filter(fits).filter_map(whole_equal).collect();
                values.sort_unstable();
                values.dedup();
                Some(Wanted::Values(values))
            }
            Test::Range { from, to } => {
                let low = edge(from, fits, i64::MIN, whole_from);
                let high = edge(to, fits, i64::MAX, whole_to);
                Some(low.zip(high).map_or(Wanted::Values(vec![]), |(low, high)| Wanted::Range(low..=high)))
            }
            Test::OtherGroup(known) => {
                let value = |key: &GroupKey| match (key, kind) {
                    (GroupKey::Time(whole), FieldType::Datetime) => Some(*whole),
                    (GroupKey::Int(whole), FieldType::Integer) => Some(*whole),
                    _ => None,
                };
                Some(Wanted::Others(known.iter().filter_map(value).collect()))
            }
            Test::Prefix(_)
            | Test::Glob(_)
            | Test::Match { .. }
            | Test::Phrase(_)
            | Test::Exists
            | Test::Within(_) => None,
        }
    }
}

impl Wanted<f64> {
    /// What `test` accepts of a column of floats; `None` if a column cannot tell.
    pub(super) fn float(test: &Test) -> Option<Wanted<f64>> {
        let fits = |scalar: &&Scalar| matches!(scalar, Scalar::Int(_) | Scalar::Float(_));
        match test {
            Test::In(wanted) => {
                let mut values: Vec<f64> = wanted.iter().filter(fits).filter_map(float_equal).collect();
                values.sort_unstable_by(f64::total_cmp);
                values.dedup();
                Some(Wanted::Values(values))
            }
            Test::Range { from, to } => {
                let low = edge(from, fits, f64::NEG_INFINITY, float_from);
                let high = edge(to, fits, f64::INFINITY, float_to);
                Some(low.zip(high).map_or(Wanted::Values(vec![]), |(low, high)| Wanted::Range(low..=high)))
            }
            Test::Prefix(_)
            | Test::Glob(_)
            | Test::Match { .. }
            | Test::Phrase(_)
            | Test::Exists
            | Test::OtherGroup(_)
            | Test::Within(_) => None,
        }
    }
}

impl Wanted<bool> {
    /// What `test` accepts of a column of truth values; `None` if a column cannot tell.
    pub(super) fn truth(test: &Test) -> Option<Wanted<bool>> {
        let accepts = |truth: &bool| test.holds(&Value::Bool(*truth), Some(FieldType::Bool));
        match test {
            Test::In(_) | Test::Range { .. } | Test::OtherGroup(_) => {
                Some(Wanted::Values([false, true].into_iter().filter(accepts).collect()))
            }
            Test::Prefix(_)
            | Test::Glob(_)
            | Test::Match { .. }
            | Test::Phrase(_)
            | Test::Exists
            | Test::Within(_) => None,
        }
    }
}

/// A bound brought into the column's class: `open` where there is none; `None` where nothing can satisfy it.
fn edge<T>(
    bound: &Option<(Scalar, bool)>,
    fits: impl Fn(&&Scalar) -> bool,
    open: T,
    inside: impl Fn(&Scalar, bool) -> Option<T>,
) -> Option<T> {
    match bound {
        None => Some(open),
        Some((scalar, inclusive)) if fits(&scalar) => inside(scalar, *inclusive),
        Some(_) => None,
    }
}

fn whole_equal(scalar: &Scalar) -> Option<i64> {
    match scalar {
        Scalar::Int(whole) | Scalar::Time(whole) => Some(*whole),
        Scalar::Float(float) => {
            (float.trunc() == *float && (-TWO_63..TWO_63).contains(float)).then_some(*float as i64)
        }
        _ => None,
    }
}

/// The least whole number above the bound.
fn whole_from(scalar: &Scalar, inclusive: bool) -> Option<i64> {
    match scalar {
        Scalar::Int(whole) | Scalar::Time(whole) if inclusive => Some(*whole),
        Scalar::Int(whole) | Scalar::Time(whole) => whole.checked_add(1),
        Scalar::Float(float) if *float < -TWO_63 => Some(i64::MIN),
        Scalar::Float(float) if *float < TWO_63 => {
            let is_on_bound = !inclusive && float.ceil() == *float;
            (float.ceil() as i64).checked_add(i64::from(is_on_bound))
        }
        _ => None,
    }
}

/// The greatest whole number below the bound.
fn whole_to(scalar: &Scalar, inclusive: bool) -> Option<i64> {
    match scalar {
        Scalar::Int(whole) | Scalar::Time(whole) if inclusive => Some(*whole),
        Scalar::Int(whole) | Scalar::Time(whole) => whole.checked_sub(1),
        Scalar::Float(float) if *float >= TWO_63 => Some(i64::MAX),
        Scalar::Float(float) if *float >= -TWO_63 => {
            let is_on_bound = !inclusive && float.floor() == *float;
            (float.floor() as i64).checked_sub(i64::from(is_on_bound))
        }
        _ => None,
    }
}

fn float_equal(scalar: &Scalar) -> Option<f64> {
    match scalar {
        Scalar::Int(whole) => exact_float(*whole),
        Scalar::Float(float) if !float.is_nan() => Some(float + 0.0),
        _ => None,
    }
}

/// The float nearest to the bound, and how it lies to it.
fn nearest_float(scalar: &Scalar) -> Option<(f64, Ordering)> {
    let float = match scalar {
        Scalar::Int(whole) => *whole as f64,
        Scalar::Float(float) => *float + 0.0,
        _ => return None,
    };
    Some((float, Scalar::Float(float).compare(scalar)?))
}

/// The least float above the bound.
fn float_from(scalar: &Scalar, inclusive: bool) -> Option<f64> {
    let (float, order) = nearest_float(scalar)?;
    let is_inside = order == Ordering::Greater || inclusive && order == Ordering::Equal;
    Some(if is_inside { float } else { float.next_up() })
}

/// The greatest float below the bound.
fn float_to(scalar: &Scalar, inclusive: bool) -> Option<f64> {
    let (float, order) = nearest_float(scalar)?;
    let is_inside = order == Ordering::Less || inclusive && order == Ordering::Equal;
    Some(if is_inside { float } else { float.next_down() })
}

/// Adds the rows of `column` with a wanted value to `found`.
pub(super) fn scan<T>(column: &Column<T>, wanted: &Wanted<T>, rows: u32, found: &mut Bitset)
where
    T: PartialOrd + Copy + Debug + Send + Sync + 'static,
{
    match wanted {
        Wanted::Range(range) => scan_range(column, range, rows, found),
        Wanted::Values(values) if values.len() <= SCANS_MAX => {
            for value in values {
                scan_range(column, &(*value..=*value), rows, found);
            }
        }
        Wanted::Values(values) => {
            add_rows(column, rows, found, |value| holds(values, value));
        }
        Wanted::Others(values) => {
            add_rows(column, rows, found, |value| !holds(values, value));
        }
    }
}

/// Whether the ascending `values` hold this one.
fn holds<T: PartialOrd + Copy>(values: &[T], value: T) -> bool {
    let at = values.partition_point(|other| *other < value);
    values.get(at).is_some_and(|other| *other == value)
}

/// One pass over the rows.
fn add_rows<T>(column: &Column<T>, rows: u32, found: &mut Bitset, is_wanted: impl Fn(T) -> bool)
where
    T: PartialOrd + Copy + Debug + Send + Sync + 'static,
{
    for row in 0..rows {
        if column.values_for_doc(row).any(&is_wanted) {
            found.insert(row);
        }
    }
}

fn scan_range<T>(column: &Column<T>, range: &RangeInclusive<T>, rows: u32, found: &mut Bitset)
where
    T: PartialOrd + Copy + Debug + Send + Sync + 'static,
{
    let (least, greatest) = (column.min_value(), column.max_value());
    if range.is_empty() || *range.end() < least || *range.start() > greatest {
        // Not only quicker: tantivy 0.27 takes a range below the least value for the least value itself.
        return;
    }
    let mut hits = Vec::new();
    for start in (0..rows).step_by(STEP as usize) {
        hits.clear();
        let step = start..rows.min(start.saturating_add(STEP));
        column.get_docids_for_value_range(range.clone(), step, &mut hits);
        for row in &hits {
            found.insert(*row);
        }
    }
}
