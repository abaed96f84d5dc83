//! Aggregations of growing and sealed rows against the obvious way over all records.

use std::collections::BTreeMap;

use flotilla_proto::aggregate::{Named, Order};
use flotilla_proto::convert::{aggregations_from_wire, counted_to_wire};
use flotilla_proto::filter::Filter;
use flotilla_proto::record::{Key, Payload, Value};
use flotilla_proto::schema::{CollectionSpec, FieldType};
use flotilla_proto::v1;
use flotilla_proto::v1::aggregation::{
    Cardinality, DateHistogram, Histogram, Kind as Wire, Metric, Percentiles, Range, Ranges, Terms,
    date_histogram, terms,
};
use flotilla_tests::aggregate::naive;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::index::{Bitset, Neighbor, Stats};
use crate::storage::payload_index::{PayloadIndex, write};
use crate::storage::row::encode_payload;
use crate::storage::{Compression, Matching, Nearest, StoredRow};
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::Vector;

const FIELDS: [(&str, FieldType); 6] = [
    ("word", FieldType::Keyword),
    ("whole", FieldType::Integer),
    ("float", FieldType::Float),
    ("truth", FieldType::Bool),
    ("time", FieldType::Datetime),
    ("id", FieldType::Uuid),
];

/// Three UUIDs in different forms.
const IDS: [&str; 6] = [
    "0191d2a4-7b3c-7def-8abc-0123456789ab",
    "0191D2A47B3C7DEF8ABC0123456789AB",
    "{0191d2a4-7b3c-7def-8abc-0123456789ac}",
    "urn:uuid:0191D2A4-7B3C-7DEF-8ABC-0123456789AC",
    "ffffffffffffffffffffffffffffffff",
    "0191d2a4-7b3c-7def-8abc-0123456789ab ",
];

fn spec() -> CollectionSpec {
    let fields = FIELDS.map(|(name, kind)| (name.to_owned(), kind)).into();
    CollectionSpec { fields, ..CollectionSpec::default() }
}

/// Rows whose payloads lie in a payload index, or in memory.
struct Rows {
    payloads: Vec<Payload>,
    dead: Vec<bool>,
    /// The key of its first row.
    first: u32,
    sealed: Option<(tempfile::TempDir, PayloadIndex)>,
}

impl Rows {
    fn new(payloads: Vec<Payload>, dead: Vec<bool>, is_sealed: bool) -> Rows {
        let sealed = is_sealed.then(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("payloads");
            let encoded: Vec<_> =
                payloads.iter().map(|payload| Ok(encode_payload(payload).unwrap())).collect();
            write(&path, &spec().fields, Compression::default(), &mut encoded.into_iter()).unwrap();
            let index = PayloadIndex::open(&path, &spec().fields, payloads.len() as u32).unwrap();
            (dir, index)
        });
        Rows { payloads, dead, first: 0, sealed }
    }

    fn live_payloads(&self) -> impl Iterator<Item = &Payload> {
        self.payloads.iter().zip(&self.dead).filter(|(_, is_dead)| !**is_dead).map(|(payload, _)| payload)
    }
}

impl SegmentView for Rows {
    fn rows(&self) -> u32 {
        self.payloads.len() as u32
    }

    fn live(&self) -> u32 {
        self.live_payloads().count() as u32
    }

    fn is_live(&self, row: u32) -> bool {
        self.dead.get(row as usize) == Some(&false)
    }

    fn key(&self, row: u32) -> Result<Key, Fault> {
        // Keys in another order than rows.
        Ok(Key::Number(u64::from(self.first + (row ^ 5))))
    }

    fn version(&self, _: u32) -> LogIndex {
        1
    }

    fn expires_at_ms(&self, _: u32) -> Result<Option<u64>, Fault> {
        Ok(None)
    }

    fn find(&self, _: &Key) -> Result<Option<u32>, Fault> {
        Ok(None)
    }

    fn payload(&self, row: u32) -> Result<Payload, Fault> {
        match &self.sealed {
            Some((_, index)) => index.payload(row),
            None => Ok(self.payloads[row as usize].clone()),
        }
    }

