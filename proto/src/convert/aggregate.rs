//! Aggregations: the question from the wire, the answer to it.

use std::collections::BTreeMap;

use super::record::{value_from_wire, value_to_wire};

use crate::aggregate::{
    Aggregation, Counted, Field, Group, Groups, Kind, Metric, Moments, Named, Order, Room, Span, Steps,
    Tally, Unit,
};
use crate::filter::Scalar;
use crate::limits::*;
use crate::record::Value;
use crate::refusal::Violation;
use crate::schema::{CollectionSpec, FieldType, at_most};
use crate::v1;
use crate::v1::aggregation::{DateHistogram, Histogram, Ranges, Terms, date_histogram, terms};
use crate::v1::aggregation_result as result;

type Wire = BTreeMap<String, v1::Aggregation>;

const PERCENTS_DEFAULT: [f64; 7] = [1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0];
const UTC_OFFSET_MAX: i32 = 1_080;

/// The aggregations of a request, checked against the collection, by name.
///
/// # Errors
/// A violation that names the aggregation, the limit and the value.
pub fn aggregations_from_wire(wire: Wire, spec: &CollectionSpec) -> Result<Vec<Named>, Violation> {
    let mut total = 0;
    let all = level("aggregations", wire, spec, 1, &mut total)?;
    if all.is_empty() {
        return Err(Violation::new("aggregations", "none is named, and at least one is needed"));
    }
    Ok(all)
}

fn level(
    at: &str,
    wire: Wire,
    spec: &CollectionSpec,
    depth: usize,
    total: &mut usize,
) -> Result<Vec<Named>, Violation> {
    if wire.is_empty() {
        return Ok(vec![]);
    }
    at_most("aggregations", "levels", AGGREGATION_DEPTH_MAX, depth)?;
    *total += wire.len();
    at_most("aggregations", "aggregations", AGGREGATIONS_MAX, *total)?;
    let one = |(name, wire): (String, v1::Aggregation)| {
        let at = format!("{at}.{name}");
        if name.is_empty() {
            return Err(Violation::new(at, "a name is needed"));
        }
        at_most(&at, "bytes in its name", NAME_BYTES_MAX, name.len())?;
        let field = field(&at, &wire, spec)?;
        let declared = field.as_ref().and_then(|field| field.kind);
        let with_empty = with_empty(&wire.kind);
        let kind = kind(&at, wire.kind, declared)?;
        let aggregation = Aggregation { field, kind, with_empty, nested: vec![] };
        if !wire.aggregations.is_empty() && !aggregation.makes_groups() {
            return Err(Violation::new(at, "it makes no groups, so there is nothing to aggregate within"));
        }
        let nested = level(&at, wire.aggregations, spec, depth + 1, total)?;
        Ok(Named { name, aggregation: Aggregation { nested, ..aggregation } })
    };
    wire.into_iter().map(one).collect()
}

fn field(at: &str, wire: &v1::Aggregation, spec: &CollectionSpec) -> Result<Option<Field>, Violation> {
    use v1::aggregation::{Kind as Asked, Metric as Name};
    if wire.field.is_empty() {
        if wire.kind == Some(Asked::Metric(Name::Count.into())) {
            return Ok(None);
        }
        return Err(Violation::new(format!("{at}.field"), "is missing: only a count goes without"));
    }
    let kind = spec.kind_of(&format!("{at}.field"), &wire.field)?;
    if kind == Some(FieldType::Geo) {
        let why = format!(
            "`{}` is declared as geo; points have no figures and make no groups: count those of a filter instead",
            wire.field
        );
        return Err(Violation::new(format!("{at}.field"), why));
    }
    let path = wire.field.split('.').map(str::to_owned).collect();
    Ok(Some(Field { name: wire.field.clone(), path, kind }))
}

