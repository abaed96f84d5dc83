//! What the index alone can say about a leaf.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use flotilla_proto::filter::{Leaf, Scalar, Test};
use flotilla_proto::fulltext::Language;
use flotilla_proto::group::GroupKey;
use flotilla_proto::limits::GROUP_BYTES_MAX;
use flotilla_proto::schema::FieldType;
use tantivy::fastfield::Column;
use tantivy::index::InvertedIndexReader;
use tantivy::postings::{BlockSegmentPostings, TermInfo};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{SegmentReader, Term};

use super::evaluate::Known;
use super::fields::{Declared, Layout};
use super::numbers::{Wanted, scan};
use super::points::Points;
use super::tokens::{Tokens, Words};
use crate::index::Bitset;

/// The readers of a segment's declared fields.
pub(super) struct Leaves {
    rows: u32,
    exists: Ordinals,
    odd: Ordinals,
    long: Option<Ordinals>,
    fields: BTreeMap<String, (Declared, Values)>,
}

/// A field of ordinals.
struct Ordinals {
    field: Field,
    terms: Arc<InvertedIndexReader>,
}

/// What a declared field's values are read from; `None`: the segment holds no such value.
enum Values {
    Terms(Arc<InvertedIndexReader>),
    Whole(Option<Column<i64>>),
    Float(Option<Column<f64>>),
    Truth(Option<Column<bool>>),
    Tokens(Tokens),
    Points(Points),
}

impl Leaves {
    pub(super) fn open(
        dir: &Path,
        reader: &SegmentReader,
        layout: Layout,
        rows: u32,
    ) -> tantivy::Result<Leaves> {
        let ordinals =
            |field| -> tantivy::Result<_> { Ok(Ordinals { field, terms: reader.inverted_index(field)? }) };
        let columns = reader.fast_fields();
        let mut fields = BTreeMap::new();
        for (path, declared) in layout.declared {
            let name = declared.name.as_str();
            let values = match declared.kind {
                FieldType::Keyword | FieldType::Uuid => Values::Terms(reader.inverted_index(declared.field)?),
                FieldType::Integer | FieldType::Datetime => Values::Whole(columns.column_opt(name)?),
                FieldType::Float => Values::Float(columns.column_opt(name)?),
                FieldType::Bool => Values::Truth(columns.column_opt(name)?),
                FieldType::Text | FieldType::TextIn(_) => {
                    Values::Tokens(Tokens::open(dir, reader, declared.field, rows)?)
                }
                FieldType::Geo => Values::Points(Points {
                    lat: columns.column_opt(name)?,
                    lon: match &declared.lon {
                        Some((name, _)) => columns.column_opt(name)?,
                        None => None,
                    },
                }),
            };
            fields.insert(path, (declared, values));
        }
        let long = layout.long.map(ordinals).transpose()?;
        Ok(Leaves { rows, exists: ordinals(layout.exists)?, odd: ordinals(layout.odd)?, long, fields })
    }

    /// The words of a field, if the index has it as text of this language, or of none.
    pub(super) fn tokens(&self, field: &str, language: Option<Language>) -> Option<&Tokens> {
        match self.fields.get(field) {
            Some((declared, Values::Tokens(tokens))) if declared.kind.language() == language => Some(tokens),
            _ => None,
        }
    }

    /// Rows of the segment.
    pub(super) fn rows(&self) -> usize {
        self.rows as usize
    }

    /// The rows in which a declared field reaches a value that its index cannot hold; all, if the segment does not know it.
    pub(super) fn odd(&self, field: &str) -> tantivy::Result<Bitset> {
        match self.fields.get(field) {
            Some((declared, _)) => self.rows_with(&self.odd, declared.ordinal),
            None => Ok(Bitset::full(self.rows())),
        }
    }

    /// Whether the index tells the rows that may pass: all others need not be looked at.
    pub(super) fn answers(&self, leaf: &Leaf) -> bool {
        let Some((declared, values)) = self.fields.get(&leaf.field) else { return false };
        let by_words = matches!(leaf.test, Test::Match { .. } | Test::Phrase(_));
        leaf.kind == Some(declared.kind) && (by_words || !matches!(values, Values::Tokens(_)))
    }

