//! Aggregations the obvious way: over all records at once, to compare with.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::aggregate::{Aggregation, Counted, Datum, Group, Groups, Named, Tally};
use flotilla_proto::record::{Payload, reach};

/// What these aggregations count over these records.
pub fn naive(records: &[&Payload], aggregations: &[Named]) -> Counted {
    let tallies = aggregations.iter().map(|named| tally(records, &named.aggregation)).collect();
    Counted { records: records.len() as u64, tallies }
}

fn tally(records: &[&Payload], aggregation: &Aggregation) -> Tally {
    let mut tally = Tally::new(aggregation);
    let mut groups: BTreeMap<_, Vec<&Payload>> = BTreeMap::new();
    for record in records {
        let mut names = BTreeSet::new();
        let Some(field) = &aggregation.field else {
            if let Tally::Moments(moments) = &mut tally {
                moments.add(Datum::Map);
            }
            continue;
        };
        reach(record, &field.path, &mut |value| {
            if let Some(datum) = Datum::of(value, field.kind) {
                match &mut tally {
                    Tally::Moments(moments) => moments.add(datum),
                    Tally::Quantiles(quantiles) => datum.number().into_iter().for_each(|n| quantiles.add(n)),
                    Tally::Distinct(distinct) => datum.hash().into_iter().for_each(|hash| distinct.add(hash)),
                    Tally::Groups(_) => aggregation.groups_of(datum, &mut |name| {
                        names.insert(name);
                    }),
                }
            }
            false
        });
        names.into_iter().for_each(|name| groups.entry(name).or_default().push(record));
    }
    if let Tally::Groups(_) = tally {
        let group = |(name, records): (_, Vec<&Payload>)| {
            let count = records.len() as u64;
            Group { name, count, nested: naive(&records, &aggregation.nested).tallies }
        };
        tally = Tally::Groups(Groups { list: groups.into_iter().map(group).collect(), others: 0, error: 0 });
    }
    tally
}
