//! Passages of a hit's texts that show the words found.
//!
//! The words are cut, and kin and phrases told, as where records are found ([`flotilla_proto::fulltext`]). A passage begins and
//! ends between characters, at white space where there is some, and is at most as long as asked for, the marks not counted. Of the
//! passages those with most different words of the query come first, then those with most words, then those that stand
//! first; they do not overlap in what they mark. The text between the marks is that of the record, not escaped.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

use flotilla_proto::convert::value_from_wire;
use flotilla_proto::fulltext::{Language, Need, TextQuery, words};
use flotilla_proto::limits::{
    HIGHLIGHT_CHARS_DEFAULT, HIGHLIGHT_CHARS_MAX, HIGHLIGHT_FRAGMENTS_MAX, HIGHLIGHT_MARK_BYTES_MAX,
};
use flotilla_proto::record::{Payload, Value, reach};
use flotilla_proto::refusal::Violation;
use flotilla_proto::schema::at_most;
use flotilla_proto::{shard, v1};

/// The form of passages, checked.
#[derive(Clone, Debug)]
pub(super) struct Form {
    fragments: usize,
    length: usize,
    before: String,
    after: String,
}

impl Form {
    pub(super) fn new(wanted: &v1::Highlight) -> Result<Form, Violation> {
        let bounded = |name: &str, value: u32, default: u32, most: u32| match value {
            0 => Ok(default as usize),
            value if value <= most => Ok(value as usize),
            value => Err(Violation::range(format!("highlight.{name}"), 1, most, value)),
        };
        let mark = |name: &str, text: &Option<String>, default: &str| {
            let text = text.clone().unwrap_or_else(|| default.to_owned());
            at_most(&format!("highlight.{name}"), "bytes", HIGHLIGHT_MARK_BYTES_MAX, text.len())?;
            Ok::<_, Violation>(text)
        };
        Ok(Form {
            fragments: bounded("fragments", wanted.fragments, 1, HIGHLIGHT_FRAGMENTS_MAX)?,
            length: bounded("length", wanted.length, HIGHLIGHT_CHARS_DEFAULT, HIGHLIGHT_CHARS_MAX)?,
            before: mark("before", &wanted.before, "<em>")?,
            after: mark("after", &wanted.after, "</em>")?,
        })
    }
}

/// What is marked, and how.
pub(super) struct Highlighter {
    form: Form,
    path: Vec<String>,
    /// Whose stems the words are, if anybody's: a word is marked as it is written.
    language: Option<Language>,
    /// By word: a bit for each clause of the query that it is found by.
    bits: HashMap<String, u64>,
    /// Words of the phrase, if one is searched.
    phrase: Option<usize>,
}

/// A word to be marked.
struct Mark {
    bytes: Range<usize>,
    chars: Range<usize>,
    place: u32,
    bits: u64,
}

/// Marks of one text that fit one passage.
struct Passage {
    text: usize,
    marks: Range<usize>,
    different: u32,
}

impl Highlighter {
    /// Marks what `query` finds, as it was weighed.
    pub(super) fn new(form: &Form, query: &TextQuery, scoring: &shard::TextScoring) -> Highlighter {
        let mut bits: HashMap<String, u64> = HashMap::new();
        for (number, clause) in scoring.clauses.iter().enumerate() {
            let bit = 1_u64.checked_shl(number as u32).unwrap_or(0);
            for term in &clause.terms {
                *bits.entry(term.word.clone()).or_default() |= bit;
            }
        }
        let path = query.field.split('.').map(str::to_owned).collect();
        let phrase = (query.need == Need::Phrase).then_some(scoring.clauses.len());
        Highlighter { form: form.clone(), path, language: query.language, bits, phrase }
    }

    /// The passages of a record; none if no word of the query is in it.
    pub(super) fn passages(&self, payload: &std::collections::BTreeMap<String, v1::Value>) -> Vec<String> {
        let texts = self.texts(payload);
        let marks: Vec<Vec<Mark>> = texts.iter().map(|text| self.marks(text)).collect();
        let mut found: Vec<Passage> = Vec::new();
        for (text, marks) in marks.iter().enumerate() {
            passages_of(text, marks, self.form.length, &mut found);
        }
        // The order in which they were found breaks ties.
        found.sort_by_key(|passage| Reverse((passage.different, passage.marks.len())));
        let mut chosen: Vec<Passage> = Vec::new();
        for passage in found {
            if chosen.len() >= self.form.fragments {
                break;
            }
            let overlaps = |other: &Passage| {
                other.text == passage.text
                    && other.marks.start < passage.marks.end
                    && passage.marks.start < other.marks.end
            };
            if !chosen.iter().any(overlaps) {
                chosen.push(passage);
            }
        }
        chosen
            .into_iter()
            .filter_map(|passage| {
                Some(self.written(texts.get(passage.text)?, marks.get(passage.text)?.get(passage.marks)?))
            })
            .collect()
    }

