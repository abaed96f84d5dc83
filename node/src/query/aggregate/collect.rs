//! One aggregation over one segment, while its rows go by.
//!
//! A collector counts for every group of the aggregation around it (at the top there is one group, of all rows): rows come with the
//! number of the group that they are in. Text is counted by its number and read at the end, each once.

use std::collections::hash_map::Entry;

use flotilla_proto::aggregate::{
    Aggregation, Datum, Distinct, GroupName, Kind, Moments, Named, Quantiles, cut,
};
use flotilla_proto::limits::GROUPS_MAX;
use rustc_hash::{FxHashMap, FxHashSet};

use super::source::{Source, Sources, datum};
use super::{Refused, too_many};
use crate::storage::{Cell, Fault};

/// See the module.
pub(super) struct Collector<'a> {
    pub(super) named: &'a Named,
    /// The number of its field; none for a count of records.
    pub(super) field: Option<usize>,
    pub(super) store: Store,
    pub(super) nested: Vec<Collector<'a>>,
    /// Whether there is one group around it, of all rows.
    is_outermost: bool,
    /// Rows and their groups, for those within; kept for its memory.
    inner: Vec<(u32, u32)>,
}

/// What is counted, by the number of the group around it.
pub(super) enum Store {
    Moments(Vec<Moments>),
    Quantiles(Vec<Quantiles>),
    Distinct { known: Vec<Distinct>, terms: FxHashSet<(u32, u64)> },
    Groups(Groups),
}

/// The groups of one collector.
#[derive(Default)]
pub(super) struct Groups {
    /// For each: the group around it, what it is named by, and its records.
    pub(super) list: Vec<(u32, Slot, u64)>,
    numbers: FxHashMap<(u32, Slot), u32>,
    /// By term, plus one, of the first group around: the common case without hashing.
    dense: Vec<u32>,
    /// By term, the ordinal of its beginning.
    prefixes: Option<Prefixes>,
    /// By term, the ranges that it lies in.
    ranges: FxHashMap<u64, Vec<i64>>,
    /// Of one record; kept for its memory.
    found: Vec<u32>,
}

/// Beginnings of texts.
pub(super) struct Prefixes {
    chars: usize,
    pub(super) texts: Vec<String>,
    of_terms: Vec<u32>,
    numbers: FxHashMap<String, u32>,
}

/// What a group is named by, as long as texts are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Slot {
    Truth(bool),
    Whole(i64),
    Float(u64),
    Time(i64),
    Place(i64),
    /// A text, or a beginning.
    Term(u64),
}

impl<'a> Collector<'a> {
    /// Within so many groups: one at the top, none yet below.
    pub(super) fn new(
        named: &'a Named,
        sources: &mut Sources<'a>,
        groups: usize,
    ) -> Result<Collector<'a>, Fault> {
        let aggregation = &named.aggregation;
        let field = aggregation.field.as_ref().and_then(|field| sources.number(field));
        let mut store = match &aggregation.kind {
            Kind::Metric(_) => Store::Moments(Vec::new()),
            Kind::Percentiles(_) => Store::Quantiles(Vec::new()),
            Kind::Cardinality => Store::Distinct { known: Vec::new(), terms: FxHashSet::default() },
            Kind::Terms { prefix, .. } if *prefix > 0 => {
                let source = field.and_then(|field| sources.field(field));
                let prefixes = source.map(|source| Prefixes::new(source, *prefix)).transpose()?;
                Store::Groups(Groups { prefixes, ..Groups::default() })
            }
            Kind::Terms { .. } | Kind::Ranges(_) | Kind::Histogram { .. } | Kind::DateHistogram(_) => {
                Store::Groups(Groups::default())
            }
        };
        store.make_room(groups);
        let nested = aggregation.nested.iter().map(|named| Collector::new(named, sources, 0));
        let nested = nested.collect::<Result<_, _>>()?;
        Ok(Collector { named, field, store, nested, is_outermost: groups > 0, inner: Vec::new() })
    }

    /// Counts rows of the block, each as (place in the block, number of the group that it is in), by place.
    pub(super) fn collect(&mut self, rows: &[(u32, u32)], sources: &mut Sources<'_>) -> Result<(), Refused> {
        let source = self.field.and_then(|field| sources.field(field));
        match (&mut self.store, source) {
            (Store::Moments(moments), None) => {
                for (_, group) in rows {
                    // A record counts as one thing that is there.
                    moments[*group as usize].add(datum(Cell::Map));
                }
            }
            (_, None) => {}
            (Store::Moments(moments), Some(source)) => {
                for (place, group) in rows {
                    let moments = &mut moments[*group as usize];
                    source.cells(*place).iter().for_each(|cell| moments.add(datum(*cell)));
                }
            }
            (Store::Quantiles(quantiles), Some(source)) => {
                for (place, group) in rows {
                    let numbers = source.cells(*place).iter().filter_map(|cell| datum(*cell).number());
                    numbers.for_each(|number| quantiles[*group as usize].add(number));
                }
            }
            (Store::Distinct { known, terms }, Some(source)) => {
                for (place, group) in rows {
                    for cell in source.cells(*place) {
                        match cell {
                            Cell::Term(term) => {
                                terms.insert((*group, *term));
                            }
                            cell => {
                                let hash = datum(*cell).hash();
                                hash.into_iter().for_each(|hash| known[*group as usize].add(hash));
                            }
                        }
                    }
                }
            }
            (Store::Groups(groups), Some(source)) => {
                self.inner.clear();
                let inner = (!self.nested.is_empty()).then_some(&mut self.inner);
                let aggregation = &self.named.aggregation;
                let is_plain = self.is_outermost && matches!(aggregation.kind, Kind::Terms { .. });
                let terms = source.singles().filter(|cells| is_plain && cells.iter().all(is_term));
                match terms {
                    Some(cells) => groups.count_terms(source, cells, inner),
                    None => groups.count_rows(aggregation, source, rows, inner)?,
                }
                if groups.list.len() > GROUPS_MAX {
                    return Err(too_many(&self.named.name));
                }
                let made = groups.list.len();
                for nested in &mut self.nested {
                    nested.store.make_room(made);
                    nested.collect(&self.inner, sources)?;
                }
            }
        }
        Ok(())
    }

    /// Bytes that it holds, about.
    pub(super) fn bytes(&self) -> usize {
        let own = match &self.store {
            Store::Moments(moments) => moments.len() * (size_of::<Moments>() + 16),
            Store::Quantiles(all) => all.iter().map(|one| size_of::<Quantiles>() + one.bytes()).sum(),
            Store::Distinct { known, terms } => {
                let known: usize = known.iter().map(|one| size_of::<Distinct>() + one.bytes()).sum();
                known + terms.len() * 24
            }
            Store::Groups(groups) => groups.list.len() * 72 + groups.dense.len() * 4,
        };
        own + self.nested.iter().map(Collector::bytes).sum::<usize>()
    }
}

