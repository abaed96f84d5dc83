//! Words in a row.

use super::{Language, words};

/// Where the words of a query stand in the values of a record, one value after the other.
///
/// Between the last place of a value and the first of the next one lies a place that no word has, so that nothing in a
/// row begins in one value and ends in another.
#[derive(Clone, Debug, Default)]
pub struct PlacesOf {
    /// By place: a bit for each word of the query that stands there.
    found: Vec<(u32, u64)>,
    base: u32,
    buffer: String,
}

impl PlacesOf {
    /// Adds a value of a field of a language, or of none; `bits` says which words of the query a word of the value is.
    pub fn add(&mut self, value: &str, language: Option<Language>, mut bits: impl FnMut(&str) -> u64) {
        let mut end = self.base;
        for written in words(value) {
            let place = self.base.saturating_add(written.place);
            end = place.saturating_add(1);
            written.term_into(language, &mut self.buffer);
            match bits(&self.buffer) {
                0 => {}
                bits => self.found.push((place, bits)),
            }
        }
        self.base = end.saturating_add(1);
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.found.clear();
        self.base = 0;
    }

    /// How often a phrase of so many words stands in the values.
    pub fn phrases(&self, words: usize) -> u32 {
        phrases(&self.found, words)
    }
}

/// How often a phrase of so many words (up to 64) occurs where `found` tells, by ascending place, which of its words stand
/// there: bit `n` for the word `n` of the phrase. Occurrences may overlap.
pub fn phrases(found: &[(u32, u64)], words: usize) -> u32 {
    let begins = |at: usize| {
        let Some((first, _)) = found.get(at) else { return false };
        (0..words).all(|word| {
            let wanted = first.checked_add(word as u32);
            found.get(at + word).is_some_and(|(place, bits)| Some(*place) == wanted && bits >> word & 1 == 1)
        })
    };
    if words == 0 || words > u64::BITS as usize {
        return 0;
    }
    u32::try_from((0..found.len()).filter(|at| begins(*at)).count()).unwrap_or(u32::MAX)
}
