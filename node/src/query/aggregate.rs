//! Counting the records that pass: figures and groups of one partition, ready to be added to those of others.
//!
//! ```text
//! segment -> the rows that pass, block by block -> the cells of each field ([`source`])
//!         -> a tree of collectors, one for each aggregation ([`collect`]) -> its tallies ([`harvest`])
//! ```
//!
//! **Invariants.** What a segment counts depends on its live rows alone, not on whether they grow or are sealed: a declared
//! field is read from its column where there is one, and from payloads where there is not, and both mean the same. Memory is
//! bounded: groups by [`GROUPS_MAX`], all figures together by [`TALLY_BYTES_MAX`]; an aggregation that needs more is
//! refused, and says so.
//!
//! What it does not do: give figures their final form (the router, once all partitions are added).

mod collect;
mod harvest;
mod source;
#[cfg(test)]
mod tests;

use flotilla_proto::aggregate::{Counted, Datum, Group, GroupName, Groups, Kind, Named, Tally, Unsound};
use flotilla_proto::filter::Compiled;
use flotilla_proto::limits::{GROUPS_MAX, MESSAGE_BYTES_MAX, TALLY_BYTES_MAX};

use self::collect::Collector;
use self::source::Sources;
use crate::storage::{Fault, SegmentView};

/// Rows that are read at once.
const BLOCK: usize = 1_024;
/// A term of the dictionary costs as much as so many rows of a column.
const ROWS_PER_TERM: usize = 16;
/// Blocks between two looks at the memory taken.
const LOOK_EVERY: usize = 64;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The segments cannot be read.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It takes more than is allowed.
    #[error("{0}")]
    TooLarge(String),
}

impl From<Unsound> for Refused {
    fn from(unsound: Unsound) -> Refused {
        Refused::TooLarge(unsound.to_string())
    }
}

/// Counts the live records that pass.
///
/// # Errors
/// See [`Refused`]; [`Fault::Cancelled`] once `cancelled` says so (asked between blocks).
pub fn aggregate(
    segments: &[&dyn SegmentView],
    aggregations: &[Named],
    filter: Option<&Compiled>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Counted, Refused> {
    let mut whole = Counted::new(aggregations);
    for segment in segments {
        whole.merge(count(*segment, aggregations, filter, cancelled)?)?;
        check_bytes(whole.bytes())?;
    }
    for (tally, named) in whole.tallies.iter_mut().zip(aggregations) {
        send_only(tally, named);
    }
    if whole.bytes() > MESSAGE_BYTES_MAX / 2 {
        let why = format!(
            "the groups of one partition take {} bytes, at most {} are sent: ask for fewer groups or figures",
            whole.bytes(),
            MESSAGE_BYTES_MAX / 2
        );
        return Err(Refused::TooLarge(why));
    }
    Ok(whole)
}

/// Counts one segment.
fn count(
    segment: &dyn SegmentView,
    aggregations: &[Named],
    filter: Option<&Compiled>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Counted, Refused> {
    if let Some(counted) = known(segment, aggregations, filter)? {
        return Ok(counted);
    }
    let matching = filter.map(|filter| segment.matching(filter)).transpose()?;
    let mut rows: Box<dyn Iterator<Item = u32> + '_> = match &matching {
        Some(matching) => Box::new(matching.iter()),
        None if segment.live() == segment.rows() => Box::new(0..segment.rows()),
        None => segment.live_rows(),
    };
    let mut sources = Sources::open(segment, aggregations)?;
    let mut collectors: Vec<Collector<'_>> =
        aggregations.iter().map(|named| Collector::new(named, &mut sources, 1)).collect::<Result<_, _>>()?;
    let mut records = 0;
    let mut block = Vec::with_capacity(BLOCK);
    // Every row is in the one group that all are in.
    let mut all: Vec<(u32, u32)> = Vec::with_capacity(BLOCK);
    for number in 1.. {
        block.clear();
        block.extend(rows.by_ref().take(BLOCK));
        if block.is_empty() {
            break;
        }
        if cancelled() {
            return Err(Fault::Cancelled.into());
        }
        records += block.len() as u64;
        sources.load(segment, &block)?;
        all.clear();
        all.extend((0..block.len() as u32).map(|place| (place, 0)));
        for collector in &mut collectors {
            collector.collect(&all, &mut sources)?;
        }
        if number % LOOK_EVERY == 0 {
            check_bytes(collectors.iter().map(Collector::bytes).sum())?;
        }
    }
    let mut tallies = Vec::with_capacity(collectors.len());
    for collector in collectors {
        tallies.extend(collector.harvest(&sources)?);
    }
    Ok(Counted { records, tallies })
}

/// What the segment knows without reading rows: of all its rows, those of each term.
fn known(
    segment: &dyn SegmentView,
    aggregations: &[Named],
    filter: Option<&Compiled>,
) -> Result<Option<Counted>, Refused> {
    let records = u64::from(segment.live());
    let mut tallies = Vec::with_capacity(aggregations.len());
    for Named { aggregation, .. } in aggregations {
        let is_plain = matches!(aggregation.kind, Kind::Terms { prefix: 0, .. });
        let field = aggregation.field.as_ref().filter(|_| {
            is_plain && filter.is_none() && aggregation.nested.is_empty() && segment.live() == segment.rows()
        });
        let Some(field) = field else { return Ok(None) };
        let terms_max = segment.rows() as usize / ROWS_PER_TERM;
        let Some(counts) = segment.term_counts(&field.name, terms_max)? else { return Ok(None) };
        let group = |(text, count): (String, u64)| {
            let name = GroupName::of(Datum::Text(&text), 0)?;
            Some(Group { name, count, nested: vec![] })
        };
        tallies.push(Tally::Groups(Groups::of(counts.into_iter().filter_map(group).collect())?));
    }
    Ok(Some(Counted { records, tallies }))
}

fn check_bytes(bytes: usize) -> Result<(), Refused> {
    if bytes <= TALLY_BYTES_MAX {
        return Ok(());
    }
    Err(Refused::TooLarge(format!(
        "the aggregation takes {bytes} bytes in one partition, at most {TALLY_BYTES_MAX} are allowed: ask for fewer groups or \
         figures, or narrow the filter"
    )))
}

/// The refusal of more groups than [`GROUPS_MAX`].
fn too_many(name: &str) -> Refused {
    Refused::TooLarge(format!(
        "aggregation `{name}` has more than {GROUPS_MAX} groups in one partition: narrow the filter, or group by something \
         coarser"
    ))
}

/// Leaves out the groups that are not worth sending; those within groups too.
fn send_only(tally: &mut Tally, named: &Named) {
    let Tally::Groups(groups) = tally else { return };
    if let Kind::Terms { order, .. } = named.aggregation.kind {
        groups.send_only(named.aggregation.sent_max(), order);
    }
    for group in &mut groups.list {
        for (tally, named) in group.nested.iter_mut().zip(&named.aggregation.nested) {
            send_only(tally, named);
        }
    }
}
