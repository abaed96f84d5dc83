//! The terms of a keyword field: lists of rows for each, and a column that names each row's.
//!
//! Terms stand in the order of their bytes in both, so a prefix or a range is a run of ordinals. A run of many terms is found by
//! one pass over the column, a run of few by their lists; and where few rows are left to be decided, each is looked up.

use std::collections::BTreeSet;
use std::ops::{Bound, Range};
use std::sync::Arc;

use flotilla_proto::filter::{Scalar, Test};
use flotilla_proto::group::GroupKey;
use flotilla_proto::limits::GROUP_BYTES_MAX;
use tantivy::columnar::StrColumn;
use tantivy::index::InvertedIndexReader;
use tantivy::schema::Field;
use tantivy::{SegmentReader, Term};

use super::fields::Declared;
use super::leaf::{Postings, TERM_COST, add_term};
use super::numbers::{Wanted, scan};
use crate::index::Bitset;

/// Runs of more terms are found by a pass over the column.
const LISTS_MAX: u64 = 64;
/// Values of an `in` that are looked up by their ordinals, at most.
const VALUES_MAX: usize = 64;

/// See the module.
pub(super) struct Terms {
    field: Field,
    postings: Arc<InvertedIndexReader>,
    column: Option<StrColumn>,
}

impl Terms {
    pub(super) fn open(
        reader: &SegmentReader,
        declared: &Declared,
        has_column: bool,
    ) -> tantivy::Result<Terms> {
        let column = if has_column { reader.fast_fields().str(&declared.name)? } else { None };
        Ok(Terms { field: declared.field, postings: reader.inverted_index(declared.field)?, column })
    }

    /// The lists of rows.
    pub(super) fn postings(&self) -> &InvertedIndexReader {
        &self.postings
    }

    /// In how many rows the test may hold, about.
    pub(super) fn cost(&self, test: &Test, rows: u32) -> tantivy::Result<u64> {
        Ok(match test {
            Test::In(wanted) if wanted.len() <= VALUES_MAX => {
                let mut found = 0;
                for scalar in wanted {
                    if let Scalar::Text(text) = scalar {
                        let term = Term::from_field_text(self.field, text);
                        found +=
                            u64::from(self.postings.get_term_info(&term)?.map_or(0, |info| info.doc_freq));
                    }
                }
                found
            }
            Test::Prefix(_) | Test::Range { .. } => u64::from(rows) / 2,
            _ => u64::from(rows) * TERM_COST,
        })
    }

    /// Of these rows, those with a term that passes; `None` if that is not to be had row by row.
    pub(super) fn among(&self, test: &Test, rows: &Bitset) -> tantivy::Result<Option<Bitset>> {
        let Some(column) = &self.column else { return Ok(None) };
        let ordinals = column.ords();
        let with = |passes: &dyn Fn(u64) -> bool| {
            let passes = |row: &u32| ordinals.values_for_doc(*row).any(passes);
            Some(Bitset::with_rows(rows.len(), rows.iter().filter(passes)))
        };
        match test {
            Test::In(wanted) if wanted.len() <= VALUES_MAX => {
                let mut found = Vec::with_capacity(wanted.len());
                for scalar in wanted {
                    if let Scalar::Text(text) = scalar {
                        found.extend(column.dictionary().term_ord(text)?);
                    }
                }
                Ok(with(&|ordinal| found.contains(&ordinal)))
            }
            Test::Prefix(_) | Test::Range { .. } => {
                Ok(run(column, test)?.and_then(|run| with(&|ordinal| run.contains(&ordinal))))
            }
            _ => Ok(None),
        }
    }

