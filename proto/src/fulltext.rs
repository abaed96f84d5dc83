//! What a word is and how often it occurs, once for all: router, growing segments and sealed segments must cut a text
//! alike, because a condition on words is part of a delete that replicas apply each on their own, and because a score adds
//! up what all of them counted.
//!
//! A **word** is a run of letters and digits (as Unicode has them) in lower case, of at most
//! [`TEXT_WORD_BYTES_MAX`](crate::limits::TEXT_WORD_BYTES_MAX) bytes as it is written. A longer run is dropped and keeps
//! its **place**: the place of a word is the number of runs before it in its value. There are no stop words.
//!
//! A field declared as text of a [`Language`] knows its words by their **stems**: each word of a text and each of a query is
//! replaced by its stem where it is cut ([`Written::term`]), so whatever stands here of words is then said of stems: what
//! begins like another, how many edits it is away, which are in a row, how many texts have it.
//!
//! A **phrase** is words in a row in one value: a field may hold several texts, and places never run on from one to the
//! next ([`PlacesOf`]).
//!
//! A word of a query may stand for others that begin like it or are a few edits away ([`Kin`]); how much a text scores is
//! [`bm25`]'s.
//!
//! What it does not do: read records ([`crate::record::reach`]) or say which records pass ([`crate::filter`]).

pub mod bm25;
mod kin;
mod language;
mod phrase;
mod query;
mod words;

pub use self::kin::{Distances, Kin};
pub use self::language::Language;
pub use self::phrase::{PlacesOf, phrases};
pub use self::query::{Clause, Need, TextQuery, check_text_field};
pub use self::words::{Written, words};

use crate::limits::{TEXT_QUERY_BYTES_MAX, TEXT_WORD_BYTES_MAX, TEXT_WORDS_MAX};
use crate::refusal::Violation;
use crate::schema::at_most;

/// The words of a query, in its order, by their stems in a field of a language; `at` names it in a refusal.
///
/// # Errors
/// A query without words, too long, or of too many words; and, where `whole` of it is needed, as of a phrase, one with a
/// run that is too long to be a word.
pub fn query_words(
    at: &str,
    query: &str,
    language: Option<Language>,
    whole: bool,
) -> Result<Vec<String>, Violation> {
    at_most(at, "bytes", TEXT_QUERY_BYTES_MAX, query.len())?;
    let mut found = Vec::new();
    let mut places = 0;
    for written in words(query) {
        found.push(written.term(language));
        places = written.place as usize + 1;
    }
    at_most(at, "words", TEXT_WORDS_MAX, found.len())?;
    if found.is_empty() {
        return Err(Violation::new(at, "at least one word is needed: letters or digits"));
    }
    let is_cut = places > found.len() || words::ends_dropped(query);
    if whole && is_cut {
        let why =
            format!("a word of a phrase has at most {TEXT_WORD_BYTES_MAX} bytes; one of these has more");
        return Err(Violation::new(at, why));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