    fn stored(&self, _: u32) -> Result<StoredRow, Fault> {
        Err(Fault::Cancelled)
    }

    fn vector(&self, _: &str, _: u32) -> Result<Option<Vector>, Fault> {
        Ok(None)
    }

    fn column(&self, field: &str) -> Result<Option<crate::storage::FieldColumn>, Fault> {
        self.sealed.as_ref().map_or(Ok(None), |(_, index)| index.column(field))
    }

    fn matching(&self, filter: &Compiled) -> Result<Matching, Fault> {
        let passes = |row: &u32| {
            self.is_live(*row) && filter.matches(&Key::Number(u64::from(*row)), &self.payloads[*row as usize])
        };
        Ok(Bitset::with_rows(self.payloads.len(), (0..self.rows()).filter(passes)).into())
    }

    fn nearest(&self, _: &Nearest<'_>, _: &mut Stats) -> Result<Vec<Neighbor>, Fault> {
        Ok(vec![])
    }

    fn identity(&self) -> Option<u64> {
        None
    }

    fn is_indexed(&self, _: &str) -> bool {
        false
    }

    fn by_key<'a>(
        &'a self,
        _: Option<&Key>,
    ) -> Box<dyn Iterator<Item = Result<(Key, u32), Fault>> + Send + 'a> {
        Box::new(std::iter::empty())
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "ab", "abc", "ä", "äb", "", "b", "𝄞", "𝄞x"]).prop_map(Value::from),
        3 => prop::sample::select(IDS.to_vec()).prop_map(Value::from),
        1 => Just(Value::from("x".repeat(1_100))),
        1 => Just(Value::from("y".repeat(40 << 10))),
        6 => (-3i64..4).prop_map(Value::from),
        1 => prop::sample::select(vec![i64::MIN, i64::MAX, (1 << 53) + 1]).prop_map(Value::from),
        4 => prop::sample::select(vec![0.5, -0.0, 2.0, 0.1, 1e300, -1e300, 5e-324]).prop_map(Value::from),
        2 => any::<bool>().prop_map(Value::from),
        4 => (0i64..60).prop_map(|month| {
            Value::from(format!("{}-{:02}-15T10:00:00+02:00", 2020 + month / 12, month % 12 + 1))
        }),
        1 => Just(Value::Null),
        1 => Just(Value::Map(Payload::from([("x".to_owned(), 1.into())]))),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![5 => scalar(), 1 => prop::collection::vec(scalar(), 0..4).prop_map(Value::List)]
}

fn payload() -> impl Strategy<Value = Payload> {
    let names = FIELDS.map(|(name, _)| name).into_iter().chain(["free"]).collect::<Vec<_>>();
    prop::collection::btree_map(prop::sample::select(names).prop_map(str::to_owned), value(), 0..6)
}

/// Payloads whose fields hold what they are declared as, mostly.
fn fitting() -> impl Strategy<Value = Payload> {
    let fits = (0usize..9, -3i64..4, any::<bool>(), 0i64..40, prop::option::weighted(0.05, payload()));
    fits.prop_map(|(word, whole, truth, day, odd)| {
        let words = ["a", "ab", "abc", "b", "ä", "äb", "𝄞", "𝄞x", "zz"];
        let mut payload = Payload::from([
            ("word".to_owned(), words[word].into()),
            ("whole".to_owned(), whole.into()),
            ("float".to_owned(), (whole as f64 / 10.0).into()),
            ("truth".to_owned(), truth.into()),
            ("time".to_owned(), Value::Int(day * 86_400_000 * 9)),
            ("id".to_owned(), IDS[word % 5].into()),
        ]);
        payload.extend(odd.unwrap_or_default());
        payload
    })
}

fn wire(field: &str, kind: Wire) -> v1::Aggregation {
    v1::Aggregation { field: field.to_owned(), kind: Some(kind), aggregations: BTreeMap::new() }
}