    /// Adds the rows whose terms pass; false if terms cannot tell.
    pub(super) fn add(&self, test: &Test, rows: u32, found: &mut Bitset) -> tantivy::Result<bool> {
        if let (Test::Prefix(_) | Test::Range { .. }, Some(column)) = (test, &self.column)
            && let Some(run) = run(column, test)?
            && run.end.saturating_sub(run.start) > LISTS_MAX
        {
            scan(column.ords(), &Wanted::Range(run.start..=run.end - 1), rows, found);
            return Ok(true);
        }
        match test {
            Test::In(wanted) => {
                for scalar in wanted {
                    if let Scalar::Text(text) = scalar {
                        add_term(&self.postings, &Term::from_field_text(self.field, text), found)?;
                    }
                }
            }
            Test::Prefix(prefix) => {
                let mut stream = self.postings.terms().range().ge(prefix).into_stream()?;
                let mut postings = Postings::new(&self.postings);
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
                let mut stream = self.postings.terms().range().ge(&head).into_stream()?;
                let mut postings = Postings::new(&self.postings);
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
                let mut range = self.postings.terms().range();
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
                let mut postings = Postings::new(&self.postings);
                while let Some((_, info)) = stream.next() {
                    postings.add(info, found)?;
                }
            }
            Test::OtherGroup(known) => {
                let mut stream = self.postings.terms().stream()?;
                let mut postings = Postings::new(&self.postings);
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
}

/// The ordinals of the terms that pass a prefix or a range; `None` if it names what is no text.
fn run(column: &StrColumn, test: &Test) -> tantivy::Result<Option<Range<u64>>> {
    let above: Vec<u8>;
    let (lower, upper) = match test {
        Test::Prefix(prefix) => {
            above = behind(prefix);
            let upper = if above.is_empty() { Bound::Unbounded } else { Bound::Excluded(above.as_slice()) };
            (Bound::Included(prefix.as_bytes()), upper)
        }
        Test::Range { from, to } => {
            let bound = |bound: &'_ Option<(Scalar, bool)>| match bound {
                None => Some(Bound::Unbounded),
                Some((Scalar::Text(text), true)) => Some(Bound::Included(text.clone())),
                Some((Scalar::Text(text), false)) => Some(Bound::Excluded(text.clone())),
                Some(_) => None,
            };
            let (Some(from), Some(to)) = (bound(from), bound(to)) else { return Ok(None) };
            return ordinals(column, as_bytes(&from), as_bytes(&to)).map(Some);
        }
        _ => return Ok(None),
    };
    ordinals(column, lower, upper).map(Some)
}

fn as_bytes(bound: &Bound<String>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(text) => Bound::Included(text.as_bytes()),
        Bound::Excluded(text) => Bound::Excluded(text.as_bytes()),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn ordinals(column: &StrColumn, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> tantivy::Result<Range<u64>> {
    let terms = column.num_terms() as u64;
    // Below the first of the bounds, and up to the last: each by its own question, for the dictionary answers a bound that it
    // does not hold by the next term.
    let first_from = |key: &[u8]| -> tantivy::Result<u64> {
        if let Some(ordinal) = column.dictionary().term_ord(key)? {
            return Ok(ordinal);
        }
        let (next, _) = column.dictionary().term_bounds_to_ord(Bound::Included(key), Bound::Unbounded)?;
        Ok(match next {
            Bound::Included(next) => next,
            Bound::Excluded(last) => last.saturating_add(1),
            Bound::Unbounded => terms,
        })
    };
    let first_behind = |key: &[u8]| -> tantivy::Result<u64> {
        let is_there = column.dictionary().term_ord(key)?.is_some();
        Ok(first_from(key)? + u64::from(is_there))
    };
    let from = match lower {
        Bound::Included(key) => first_from(key)?,
        Bound::Excluded(key) => first_behind(key)?,
        Bound::Unbounded => 0,
    };
    let to = match upper {
        Bound::Included(key) => first_behind(key)?,
        Bound::Excluded(key) => first_from(key)?,
        Bound::Unbounded => terms,
    };
    Ok(from.min(terms)..to.min(terms).max(from.min(terms)))
}

/// The least bytes above everything that begins so; empty: there are none.
fn behind(prefix: &str) -> Vec<u8> {
    let mut above = prefix.as_bytes().to_vec();
    while let Some(last) = above.pop() {
        if last < u8::MAX {
            above.push(last + 1);
            break;
        }
    }
    above
}
