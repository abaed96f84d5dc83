//! What was counted, ready to be added to what was counted elsewhere.

use std::cmp::{Ordering, Reverse};

use serde::{Deserialize, Serialize};

use super::{Aggregation, Distinct, GroupName, Kind, Moments, Named, Order, Quantiles};
use crate::limits::{AGGREGATION_DEPTH_MAX, GROUPS_MAX};

/// The version of the encoding between nodes and routers.
const VERSION: u8 = 1;

/// What one aggregation counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Tally {
    /// Of a metric.
    Moments(Moments),
    /// Of percentiles.
    Quantiles(Quantiles),
    /// Of a cardinality.
    Distinct(Distinct),
    /// Of terms, ranges and histograms.
    Groups(Groups),
}

/// Groups of records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Groups {
    /// By name, each once.
    pub list: Vec<Group>,
    /// Records of the groups that were left out, counted in each of theirs.
    pub others: u64,
    /// The counts in the list may lack so much.
    pub error: u64,
}

/// A group of records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What it is named by.
    pub name: GroupName,
    /// Its records.
    pub count: u64,
    /// What the aggregations within it counted, in their order.
    #[serde(deserialize_with = "crate::nesting::deeper")]
    pub nested: Vec<Tally>,
}

/// What a request counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Records that pass the filter.
    pub records: u64,
    /// What its aggregations counted, in their order.
    pub tallies: Vec<Tally>,
}

/// A tally that is not what was asked for: from a node of another version, or damaged on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a partition's figures are not those that were asked for")]
pub struct Unsound;

impl Tally {
    /// Nothing counted.
    pub fn new(aggregation: &Aggregation) -> Tally {
        match &aggregation.kind {
            Kind::Metric(_) => Tally::Moments(Moments::default()),
            Kind::Percentiles(_) => Tally::Quantiles(Quantiles::default()),
            Kind::Cardinality => Tally::Distinct(Distinct::default()),
            Kind::Terms { .. } | Kind::Ranges(_) | Kind::Histogram { .. } | Kind::DateHistogram(_) => {
                Tally::Groups(Groups::default())
            }
        }
    }

    /// Adds what was counted elsewhere for the same aggregation.
    ///
    /// # Errors
    /// If it was another one.
    pub fn merge(&mut self, other: Tally) -> Result<(), Unsound> {
        match (self, other) {
            (Tally::Moments(mine), Tally::Moments(theirs)) => mine.merge(&theirs),
            (Tally::Quantiles(mine), Tally::Quantiles(theirs)) => mine.merge(&theirs),
            (Tally::Distinct(mine), Tally::Distinct(theirs)) => mine.merge(&theirs),
            (Tally::Groups(mine), Tally::Groups(theirs)) => mine.merge(theirs)?,
            _ => return Err(Unsound),
        }
        Ok(())
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        size_of::<Tally>()
            + match self {
                Tally::Moments(_) => 16,
                Tally::Quantiles(quantiles) => quantiles.bytes(),
                Tally::Distinct(distinct) => distinct.bytes(),
                Tally::Groups(groups) => groups.list.iter().map(Group::bytes).sum(),
            }
    }

    fn fits(&self, aggregation: &Aggregation, depth: usize) -> bool {
        match self {
            Tally::Moments(moments) => matches!(aggregation.kind, Kind::Metric(_)) && moments.is_sound(),
            Tally::Quantiles(quantiles) => {
                matches!(aggregation.kind, Kind::Percentiles(_)) && quantiles.is_sound()
            }
            Tally::Distinct(distinct) => matches!(aggregation.kind, Kind::Cardinality) && distinct.is_sound(),
            Tally::Groups(groups) => {
                aggregation.makes_groups()
                    && depth < AGGREGATION_DEPTH_MAX
                    && groups.list.len() <= GROUPS_MAX
                    && groups.list.iter().all(|group| fit(&group.nested, &aggregation.nested, depth + 1))
            }
        }
    }
}

fn fit(tallies: &[Tally], aggregations: &[Named], depth: usize) -> bool {
    tallies.len() == aggregations.len()
        && tallies.iter().zip(aggregations).all(|(tally, named)| tally.fits(&named.aggregation, depth))
}

impl Group {
    fn bytes(&self) -> usize {
        size_of::<Group>() + self.name.bytes() + self.nested.iter().map(Tally::bytes).sum::<usize>()
    }

    fn add(&mut self, other: Group) -> Result<(), Unsound> {
        self.count = self.count.saturating_add(other.count);
        if self.nested.len() != other.nested.len() {
            return Err(Unsound);
        }
        self.nested.iter_mut().zip(other.nested).try_for_each(|(mine, theirs)| mine.merge(theirs))
    }
}

impl Groups {
    /// The groups by name; those of one name together.
    pub fn of(mut list: Vec<Group>) -> Result<Groups, Unsound> {
        list.sort_by(|a, b| a.name.cmp(&b.name));
        let mut merged: Vec<Group> = Vec::with_capacity(list.len());
        for group in list {
            match merged.last_mut() {
                Some(last) if last.name == group.name => last.add(group)?,
                _ => merged.push(group),
            }
        }
        Ok(Groups { list: merged, others: 0, error: 0 })
    }

