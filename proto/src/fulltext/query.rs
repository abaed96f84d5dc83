//! A search for words, in its domain shape.

use super::{Kin, Language, query_words};
use crate::limits::FUZZY_EDITS_MAX;
use crate::refusal::Violation;
use crate::schema::{CollectionSpec, check_path};

/// Which of the words a record must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// One of them at least.
    Any,
    /// All, in whichever of the field's texts.
    All,
    /// All in a row, in one of the field's texts.
    Phrase,
}

/// A checked search for words.
#[derive(Clone, Debug, PartialEq)]
pub struct TextQuery {
    /// The field, by its dotted path.
    pub field: String,
    /// Whose stems its words are, if anybody's.
    pub language: Option<Language>,
    /// The words, at least one: in order for a phrase, each once otherwise.
    pub words: Vec<Kin>,
    /// Which of them.
    pub need: Need,
}

/// A word of a query: what it stands for, and what it weighs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clause {
    /// Words, each with how many edits it is away.
    pub terms: Vec<(String, u32)>,
    /// See [`super::bm25::weight`]; 0 where it is not known yet.
    pub weight: f64,
}

impl TextQuery {
    /// Checks a search for the words of `query` in `field`.
    ///
    /// # Errors
    /// A field that is not declared as text, a query without words or with too many, edits beyond their limit or of a phrase.
    pub fn new(
        spec: &CollectionSpec,
        field: &str,
        query: &str,
        need: Need,
        prefix_last: bool,
        fuzzy_edits: u32,
    ) -> Result<TextQuery, Violation> {
        let language = check_text_field("text.field", field, spec)?;
        let edits = u8::try_from(fuzzy_edits).ok().filter(|edits| u32::from(*edits) <= FUZZY_EDITS_MAX);
        let edits =
            edits.ok_or_else(|| Violation::range("text.fuzzy_edits", 0, FUZZY_EDITS_MAX, fuzzy_edits))?;
        let is_phrase = need == Need::Phrase;
        if is_phrase && edits > 0 {
            return Err(Violation::new(
                "text.fuzzy_edits",
                format!("is {edits}, and does not go with phrase"),
            ));
        }
        let found = query_words("text.query", query, language, is_phrase || prefix_last)?;
        let last = found.len() - 1;
        let mut words: Vec<Kin> = Vec::with_capacity(found.len());
        for (place, word) in found.iter().enumerate() {
            let kin = Kin::new(word, prefix_last && place == last, edits);
            if is_phrase || !words.contains(&kin) {
                words.push(kin);
            }
        }
        Ok(TextQuery { field: field.to_owned(), language, words, need })
    }
}

/// The language of a field's texts, if it is declared with one. Refuses a field that is not declared as text: no index would hold
/// its words.
pub fn check_text_field(at: &str, field: &str, spec: &CollectionSpec) -> Result<Option<Language>, Violation> {
    check_path(at, field)?;
    let why = match spec.fields.get(field) {
        Some(kind) if kind.is_text() => return Ok(kind.language()),
        Some(kind) => {
            format!("`{field}` is declared as {}; words are searched in fields declared as text", kind.name())
        }
        None => format!("`{field}` is not declared; words are searched in fields declared as text"),
    };
    Err(Violation::new(at, why))
}