fn kind(
    at: &str,
    wire: Option<v1::aggregation::Kind>,
    declared: Option<FieldType>,
) -> Result<Kind, Violation> {
    use v1::aggregation::Kind as Asked;
    let refused = |why: String| Err(Violation::new(at, why));
    let is_number = matches!(declared, None | Some(FieldType::Integer | FieldType::Float));
    let is_time = declared == Some(FieldType::Datetime);
    // In fields of these types a bound is what it spells.
    let spelt = declared.filter(|kind| matches!(kind, FieldType::Datetime | FieldType::Uuid));
    let declared = declared.map_or("undeclared", FieldType::name);
    Ok(match wire {
        None => return refused("what to compute is missing".to_owned()),
        Some(Asked::Metric(metric)) => match metric_of(at, metric)? {
            metric @ (Metric::Count | Metric::Stats) => Kind::Metric(metric),
            Metric::Sum if is_time => return refused("points in time have no sum".to_owned()),
            metric if is_number || is_time => Kind::Metric(metric),
            _ => return refused(format!("it takes numbers, the field is declared as {declared}")),
        },
        Some(Asked::Percentiles(_) | Asked::Histogram(_)) if !is_number => {
            return refused(format!("it takes numbers, the field is declared as {declared}"));
        }
        Some(Asked::Percentiles(asked)) => percents(at, asked.percents)?,
        Some(Asked::Cardinality(_)) => Kind::Cardinality,
        Some(Asked::Terms(asked)) => terms(at, asked)?,
        Some(Asked::Ranges(asked)) => ranges(at, asked, spelt)?,
        Some(Asked::Histogram(Histogram { interval, offset, with_empty: _ })) => {
            if !(interval.is_finite() && interval > 0.0) {
                return refused(format!("interval: must be above 0, got {interval}"));
            }
            if !offset.is_finite() {
                return refused(format!("offset: must be finite, got {offset}"));
            }
            Kind::Histogram { interval, offset }
        }
        Some(Asked::DateHistogram(_)) if !is_time => {
            return refused(format!(
                "it takes points in time, the field is {declared}; declare it as datetime"
            ));
        }
        Some(Asked::DateHistogram(asked)) => steps(at, asked)?,
    })
}

fn with_empty(wire: &Option<v1::aggregation::Kind>) -> bool {
    use v1::aggregation::Kind as Asked;
    match wire {
        Some(Asked::Histogram(asked)) => asked.with_empty,
        Some(Asked::DateHistogram(asked)) => asked.with_empty,
        _ => false,
    }
}

fn metric_of(at: &str, metric: i32) -> Result<Metric, Violation> {
    use v1::aggregation::Metric as Asked;
    Ok(match Asked::try_from(metric) {
        Ok(Asked::Count) => Metric::Count,
        Ok(Asked::Sum) => Metric::Sum,
        Ok(Asked::Avg) => Metric::Avg,
        Ok(Asked::Min) => Metric::Min,
        Ok(Asked::Max) => Metric::Max,
        Ok(Asked::Stats) => Metric::Stats,
        Ok(Asked::Unspecified) | Err(_) => {
            return Err(Violation::range(format!("{at}.metric"), 1, 6, metric));
        }
    })
}

fn percents(at: &str, percents: Vec<f64>) -> Result<Kind, Violation> {
    at_most(&format!("{at}.percents"), "percents", PERCENTS_MAX, percents.len())?;
    if let Some(wrong) = percents.iter().find(|percent| !(0.0..=100.0).contains(*percent)) {
        return Err(Violation::range(format!("{at}.percents"), 0, 100, wrong));
    }
    Ok(Kind::Percentiles(if percents.is_empty() { PERCENTS_DEFAULT.to_vec() } else { percents }))
}

fn terms(at: &str, asked: Terms) -> Result<Kind, Violation> {
    let size = match asked.size {
        0 => TERMS_DEFAULT,
        size @ 1..=TERMS_MAX => size,
        size => return Err(Violation::range(format!("{at}.size"), 1, TERMS_MAX, size)),
    };
    let order = match terms::Order::try_from(asked.order) {
        Ok(terms::Order::Unspecified | terms::Order::Count) => Order::Count,
        Ok(terms::Order::Value) => Order::Value,
        Err(_) => return Err(Violation::range(format!("{at}.order"), 0, 2, asked.order)),
    };
    let prefix = asked.prefix_chars as usize;
    if prefix > GROUP_BYTES_MAX {
        return Err(Violation::range(format!("{at}.prefix_chars"), 0, GROUP_BYTES_MAX, prefix));
    }
    Ok(Kind::Terms { size: size as usize, order, prefix })
}

