//! Vectors from text without a model: feature hashing.
//!
//! Every word, and every three-character piece of a word with its ends marked, is a feature. A feature's hash names one
//! of 384 components and a sign; its weight is `1 + ln(count)`, a word counting four times what a piece does, and words
//! that say nothing (a, the, with...) are left out. The sum is scaled to length 1, so that cosine similarity is the
//! weighted share of common words, with some credit for common stems. No meaning is learnt: "car" and "automobile"
//! have nothing in common. It is here so that the demo searches real text with nothing to download.
//!
//! The same text gives the same vector on every machine: the hash is fixed and a golden test pins it.

use std::collections::BTreeMap;

/// Components of a text's vector.
pub const DIMS: usize = 384;

const SILENT: [&str; 16] =
    ["a", "an", "and", "at", "by", "for", "from", "in", "is", "of", "on", "or", "the", "to", "with", "its"];
const WORD_WEIGHT: f32 = 1.0;
const PIECE_WEIGHT: f32 = 0.25;

/// The vector of `text`, of length 1. Text without a word points along the first component.
pub fn text_vector(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0_f32; DIMS];
    for (feature, count) in features(text) {
        let base = if feature.starts_with('#') { PIECE_WEIGHT } else { WORD_WEIGHT };
        let hash = hash(feature.as_bytes());
        let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
        vector[(hash % DIMS as u64) as usize] += sign * base * (1.0 + (count as f32).ln());
    }
    normalise(&mut vector);
    vector
}

/// Words as they are, pieces with a leading `#`, with their counts; ordered, so that sums round alike everywhere.
fn features(text: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    let lower = text.to_lowercase();
    for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        if SILENT.contains(&word) {
            continue;
        }
        *counts.entry(word.to_owned()).or_insert(0) += 1;
        let marked: Vec<char> = ['<'].into_iter().chain(word.chars()).chain(['>']).collect();
        for piece in marked.windows(3) {
            *counts.entry(['#'].iter().chain(piece).collect()).or_insert(0) += 1;
        }
    }
    counts
}

fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    match vector.first_mut() {
        Some(first) if length == 0.0 => *first = 1.0,
        _ => vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32),
    }
}

/// FNV-1a with a finalizer that spreads short inputs over all 64 bits. Never changes: stored vectors depend on it.
fn hash(bytes: &[u8]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        h = (h ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn similarity(a: &str, b: &str) -> f32 {
        text_vector(a).iter().zip(text_vector(b)).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn vectors_are_pinned() {
        let vector = text_vector("Web server in production, web tier");
        let largest = (0..DIMS).max_by(|a, b| vector[*a].abs().total_cmp(&vector[*b].abs())).unwrap();
        let digest =
            hash(&vector.iter().flat_map(|v| ((v * 1e4).round() as i32).to_le_bytes()).collect::<Vec<_>>());
        assert_eq!((hash(b"web"), largest, digest), GOLDEN);
    }

    const GOLDEN: (u64, usize, u64) = (11_806_048_386_355_021_207, 151, 13_434_266_357_342_742_287);

    #[test]
    fn length_is_one_whatever_the_text() {
        for text in ["", "the", "x", "web server", "naïve 日本語"] {
            let squared: f32 = text_vector(text).iter().map(|v| v * v).sum();
            assert!((squared - 1.0).abs() < 1e-5, "{text}: {squared}");
        }
    }

    #[test]
    fn common_words_are_near_and_others_are_not() {
        assert!(similarity("Web server, production", "production web server") > 0.999);
        assert!(similarity("web server production", "web servers in production") > 0.6);
        assert!(similarity("web server production", "nightly tape backup").abs() < 0.2);
    }
}
