//! Pages by key over all segments.
//!
//! A page of the keys that begin with a prefix starts at the first of them and ends behind the last: it costs what it holds.
//!
//! A page of all records, or of a filter that most of them pass, is read in the order of keys. Where indexes tell the few rows that
//! pass, those are looked up and put in order: a page then costs what it holds, and not what lies between.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use flotilla_proto::filter::Compiled;
use flotilla_proto::record::Key;

use crate::storage::{Fault, Matching, SegmentView, Soon};

/// Rows of a page that are decided by their payloads before a segment's filter is evaluated as a whole: a page of a filter
/// that most records pass should not cost an evaluation over the segment, and one that few pass should.
const DECODED_MAX: usize = 512;

/// Rows between the one that is read and the one whose parts are asked for ahead.
pub const ROWS_AHEAD: usize = 8;

/// Rows that pass are put in order where they are fewer than one in so many.
const FEW: usize = 8;

/// Which keys a page is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// Only greater ones; none: from the smallest.
    pub after: Option<Key>,
    /// Only text that begins so; none: all.
    pub prefix: Option<String>,
}

impl Stretch {
    /// The keys behind this one.
    pub fn after(key: Option<Key>) -> Stretch {
        Stretch { after: key, prefix: None }
    }

    /// Whether keys up to the last of the prefix hold this one. It is not asked for smaller ones than the first.
    fn reaches(&self, key: &Key) -> bool {
        match (&self.prefix, key) {
            (None, _) => true,
            (Some(prefix), Key::Text(text)) => text.starts_with(prefix),
            (Some(_), Key::Number(_)) => false,
        }
    }

    /// Where to begin: with this key itself, if there is one, and then behind that one.
    fn begin(&self) -> (Option<Key>, Option<Key>) {
        let first = self.prefix.clone().map(Key::Text);
        match &self.after {
            // A key before all of the prefix says nothing.
            after if first > *after => (first.clone(), first),
            after => (None, after.clone()),
        }
    }
}

/// The first `limit` live rows that pass with a key of the stretch, by key, as (segment, row); and whether there are more.
pub fn scan(
    segments: &[&dyn SegmentView],
    filter: Option<&Compiled>,
    stretch: &Stretch,
    limit: usize,
) -> Result<(Vec<(usize, u32)>, bool), Fault> {
    let mut sieve = Sieve { segments, filter, decoded: 0, passing: vec![None; segments.len()] };
    // Of a prefix few rows are looked at, and a filter over whole segments is not worth their while.
    let is_answered = |filter: &&Compiled| segments.iter().all(|segment| segment.answers(filter));
    if let Some(filter) = filter.filter(|_| stretch.prefix.is_none()).filter(is_answered) {
        let passing = segments.iter().map(|segment| segment.matching(filter));
        let passing = passing.collect::<Result<Vec<Matching>, Fault>>()?;
        let rows: usize = segments.iter().map(|segment| segment.rows() as usize).sum();
        if passing.iter().map(|rows| rows.count()).sum::<usize>() <= rows / FEW {
            return few(segments, &passing, stretch.after.as_ref(), limit);
        }
        sieve.passing = passing.into_iter().map(Some).collect();
    }
    let (itself, after) = stretch.begin();
    let mut sources: Vec<_> = segments.iter().map(|segment| segment.by_key(after.as_ref())).collect();
    let mut heads = BinaryHeap::with_capacity(sources.len());
    for (number, source) in sources.iter_mut().enumerate() {
        if let Some(head) = source.next() {
            let (key, row) = head?;
            heads.push(Reverse((key, number, row)));
        }
    }
    let mut page = Vec::new();
    if let Some(key) = itself {
        for (number, segment) in segments.iter().enumerate() {
            let found = segment.find(&key)?;
            if let Some(row) = found
                && sieve.passes(number, &key, row)?
            {
                if page.len() == limit {
                    return Ok((page, true));
                }
                page.push((number, row));
            }
        }
    }
    while let Some(Reverse((key, number, row))) = heads.pop() {
        if !stretch.reaches(&key) {
            return Ok((page, false));
        }
        if sieve.passes(number, &key, row)? {
            if page.len() == limit {
                return Ok((page, true));
            }
            page.push((number, row));
        }
        if let Some(head) = sources[number].next() {
            let (key, row) = head?;
            heads.push(Reverse((key, number, row)));
        }
    }
    Ok((page, false))
}

/// The same, of the rows that pass.
fn few(
    segments: &[&dyn SegmentView],
    passing: &[Matching],
    after: Option<&Key>,
    limit: usize,
) -> Result<(Vec<(usize, u32)>, bool), Fault> {
    let mut found = Vec::new();
    for (number, (segment, rows)) in segments.iter().zip(passing).enumerate() {
        let rows: Vec<u32> = rows.iter().collect();
        let ask = |row: Option<&u32>, what| {
            if let Some(row) = row {
                segment.prefetch(*row, what);
            }
        };
        for (at, row) in rows.iter().copied().enumerate() {
            ask(rows.get(at + 2 * ROWS_AHEAD), Soon::KeyPlace);
            ask(rows.get(at + ROWS_AHEAD), Soon::Key);
            let key = segment.key(row)?;
            if after.is_none_or(|after| key > *after) {
                found.push((key, number, row));
            }
        }
    }
    let more = found.len() > limit;
    if more {
        found.select_nth_unstable(limit);
        found.truncate(limit);
    }
    found.sort_unstable();
    Ok((found.into_iter().map(|(_, number, row)| (number, row)).collect(), more))
}

/// Decides which rows pass.
struct Sieve<'a> {
    segments: &'a [&'a dyn SegmentView],
    filter: Option<&'a Compiled>,
    decoded: usize,
    passing: Vec<Option<Matching>>,
}

impl Sieve<'_> {
    fn passes(&mut self, segment: usize, key: &Key, row: u32) -> Result<bool, Fault> {
        let Some(filter) = self.filter else { return Ok(true) };
        if let Some(passing) = &self.passing[segment] {
            return Ok(passing.contains(row));
        }
        if self.decoded < DECODED_MAX {
            self.decoded += 1;
            return Ok(filter.matches(key, &self.segments[segment].payload(row)?));
        }
        let passing = self.segments[segment].matching(filter)?;
        Ok(self.passing[segment].insert(passing).contains(row))
    }
}
