//! Declared fields read column-wise: many rows at once, without their payloads.
//!
//! A column holds what [`fields`](super::fields) says it holds, so a row whose field reaches anything else is *odd*: it has no
//! cells here, and its payload tells. Text stands as the ordinal of its term, in the order of the terms' bytes; the terms
//! themselves are read afterwards, each once.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use flotilla_proto::schema::FieldType;
use tantivy::SegmentReader;
use tantivy::columnar::StrColumn;
use tantivy::fastfield::{Column, FastFieldReaders};

use super::super::Fault;
use super::fields::{Layout, Version};
use super::{damaged, io_fault};
use crate::index::Bitset;

/// A value in a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell {
    /// A whole number.
    Whole(i64),
    /// A finite float, not -0.
    Float(f64),
    /// Truth.
    Truth(bool),
    /// Microseconds since the Unix epoch.
    Time(i64),
    /// The ordinal of a term.
    Term(u64),
    /// A map, which is there and no more. No column holds one.
    Map,
}

/// The columns of one segment, opened as they are asked for.
pub(super) struct Columns {
    readers: FastFieldReaders,
    fields: Vec<(String, String, FieldType)>,
}

/// One declared field's column.
pub struct FieldColumn {
    dir: PathBuf,
    values: Values,
    odd: Bitset,
}

/// None of them: no row has a value that fits.
enum Values {
    Whole(Option<Column<i64>>),
    Time(Option<Column<i64>>),
    Float(Option<Column<f64>>),
    Truth(Option<Column<bool>>),
    Terms(Option<StrColumn>),
}

/// What reading takes, kept between blocks.
#[derive(Default)]
pub struct Scratch {
    places: Places,
    whole: Vec<i64>,
    float: Vec<f64>,
    truth: Vec<bool>,
    ordinals: Vec<u64>,
}

/// Where the values of a block lie.
#[derive(Default)]
struct Places {
    /// The row of each value.
    of_rows: Vec<u32>,
    /// The place of that row among those asked for.
    at: Vec<u32>,
    /// Its number in the column.
    found: Vec<u32>,
}

impl Columns {
    pub(super) fn new(reader: &SegmentReader, layout: &Layout) -> Columns {
        let has_column = |kind| match kind {
            FieldType::Keyword => layout.version == Version::Columns,
            FieldType::Text | FieldType::TextIn(_) | FieldType::Geo => false,
            FieldType::Integer
            | FieldType::Float
            | FieldType::Bool
            | FieldType::Datetime
            | FieldType::Uuid => true,
        };
        let fields = layout.declared.iter().filter(|(_, declared)| has_column(declared.kind));
        let fields =
            fields.map(|(path, declared)| (path.clone(), declared.name.clone(), declared.kind)).collect();
        Columns { readers: reader.fast_fields().clone(), fields }
    }

    /// The column of a declared field, if there is one.
    pub(super) fn open(
        &self,
        field: &str,
        dir: &Path,
        odd: &dyn Fn() -> tantivy::Result<Bitset>,
    ) -> tantivy::Result<Option<FieldColumn>> {
        let found = self.fields.binary_search_by(|(path, ..)| path.as_str().cmp(field));
        let Some((_, name, kind)) = found.ok().and_then(|at| self.fields.get(at)) else { return Ok(None) };
        let values = match kind {
            FieldType::Integer => Values::Whole(self.readers.column_opt(name)?),
            FieldType::Datetime => Values::Time(self.readers.column_opt(name)?),
            FieldType::Float => Values::Float(self.readers.column_opt(name)?),
            FieldType::Bool => Values::Truth(self.readers.column_opt(name)?),
            FieldType::Keyword | FieldType::Uuid => Values::Terms(self.readers.str(name)?),
            FieldType::Text | FieldType::TextIn(_) | FieldType::Geo => return Ok(None),
        };
        Ok(Some(FieldColumn { dir: dir.to_owned(), values, odd: odd()? }))
    }
}

impl FieldColumn {
    /// Whether the row's payload tells instead.
    pub fn is_odd(&self, row: u32) -> bool {
        self.odd.contains(row)
    }

    /// Whether no row is odd.
    pub fn is_whole(&self) -> bool {
        self.odd.words().iter().all(|word| *word == 0)
    }

    /// The cells of these rows (ascending), each with the place of its row among them: by place, and in the column's order
    /// within a row. Odd rows are read like any other; their caller leaves them out.
    pub fn read(&self, rows: &[u32], scratch: &mut Scratch, mut seen: impl FnMut(u32, Cell)) {
        let Scratch { places, whole, float, truth, ordinals } = scratch;
        match &self.values {
            Values::Whole(column) => {
                cells(column.as_ref(), rows, places, whole);
                places.at.iter().zip(whole).for_each(|(at, value)| seen(*at, Cell::Whole(*value)));
            }
            Values::Time(column) => {
                cells(column.as_ref(), rows, places, whole);
                places.at.iter().zip(whole).for_each(|(at, value)| seen(*at, Cell::Time(*value)));
            }
            Values::Float(column) => {
                cells(column.as_ref(), rows, places, float);
                places.at.iter().zip(float).for_each(|(at, value)| seen(*at, Cell::Float(*value)));
            }
            Values::Truth(column) => {
                cells(column.as_ref(), rows, places, truth);
                places.at.iter().zip(truth).for_each(|(at, value)| seen(*at, Cell::Truth(*value)));
            }
            Values::Terms(column) => {
                cells(column.as_ref().map(|column| column.ords()), rows, places, ordinals);
                places.at.iter().zip(ordinals).for_each(|(at, value)| seen(*at, Cell::Term(*value)));
            }
        }
    }

