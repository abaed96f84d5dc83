//! From what a collector counted to tallies that others can be added to.

use flotilla_proto::aggregate::{Distinct, Group, GroupName, Groups as Tallied, Tally};
use flotilla_proto::limits::GROUP_BYTES_MAX;

use super::Refused;
use super::collect::{Collector, Groups, Slot, Store};
use super::source::{Source, Sources};
use crate::storage::Fault;

impl Collector<'_> {
    /// Its tallies: one for each group around it.
    pub(super) fn harvest(self, sources: &Sources<'_>) -> Result<Vec<Tally>, Refused> {
        self.tallies(sources, 1)
    }

    fn tallies(self, sources: &Sources<'_>, around: usize) -> Result<Vec<Tally>, Refused> {
        let source = self.field.and_then(|field| sources.field(field));
        let mut tallies: Vec<Tally> = match self.store {
            Store::Moments(all) => all.into_iter().map(Tally::Moments).collect(),
            Store::Quantiles(all) => all.into_iter().map(Tally::Quantiles).collect(),
            Store::Distinct { mut known, terms } => {
                if let Some(source) = source {
                    let mut terms: Vec<(u32, u64)> = terms.into_iter().collect();
                    terms.sort_unstable();
                    for run in terms.chunk_by(|a, b| a.0 == b.0) {
                        hash(source, run, &mut known)?;
                    }
                }
                known.into_iter().map(Tally::Distinct).collect()
            }
            Store::Groups(groups) => {
                let made = groups.list.len();
                let names = names(&groups, source)?;
                let mut within: Vec<Vec<Tally>> = (0..made).map(|_| Vec::new()).collect();
                for nested in self.nested {
                    let tallies = nested.tallies(sources, made)?;
                    within.iter_mut().zip(tallies).for_each(|(within, tally)| within.push(tally));
                }
                by_group(groups, names, within, around)?
            }
        };
        // A group that no row came to counted nothing.
        while tallies.len() < around {
            tallies.push(Tally::new(&self.named.aggregation));
        }
        Ok(tallies)
    }
}

/// Adds the texts of one group, given by their numbers, to what is known of it.
fn hash(source: &Source<'_>, terms: &[(u32, u64)], known: &mut [Distinct]) -> Result<(), Fault> {
    let Some(known) = terms.first().and_then(|(group, _)| known.get_mut(*group as usize)) else {
        return Ok(());
    };
    let numbers: Vec<u64> = terms.iter().map(|(_, number)| *number).collect();
    source.hashes(&numbers, |hash| known.add(hash))
}

/// The names of the groups; none where a text is too long for one.
fn names(groups: &Groups, source: Option<&Source<'_>>) -> Result<Vec<Option<GroupName>>, Fault> {
    let mut names: Vec<Option<GroupName>> = Vec::with_capacity(groups.list.len());
    let mut terms: Vec<(u64, usize)> = Vec::new();
    for (at, (_, slot, _)) in groups.list.iter().enumerate() {
        names.push(match slot {
            Slot::Truth(truth) => Some(GroupName::Truth(*truth)),
            Slot::Whole(whole) => Some(GroupName::Whole(*whole)),
            Slot::Float(bits) => Some(GroupName::Float(f64::from_bits(*bits))),
            Slot::Time(micros) => Some(GroupName::Time(*micros)),
            Slot::Place(place) => Some(GroupName::Place(*place)),
            Slot::Term(term) => {
                terms.push((*term, at));
                None
            }
        });
    }
    let named = |text: String| (text.len() <= GROUP_BYTES_MAX).then_some(GroupName::Text(text));
    if let Some(prefixes) = groups.prefixes() {
        for (prefix, at) in terms {
            let text = usize::try_from(prefix).ok().and_then(|prefix| prefixes.texts.get(prefix));
            names[at] = text.cloned().and_then(named);
        }
        return Ok(names);
    }
    terms.sort_unstable();
    let mut numbers: Vec<u64> = terms.iter().map(|(term, _)| *term).collect();
    numbers.dedup();
    let texts = source.map(|source| source.texts(&numbers)).transpose()?.unwrap_or_default();
    let mut texts = numbers.into_iter().zip(texts).peekable();
    for (term, at) in terms {
        while texts.next_if(|(number, _)| *number < term).is_some() {}
        names[at] =
            texts.peek().filter(|(number, _)| *number == term).and_then(|(_, text)| named(text.clone()));
    }
    Ok(names)
}

/// The groups of each group around them.
fn by_group(
    groups: Groups,
    names: Vec<Option<GroupName>>,
    within: Vec<Vec<Tally>>,
    around: usize,
) -> Result<Vec<Tally>, Refused> {
    let mut lists: Vec<Vec<(Slot, Group)>> = (0..around).map(|_| Vec::new()).collect();
    for (((around, slot, count), name), nested) in groups.list.into_iter().zip(names).zip(within) {
        if let (Some(name), Some(list)) = (name, lists.get_mut(around as usize)) {
            list.push((slot, Group { name, count, nested }));
        }
    }
    let tally = |mut list: Vec<(Slot, Group)>| {
        // Numbers of terms sort as their texts do, as a rule: then the names are in order already.
        list.sort_unstable_by_key(|(slot, _)| *slot);
        let groups = Tallied::of(list.into_iter().map(|(_, group)| group).collect())?;
        Ok(Tally::Groups(groups))
    };
    lists.into_iter().map(tally).collect()
}