fn figure() -> impl Strategy<Value = v1::Aggregation> {
    let any = prop::sample::select(vec!["word", "whole", "float", "truth", "time", "id", "free"]);
    let numbers = prop::sample::select(vec!["whole", "float", "free"]);
    prop_oneof![
        (any.clone(), prop::sample::select(vec![Metric::Count, Metric::Stats]))
            .prop_map(|(field, metric)| wire(field, Wire::Metric(metric.into()))),
        numbers.clone().prop_map(|field| wire(field, Wire::Metric(Metric::Sum.into()))),
        numbers.prop_map(|field| wire(
            field,
            Wire::Percentiles(Percentiles { percents: vec![0.0, 37.5, 100.0] })
        )),
        any.prop_map(|field| wire(field, Wire::Cardinality(Cardinality {}))),
        Just(wire("", Wire::Metric(Metric::Count.into()))),
    ]
}

fn grouping() -> impl Strategy<Value = v1::Aggregation> {
    let any = prop::sample::select(vec!["word", "whole", "float", "truth", "time", "id", "free"]);
    let terms =
        (any.clone(), 0u32..3, 1u32..5, prop::bool::ANY).prop_map(|(field, prefix_chars, size, by_value)| {
            let order = if by_value { terms::Order::Value } else { terms::Order::Count };
            wire(field, Wire::Terms(Terms { size, order: order.into(), prefix_chars }))
        });
    let bound = |value: i64| Some(flotilla_proto::convert::value_to_wire(&Value::Int(value)));
    let ranges = any.prop_map(move |field| {
        let range = |from, to| Range { name: String::new(), from, to };
        let text = Some(flotilla_proto::convert::value_to_wire(&Value::from("ab")));
        let mut ranges = vec![range(None, bound(1)), range(bound(-1), bound(3)), range(None, None)];
        if field == "id" {
            let spelt = |id: &str| Some(flotilla_proto::convert::value_to_wire(&Value::from(id)));
            ranges = vec![range(None, spelt(IDS[3])), range(spelt(IDS[1]), spelt(IDS[2])), range(None, None)];
        } else if field != "time" {
            ranges.push(range(text, None));
        }
        wire(field, Wire::Ranges(Ranges { ranges }))
    });
    let histogram =
        (prop::sample::select(vec!["whole", "float", "free"]), prop::sample::select(vec![2.0, 0.3]))
            .prop_map(|(field, interval)| {
                wire(field, Wire::Histogram(Histogram { interval, offset: 1.0, with_empty: false }))
            });
    let dates = prop::sample::select(vec![date_histogram::Unit::Month, date_histogram::Unit::Week]).prop_map(
        |unit| wire("time", Wire::DateHistogram(DateHistogram { unit: unit.into(), ..Default::default() })),
    );
    prop_oneof![terms, ranges, histogram, dates]
}

/// Up to three levels.
fn asked() -> impl Strategy<Value = BTreeMap<String, v1::Aggregation>> {
    let named = |all: Vec<v1::Aggregation>| -> BTreeMap<String, v1::Aggregation> {
        all.into_iter().enumerate().map(|(number, one)| (format!("a{number}"), one)).collect()
    };
    let within = move |group: v1::Aggregation, inner: Vec<v1::Aggregation>| v1::Aggregation {
        aggregations: named(inner),
        ..group
    };
    let second = (grouping(), prop::collection::vec(figure(), 0..3)).prop_map(move |(g, f)| within(g, f));
    let inner = prop::collection::vec(prop_oneof![figure(), second], 0..3);
    let top = (grouping(), inner).prop_map(move |(g, f)| within(g, f));
    prop::collection::vec(prop_oneof![figure(), top], 1..4).prop_map(named)
}

fn compiled(asked: &BTreeMap<String, v1::Aggregation>) -> Vec<Named> {
    aggregations_from_wire(asked.clone(), &spec()).unwrap()
}

