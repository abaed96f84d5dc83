//! Groups of a histogram that no record came to, between the first and the last that have some.

use super::{Aggregation, Group, GroupName, Groups, Kind, Tally};
use crate::limits::EMPTY_GROUPS_MAX;
use crate::refusal::Violation;

/// How many may still be made for an answer.
pub struct Room(usize);

impl Default for Room {
    fn default() -> Room {
        Room(EMPTY_GROUPS_MAX)
    }
}

impl Aggregation {
    /// A group that nothing was counted in.
    pub fn empty_group(&self, name: GroupName) -> Group {
        let nested = self.nested.iter().map(|named| Tally::new(&named.aggregation)).collect();
        Group { name, count: 0, nested }
    }

    /// The groups with those between them, if that was asked for.
    ///
    /// # Errors
    /// If that is more than there is room for.
    pub fn fill(&self, groups: Groups, room: &mut Room) -> Result<Groups, Violation> {
        if !self.with_empty {
            return Ok(groups);
        }
        let mut list: Vec<Group> = Vec::with_capacity(groups.list.len());
        for group in groups.list {
            let mut next = list.last().and_then(|last| self.after(&last.name));
            while let Some(name) = next.filter(|name| *name < group.name) {
                room.0 = room.0.checked_sub(1).ok_or_else(|| self.too_many())?;
                next = self.after(&name);
                list.push(self.empty_group(name));
            }
            list.push(group);
        }
        Ok(Groups { list, ..groups })
    }

    /// The name of the group behind this one.
    fn after(&self, name: &GroupName) -> Option<GroupName> {
        match (&self.kind, name) {
            (Kind::Histogram { .. }, GroupName::Place(place)) => place.checked_add(1).map(GroupName::Place),
            (Kind::DateHistogram(steps), GroupName::Time(begin)) => steps.next(*begin).map(GroupName::Time),
            _ => None,
        }
    }

    fn too_many(&self) -> Violation {
        let field = self.field.as_ref().map_or("", |field| &field.name);
        let why = format!(
            "the histograms of the answer have more than {EMPTY_GROUPS_MAX} groups without a record, the limit; the last was of `{field}`: \
             take wider ones, or a filter"
        );
        Violation::new("aggregations.with_empty", why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Steps, Unit};

    fn filled(kind: Kind, names: &[GroupName]) -> Result<Vec<(GroupName, u64)>, Violation> {
        let aggregation = Aggregation { field: None, kind, with_empty: true, nested: Vec::new() };
        let group = |name: &GroupName| Group { name: name.clone(), count: 1, nested: Vec::new() };
        let groups = Groups::of(names.iter().map(group).collect()).unwrap();
        let groups = aggregation.fill(groups, &mut Room::default())?;
        Ok(groups.list.into_iter().map(|group| (group.name, group.count)).collect())
    }

    #[test]
    fn gaps_are_filled_and_nothing_before_or_behind() {
        let kind = || Kind::Histogram { interval: 1.0, offset: 0.0 };
        let place = |place, count| (GroupName::Place(place), count);
        let found = filled(kind(), &[GroupName::Place(-1), GroupName::Place(2)]).unwrap();
        assert_eq!(found, [place(-1, 1), place(0, 0), place(1, 0), place(2, 1)]);
        assert!(filled(kind(), &[]).unwrap().is_empty());
        let ends = [GroupName::Place(i64::MIN), GroupName::Place(i64::MAX)];
        assert!(filled(kind(), &ends).unwrap_err().to_string().contains("100000"));
        assert_eq!(filled(kind(), &ends[1..]).unwrap(), [place(i64::MAX, 1)]);
    }

    #[test]
    fn months_are_filled_by_the_calendar() {
        let steps = Steps { step: Ok(Unit::Month), offset: 0 };
        let day = 86_400_000_000;
        let begins = [-31, 0, 31, 59].map(|n| n * day);
        let found =
            filled(Kind::DateHistogram(steps), &[GroupName::Time(begins[0]), GroupName::Time(begins[3])]);
        let counts = [1, 0, 0, 1];
        let expected: Vec<_> = begins.into_iter().map(GroupName::Time).zip(counts).collect();
        assert_eq!(found.unwrap(), expected);
    }
}