    fn texts(&self, payload: &std::collections::BTreeMap<String, v1::Value>) -> Vec<String> {
        let mut texts = Vec::new();
        let Some((root, value)) = self.path.first().and_then(|root| payload.get_key_value(root)) else {
            return texts;
        };
        let Ok(value) = value_from_wire("payload", value.clone()) else { return texts };
        reach(&Payload::from([(root.clone(), value)]), &self.path, &mut |value| {
            if let Value::Text(text) = value {
                texts.push(text.clone());
            }
            false
        });
        texts
    }

    /// The words of a text that are found; of a phrase, those of its occurrences.
    fn marks(&self, text: &str) -> Vec<Mark> {
        let mut marks = Vec::new();
        let (mut byte, mut char) = (0, 0);
        let mut word = String::new();
        for written in words(text) {
            written.term_into(self.language, &mut word);
            let Some(bits) = self.bits.get(&word) else { continue };
            char += text.get(byte..written.at).map_or(0, |between| between.chars().count());
            byte = written.at;
            let chars = char..char + written.text.chars().count();
            marks.push(Mark { bytes: written.range(), chars, place: written.place, bits: *bits });
        }
        match self.phrase {
            Some(words) => in_phrases(marks, words),
            None => marks,
        }
    }

    /// A passage around these marks, which are one at least.
    fn written(&self, text: &str, marks: &[Mark]) -> String {
        let (Some(first), Some(last)) = (marks.first(), marks.last()) else { return String::new() };
        let room = self.form.length.saturating_sub(last.chars.end - first.chars.start);
        let left = room / 2;
        let start = widened_left(text, first.bytes.start, left);
        let taken = text.get(start..first.bytes.start).map_or(0, |before| before.chars().count());
        let end = widened_right(text, last.bytes.end, room - taken.min(room));
        let mut written = String::new();
        let mut at = start;
        for mark in marks {
            written.push_str(text.get(at..mark.bytes.start).unwrap_or_default());
            written.push_str(&self.form.before);
            written.push_str(text.get(mark.bytes.clone()).unwrap_or_default());
            written.push_str(&self.form.after);
            at = mark.bytes.end;
        }
        written.push_str(text.get(at..end).unwrap_or_default());
        written
    }
}

/// Those that belong to an occurrence of a phrase of so many words.
fn in_phrases(marks: Vec<Mark>, words: usize) -> Vec<Mark> {
    let mut is_kept = vec![false; marks.len()];
    for at in 0..marks.len() {
        let Some(run) = marks.get(at..at + words) else { break };
        let first = run.first().map_or(0, |mark| mark.place);
        let is_phrase = run.iter().zip(0_u32..).all(|(mark, word)| {
            first.checked_add(word) == Some(mark.place) && mark.bits.checked_shr(word).unwrap_or(0) & 1 == 1
        });
        if is_phrase {
            is_kept.iter_mut().skip(at).take(words).for_each(|kept| *kept = true);
        }
    }
    marks.into_iter().zip(is_kept).filter(|(_, is_kept)| *is_kept).map(|(mark, _)| mark).collect()
}

/// For each mark the passage that begins with it, with as many more as fit.
fn passages_of(text: usize, marks: &[Mark], length: usize, found: &mut Vec<Passage>) {
    let mut end = 0;
    let mut counts = [0_u32; 64];
    let mut count = |bits: u64, up: bool| {
        for (bit, count) in counts.iter_mut().enumerate() {
            if bits >> bit & 1 == 1 {
                *count = if up { *count + 1 } else { count.saturating_sub(1) };
            }
        }
        counts.iter().filter(|count| **count > 0).count() as u32
    };
    for (start, first) in marks.iter().enumerate() {
        let mut different = count(0, true);
        while let Some(next) = marks.get(end) {
            if end > start && next.chars.end - first.chars.start > length {
                break;
            }
            different = count(next.bits, true);
            end += 1;
        }
        found.push(Passage { text, marks: start..end, different });
        count(first.bits, false);
    }
}

/// The byte at most `chars` characters before `at`, behind white space where a word would be cut.
fn widened_left(text: &str, at: usize, chars: usize) -> usize {
    let Some(before) = text.get(..at) else { return at };
    let start = match before.char_indices().rev().take(chars).last() {
        Some((start, _)) => start,
        None => return at,
    };
    let cuts_word = |before: &str| before.chars().next_back().is_some_and(|char| !char.is_whitespace());
    if !before.get(..start).is_some_and(cuts_word) {
        return start;
    }
    let rest = before.get(start..).unwrap_or_default();
    rest.char_indices()
        .find(|(_, char)| char.is_whitespace())
        .map_or(at, |(offset, char)| start + offset + char.len_utf8())
}