    /// In how many rows each term of a keyword field is, in the order of terms, if there are at most so many: each row's terms
    /// once. None where terms do not tell all.
    pub(super) fn term_counts(
        &self,
        field: &str,
        terms_max: usize,
    ) -> tantivy::Result<Option<Vec<(String, u64)>>> {
        let Some((declared, Values::Terms(terms))) = self.fields.get(field) else { return Ok(None) };
        if terms.terms().num_terms() > terms_max || self.rows_with(&self.odd, declared.ordinal)?.count() > 0 {
            return Ok(None);
        }
        let mut counts = Vec::with_capacity(terms.terms().num_terms());
        let mut stream = terms.terms().stream()?;
        while let Some((term, info)) = stream.next() {
            let Ok(text) = std::str::from_utf8(term) else { return Ok(None) };
            counts.push((text.to_owned(), u64::from(info.doc_freq)));
        }
        Ok(Some(counts))
    }

    /// What the index knows about the leaf. It is undecided about every row where the field is not in the index, about
    /// the rows that have the field where the index cannot tell, and about the field's odd rows otherwise.
    pub(super) fn known(&self, leaf: &Leaf) -> tantivy::Result<Known> {
        let Some((declared, values)) = self.fields.get(&leaf.field) else {
            return Ok(Known::between(Bitset::new(self.rows()), Bitset::full(self.rows())));
        };
        let exists = || self.rows_with(&self.exists, declared.ordinal);
        if leaf.test == Test::Exists {
            return Ok(Known::exactly(exists()?));
        }
        if leaf.kind == Some(declared.kind)
            && let Some((sure, possible)) = self.regular(declared, values, &leaf.test)?
        {
            let mut maybe = self.rows_with(&self.odd, declared.ordinal)?;
            maybe.or(possible.as_ref().unwrap_or(&sure));
            return Ok(Known::between(sure, maybe));
        }
        Ok(Known::between(Bitset::new(self.rows()), exists()?))
    }

    /// The rows in which a value that is not odd passes, and with them, if they are more, those in which one may; `None` if the
    /// index cannot tell.
    fn regular(
        &self,
        declared: &Declared,
        values: &Values,
        test: &Test,
    ) -> tantivy::Result<Option<(Bitset, Option<Bitset>)>> {
        let mut found = Bitset::new(self.rows());
        let is_answered = match values {
            Values::Terms(terms) => add_terms(terms, declared.field, test, &mut found)?,
            Values::Whole(column) => {
                add_column(column, Wanted::whole(test, declared.kind), self.rows, &mut found)
            }
            Values::Float(column) => add_column(column, Wanted::float(test), self.rows, &mut found),
            Values::Truth(column) => add_column(column, Wanted::truth(test), self.rows, &mut found),
            Values::Tokens(tokens) => {
                let words = match (test, &self.long) {
                    // What a stem was cut off from is not in the index.
                    (Test::Prefix(_) | Test::Glob(_), _) if declared.kind != FieldType::Text => None,
                    (Test::Prefix(_) | Test::Glob(_), Some(long)) => {
                        let long = self.rows_with(long, declared.ordinal)?;
                        tokens.maybe_matching(test, long)?
                    }
                    _ => tokens.matching(test)?,
                };
                return Ok(words.map(|Words { rows, is_sure }| match is_sure {
                    true => (rows, None),
                    false => (found, Some(rows)),
                }));
            }
            Values::Points(points) => match test {
                Test::Within(region) => {
                    let (sure, maybe) = points.within(region, self.rows);
                    return Ok(Some((sure, Some(maybe))));
                }
                _ => false,
            },
        };
        Ok(is_answered.then_some((found, None)))
    }

    fn rows_with(&self, ordinals: &Ordinals, ordinal: u64) -> tantivy::Result<Bitset> {
        let mut found = Bitset::new(self.rows());
        let term = Term::from_field_u64(ordinals.field, ordinal);
        add_term(&ordinals.terms, &term, &mut found)?;
        Ok(found)
    }
}

fn add_column<T>(column: &Option<Column<T>>, wanted: Option<Wanted<T>>, rows: u32, found: &mut Bitset) -> bool
where
    T: PartialOrd + Copy + std::fmt::Debug + Send + Sync + 'static,
{
    if let (Some(column), Some(wanted)) = (column, &wanted) {
        scan(column, wanted, rows, found);
    }
    wanted.is_some()
}