impl Store {
    /// Counts for so many groups around it from now on.
    fn make_room(&mut self, groups: usize) {
        match self {
            Store::Moments(all) => all.resize_with(groups.max(all.len()), Moments::default),
            Store::Quantiles(all) => all.resize_with(groups.max(all.len()), Quantiles::default),
            Store::Distinct { known, .. } => known.resize_with(groups.max(known.len()), Distinct::default),
            Store::Groups(_) => {}
        }
    }
}

impl Groups {
    /// Counts rows, each as (place, group around it), and tells which groups they are in.
    fn count_rows(
        &mut self,
        aggregation: &Aggregation,
        source: &Source<'_>,
        rows: &[(u32, u32)],
        mut inner: Option<&mut Vec<(u32, u32)>>,
    ) -> Result<(), Fault> {
        for (place, around) in rows {
            self.find(aggregation, source, *place, *around)?;
            for number in &self.found {
                self.list[*number as usize].2 += 1;
                if let Some(inner) = &mut inner {
                    inner.push((*place, *number));
                }
            }
        }
        Ok(())
    }

    /// The same for a block in which every row has one term, and all are in the one group around.
    fn count_terms(&mut self, source: &Source<'_>, cells: &[Cell], mut inner: Option<&mut Vec<(u32, u32)>>) {
        for (place, cell) in (0..).zip(cells) {
            let Cell::Term(term) = cell else { continue };
            let slot = match &mut self.prefixes {
                Some(prefixes) => prefixes.number(source, *term).map(u64::from),
                None => Some(*term),
            };
            let Some(slot) = slot else { continue };
            let number = self.number_of_term(0, slot);
            self.list[number as usize].2 += 1;
            if let Some(inner) = &mut inner {
                inner.push((place, number));
            }
        }
    }

    /// Finds the groups of a row, each once, into `found`; makes those that are new.
    fn find(
        &mut self,
        aggregation: &Aggregation,
        source: &Source<'_>,
        place: u32,
        around: u32,
    ) -> Result<(), Fault> {
        self.found.clear();
        let cells = source.cells(place);
        for cell in cells {
            self.add(aggregation, source, *cell, around)?;
        }
        if self.found.len() > 1 {
            self.found.sort_unstable();
            self.found.dedup();
        }
        Ok(())
    }

