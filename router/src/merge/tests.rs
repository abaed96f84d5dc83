//! The merge equals sorting everything.

use proptest::prelude::*;

use super::*;

fn partial(list: usize, key: u64, distance: f32) -> Partial {
    Partial { key: Key::Number(key), distance, version: key, from: list }
}

fn naive(lists: &[Vec<Partial>], offset: usize, limit: usize) -> Vec<Partial> {
    let mut all: Vec<Partial> = lists.iter().flatten().cloned().collect();
    all.sort_by(Partial::order);
    all.into_iter().skip(offset).take(limit).collect()
}

fn same(a: &[Partial], b: &[Partial]) -> bool {
    let bits = |p: &Partial| (p.key.clone(), p.distance.to_bits(), p.from);
    a.iter().map(bits).eq(b.iter().map(bits))
}

/// Uneven lists with unique keys and few distinct distances, so that ties, zeros of both signs and NaN are common.
fn lists() -> impl Strategy<Value = Vec<Vec<Partial>>> {
    let distance = prop::sample::select(vec![0.0, -0.0, 0.5, 1.0, 2.0, f32::NAN, f32::INFINITY, -1.0]);
    prop::collection::vec(prop::collection::vec(distance, 0..30), 0..7).prop_map(|lists| {
        let mut key = 0u64;
        let mut number = |list: usize, distance: f32| {
            key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            partial(list, key, distance)
        };
        let mut lists: Vec<Vec<Partial>> = lists
            .into_iter()
            .enumerate()
            .map(|(n, list)| list.into_iter().map(|d| number(n, d)).collect())
            .collect();
        lists.iter_mut().for_each(|list| list.sort_by(Partial::order));
        lists
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merged_hits_are_those_of_one_sorted_list(lists in lists(), offset in 0usize..40, limit in 0usize..40) {
        let expected = naive(&lists, offset, limit);
        prop_assert!(same(&hits(lists, offset, limit), &expected));
    }

    #[test]
    fn lists_out_of_order_are_put_in_order(mut lists in lists(), limit in 0usize..40) {
        let expected = naive(&lists, 0, limit);
        lists.iter_mut().for_each(|list| list.reverse());
        prop_assert!(same(&hits(lists, 0, limit), &expected));
    }

    #[test]
    fn pages_in_a_row_are_all_records_by_place(
        owners in prop::collection::vec(0usize..4, 0..80), fetch in 1usize..9, limit in 1usize..13,
    ) {
        let mut rests: Vec<VecDeque<(Vec<u8>, u64)>> = vec![VecDeque::new(); 4];
        for (key, owner) in owners.iter().enumerate() {
            rests[*owner].push_back((Key::Number(key as u64).to_bytes(), key as u64));
        }
        let mut runs: Vec<Run<u64>> = vec![Run::default(); 4];
        let mut got = Vec::new();
        loop {
            let mut one = Vec::new();
            let mut room = Room { records: limit, bytes: usize::MAX };
            let stop = loop {
                match page(&mut runs, &mut one, &mut room, |_| 8) {
                    Stop::Dry => {
                        for (run, rest) in runs.iter_mut().zip(&mut rests) {
                            if run.records.is_empty() && run.more {
                                let count = fetch.min(rest.len());
                                run.records.extend(rest.drain(..count));
                                run.more = !rest.is_empty();
                            }
                        }
                    }
                    stop => break stop,
                }
            };
            prop_assert!(one.len() <= limit);
            prop_assert!(stop == Stop::End || one.len() == limit);
            got.extend(one.into_iter().map(|(_, record)| record));
            if stop == Stop::End {
                break;
            }
        }
        prop_assert_eq!(got, (0..owners.len() as u64).collect::<Vec<u64>>());
    }
}

#[test]
fn no_lists_no_limit_and_an_offset_beyond_the_end_give_nothing() {
    assert!(hits(Vec::new(), 0, 10).is_empty());
    assert!(hits(vec![vec![partial(0, 1, 0.5)]], 0, 0).is_empty());
    assert!(hits(vec![vec![partial(0, 1, 0.5)], Vec::new()], 1, 10).is_empty());
    assert_eq!(hits(vec![vec![partial(0, 1, 0.5)]], 0, usize::MAX).len(), 1);
}

#[test]
fn a_page_takes_one_record_however_large() {
    let mut runs = vec![Run { records: [(vec![1], 1), (vec![2], 2)].into(), more: false }];
    let mut room = Room { records: 10, bytes: 4 };
    let mut one = Vec::new();
    assert_eq!(page(&mut runs, &mut one, &mut room, |_| 100), Stop::Full);
    assert_eq!(one, [(vec![1], 1)]);
}