fn ranges(at: &str, asked: Ranges, spelt: Option<FieldType>) -> Result<Kind, Violation> {
    at_most(&format!("{at}.ranges"), "ranges", RANGES_MAX, asked.ranges.len())?;
    if asked.ranges.is_empty() {
        return Err(Violation::new(format!("{at}.ranges"), "at least one is needed"));
    }
    let span = |(number, range): (usize, v1::aggregation::Range)| {
        let at = format!("{at}.ranges[{number}]");
        at_most(&at, "bytes in its name", NAME_BYTES_MAX, range.name.len())?;
        let bound = |side: &str, value: Option<v1::Value>| {
            let Some(value) = value else { return Ok(None) };
            let at = format!("{at}.{side}");
            let value = value_from_wire(&at, value)?;
            let scalar = Scalar::of(&value, spelt).filter(|scalar| !matches!(scalar, Scalar::Bool(_)));
            let scalar = scalar.ok_or_else(|| {
                Violation::new(at, format!("a value of type {} bounds no range here", value.type_name()))
            })?;
            Ok(Some((scalar, value)))
        };
        let (from, to) = (bound("from", range.from)?, bound("to", range.to)?);
        let name = match range.name {
            name if name.is_empty() => {
                let word =
                    |bound: &Option<(Scalar, Value)>| bound.as_ref().map_or("*".to_owned(), |b| word(&b.1));
                format!("{} to {}", word(&from), word(&to))
            }
            name => name,
        };
        Ok(Span { name, from: from.map(|bound| bound.0), to: to.map(|bound| bound.0) })
    };
    Ok(Kind::Ranges(asked.ranges.into_iter().enumerate().map(span).collect::<Result<_, Violation>>()?))
}

fn word(value: &Value) -> String {
    match value {
        Value::Int(whole) => whole.to_string(),
        Value::Float(float) => float.to_string(),
        Value::Text(text) => text.clone(),
        other => other.type_name().to_owned(),
    }
}

fn steps(at: &str, asked: DateHistogram) -> Result<Kind, Violation> {
    let unit = match date_histogram::Unit::try_from(asked.unit) {
        Ok(date_histogram::Unit::Unspecified) => None,
        Ok(date_histogram::Unit::Day) => Some(Unit::Day),
        Ok(date_histogram::Unit::Week) => Some(Unit::Week),
        Ok(date_histogram::Unit::Month) => Some(Unit::Month),
        Ok(date_histogram::Unit::Quarter) => Some(Unit::Quarter),
        Ok(date_histogram::Unit::Year) => Some(Unit::Year),
        Err(_) => return Err(Violation::range(format!("{at}.unit"), 0, 5, asked.unit)),
    };
    let width = i64::try_from(asked.interval_ms).ok().and_then(|millis| millis.checked_mul(1_000));
    let step = match (unit, width) {
        (Some(unit), Some(0)) => Ok(unit),
        (None, Some(width)) if width > 0 => Err(width),
        (_, None) => {
            let at = format!("{at}.interval_ms");
            return Err(Violation::range(at, 1, i64::MAX / 1_000, asked.interval_ms));
        }
        _ => return Err(Violation::new(at, "it takes an interval_ms above 0 or a unit, one of the two")),
    };
    let minutes = asked.utc_offset_minutes;
    if !(-UTC_OFFSET_MAX..=UTC_OFFSET_MAX).contains(&minutes) {
        let at = format!("{at}.utc_offset_minutes");
        return Err(Violation::range(at, -UTC_OFFSET_MAX, UTC_OFFSET_MAX, minutes));
    }
    Ok(Kind::DateHistogram(Steps { step, offset: i64::from(minutes) * 60_000_000 }))
}

/// The answer to a request, but for its coverage.
///
/// # Errors
/// If its histograms have too many groups without a record.
pub fn counted_to_wire(aggregations: &[Named], counted: Counted) -> Result<v1::AggregateResponse, Violation> {
    let results = results(aggregations, counted.tallies, &mut Room::default())?;
    Ok(v1::AggregateResponse { count: counted.records, results, coverage: None })
}

type Results = BTreeMap<String, v1::AggregationResult>;

fn results(aggregations: &[Named], tallies: Vec<Tally>, room: &mut Room) -> Result<Results, Violation> {
    let one = |(named, tally): (&Named, Tally)| {
        let kind = Some(result_of(&named.aggregation, tally, room)?);
        Ok((named.name.clone(), v1::AggregationResult { kind }))
    };
    aggregations.iter().zip(tallies).map(one).collect()
}

