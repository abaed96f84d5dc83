//! Hits of a search by vector and of one for words become one list. Pure: values in, values out.
//!
//! **Reciprocal rank fusion** (Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank
//! learning methods", 2009): each list adds `1 / (60 + rank)`, ranks from 1, over all partitions. **Weighted**: each list's
//! scores are brought to 0 to 1 by its least and its greatest (to 1 where they are the same), weighed and added. A record
//! that is in one list only gets nothing for the other. Ties by key.

use std::collections::BTreeMap;

use flotilla_proto::limits::{FUSION_WEIGHT_MAX, LIMIT_MAX};
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Violation;
use flotilla_proto::v1;

use crate::merge::Partial;

/// What a rank is added to.
const RANK_BASE: f64 = 60.0;
/// Hits of each list that are put together, unless the request says otherwise or wants more.
const CANDIDATES_DEFAULT: u32 = 100;

/// How two lists become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    ByRank,
    /// What the vector's and the words' scores weigh.
    ByScore(f64, f64),
}

/// A checked fusion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fusion {
    kind: Kind,
    /// Hits of each list.
    pub(super) candidates: u32,
}

impl Fusion {
    /// Checks the fusion of a search for `reach` hits, skipped ones counted in.
    pub(super) fn new(fusion: &v1::Fusion, reach: u32) -> Result<Fusion, Violation> {
        let weights = [("vector_weight", fusion.vector_weight), ("text_weight", fusion.text_weight)];
        let weight = |(name, weight): (&str, Option<f32>)| {
            let weight = weight.unwrap_or(1.0);
            // NaN is in no range.
            if !(0.0..=FUSION_WEIGHT_MAX).contains(&weight) {
                return Err(Violation::range(format!("fusion.{name}"), 0, FUSION_WEIGHT_MAX, weight));
            }
            Ok(f64::from(weight))
        };
        let kind = match v1::FusionKind::try_from(fusion.kind) {
            Ok(v1::FusionKind::Unspecified | v1::FusionKind::Rrf) => {
                if let Some((name, Some(weight))) = weights.into_iter().find(|(_, weight)| weight.is_some()) {
                    let why = format!("is {weight}, and goes with the kind weighted only");
                    return Err(Violation::new(format!("fusion.{name}"), why));
                }
                Kind::ByRank
            }
            Ok(v1::FusionKind::Weighted) => {
                let (vector, text) = (weight(weights[0])?, weight(weights[1])?);
                if vector + text == 0.0 {
                    return Err(Violation::new("fusion.text_weight", "is 0, and so is vector_weight"));
                }
                Kind::ByScore(vector, text)
            }
            Err(_) => return Err(Violation::range("fusion.kind", 0, 2, fusion.kind)),
        };
        let candidates = match fusion.candidates {
            0 => CANDIDATES_DEFAULT.max(reach),
            asked if (reach..=LIMIT_MAX).contains(&asked) => asked,
            asked => return Err(Violation::range("fusion.candidates", reach, LIMIT_MAX, asked)),
        };
        Ok(Fusion { kind, candidates })
    }

    /// One list of both, each with its scores, best first; a hit's distance is minus its score.
    pub(super) fn fuse(&self, vector: Vec<(Partial, f32)>, text: Vec<(Partial, f32)>) -> Vec<Partial> {
        let mut sums: BTreeMap<Key, (Partial, f64)> = BTreeMap::new();
        for (list, is_text) in [(vector, false), (text, true)] {
            let shares = self.shares(&list, is_text);
            for ((hit, _), share) in list.into_iter().zip(shares) {
                let key = hit.key.clone();
                let (known, sum) = sums.entry(key).or_insert_with(|| (hit.clone(), 0.0));
                *sum += share;
                // Read by a later view, where the first one was gone.
                if known.version < hit.version {
                    *known = hit;
                }
            }
        }
        let hit = |(hit, sum): (Partial, f64)| Partial { distance: -(sum as f32), ..hit };
        let mut hits: Vec<Partial> = sums.into_values().map(hit).collect();
        hits.sort_by(Partial::order);
        hits
    }