    fn merge(&mut self, other: Groups) -> Result<(), Unsound> {
        self.others = self.others.saturating_add(other.others);
        self.error = self.error.saturating_add(other.error);
        if self.list.is_empty() {
            self.list = other.list;
            return Ok(());
        }
        let mine = std::mem::take(&mut self.list);
        let mut list = Vec::with_capacity(mine.len().max(other.list.len()));
        let (mut mine, mut theirs) = (mine.into_iter().peekable(), other.list.into_iter().peekable());
        loop {
            let order = match (mine.peek(), theirs.peek()) {
                (Some(a), Some(b)) => a.name.cmp(&b.name),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            match order {
                Ordering::Less => list.extend(mine.next()),
                Ordering::Greater => list.extend(theirs.next()),
                Ordering::Equal => {
                    if let (Some(mut group), Some(other)) = (mine.next(), theirs.next()) {
                        group.add(other)?;
                        list.push(group);
                    }
                }
            }
        }
        self.list = list;
        Ok(())
    }

    /// Leaves out all but the first `keep` groups, of a part of the records: what is left out may still be among the first
    /// of the whole, which [`Groups::error`] tells. By value nothing is lost that could be.
    pub fn send_only(&mut self, keep: usize, order: Order) {
        if let Some(largest) = self.leave_out(keep, order) {
            self.error = self.error.saturating_add(largest);
        }
    }

    /// The first `size` groups, as the answer has them.
    pub fn first(mut self, size: usize, order: Order) -> Groups {
        let _ = self.leave_out(size, order);
        if order == Order::Count {
            self.list.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
        }
        self
    }

    /// Leaves out all but the first; the list stays by name. The largest count of those whose place in the whole is not known.
    fn leave_out(&mut self, keep: usize, order: Order) -> Option<u64> {
        if self.list.len() <= keep {
            return None;
        }
        let all: u64 = self.list.iter().map(|group| group.count).sum();
        let largest = match order {
            Order::Value => {
                self.list.truncate(keep);
                None
            }
            Order::Count => {
                let list = std::mem::take(&mut self.list);
                let mut places: Vec<(Reverse<u64>, usize)> =
                    list.iter().enumerate().map(|(at, group)| (Reverse(group.count), at)).collect();
                let largest = places.select_nth_unstable(keep).1.0.0;
                let mut kept = vec![false; list.len()];
                places[..keep].iter().for_each(|(_, at)| kept[*at] = true);
                self.list =
                    list.into_iter().zip(kept).filter_map(|(group, kept)| kept.then_some(group)).collect();
                Some(largest)
            }
        };
        let left: u64 = self.list.iter().map(|group| group.count).sum();
        self.others = self.others.saturating_add(all - left);
        largest
    }
}

impl Counted {
    /// Nothing counted.
    pub fn new(aggregations: &[Named]) -> Counted {
        Counted {
            records: 0,
            tallies: aggregations.iter().map(|named| Tally::new(&named.aggregation)).collect(),
        }
    }

    /// Adds what was counted elsewhere for the same request.
    ///
    /// # Errors
    /// If it was for another one.
    pub fn merge(&mut self, other: Counted) -> Result<(), Unsound> {
        self.records = self.records.saturating_add(other.records);
        if self.tallies.len() != other.tallies.len() {
            return Err(Unsound);
        }
        self.tallies.iter_mut().zip(other.tallies).try_for_each(|(mine, theirs)| mine.merge(theirs))
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        self.tallies.iter().map(Tally::bytes).sum()
    }

    /// For the way from a node to a router.
    ///
    /// # Errors
    /// If it does not encode, which it does.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_extend(self, vec![VERSION])
    }

    /// What a node counted for these aggregations.
    ///
    /// # Errors
    /// If it is not that.
    pub fn decode(bytes: &[u8], aggregations: &[Named]) -> Result<Counted, Unsound> {
        let Some((&VERSION, body)) = bytes.split_first() else { return Err(Unsound) };
        let counted: Counted = postcard::from_bytes(body).map_err(|_| Unsound)?;
        if fit(&counted.tallies, aggregations, 0) { Ok(counted) } else { Err(Unsound) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, count: u64) -> Group {
        Group { name: GroupName::Text(name.into()), count, nested: vec![] }
    }

    fn groups(list: &[(&str, u64)]) -> Groups {
        Groups::of(list.iter().map(|(name, count)| group(name, *count)).collect()).unwrap()
    }

    #[test]
    fn groups_of_one_name_are_added() {
        let mut sum = groups(&[("b", 1), ("a", 2), ("b", 5)]);
        sum.merge(groups(&[("c", 1), ("a", 1)])).unwrap();
        assert_eq!(sum, groups(&[("a", 3), ("b", 6), ("c", 1)]));
    }

    #[test]
    fn what_is_left_out_is_told() {
        let mut part = groups(&[("a", 5), ("b", 9), ("c", 5), ("d", 1)]);
        part.send_only(2, Order::Count);
        assert_eq!(part.list, [group("a", 5), group("b", 9)]);
        assert_eq!((part.others, part.error), (6, 5));
        let mut whole = part.clone();
        whole.merge(part).unwrap();
        let first = whole.first(1, Order::Count);
        assert_eq!((first.list, first.others, first.error), (vec![group("b", 18)], 22, 10));
        let by_value = groups(&[("a", 5), ("b", 9)]).first(1, Order::Value);
        assert_eq!((by_value.list, by_value.others, by_value.error), (vec![group("a", 5)], 9, 0));
    }
}