    /// Adds the groups of one cell to those found.
    fn add(
        &mut self,
        aggregation: &Aggregation,
        source: &Source<'_>,
        cell: Cell,
        around: u32,
    ) -> Result<(), Fault> {
        match (cell, &aggregation.kind) {
            (Cell::Term(term), Kind::Terms { .. }) => {
                let slot = match &mut self.prefixes {
                    Some(prefixes) => prefixes.number(source, term).map(u64::from),
                    None => Some(term),
                };
                if let Some(term) = slot {
                    let number = self.number_of_term(around, term);
                    self.found.push(number);
                }
            }
            (Cell::Term(term), Kind::Ranges(_)) => {
                let places = match self.ranges.entry(term) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(place) => place.insert(places_of(aggregation, source, term)?),
                };
                for place in places.clone() {
                    let number = self.number(around, Slot::Place(place));
                    self.found.push(number);
                }
            }
            (Cell::Term(_) | Cell::Map, _) => {}
            (cell, _) => {
                let Groups { list, numbers, found, .. } = self;
                aggregation.groups_of(datum(cell), &mut |name| {
                    found.extend(slot_of(&name).map(|slot| numbered(list, numbers, (around, slot))));
                });
            }
        }
        Ok(())
    }

    fn number_of_term(&mut self, around: u32, term: u64) -> u32 {
        // Ordinals are dense, so a list is as long as there are terms.
        let Some(at) = usize::try_from(term).ok().filter(|at| around == 0 && *at < 1 << 24) else {
            return self.number(around, Slot::Term(term));
        };
        if self.dense.len() <= at {
            self.dense.resize(at + 1, 0);
        }
        if self.dense[at] == 0 {
            self.list.push((around, Slot::Term(term), 0));
            self.dense[at] = self.list.len() as u32;
        }
        self.dense[at] - 1
    }

    fn number(&mut self, around: u32, slot: Slot) -> u32 {
        numbered(&mut self.list, &mut self.numbers, (around, slot))
    }

    /// What texts are cut to.
    pub(super) fn prefixes(&self) -> Option<&Prefixes> {
        self.prefixes.as_ref()
    }
}

/// The number of a group; a new one at the end of the list.
fn numbered(
    list: &mut Vec<(u32, Slot, u64)>,
    numbers: &mut FxHashMap<(u32, Slot), u32>,
    (around, slot): (u32, Slot),
) -> u32 {
    *numbers.entry((around, slot)).or_insert_with(|| {
        list.push((around, slot, 0));
        list.len() as u32 - 1
    })
}

/// The ranges that a text lies in.
fn places_of(aggregation: &Aggregation, source: &Source<'_>, term: u64) -> Result<Vec<i64>, Fault> {
    let mut places = Vec::new();
    for text in source.texts(&[term])? {
        aggregation.groups_of(Datum::Text(&text), &mut |name| {
            if let GroupName::Place(place) = name {
                places.push(place);
            }
        });
    }
    Ok(places)
}

fn is_term(cell: &Cell) -> bool {
    matches!(cell, Cell::Term(_))
}

fn slot_of(name: &GroupName) -> Option<Slot> {
    Some(match name {
        GroupName::Truth(truth) => Slot::Truth(*truth),
        GroupName::Whole(whole) => Slot::Whole(*whole),
        GroupName::Float(float) => Slot::Float(float.to_bits()),
        GroupName::Time(micros) => Slot::Time(*micros),
        GroupName::Place(place) => Slot::Place(*place),
        GroupName::Text(_) => return None,
    })
}

impl Prefixes {
    fn new(source: &Source<'_>, chars: usize) -> Result<Prefixes, Fault> {
        let mut prefixes =
            Prefixes { chars, texts: Vec::new(), of_terms: Vec::new(), numbers: FxHashMap::default() };
        for (text, first) in source.prefixes(chars)? {
            let number = prefixes.numbered(text);
            // Up to here the terms begin as the one before does.
            let before = number.saturating_sub(1);
            prefixes.of_terms.resize(usize::try_from(first).unwrap_or(0), before);
            prefixes.of_terms.push(number);
        }
        let terms = usize::try_from(source.terms()).unwrap_or(0);
        let last = prefixes.of_terms.last().copied().unwrap_or(0);
        prefixes.of_terms.resize(terms, last);
        Ok(prefixes)
    }

    fn numbered(&mut self, text: String) -> u32 {
        let texts = &mut self.texts;
        *self.numbers.entry(text).or_insert_with_key(|text| {
            texts.push(text.clone());
            texts.len() as u32 - 1
        })
    }

    /// The number of the beginning of a text.
    fn number(&mut self, source: &Source<'_>, term: u64) -> Option<u32> {
        let known = usize::try_from(term).ok().and_then(|term| self.of_terms.get(term));
        if let Some(number) = known {
            return Some(*number);
        }
        let text = cut(source.told(term)?, self.chars);
        match self.numbers.get(text) {
            Some(number) => Some(*number),
            None => Some(self.numbered(text.to_owned())),
        }
    }
}