    /// What each hit of a list gets for being there.
    fn shares(&self, list: &[(Partial, f32)], is_text: bool) -> Vec<f64> {
        match self.kind {
            Kind::ByRank => (1..=list.len()).map(|rank| 1.0 / (RANK_BASE + rank as f64)).collect(),
            Kind::ByScore(vector, text) => {
                let scores =
                    || list.iter().map(|(_, score)| f64::from(*score)).filter(|score| !score.is_nan());
                let (least, greatest) = scores()
                    .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), s| (low.min(s), high.max(s)));
                let weight = if is_text { text } else { vector };
                let share = |(_, score): &(Partial, f32)| {
                    let share = (f64::from(*score) - least) / (greatest - least);
                    // All the same, or beyond all numbers.
                    let share = if share.is_nan() { f64::from(u8::from(!score.is_nan())) } else { share };
                    weight * share
                };
                list.iter().map(share).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    fn hit(key: u64, score: f32) -> (Partial, f32) {
        (Partial { key: Key::Number(key), distance: -score, version: 1, from: 0 }, score)
    }

    fn shown(hits: Vec<Partial>) -> Vec<(u64, f32)> {
        let number = |key: Key| match key {
            Key::Number(number) => number,
            Key::Text(_) => u64::MAX,
        };
        hits.into_iter().map(|hit| (number(hit.key), -hit.distance)).collect()
    }

    fn fusion(fusion: v1::Fusion) -> Result<Fusion, String> {
        Fusion::new(&fusion, 10).map_err(|violation| violation.to_string())
    }

    fn weighted(vector: f32, text: f32) -> v1::Fusion {
        v1::Fusion { kind: 2, vector_weight: Some(vector), text_weight: Some(text), candidates: 0 }
    }

    #[test]
    fn ranks_are_added_up_and_ties_broken_by_key() {
        let fuse = fusion(v1::Fusion::default()).unwrap();
        let fused = fuse.fuse(vec![hit(1, 0.9), hit(2, 0.5)], vec![hit(2, 7.0), hit(3, 1.0), hit(1, 0.5)]);
        let sum = |ranks: &[f64]| ranks.iter().map(|rank| 1.0 / (60.0 + rank)).sum::<f64>() as f32;
        assert_eq!(shown(fused), [(2, sum(&[2.0, 1.0])), (1, sum(&[1.0, 3.0])), (3, sum(&[2.0]))]);
        let tied = fuse.fuse(vec![hit(9, 1.0)], vec![hit(4, 1.0)]);
        assert_eq!(shown(tied).iter().map(|(key, _)| *key).collect::<Vec<_>>(), [4, 9]);
    }

    #[test]
    fn scores_are_brought_to_one_range_and_weighed() {
        let fuse = fusion(weighted(2.0, 1.0)).unwrap();
        let fused = fuse.fuse(vec![hit(1, 4.0), hit(2, 3.0), hit(3, 2.0)], vec![hit(3, 100.0), hit(2, 50.0)]);
        assert_eq!(shown(fused), [(1, 2.0), (2, 1.0), (3, 1.0)]);
        let same = fuse.fuse(vec![hit(1, 4.0), hit(2, 4.0)], vec![]);
        assert_eq!(shown(same), [(1, 2.0), (2, 2.0)]);
        let odd = fuse.fuse(vec![hit(1, f32::INFINITY), hit(2, f32::NAN), hit(3, 1.0)], vec![]);
        assert!(odd.iter().all(|hit| hit.distance.is_finite()), "{odd:?}");
    }

    #[test]
    fn wrong_fusions_are_refused_by_field_limit_and_value() {
        let refused = |wrong: v1::Fusion| fusion(wrong).unwrap_err();
        for weight in [f32::NAN, -1.0, f32::INFINITY, 1e9] {
            assert!(refused(weighted(weight, 1.0)).starts_with("fusion.vector_weight: must be 0 to 1000000"));
            assert!(refused(weighted(1.0, weight)).starts_with("fusion.text_weight: must be 0 to 1000000"));
        }
        assert!(refused(weighted(0.0, 0.0)).contains("so is vector_weight"));
        let ranked = v1::Fusion { kind: 1, ..weighted(1.0, 1.0) };
        assert!(refused(ranked).contains("goes with the kind weighted only"));
        assert!(refused(v1::Fusion { kind: 7, ..Default::default() }).contains("must be 0 to 2, got 7"));
        for candidates in [9, 10_001] {
            let told = refused(v1::Fusion { candidates, ..Default::default() });
            assert!(told.contains("fusion.candidates: must be 10 to 10000"), "{told}");
        }
        assert_eq!(fusion(v1::Fusion::default()).unwrap().candidates, 100);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 300,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(0x6675_7369_6f6e),
            ..ProptestConfig::default()
        })]

        #[test]
        fn fusing_by_rank_is_the_obvious_sum(vector in keys(), text in keys()) {
            let list = |keys: &[u64]| keys.iter().zip(0..).map(|(key, n)| hit(*key, -(n as f32))).collect();
            let fused = fusion(v1::Fusion::default()).unwrap().fuse(list(&vector), list(&text));
            let share = |keys: &[u64], key: u64| {
                keys.iter().position(|other| *other == key).map_or(0.0, |at| 1.0 / (61.0 + at as f64))
            };
            let mut naive: Vec<(u64, f32)> = (0..30)
                .filter(|key| vector.contains(key) || text.contains(key))
                .map(|key| (key, (share(&vector, key) + share(&text, key)) as f32))
                .collect();
            naive.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            prop_assert_eq!(shown(fused), naive);
        }
    }

    fn keys() -> impl Strategy<Value = Vec<u64>> {
        Just((0..30).collect::<Vec<u64>>())
            .prop_shuffle()
            .prop_flat_map(|all| (Just(all), 0_usize..30))
            .prop_map(|(mut all, len)| {
                all.truncate(len);
                all
            })
    }
}
