//! What the index alone can say about a leaf.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use flotilla_proto::filter::{Leaf, Test};
use flotilla_proto::fulltext::Language;
use flotilla_proto::schema::FieldType;
use tantivy::fastfield::Column;
use tantivy::index::InvertedIndexReader;
use tantivy::postings::{BlockSegmentPostings, TermInfo};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{SegmentReader, Term};

use super::evaluate::Known;
use super::fields::{Declared, Layout, Version};
use super::numbers::{Wanted, scan};
use super::points::Points;
use super::terms::Terms;
use super::tokens::{Tokens, Words};
use crate::index::Bitset;

/// What it costs to look at a term, in values of a column.
pub(super) const TERM_COST: u64 = 16;

/// The readers of a segment's declared fields.
pub(super) struct Leaves {
    pub(super) rows: u32,
    exists: Ordinals,
    odd: Ordinals,
    /// The fields that are odd nowhere.
    is_regular: BTreeSet<u64>,
    long: Option<Ordinals>,
    several: Option<Ordinals>,
    fields: BTreeMap<String, (Declared, Values)>,
}

/// A field of ordinals.
struct Ordinals {
    field: Field,
    terms: Arc<InvertedIndexReader>,
}

/// What a declared field's values are read from; `None`: the segment holds no such value.
enum Values {
    Terms(Terms),
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
                FieldType::Keyword | FieldType::Uuid => {
                    let has_column = declared.kind == FieldType::Uuid || layout.version >= Version::Columns;
                    Values::Terms(Terms::open(reader, &declared, has_column)?)
                }
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
        let (long, several) =
            (layout.long.map(ordinals).transpose()?, layout.several.map(ordinals).transpose()?);
        let (exists, odd) = (ordinals(layout.exists)?, ordinals(layout.odd)?);
        let mut is_regular = BTreeSet::new();
        for (declared, _) in fields.values() {
            let term = Term::from_field_u64(odd.field, declared.ordinal);
            if odd.terms.get_term_info(&term)?.is_none() {
                is_regular.insert(declared.ordinal);
            }
        }
        Ok(Leaves { rows, exists, odd, is_regular, long, several, fields })
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
        let terms = terms.postings();
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
            return Ok(match (self.odd_rows(declared)?, possible) {
                (None, None) => Known::exactly(sure),
                (None, Some(possible)) => Known::between(sure, possible),
                (Some(mut maybe), possible) => {
                    maybe.or(possible.as_ref().unwrap_or(&sure));
                    Known::between(sure, maybe)
                }
            });
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
            Values::Terms(terms) => terms.add(test, self.rows, &mut found)?,
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
                let Some(Words { rows, is_sure }) = words else { return Ok(None) };
                return Ok(Some(match (is_sure, test, &self.several) {
                    (true, ..) => (rows, None),
                    // Where there is one text, what is there is in that one.
                    (false, Test::Match { .. }, Some(several)) => {
                        let mut sure = rows.clone();
                        sure.and_not(&self.rows_with(several, declared.ordinal)?);
                        (sure, Some(rows))
                    }
                    (false, ..) => (found, Some(rows)),
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

    /// In how many rows the leaf may hold, about: what it costs to find them all.
    pub(super) fn cost(&self, leaf: &Leaf) -> tantivy::Result<u64> {
        let all = u64::from(self.rows);
        let Some((declared, held)) = self.fields.get(&leaf.field) else { return Ok(u64::MAX) };
        if leaf.kind != Some(declared.kind) {
            return Ok(u64::MAX);
        }
        let values = |count: Option<u32>| u64::from(count.unwrap_or(0));
        Ok(match held {
            Values::Terms(terms) => terms.cost(&leaf.test, self.rows)?,
            Values::Whole(column) => values(column.as_ref().map(|column| column.values.num_vals())) / 4,
            Values::Float(column) => values(column.as_ref().map(|column| column.values.num_vals())) / 4,
            Values::Truth(_) => all / 4,
            Values::Points(_) => all,
            Values::Tokens(_) => all * TERM_COST,
        })
    }

    /// The same as [`Leaves::known`] of these rows alone, without a look at the others; `None` where that is not to be had. For
    /// few rows, each is looked up.
    pub(super) fn among(&self, leaf: &Leaf, rows: &Bitset) -> tantivy::Result<Option<Known>> {
        let Some((declared, values)) = self.fields.get(&leaf.field) else { return Ok(None) };
        if leaf.kind != Some(declared.kind) || leaf.test == Test::Exists {
            return Ok(None);
        }
        let found = match values {
            Values::Terms(terms) => terms.among(&leaf.test, rows)?,
            Values::Whole(column) => column_among(column, Wanted::whole(&leaf.test, declared.kind), rows),
            Values::Float(column) => column_among(column, Wanted::float(&leaf.test), rows),
            Values::Truth(column) => column_among(column, Wanted::truth(&leaf.test), rows),
            Values::Tokens(_) | Values::Points(_) => None,
        };
        let Some(sure) = found else { return Ok(None) };
        let Some(mut maybe) = self.odd_rows(declared)? else { return Ok(Some(Known::exactly(sure))) };
        maybe.and(rows);
        maybe.or(&sure);
        Ok(Some(Known::between(sure, maybe)))
    }

    /// The rows of which the field's index does not tell all; `None` if it tells all of every row, as most do.
    fn odd_rows(&self, declared: &Declared) -> tantivy::Result<Option<Bitset>> {
        if self.is_regular.contains(&declared.ordinal) {
            return Ok(None);
        }
        self.rows_with(&self.odd, declared.ordinal).map(Some)
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

/// Of these rows, those with a value that passes; `None` if a column cannot tell.
fn column_among<T>(column: &Option<Column<T>>, wanted: Option<Wanted<T>>, rows: &Bitset) -> Option<Bitset>
where
    T: PartialOrd + Copy + std::fmt::Debug + Send + Sync + 'static,
{
    let wanted = wanted?;
    let Some(column) = column else { return Some(Bitset::new(rows.len())) };
    let passes = |row: &u32| column.values_for_doc(*row).any(|value| wanted.accepts(value));
    Some(Bitset::with_rows(rows.len(), rows.iter().filter(passes)))
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
