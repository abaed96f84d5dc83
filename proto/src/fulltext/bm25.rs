//! The score of a text (BM25: Robertson, Walker, Jones, Hancock-Beaulieu and Gatford, "Okapi at TREC-3", 1994; with the weight
//! that is never negative), with `k1` = 1.2 and `b` = 0.75.
//!
//! ```text
//! score  = sum over the query's words:  weight * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length))
//! weight = ln(1 + (N - n + 1/2) / (n + 1/2))
//! ```
//!
//! `N`: records with a word in the field, `n`: those with the query's word in it. Both, and the mean length, are those of all
//! partitions: whoever asks adds them up, works the weights out once, and sends those along, so that a score does not depend on
//! where a record lies nor on whose logarithm it is.
//!
//! **To the last bit.** What is added up are whole numbers. A length is rounded ([`rounded_length`]) as sealed segments round
//! it, wherever it comes from. The rest is one expression in one order, in 64 bits, rounded to 32 at the end.

use crate::limits::FUZZY_EDITS_MAX;

const K1: f64 = 1.2;
const B: f64 = 0.75;
/// Lengths below it are whole.
const WHOLE: u32 = 24;
/// Bits of a greater one's excess that are kept.
const BITS_KEPT: u32 = 4;
/// The largest rounded length.
const LENGTH_MAX: u32 = 2_013_265_944;

/// Shares that an occurrence of the very word counts. Each edit halves what an occurrence counts.
pub const SHARES: u32 = 1 << FUZZY_EDITS_MAX;

/// What an occurrence of a word that is so many edits away counts.
pub fn share(edits: u32) -> u32 {
    SHARES >> edits.min(FUZZY_EDITS_MAX)
}

/// Words of a record's field as a score counts them: all up to 40, of longer ones the leading bits.
pub fn rounded_length(words: u32) -> u32 {
    if words <= WHOLE {
        return words;
    }
    let excess = words - WHOLE;
    let dropped = (u32::BITS - excess.leading_zeros()).saturating_sub(BITS_KEPT);
    (WHOLE + (excess >> dropped << dropped)).min(LENGTH_MAX)
}

/// The weight of a word that `containing` of `records` have. Positive, and a number whatever the arguments are.
pub fn weight(records: u64, containing: u64) -> f64 {
    let containing = containing.min(records) as f64;
    ((records as f64 - containing + 0.5) / (containing + 0.5)).ln_1p()
}

/// The mean length of so many records with so many words; 1 where there are none.
pub fn mean_length(records: u64, words: u64) -> f64 {
    if records == 0 || words == 0 { 1.0 } else { words as f64 / records as f64 }
}

/// What a word of `weight` adds to the score of a text of `length` words, in which it occurs `shares / SHARES` times.
/// `mean_length` is above 0.
pub fn part(weight: f64, shares: u32, length: u32, mean_length: f64) -> f64 {
    let occurrences = f64::from(shares) / f64::from(SHARES);
    let norm = K1 * (1.0 - B + B * f64::from(length) / mean_length);
    weight * (occurrences * (K1 + 1.0)) / (occurrences + norm)
}

/// The score of a text of `length` words: of each word of the query its weight, and how many shares it has there.
pub fn score(words: impl Iterator<Item = (f64, u32)>, length: u32, mean_length: f64) -> f32 {
    words.map(|(weight, shares)| part(weight, shares, length, mean_length)).fold(0.0, |sum, part| sum + part)
        as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_whole_up_to_40_and_keeps_its_leading_bits_beyond() {
        for words in 0..=40 {
            assert_eq!(rounded_length(words), words);
        }
        let some = [41, 42, 43, 56, 57, 59, 60, 1_000, 1_000_000, u32::MAX].map(rounded_length);
        assert_eq!(some, [40, 42, 42, 56, 56, 56, 60, 984, 983_064, LENGTH_MAX]);
        assert!((0..100_000).map(rounded_length).is_sorted());
    }

    #[test]
    fn a_score_is_the_textbooks() {
        let weight = weight(10, 3);
        assert!((weight - (1.0_f64 + 7.5 / 3.5).ln()).abs() < 1e-12);
        let tf = 2.0;
        let textbook = weight * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * 12.0 / 8.0));
        assert!((part(weight, 2 * SHARES, 12, 8.0) - textbook).abs() < 1e-12);
        assert_eq!(part(weight, 0, 12, 8.0), 0.0);
    }

    #[test]
    fn no_figures_make_what_is_not_a_number() {
        let counts = [0, 1, 7, u64::MAX];
        for (records, containing, words) in
            counts.iter().flat_map(|n| counts.iter().flat_map(move |m| counts.map(|w| (*n, *m, w))))
        {
            let (weight, mean) = (weight(records, containing), mean_length(records, words));
            assert!(weight > 0.0 && weight.is_finite() && mean > 0.0 && mean.is_finite());
            for (shares, length) in [(0, 0), (1, 1), (u32::MAX, 0), (1, u32::MAX), (u32::MAX, u32::MAX)] {
                assert!(score([(weight, shares)].into_iter(), length, mean).is_finite());
            }
        }
    }
}