fn count_all(segments: &[Rows], aggregations: &[Named], filter: Option<&Compiled>) -> Counted {
    let views: Vec<&dyn SegmentView> = segments.iter().map(|rows| rows as &dyn SegmentView).collect();
    aggregate(&views, aggregations, filter, &|| false).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0xa6_6726),
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    })]

    #[test]
    fn columns_and_payloads_count_what_the_obvious_way_counts(
        rows in prop::collection::vec((prop_oneof![fitting(), payload()], prop::bool::weighted(0.1), 0usize..3), 0..60),
        asked in asked(),
        is_filtered in any::<bool>(),
    ) {
        let aggregations = compiled(&asked);
        let filter = is_filtered.then(|| Compiled::new(&Filter::Exists("whole".into()), &spec()).unwrap());
        // Two sealed segments and a growing one.
        let segments: Vec<Rows> = (0..3).map(|number| {
            let mine = rows.iter().filter(|(_, _, segment)| *segment == number);
            let (payloads, dead) = mine.map(|(payload, is_dead, _)| (payload.clone(), *is_dead)).unzip();
            Rows::new(payloads, dead, number < 2)
        }).collect();
        let live: Vec<&Payload> = segments
            .iter()
            .flat_map(Rows::live_payloads)
            .filter(|payload| filter.as_ref().is_none_or(|filter| filter.matches(&0.into(), payload)))
            .collect();
        let expected = naive(&live, &aggregations);
        let found = count_all(&segments, &aggregations, filter.as_ref());
        // What is told must be equal; what is kept may lie differently (an exact sum has many spellings).
        let told = |counted: Counted| counted_to_wire(&aggregations, counted).unwrap();
        prop_assert_eq!(told(found.clone()), told(expected.clone()));
        // The way over the wire, in two parts and in the other order, changes nothing.
        let encoded = |rows: &[Rows]| count_all(rows, &aggregations, filter.as_ref()).encode().unwrap();
        let mut whole = Counted::decode(&encoded(&segments[1..]), &aggregations).unwrap();
        whole.merge(Counted::decode(&encoded(&segments[..1]), &aggregations).unwrap()).unwrap();
        prop_assert_eq!(told(whole), told(expected));
    }

    #[test]
    fn bytes_from_elsewhere_are_refused_or_counted(bytes in prop::collection::vec(any::<u8>(), 0..200), asked in asked()) {
        let aggregations = compiled(&asked);
        if let Ok(mut counted) = Counted::decode(&bytes, &aggregations) {
            let again = counted.clone();
            prop_assert!(counted.merge(again).is_ok());
            counted_to_wire(&aggregations, counted).unwrap();
        }
        let mut good = Counted::new(&aggregations).encode().unwrap();
        for (at, byte) in good.iter_mut().enumerate() {
            *byte ^= bytes.get(at).copied().unwrap_or(1);
        }
        if let Ok(counted) = Counted::decode(&good, &aggregations) {
            counted_to_wire(&aggregations, counted).unwrap();
        }
    }
}

#[test]
fn points_have_no_figures_and_make_no_groups() {
    let mut spec = spec();
    spec.fields.insert("at".to_owned(), FieldType::Geo);
    for kind in [
        Wire::Metric(Metric::Count.into()),
        Wire::Metric(Metric::Stats.into()),
        Wire::Cardinality(Cardinality {}),
        Wire::Terms(Terms::default()),
    ] {
        let refused = aggregations_from_wire([("a".to_owned(), wire("at", kind))].into(), &spec).unwrap_err();
        assert!(
            refused.to_string().starts_with("aggregations.a.field: `at` is declared as geo; points"),
            "{refused}"
        );
    }
    let id = Wire::Metric(Metric::Max.into());
    let refused = aggregations_from_wire([("a".to_owned(), wire("id", id))].into(), &spec).unwrap_err();
    assert!(refused.to_string().contains("it takes numbers, the field is declared as uuid"), "{refused}");
}

