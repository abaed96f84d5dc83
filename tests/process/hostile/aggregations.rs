//! Bad aggregations, and bad orders of a scan.

use std::collections::BTreeMap;

use flotilla_proto::v1;
use flotilla_proto::v1::aggregation::{
    DateHistogram, Histogram, Kind, Metric, Percentiles, Range, Ranges, Terms,
};

use super::{Ask, OPEN, Row, STRICT, invalid};

fn of(field: &str, kind: Kind) -> v1::Aggregation {
    v1::Aggregation { field: field.to_owned(), kind: Some(kind), aggregations: BTreeMap::new() }
}

fn ask(collection: &str, aggregation: v1::Aggregation) -> Ask {
    let aggregations = [("a".to_owned(), aggregation)].into();
    let collection = collection.to_owned();
    Ask::Aggregate(v1::AggregateRequest { collection, aggregations, ..Default::default() })
}

fn many(count: usize) -> Ask {
    let one = |n: usize| (n.to_string(), of("x", Kind::Metric(Metric::Avg.into())));
    let aggregations = (0..count).map(one).collect();
    Ask::Aggregate(v1::AggregateRequest { collection: OPEN.to_owned(), aggregations, ..Default::default() })
}

fn deep(levels: usize) -> v1::Aggregation {
    (1..levels).fold(of("x", Kind::Terms(Terms::default())), |inner, _| v1::Aggregation {
        aggregations: [("b".to_owned(), inner)].into(),
        ..of("x", Kind::Terms(Terms::default()))
    })
}

fn order(collection: &str, order_by: &str, descending: bool) -> Ask {
    let (collection, order_by) = (collection.to_owned(), order_by.to_owned());
    Ask::Scan(v1::ScanRequest { collection, order_by, descending, ..Default::default() })
}

pub(super) fn rows() -> Vec<Row> {
    let wrong: Vec<(&str, v1::Aggregation, &[&str])> = vec![
        ("of nothing", v1::Aggregation { field: "x".into(), ..Default::default() }, &["what to compute"]),
        ("of no field", of("", Kind::Metric(Metric::Sum.into())), &["aggregations.a.field", "missing"]),
        ("of a torn path", of("a..b", Kind::Metric(Metric::Sum.into())), &["aggregations.a.field"]),
        ("of no metric", of("x", Kind::Metric(99)), &["metric", "1 to 6", "99"]),
        ("of percent -1", of("x", Kind::Percentiles(Percentiles { percents: vec![-1.0] })), &["0 to 100"]),
        (
            "of 65 percents",
            of("x", Kind::Percentiles(Percentiles { percents: vec![1.0; 65] })),
            &["65", "64"],
        ),
        (
            "of 10,001 terms",
            of("x", Kind::Terms(Terms { size: 10_001, ..Terms::default() })),
            &["size", "1 to 10000", "10001"],
        ),
        (
            "in an unknown order",
            of("x", Kind::Terms(Terms { order: 9, ..Terms::default() })),
            &["order", "0 to 2", "9"],
        ),
        (
            "by a long prefix",
            of("x", Kind::Terms(Terms { prefix_chars: u32::MAX, ..Terms::default() })),
            &["prefix_chars"],
        ),
        ("by no range", of("x", Kind::Ranges(Ranges::default())), &["ranges", "at least one"]),
        (
            "by 257 ranges",
            of("x", Kind::Ranges(Ranges { ranges: vec![Range::default(); 257] })),
            &["257", "256"],
        ),
        (
            "by steps of 0",
            of("x", Kind::Histogram(Histogram { interval: 0.0, offset: 0.0, with_empty: false })),
            &["interval", "above 0"],
        ),
        (
            "by steps of NaN",
            of("x", Kind::Histogram(Histogram { interval: f64::NAN, offset: 0.0, with_empty: false })),
            &["interval", "NaN"],
        ),
        (
            "by steps from infinity",
            of("x", Kind::Histogram(Histogram { interval: 1.0, offset: f64::INFINITY, with_empty: false })),
            &["offset", "finite"],
        ),
        (
            "by days of no date",
            of("x", Kind::DateHistogram(DateHistogram { unit: 1, ..Default::default() })),
            &["declare it as datetime"],
        ),
        ("on four levels", deep(4), &["levels"]),
        ("on forty levels", deep(40), &["levels"]),
    ];
    let mut rows: Vec<Row> = wrong
        .into_iter()
        .map(|(name, one, words)| invalid(&format!("aggregate {name}"), ask(OPEN, one), words))
        .collect();
    let undeclared = of("undeclared", Kind::Metric(Metric::Count.into()));
    rows.extend([
        invalid("aggregate nothing", many(0), &["at least one"]),
        invalid("65 aggregations", many(65), &["65", "64"]),
        invalid("aggregate what strict does not declare", ask(STRICT, undeclared), &["undeclared", "strict"]),
        invalid("order by a torn path", order(OPEN, ".", false), &["order_by"]),
        invalid("order by nothing, descending", order(OPEN, "", true), &["descending", "order_by"]),
        invalid(
            "order by what strict does not declare",
            order(STRICT, "undeclared", false),
            &["undeclared", "strict"],
        ),
    ]);
    rows
}