fn result_of(aggregation: &Aggregation, tally: Tally, room: &mut Room) -> Result<result::Kind, Violation> {
    let kind = aggregation.field.as_ref().and_then(|field| field.kind);
    Ok(match (tally, &aggregation.kind) {
        (Tally::Moments(moments), Kind::Metric(metric)) => figure(&moments, *metric, kind),
        (Tally::Quantiles(quantiles), Kind::Percentiles(percents)) => {
            result::Kind::Percentiles(result::Percentiles {
                percents: percents.clone(),
                values: quantiles.values(percents),
                relative_error: quantiles.relative_error(),
            })
        }
        (Tally::Distinct(distinct), _) => result::Kind::Cardinality(result::Cardinality {
            value: distinct.count(),
            relative_error: distinct.relative_error(),
        }),
        (Tally::Groups(groups), _) => {
            let groups = aggregation.fill(groups, room)?;
            result::Kind::Buckets(buckets(aggregation, groups, kind, room)?)
        }
        // Tallies are those of their aggregations.
        (Tally::Moments(_) | Tally::Quantiles(_), _) => result::Kind::Value(value_to_wire(&Value::Null)),
    })
}

fn figure(moments: &Moments, metric: Metric, kind: Option<FieldType>) -> result::Kind {
    let value = |value: Option<Value>| value_to_wire(&value.unwrap_or(Value::Null));
    let some = |value: Option<Value>| value.as_ref().map(value_to_wire);
    let count = i64::try_from(moments.values()).unwrap_or(i64::MAX);
    result::Kind::Value(match metric {
        Metric::Count => value_to_wire(&Value::Int(count)),
        Metric::Sum => value(moments.sum(kind)),
        Metric::Avg => value(moments.avg(kind)),
        Metric::Min => value(moments.min(kind)),
        Metric::Max => value(moments.max(kind)),
        Metric::Stats => {
            return result::Kind::Stats(result::Stats {
                count: moments.values(),
                sum: some(moments.sum(kind)),
                avg: some(moments.avg(kind)),
                min: some(moments.min(kind)),
                max: some(moments.max(kind)),
            });
        }
    })
}

fn buckets(
    aggregation: &Aggregation,
    groups: Groups,
    kind: Option<FieldType>,
    room: &mut Room,
) -> Result<result::Buckets, Violation> {
    let mut bucket = |value: Value, group: Group| {
        let results = results(&aggregation.nested, group.nested, room)?;
        Ok(result::Bucket { value: Some(value_to_wire(&value)), count: group.count, results })
    };
    let groups = match &aggregation.kind {
        Kind::Terms { size, order, .. } => groups.first(*size, *order),
        _ => groups,
    };
    let (others, error_max) = (groups.others, groups.error);
    let buckets: Result<Vec<_>, Violation> = match &aggregation.kind {
        Kind::Ranges(spans) => {
            let mut groups = groups.list.into_iter().peekable();
            let of = |(place, span): (i64, &Span)| {
                let name = crate::aggregate::GroupName::Place(place);
                let found = groups.next_if(|group| group.name == name);
                let group = found.unwrap_or_else(|| aggregation.empty_group(name));
                bucket(Value::Text(span.name.clone()), group)
            };
            (0..).zip(spans).map(of).collect()
        }
        Kind::Histogram { interval, offset } => {
            let is_whole = |float: f64| float.trunc() == float && float.abs() < 9e15;
            let begin = |group: &Group| {
                let Value::Int(place) = group.name.value(None) else { return Value::Null };
                let float = offset + place as f64 * interval;
                let is_int =
                    kind != Some(FieldType::Float) && [float, *interval, *offset].map(is_whole) == [true; 3];
                if is_int { Value::Int(float as i64) } else { Value::Float(float.clamp(f64::MIN, f64::MAX)) }
            };
            groups.list.into_iter().map(|group| bucket(begin(&group), group)).collect()
        }
        _ => groups.list.into_iter().map(|group| bucket(group.name.value(kind), group)).collect(),
    };
    Ok(result::Buckets { buckets: buckets?, others, error_max })
}