    /// The class of its values, as [`flotilla_proto::order`] numbers them; none of an empty column.
    pub fn class(&self) -> Option<u8> {
        match &self.values {
            Values::Truth(column) => column.as_ref().map(|_| 1),
            Values::Whole(column) => column.as_ref().map(|_| 2),
            Values::Float(column) => column.as_ref().map(|_| 2),
            Values::Terms(column) => column.as_ref().map(|_| 3),
            Values::Time(column) => column.as_ref().map(|_| 4),
        }
    }

    /// The ordinal of a term; of one that is not there, the ordinal of the next one.
    pub fn ordinal_of(&self, term: &[u8]) -> Result<Result<u64, u64>, Fault> {
        let Some(column) = self.dictionary() else { return Ok(Err(0)) };
        let io = |error: std::io::Error| io_fault(&self.dir, &error);
        let (at, below) = (Bound::Included(term), Bound::Excluded(term));
        let found = column.dictionary().term_ord(term).map_err(io)?;
        if let Some(ordinal) = found {
            return Ok(Ok(ordinal));
        }
        let (next, _) = column.dictionary().term_bounds_to_ord(at, below).map_err(io)?;
        Ok(Err(match next {
            Bound::Included(next) => next,
            Bound::Excluded(last) => last.saturating_add(1),
            Bound::Unbounded => self.terms(),
        }))
    }

    fn dictionary(&self) -> Option<&StrColumn> {
        match &self.values {
            Values::Terms(column) => column.as_ref(),
            _ => None,
        }
    }

    /// Terms that the column has.
    pub fn terms(&self) -> u64 {
        self.dictionary().map_or(0, |column| column.num_terms() as u64)
    }

    /// Hands the terms of these ordinals (ascending, each once) on, in their order.
    ///
    /// # Errors
    /// If a term cannot be read, or is no text.
    pub fn texts(&self, ordinals: &[u64], mut seen: impl FnMut(&str)) -> Result<(), Fault> {
        let Some(column) = self.dictionary().filter(|_| !ordinals.is_empty()) else { return Ok(()) };
        let mut is_text = true;
        let read =
            column.dictionary().sorted_ords_to_term_cb(ordinals, |term| match std::str::from_utf8(term) {
                Ok(text) => seen(text),
                Err(_) => is_text = false,
            });
        if !read.map_err(|error| io_fault(&self.dir, &error))? || !is_text {
            return Err(damaged(&self.dir, "a column names a term that its dictionary does not have".into()));
        }
        Ok(())
    }

    /// The different beginnings of the terms, of so many characters, in order, each with the ordinal of its first term: found
    /// by leaps through the dictionary and not by reading it.
    pub fn prefixes(&self, chars: usize) -> Result<Vec<(String, u64)>, Fault> {
        let Some(column) = self.dictionary() else { return Ok(vec![]) };
        let io = |error: std::io::Error| io_fault(&self.dir, &error);
        let mut prefixes = Vec::new();
        let mut ordinal = 0;
        let mut text = String::new();
        while ordinal < self.terms() && column.ord_to_str(ordinal, &mut text).map_err(io)? {
            let prefix = flotilla_proto::aggregate::cut(&text, chars).to_owned();
            // The least bytes above all that begin so: no text has the byte 0xff. What is shorter has none like it.
            let mut above = prefix.clone().into_bytes();
            if prefix.chars().count() < chars {
                above.push(0);
            } else {
                above.push(0xff);
            }
            prefixes.push((prefix, ordinal));
            let bounds = (Bound::Included(above), Bound::Unbounded);
            let (next, _) = column.dictionary().term_bounds_to_ord(bounds.0, bounds.1).map_err(io)?;
            ordinal = match next {
                Bound::Included(next) => next.max(ordinal + 1),
                Bound::Excluded(last) => last.saturating_add(1).max(ordinal + 1),
                Bound::Unbounded => break,
            };
        }
        Ok(prefixes)
    }
}

/// Reads the values of these rows, and the place of each one's row.
fn cells<T>(column: Option<&Column<T>>, rows: &[u32], places: &mut Places, values: &mut Vec<T>)
where
    T: PartialOrd + Copy + Default + std::fmt::Debug + Send + Sync + 'static,
{
    let Places { of_rows, at, found } = places;
    of_rows.clear();
    at.clear();
    found.clear();
    values.clear();
    let Some(column) = column else { return };
    column.row_ids_for_docs(rows, of_rows, found);
    values.resize(found.len(), T::default());
    column.values.get_vals(found, values);
    let mut place = 0;
    for row in of_rows.iter() {
        while rows.get(place).is_some_and(|asked| asked < row) {
            place += 1;
        }
        at.push(place as u32);
    }
}