#[test]
fn more_groups_than_are_sent_are_told_as_an_error() {
    let rows = |from: i64| {
        let payload = |n: i64| Payload::from([("whole".to_owned(), Value::Int(n))]);
        let often = (0..500).map(|n| payload(n % 50));
        let payloads: Vec<Payload> = (from..from + 30_000).map(payload).chain(often).collect();
        let dead = vec![false; payloads.len()];
        Rows::new(payloads, dead, true)
    };
    let kind = Wire::Terms(Terms { size: 50, ..Terms::default() });
    let aggregations = compiled(&[("t".to_owned(), wire("whole", kind))].into());
    let mut whole = count_all(&[rows(1_000)], &aggregations, None);
    whole.merge(count_all(&[rows(100_000)], &aggregations, None)).unwrap();
    let Some(Tally::Groups(groups)) = whole.tallies.pop() else { panic!() };
    assert_eq!(groups.error, 2, "in each part, groups of one record were left out");
    let first = groups.first(50, Order::Count);
    assert!(first.list.iter().all(|group| group.count == 20));
    assert_eq!(first.others, 60_000);
}

#[test]
fn too_many_groups_are_refused() {
    let payloads: Vec<Payload> =
        (0..2_000).map(|n| Payload::from([("whole".to_owned(), Value::Int(n))])).collect();
    let inner = wire("whole", Wire::Terms(Terms::default()));
    let mut outer = wire("whole", Wire::Terms(Terms::default()));
    outer.aggregations.insert("inner".to_owned(), wire("whole", Wire::Percentiles(Percentiles::default())));
    outer.aggregations.insert("more".to_owned(), inner);
    let aggregations = compiled(&[("t".to_owned(), outer)].into());
    let rows = Rows::new(payloads, vec![false; 2_000], false);
    assert!(aggregate(&[&rows], &aggregations, None, &|| false).is_ok());
    let cancelled = aggregate(&[&rows], &aggregations, None, &|| true);
    assert!(matches!(cancelled, Err(Refused::Fault(Fault::Cancelled))));
    assert!(check_bytes(TALLY_BYTES_MAX + 1).unwrap_err().to_string().contains("narrow the filter"));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x0bde5),
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    })]

    #[test]
    fn pages_in_the_order_of_a_field_are_all_records_in_that_order(
        rows in prop::collection::vec((prop_oneof![fitting(), payload()], prop::bool::weighted(0.1), 0usize..3), 0..60),
        field in prop::sample::select(vec!["word", "whole", "float", "truth", "time", "id", "free"]),
        is_descending in any::<bool>(),
        is_filtered in any::<bool>(),
        limit in 1usize..8,
    ) {
        use flotilla_proto::order::OrderBy;
        let order = OrderBy::new(field, is_descending, &spec()).unwrap();
        let filter = is_filtered.then(|| Compiled::new(&Filter::Exists("whole".into()), &spec()).unwrap());
        let segments: Vec<Rows> = (0..3).map(|number| {
            let mine = rows.iter().filter(|(_, _, segment)| *segment == number);
            let (payloads, dead) = mine.map(|(payload, is_dead, _)| (payload.clone(), *is_dead)).unzip();
            Rows { first: number as u32 * 1_000, ..Rows::new(payloads, dead, number < 2) }
        }).collect();
        let mut expected: Vec<(Vec<u8>, usize, u32)> = Vec::new();
        for (number, segment) in segments.iter().enumerate() {
            for row in (0..segment.rows()).filter(|row| segment.is_live(*row)) {
                let payload = &segment.payloads[row as usize];
                let key = segment.key(row).unwrap();
                if filter.as_ref().is_none_or(|filter| filter.matches(&key, payload)) {
                    expected.push((order.place(payload, &key), number, row));
                }
            }
        }
        expected.sort();
        let views: Vec<&dyn SegmentView> = segments.iter().map(|rows| rows as &dyn SegmentView).collect();
        let mut found: Vec<(Vec<u8>, usize, u32)> = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let (page, more) =
                crate::query::ordered(&views, &order, filter.as_ref(), after.as_deref(), limit, &|| false).unwrap();
            prop_assert!(page.len() <= limit && (!more || page.len() == limit));
            after = page.last().map(|placed| placed.place.clone()).or(after);
            found.extend(page.into_iter().map(|placed| (placed.place, placed.segment, placed.row)));
            if !more {
                break;
            }
        }
        prop_assert_eq!(found, expected);
    }
}