/// Adds the rows whose terms pass; false if terms cannot tell.
fn add_terms(
    terms: &InvertedIndexReader,
    field: Field,
    test: &Test,
    found: &mut Bitset,
) -> tantivy::Result<bool> {
    match test {
        Test::In(wanted) => {
            for scalar in wanted {
                if let Scalar::Text(text) = scalar {
                    add_term(terms, &Term::from_field_text(field, text), found)?;
                }
            }
        }
        Test::Prefix(prefix) => {
            let mut stream = terms.terms().range().ge(prefix).into_stream()?;
            let mut postings = Postings::new(terms);
            while let Some((term, info)) = stream.next() {
                if !term.starts_with(prefix.as_bytes()) {
                    break;
                }
                postings.add(info, found)?;
            }
        }
        Test::Glob(_) | Test::Match { .. } | Test::Phrase(_) => {
            // What a match starts with narrows the terms; each of those is asked.
            let head = if let Test::Glob(glob) = test { glob.head() } else { String::new() };
            let mut stream = terms.terms().range().ge(&head).into_stream()?;
            let mut postings = Postings::new(terms);
            while let Some((term, info)) = stream.next() {
                if !term.starts_with(head.as_bytes()) {
                    break;
                }
                match std::str::from_utf8(term) {
                    Ok(text) if test.holds_text(text, None) => postings.add(info, found)?,
                    Ok(_) => {}
                    Err(_) => return Ok(false),
                }
            }
        }
        Test::Range { from, to } => {
            let mut range = terms.terms().range();
            for (bound, is_lower) in [(from, true), (to, false)] {
                range = match (bound, is_lower) {
                    (None, _) => range,
                    (Some((Scalar::Text(text), true)), true) => range.ge(text),
                    (Some((Scalar::Text(text), false)), true) => range.gt(text),
                    (Some((Scalar::Text(text), true)), false) => range.le(text),
                    (Some((Scalar::Text(text), false)), false) => range.lt(text),
                    (Some(_), _) => return Ok(true),
                };
            }
            let mut stream = range.into_stream()?;
            let mut postings = Postings::new(terms);
            while let Some((_, info)) = stream.next() {
                postings.add(info, found)?;
            }
        }
        Test::OtherGroup(known) => {
            let mut stream = terms.terms().stream()?;
            let mut postings = Postings::new(terms);
            let known: BTreeSet<&[u8]> = known
                .iter()
                .filter_map(|key| match key {
                    GroupKey::Text(text) => Some(text.as_bytes()),
                    _ => None,
                })
                .collect();
            while let Some((term, info)) = stream.next() {
                if term.len() <= GROUP_BYTES_MAX && !known.contains(term) {
                    postings.add(info, found)?;
                }
            }
        }
        Test::Exists | Test::Within(_) => return Ok(false),
    }
    Ok(true)
}

pub(super) fn add_term(terms: &InvertedIndexReader, term: &Term, found: &mut Bitset) -> tantivy::Result<()> {
    match terms.get_term_info(term)? {
        Some(info) => Postings::new(terms).add(&info, found),
        None => Ok(()),
    }
}

/// Reads one list of rows after the other with one scratch.
pub(super) struct Postings<'a> {
    terms: &'a InvertedIndexReader,
    open: Option<BlockSegmentPostings>,
}

impl<'a> Postings<'a> {
    pub(super) fn new(terms: &'a InvertedIndexReader) -> Postings<'a> {
        Postings { terms, open: None }
    }

    pub(super) fn add(&mut self, info: &TermInfo, found: &mut Bitset) -> tantivy::Result<()> {
        let blocks = match &mut self.open {
            Some(blocks) => {
                self.terms.reset_block_postings_from_terminfo(info, blocks)?;
                blocks
            }
            None => {
                let blocks = self.terms.read_block_postings_from_terminfo(info, IndexRecordOption::Basic)?;
                self.open.insert(blocks)
            }
        };
        while !blocks.docs().is_empty() {
            for row in blocks.docs() {
                found.insert(*row);
            }
            blocks.advance();
        }
        Ok(())
    }
}
