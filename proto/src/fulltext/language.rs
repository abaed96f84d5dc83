//! The languages whose words are known by their stems.
//!
//! A stem is what is left of a word without its endings (Porter, "An algorithm for suffix stripping", 1980, and the Snowball
//! stemmers after it, which are [`frostem`]'s). The stems are held by segments and decide what a condition on words means, so
//! all replicas must find the same: the definitions of the stemmers are held fast where the dependency is named.

use std::borrow::Cow;

use frostem::{Algorithm, Stemmer};
use serde::{Deserialize, Serialize};

/// A language with stems.
///
/// Stored by the place of each among the others: a new one goes to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Language {
    Arabic,
    Danish,
    Dutch,
    English,
    Finnish,
    French,
    German,
    Greek,
    Hungarian,
    Italian,
    Norwegian,
    Portuguese,
    Romanian,
    Russian,
    Spanish,
    Swedish,
    Turkish,
}

impl Language {
    /// All of them, as they are stored.
    pub const ALL: [Language; 17] = [
        Language::Arabic,
        Language::Danish,
        Language::Dutch,
        Language::English,
        Language::Finnish,
        Language::French,
        Language::German,
        Language::Greek,
        Language::Hungarian,
        Language::Italian,
        Language::Norwegian,
        Language::Portuguese,
        Language::Romanian,
        Language::Russian,
        Language::Spanish,
        Language::Swedish,
        Language::Turkish,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let declared = self.declared();
        declared.split_once(':').map_or(declared, |(_, name)| name)
    }

    /// A field of its texts, as one is declared.
    pub fn declared(self) -> &'static str {
        match self {
            Language::Arabic => "text:arabic",
            Language::Danish => "text:danish",
            Language::Dutch => "text:dutch",
            Language::English => "text:english",
            Language::Finnish => "text:finnish",
            Language::French => "text:french",
            Language::German => "text:german",
            Language::Greek => "text:greek",
            Language::Hungarian => "text:hungarian",
            Language::Italian => "text:italian",
            Language::Norwegian => "text:norwegian",
            Language::Portuguese => "text:portuguese",
            Language::Romanian => "text:romanian",
            Language::Russian => "text:russian",
            Language::Spanish => "text:spanish",
            Language::Swedish => "text:swedish",
            Language::Turkish => "text:turkish",
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Language::Arabic => Algorithm::Arabic,
            Language::Danish => Algorithm::Danish,
            Language::Dutch => Algorithm::Dutch,
            Language::English => Algorithm::English,
            Language::Finnish => Algorithm::Finnish,
            Language::French => Algorithm::French,
            Language::German => Algorithm::German,
            Language::Greek => Algorithm::Greek,
            Language::Hungarian => Algorithm::Hungarian,
            Language::Italian => Algorithm::Italian,
            Language::Norwegian => Algorithm::Norwegian,
            Language::Portuguese => Algorithm::Portuguese,
            Language::Romanian => Algorithm::Romanian,
            Language::Russian => Algorithm::Russian,
            Language::Spanish => Algorithm::Spanish,
            Language::Swedish => Algorithm::Swedish,
            Language::Turkish => Algorithm::Turkish,
        }
    }

    /// Replaces a word in lower case by its stem; a word that is nothing but an ending stays.
    pub fn stem(self, word: &mut String) {
        let stem = match Stemmer::new(self.algorithm()).stem(word) {
            Cow::Borrowed(stem) if stem == word.as_str() => return,
            stem => stem.into_owned(),
        };
        if !stem.is_empty() {
            *word = stem;
        }
    }
}
