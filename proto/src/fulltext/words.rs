//! Cutting a text into words.

use std::ops::Range;

use super::Language;
use crate::limits::TEXT_WORD_BYTES_MAX;

/// A word as it stands in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written<'a> {
    /// As it is written.
    pub text: &'a str,
    /// The byte where it starts.
    pub at: usize,
    /// How many runs of letters and digits stand before it.
    pub place: u32,
}

impl Written<'_> {
    /// Its bytes in the text.
    pub fn range(&self) -> Range<usize> {
        self.at..self.at + self.text.len()
    }

    /// The word: in lower case, character by character.
    pub fn lowered(&self) -> String {
        let mut word = String::with_capacity(self.text.len());
        self.lower_into(&mut word);
        word
    }

    /// What it counts as in a field of a language, or of none: its stem, or the word itself.
    pub fn term(&self, language: Option<Language>) -> String {
        let mut term = String::with_capacity(self.text.len());
        self.term_into(language, &mut term);
        term
    }

    /// The same, in `term`, which is cleared before.
    pub fn term_into(&self, language: Option<Language>, term: &mut String) {
        self.lower_into(term);
        if let Some(language) = language {
            language.stem(term);
        }
    }

    /// The word, in `word`, which is cleared before.
    fn lower_into(&self, word: &mut String) {
        word.clear();
        if self.text.is_ascii() {
            word.push_str(self.text);
            word.make_ascii_lowercase();
        } else {
            word.extend(self.text.chars().flat_map(char::to_lowercase));
        }
    }
}

/// The words of a text, in order.
pub fn words(text: &str) -> impl Iterator<Item = Written<'_>> {
    runs(text).filter(|run| run.text.len() <= TEXT_WORD_BYTES_MAX)
}

/// Whether the last run is too long to be a word.
pub(super) fn ends_dropped(text: &str) -> bool {
    runs(text).last().is_some_and(|run| run.text.len() > TEXT_WORD_BYTES_MAX)
}

/// The runs of letters and digits, the long ones too.
fn runs(text: &str) -> impl Iterator<Item = Written<'_>> {
    let mut at = 0;
    let mut next_place = 0_u32;
    std::iter::from_fn(move || {
        let rest = text.get(at..)?;
        let start = rest.find(char::is_alphanumeric)?;
        let run = rest.get(start..)?;
        let run = run.get(..run.find(|char: char| !char.is_alphanumeric()).unwrap_or(run.len()))?;
        let written = Written { text: run, at: at + start, place: next_place };
        at = written.range().end;
        next_place = next_place.saturating_add(1);
        Some(written)
    })
}
