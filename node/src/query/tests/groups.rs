//! Groups of one partition against the obvious way: all hits in order, each put where it belongs.

use std::collections::BTreeMap;

use flotilla_proto::group::{GroupBy, GroupKey};

use super::*;

fn by() -> GroupBy {
    GroupBy::new("group", &spec(Distance::Dot)).unwrap()
}

/// Few groups of very different sizes, some records in several and some in none.
fn regrouped(mut segments: Vec<Naive>) -> Vec<Naive> {
    for row in segments.iter_mut().flat_map(|segment| &mut segment.rows) {
        let value = match row.version % 101 {
            0 => Value::from("rare"),
            1..4 => Value::List(vec!["b".into(), 7.into(), "b".into()]),
            4..8 => Value::List(vec![7.0.into(), true.into()]),
            8..12 => Value::Null,
            12..16 => 0.5.into(),
            16..30 => "c".into(),
            n => Value::from((n % 2) as i64),
        };
        row.payload.insert("group".into(), value);
    }
    segments
}

/// All groups in order, each with all of its hits.
fn naive_groups(segments: &[Naive], ask: &Search<'_>) -> Vec<(GroupKey, Vec<PartialHit>)> {
    let rows = segments.iter().flat_map(|segment| &segment.rows);
    let payloads: BTreeMap<&Key, &Payload> =
        rows.filter(|row| row.is_live).map(|row| (&row.key, &row.payload)).collect();
    let mut groups: Vec<(GroupKey, Vec<PartialHit>)> = Vec::new();
    for hit in naive_hits(segments, &Search { limit: usize::MAX, ..*ask }) {
        for key in by().groups(payloads[&hit.key]).into_keys() {
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, hits)) => hits.push(hit.clone()),
                None => groups.push((key, vec![hit.clone()])),
            }
        }
    }
    groups
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn groups_of_an_exact_search_are_the_obvious_ones(
        segments in segments(700).prop_map(regrouped),
        query in vector(),
        filter in filter(),
        (wanted, size) in (1_usize..8, 1_usize..40),
        max_distance in prop::option::weighted(0.2, component()),
        only in any::<bool>(),
    ) {
        let (by, filter) = (by(), filter.as_ref());
        let ask = Search { filter, max_distance, exact: true, query: &query, ..ask(0, None) };
        let naive = naive_groups(&segments, &ask);
        let some: BTreeSet<GroupKey> = naive.iter().rev().take(2).map(|(key, _)| key.clone()).collect();
        let only = (only && !some.is_empty()).then_some(&some);
        let grouping = Grouping { by: &by, groups: only.map_or(wanted, BTreeSet::len), size, only };
        let answer =
            grouped(&views(&segments), &spec(segments[0].distance), &ask, &grouping, &|| false).unwrap();
        prop_assert!(!answer.is_cut && answer.hits.is_empty());
        let found: Vec<_> = answer.groups.into_iter().map(|group| (group.key, group.hits)).collect();
        let expected: Vec<_> = naive
            .into_iter()
            .filter(|(key, _)| only.is_none_or(|only| only.contains(key)))
            .take(grouping.groups)
            .map(|(key, hits)| (key, hits.into_iter().take(size).collect::<Vec<_>>()))
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_blind_graph_costs_order_but_no_group_and_no_hit(
        segments in segments(700).prop_map(regrouped),
        query in vector(),
        (wanted, size) in (1_usize..8, 1_usize..20),
    ) {
        let by = by();
        let ask = Search { query: &query, ..ask(0, None) };
        let grouping = Grouping { by: &by, groups: wanted, size, only: None };
        let answer =
            grouped(&views(&segments), &spec(segments[0].distance), &ask, &grouping, &|| false).unwrap();
        let naive: BTreeMap<GroupKey, Vec<PartialHit>> = naive_groups(&segments, &ask).into_iter().collect();
        prop_assert_eq!(answer.groups.len(), naive.len().min(wanted));
        for group in answer.groups {
            prop_assert_eq!(group.hits.len(), naive[&group.key].len().min(size));
            prop_assert!(group.hits.is_sorted() && group.hits.iter().all(|hit| naive[&group.key].contains(hit)));
        }
    }
}

#[test]
fn records_left_out_are_in_no_group_and_make_room_for_others() {
    let segments = [segment(0..100, true)];
    let by = by();
    let without: Vec<Key> = [0_u64, 10, 1].map(Key::Number).to_vec();
    let ask = Search { without: &without, ..ask(0, None) };
    let grouping = Grouping { by: &by, groups: 2, size: 2, only: None };
    let answer = grouped(&views(&segments), &spec(Distance::Euclidean), &ask, &grouping, &|| false).unwrap();
    let found: Vec<(GroupKey, Vec<Key>)> = answer
        .groups
        .into_iter()
        .map(|group| (group.key, group.hits.into_iter().map(|hit| hit.key).collect()))
        .collect();
    let number = |n: u64| Key::Number(n);
    let expected =
        [(GroupKey::Int(2), vec![number(2), number(12)]), (GroupKey::Int(3), vec![number(3), number(13)])];
    assert_eq!(found, expected);
    let plain = search(&views(&segments), &spec(Distance::Euclidean), &Search { limit: 3, ..ask }, &|| false);
    let keys: Vec<Key> = plain.unwrap().hits.into_iter().map(|hit| hit.key).collect();
    assert_eq!(keys, [2, 3, 4].map(Key::Number));
}

#[test]
fn groups_that_lie_behind_each_other_are_all_found_or_the_answer_says_so() {
    let mut far = segment(0..0, false);
    for n in 0..20_000 {
        let mut row = row(n, [n as f32, 1.0]);
        row.payload.insert("group".into(), Value::from((n / 1_000) as i64));
        far.rows.push(row);
    }
    let (by, segments, spec) = (by(), [&far as &dyn SegmentView], spec(Distance::Euclidean));
    let grouping = Grouping { by: &by, groups: 20, size: 2, only: None };
    let answer = grouped(&segments, &spec, &ask(0, None), &grouping, &|| false).unwrap();
    let keys: Vec<GroupKey> = answer.groups.iter().map(|group| group.key.clone()).collect();
    assert_eq!(keys, (0..20).map(GroupKey::Int).collect::<Vec<_>>());
    assert!(answer.groups.iter().all(|group| group.hits.len() == 2) && !answer.is_cut);
    assert!(answer.plan.rounds > 2 && answer.plan.steps.len() as u64 == answer.plan.rounds);
    let short = group::within(2, &segments, &spec, &ask(0, None), &grouping, &|| false).unwrap();
    assert!(short.is_cut && !short.groups.is_empty() && short.groups.len() < 20);
}
