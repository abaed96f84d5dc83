//! Filters.

use super::record::{key_from_wire, key_to_wire, value_from_wire, value_to_wire};
use crate::filter::{Bounds, Filter};
use crate::limits::FILTER_DEPTH_MAX;
use crate::refusal::Violation;
use crate::schema::at_most;
use crate::v1;
use crate::v1::filter::Kind;

/// A filter; one of no kind is refused, one nested deeper than [`FILTER_DEPTH_MAX`] too.
pub fn filter_from_wire(filter: v1::Filter) -> Result<Filter, Violation> {
    nested(filter, 1)
}

fn nested(filter: v1::Filter, depth: usize) -> Result<Filter, Violation> {
    at_most("filter", "levels", FILTER_DEPTH_MAX, depth)?;
    let each = |list: v1::filter::List| {
        list.filters.into_iter().map(|f| nested(f, depth + 1)).collect::<Result<Vec<Filter>, Violation>>()
    };
    let value = |field: &str, value: Option<v1::Value>| {
        value_from_wire(&format!("filter.{field}"), value.unwrap_or_default())
    };
    Ok(match filter.kind {
        None => return Err(Violation::new("filter", "a condition is needed")),
        Some(Kind::All(list)) => Filter::All(each(list)?),
        Some(Kind::Any(list)) => Filter::Any(each(list)?),
        Some(Kind::Not(part)) => Filter::Not(Box::new(nested(*part, depth + 1)?)),
        Some(Kind::Equal(e)) => {
            let wanted = value(&e.field, e.value)?;
            Filter::Equal(e.field, wanted)
        }
        Some(Kind::In(i)) => {
            let wanted = i.values.into_iter().map(|v| value(&i.field, Some(v))).collect::<Result<_, _>>()?;
            Filter::In(i.field, wanted)
        }
        Some(Kind::Range(r)) => {
            let bound = |v: Option<v1::Value>| v.map(|v| value(&r.field, Some(v))).transpose();
            let bounds =
                Bounds { gt: bound(r.gt)?, gte: bound(r.gte)?, lt: bound(r.lt)?, lte: bound(r.lte)? };
            Filter::Range(r.field.clone(), bounds)
        }
        Some(Kind::Prefix(p)) => Filter::Prefix(p.field, p.prefix),
        Some(Kind::Glob(g)) => Filter::Glob(g.field, g.pattern),
        Some(Kind::Match(m)) => Filter::Match { field: m.field, query: m.query, any: m.any },
        Some(Kind::Phrase(p)) => Filter::Phrase(p.field, p.query),
        Some(Kind::Exists(e)) => Filter::Exists(e.field),
        Some(Kind::Within(w)) => {
            Filter::Within { field: w.field, lat: w.lat, lon: w.lon, radius_m: w.radius_m }
        }
        Some(Kind::WithinBox(b)) => {
            Filter::WithinBox { field: b.field, top: b.top, left: b.left, bottom: b.bottom, right: b.right }
        }
        Some(Kind::Keys(k)) => {
            let keys = k.keys.into_iter().map(|key| key_from_wire("filter.keys", Some(key)));
            Filter::Keys(keys.collect::<Result<_, _>>()?)
        }
    })
}

/// A filter for the wire.
pub fn filter_to_wire(filter: &Filter) -> v1::Filter {
    let list = |parts: &[Filter]| v1::filter::List { filters: parts.iter().map(filter_to_wire).collect() };
    let bound = |value: &Option<crate::record::Value>| value.as_ref().map(value_to_wire);
    let kind = match filter {
        Filter::All(parts) => Kind::All(list(parts)),
        Filter::Any(parts) => Kind::Any(list(parts)),
        Filter::Not(part) => Kind::Not(Box::new(filter_to_wire(part))),
        Filter::Equal(field, value) => {
            Kind::Equal(v1::filter::Equal { field: field.clone(), value: Some(value_to_wire(value)) })
        }
        Filter::In(field, values) => Kind::In(v1::filter::In {
            field: field.clone(),
            values: values.iter().map(value_to_wire).collect(),
        }),
        Filter::Range(field, b) => Kind::Range(v1::filter::Range {
            field: field.clone(),
            gt: bound(&b.gt),
            gte: bound(&b.gte),
            lt: bound(&b.lt),
            lte: bound(&b.lte),
        }),
        Filter::Prefix(field, prefix) => {
            Kind::Prefix(v1::filter::Prefix { field: field.clone(), prefix: prefix.clone() })
        }
        Filter::Glob(field, pattern) => {
            Kind::Glob(v1::filter::Glob { field: field.clone(), pattern: pattern.clone() })
        }
        Filter::Match { field, query, any } => {
            Kind::Match(v1::filter::Match { field: field.clone(), query: query.clone(), any: *any })
        }
        Filter::Phrase(field, query) => {
            Kind::Phrase(v1::filter::Phrase { field: field.clone(), query: query.clone() })
        }
        Filter::Exists(field) => Kind::Exists(v1::filter::Exists { field: field.clone() }),
        Filter::Within { field, lat, lon, radius_m } => Kind::Within(v1::filter::Within {
            field: field.clone(),
            lat: *lat,
            lon: *lon,
            radius_m: *radius_m,
        }),
        Filter::WithinBox { field, top, left, bottom, right } => Kind::WithinBox(v1::filter::WithinBox {
            field: field.clone(),
            top: *top,
            left: *left,
            bottom: *bottom,
            right: *right,
        }),
        Filter::Keys(keys) => Kind::Keys(v1::filter::Keys { keys: keys.iter().map(key_to_wire).collect() }),
    };
    v1::Filter { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        let range = Bounds { gt: Some(1.into()), lte: Some(2.5.into()), ..Bounds::default() };
        let filter = Filter::All(vec![
            Filter::Any(vec![Filter::Equal("a".into(), true.into()), Filter::Exists("b.c".into())]),
            Filter::Not(Box::new(Filter::In("d".into(), vec!["x".into(), 3.into()]))),
            Filter::Range("e".into(), range),
            Filter::Prefix("f".into(), "p".into()),
            Filter::Glob("g".into(), "a*\\?".into()),
            Filter::Keys(vec![1.into(), "k".into()]),
            Filter::Match { field: "h".into(), query: "a b".into(), any: true },
            Filter::Phrase("i".into(), "a b".into()),
            Filter::Within { field: "j".into(), lat: 52.5, lon: 13.4, radius_m: 1e3 },
            Filter::WithinBox { field: "k".into(), top: 1.0, left: 170.0, bottom: -1.0, right: -170.0 },
        ]);
        assert_eq!(filter_from_wire(filter_to_wire(&filter)), Ok(filter));
    }

    #[test]
    fn a_filter_of_no_kind_is_refused() {
        assert!(filter_from_wire(v1::Filter::default()).is_err());
    }
}
