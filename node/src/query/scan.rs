//! Pages by key over all segments.
//!
//! A page of all records, or of a filter that most of them pass, is read in the order of keys. Where indexes tell the few rows that
//! pass, those are looked up and put in order: a page then costs what it holds, and not what lies between.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use flotilla_proto::filter::Compiled;
use flotilla_proto::record::Key;

use crate::storage::{Fault, Matching, SegmentView};

/// Rows of a page that are decided by their payloads before a segment's filter is evaluated as a whole: a page of a filter
/// that most records pass should not cost an evaluation over the segment, and one that few pass should.
const DECODED_MAX: usize = 512;

/// Rows that pass are put in order where they are fewer than one in so many.
const FEW: usize = 8;

/// The first `limit` live rows that pass with a key greater than `after`, by key, as (segment, row); and whether there are
/// more.
pub fn scan(
    segments: &[&dyn SegmentView],
    filter: Option<&Compiled>,
    after: Option<&Key>,
    limit: usize,
) -> Result<(Vec<(usize, u32)>, bool), Fault> {
    let mut sieve = Sieve { segments, filter, decoded: 0, passing: vec![None; segments.len()] };
    if let Some(filter) = filter.filter(|filter| segments.iter().all(|segment| segment.answers(filter))) {
        let passing = segments.iter().map(|segment| segment.matching(filter));
        let passing = passing.collect::<Result<Vec<Matching>, Fault>>()?;
        let rows: usize = segments.iter().map(|segment| segment.rows() as usize).sum();
        if passing.iter().map(|rows| rows.count()).sum::<usize>() <= rows / FEW {
            return few(segments, &passing, after, limit);
        }
        sieve.passing = passing.into_iter().map(Some).collect();
    }
    let mut sources: Vec<_> = segments.iter().map(|segment| segment.by_key(after)).collect();
    let mut heads = BinaryHeap::with_capacity(sources.len());
    for (number, source) in sources.iter_mut().enumerate() {
        if let Some(head) = source.next() {
            let (key, row) = head?;
            heads.push(Reverse((key, number, row)));
        }
    }
    let mut page = Vec::new();
    while let Some(Reverse((key, number, row))) = heads.pop() {
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
        for row in rows.iter() {
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