/// The byte at most `chars` characters behind `at`, before white space where a word would be cut.
fn widened_right(text: &str, at: usize, chars: usize) -> usize {
    let Some(behind) = text.get(at..) else { return at };
    let Some((cut, next)) = behind.char_indices().nth(chars) else { return text.len() };
    if next.is_whitespace() {
        return at + cut;
    }
    let kept = behind.get(..cut).unwrap_or_default();
    kept.char_indices().rev().find(|(_, char)| char.is_whitespace()).map_or(at, |(offset, _)| at + offset)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::fulltext::Kin;

    use super::*;

    fn marked(query: &str, need: Need, wanted: &v1::Highlight, text: Value) -> Vec<String> {
        marked_in(None, query, need, wanted, text)
    }

    fn marked_in(
        language: Option<Language>,
        query: &str,
        need: Need,
        wanted: &v1::Highlight,
        text: Value,
    ) -> Vec<String> {
        let words: Vec<Kin> = query.split(' ').map(|word| Kin::new(word, false, 0)).collect();
        let term = |kin: &Kin| shard::TextTerm { word: kin.word().into(), edits: 0 };
        let clauses = words.iter().map(|kin| shard::TextClause { terms: vec![term(kin)], weight: 1.0 });
        let scoring = shard::TextScoring { clauses: clauses.collect(), mean_length: 1.0 };
        let query = TextQuery { field: "t".into(), language, words, need };
        let highlighter = Highlighter::new(&Form::new(wanted).unwrap(), &query, &scoring);
        highlighter.passages(&[("t".to_owned(), flotilla_proto::convert::value_to_wire(&text))].into())
    }

    fn of(fragments: u32, length: u32) -> v1::Highlight {
        v1::Highlight { fragments, length, before: Some("[".into()), after: Some("]".into()) }
    }

    #[test]
    fn words_are_marked_in_passages_cut_between_words() {
        let text = "The upload of Größe failed: DISK full on host seven. Later the disk was swapped and the upload went on.";
        let show = |query: &str, wanted| marked(query, Need::Any, &wanted, text.into());
        assert_eq!(
            marked("disk full", Need::Any, &v1::Highlight::default(), "the Disk is full".into()),
            ["the <em>Disk</em> is <em>full</em>"]
        );
        assert_eq!(show("disk full", of(1, 30)), ["failed: [DISK] [full] on host"]);
        assert_eq!(show("größe", of(1, 5)), ["[Größe]"]);
        assert_eq!(show("größe", of(1, 2)), ["[Größe]"], "a word is not cut");
        assert_eq!(show("upload disk", of(2, 20)).len(), 2);
        assert_eq!(show("nothing", of(1, 20)), [""; 0]);
        for length in 1..130 {
            for passage in show("upload disk", of(3, length)) {
                let plain = passage.replace(['[', ']'], "");
                assert!(text.contains(&plain), "{plain}");
                assert!(plain.chars().count() <= (length as usize).max(6), "{length}: {plain}");
            }
        }
    }

    #[test]
    fn passages_with_most_different_words_come_first_from_whichever_text() {
        let texts = Value::List(vec!["disk disk disk".into(), 7.into(), "full disk".into()]);
        let both = marked("disk full", Need::Any, &of(2, 50), texts.clone());
        assert_eq!(both, ["[full] [disk]", "[disk] [disk] [disk]"]);
        assert_eq!(marked("disk disk", Need::Phrase, &of(1, 10), texts), ["[disk] [disk]"]);
    }

    #[test]
    fn only_phrases_are_marked_where_one_is_searched() {
        let show = |query: &str, text: &str| marked(query, Need::Phrase, &of(1, 80), text.into());
        assert_eq!(show("disk full", "full disk, disk full, full"), ["full disk, [disk] [full], full"]);
        assert_eq!(show("a a", "a a a b a"), ["[a] [a] [a] b a"]);
    }

    #[test]
    fn a_word_of_a_language_is_marked_as_it_is_written() {
        let text = "Uploads failed while uploading; the Connection was lost.";
        let english = Some(Language::English);
        // As a query is told: by its stems.
        let show = |query: &str, need| marked_in(english, query, need, &of(1, 80), text.into());
        let expected = ["[Uploads] failed while [uploading]; the [Connection] was lost."];
        assert_eq!(show("upload connect", Need::Any), expected);
        assert_eq!(
            show("upload fail", Need::Phrase),
            ["[Uploads] [failed] while uploading; the Connection was lost."]
        );
        assert_eq!(marked("upload", Need::Any, &of(1, 80), text.into()), [""; 0]);
    }

    #[test]
    fn wrong_forms_are_refused_by_field_limit_and_value() {
        let refused = |wrong: v1::Highlight| Form::new(&wrong).unwrap_err().to_string();
        assert!(refused(of(101, 1)).contains("highlight.fragments: must be 1 to 100, got 101"));
        assert!(refused(of(1, 10_001)).contains("highlight.length: must be 1 to 10000, got 10001"));
        let long = v1::Highlight { before: Some("x".repeat(65)), ..Default::default() };
        assert!(refused(long).contains("highlight.before: 65 bytes, the limit is 64"));
    }
}
