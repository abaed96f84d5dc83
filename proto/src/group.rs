//! What makes a group of a search with `group_by`, once for all: the router must put together what the nodes found
//! apart.
//!
//! A record belongs to a group for **each** value that the field's path reaches, stepping through maps and fanning
//! out over lists as a filter does ([`crate::record::reach`]): a record with a list of values is in several groups,
//! once in each. Text of at most [`GROUP_BYTES_MAX`] bytes, integers and booleans make groups; in a field declared
//! `datetime`, points in time do, and in one declared `uuid`, UUIDs, however they are spelt. A float with a whole value counts as that integer, as it
//! does in a filter. Other values (other floats, longer text, maps, nulls) make none, and a record without any is in
//! no group.

use std::collections::{BTreeMap, BTreeSet};

use crate::filter::{Compiled, Leaf, Scalar, Test};
use crate::limits::{GROUP_BYTES_MAX, GROUP_SIZE_DEFAULT, GROUP_SIZE_MAX, LIMIT_MAX};
use crate::record::{Payload, Value, reach};
use crate::refusal::Violation;
use crate::schema::{CollectionSpec, FieldType, datetime_micros, uuid_of, uuid_text};

/// The identity of a group. The order breaks ties between groups of one best hit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupKey {
    /// Truth.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Text.
    Text(String),
    /// Microseconds since the Unix epoch.
    Time(i64),
}

impl GroupKey {
    /// The group that `value` makes in a field declared as `kind` (`None`: undeclared), if it makes one.
    pub fn of(value: &Value, kind: Option<FieldType>) -> Option<GroupKey> {
        match kind {
            Some(FieldType::Datetime) => return datetime_micros(value).map(GroupKey::Time),
            Some(FieldType::Uuid) => return uuid_of(value).map(|id| GroupKey::Text(uuid_text(id))),
            _ => {}
        }
        match value {
            Value::Bool(truth) => Some(GroupKey::Bool(*truth)),
            Value::Int(whole) => Some(GroupKey::Int(*whole)),
            Value::Float(float) => whole(*float).map(GroupKey::Int),
            Value::Text(text) if text.len() <= GROUP_BYTES_MAX => Some(GroupKey::Text(text.clone())),
            Value::Text(_) | Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    fn scalar(&self) -> Scalar {
        match self {
            GroupKey::Bool(truth) => Scalar::Bool(*truth),
            GroupKey::Int(whole) => Scalar::Int(*whole),
            GroupKey::Text(text) => Scalar::Text(text.clone()),
            GroupKey::Time(micros) => Scalar::Time(*micros),
        }
    }
}

/// The integer that equals the float.
pub(crate) fn whole(float: f64) -> Option<i64> {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    (float.trunc() == float && (-TWO_63..TWO_63).contains(&float)).then_some(float as i64)
}

/// A checked `group_by`.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupBy {
    field: String,
    path: Vec<String>,
    kind: Option<FieldType>,
}

impl GroupBy {
    /// By `field` of the collection.
    ///
    /// # Errors
    /// If it is no path, if a strict collection does not declare it, or if it is declared as a float or as points.
    pub fn new(field: &str, spec: &CollectionSpec) -> Result<GroupBy, Violation> {
        let kind = spec.kind_of("group_by", field)?;
        if let Some(kind @ (FieldType::Float | FieldType::Geo)) = kind {
            let why = format!(
                "field `{field}` is declared as {}; text, integers, booleans, datetimes and UUIDs make groups",
                kind.name()
            );
            return Err(Violation::new("group_by", why));
        }
        let path = field.split('.').map(str::to_owned).collect();
        Ok(GroupBy { field: field.to_owned(), path, kind })
    }

    /// The group of a value, if it makes one.
    pub fn key(&self, value: &Value) -> Option<GroupKey> {
        GroupKey::of(value, self.kind)
    }

    /// Whether the field is declared, so that its conditions are answered by an index.
    pub fn is_declared(&self) -> bool {
        self.kind.is_some()
    }

    /// The groups of a record, each with the value that makes it.
    pub fn groups(&self, payload: &Payload) -> BTreeMap<GroupKey, Value> {
        let mut groups = BTreeMap::new();
        reach(payload, &self.path, &mut |value| {
            if let Some(key) = self.key(value) {
                // A UUID is shown in its one form, whichever record was the first.
                let shown = match &key {
                    GroupKey::Text(text) => Value::Text(text.clone()),
                    _ => value.clone(),
                };
                groups.entry(key).or_insert(shown);
            }
            false
        });
        groups
    }

    /// The condition that a record is in one of these groups.
    pub fn among<'a>(&self, groups: impl Iterator<Item = &'a GroupKey>) -> Compiled {
        self.leaf(Test::In(groups.map(GroupKey::scalar).collect()))
    }

    /// The condition that a record is in a group besides these.
    pub fn beyond(&self, groups: BTreeSet<GroupKey>) -> Compiled {
        self.leaf(Test::OtherGroup(groups))
    }

    fn leaf(&self, test: Test) -> Compiled {
        Compiled::Leaf(Leaf { field: self.field.clone(), path: self.path.clone(), kind: self.kind, test })
    }
}

/// The hits of each group that a request asks for, with so many groups.
///
/// # Errors
/// If a size or the answer as a whole is out of bounds.
pub fn group_size(asked: u32, limit: u32) -> Result<u32, Violation> {
    let size = match asked {
        0 => GROUP_SIZE_DEFAULT,
        size @ 1..=GROUP_SIZE_MAX => size,
        size => return Err(Violation::range("group_size", 1, GROUP_SIZE_MAX, size)),
    };
    let hits = u64::from(limit) * u64::from(size);
    if hits > u64::from(LIMIT_MAX) {
        return Err(Violation::range("limit * group_size", 1, LIMIT_MAX, hits));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(field: &str, kind: Option<FieldType>) -> GroupBy {
        let fields = kind.map(|kind| (field.to_owned(), kind)).into_iter().collect();
        GroupBy::new(field, &CollectionSpec { fields, ..Default::default() }).unwrap()
    }

    fn payload(value: Value) -> Payload {
        Payload::from([("f".to_owned(), value)])
    }

    #[test]
    fn a_list_puts_a_record_in_several_groups_once_each() {
        let tags = Value::List(vec!["a".into(), 2.into(), "a".into(), 2.0.into(), Value::Null, 0.5.into()]);
        let groups: Vec<GroupKey> = by("f", None).groups(&payload(tags)).into_keys().collect();
        assert_eq!(groups, [GroupKey::Int(2), GroupKey::Text("a".into())]);
    }

    #[test]
    fn what_makes_no_group() {
        for value in [
            Value::Null,
            1.5.into(),
            1e300.into(),
            Value::List(vec![]),
            Value::Map(Payload::new()),
            "x".repeat(GROUP_BYTES_MAX + 1).into(),
        ] {
            let payload = payload(value);
            assert!(by("f", None).groups(&payload).is_empty(), "{payload:?}");
            assert!(!by("f", None).beyond(BTreeSet::new()).matches(&1.into(), &payload), "{payload:?}");
        }
    }

    #[test]
    fn points_in_time_are_one_group_however_spelt() {
        let by = by("f", Some(FieldType::Datetime));
        let (utc, paris) = ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00");
        assert_eq!(by.key(&utc.into()), by.key(&paris.into()));
    }

    #[test]
    fn uuids_are_one_group_and_points_make_none() {
        let by = by("f", Some(FieldType::Uuid));
        let canonical = "0191d2a4-7b3c-7def-8abc-0123456789ab";
        let spelt =
            ["URN:UUID:0191D2A4-7B3C-7DEF-8ABC-0123456789AB", "0191d2a47b3c7def8abc0123456789ab", "x"];
        let groups = by.groups(&payload(Value::List(spelt.map(Value::from).to_vec())));
        let expected = [(GroupKey::Text(canonical.into()), Value::from(canonical))];
        assert_eq!(groups.into_iter().collect::<Vec<_>>(), expected);
        let fields = [("f".to_owned(), FieldType::Geo)].into();
        let refused = GroupBy::new("f", &CollectionSpec { fields, ..Default::default() }).unwrap_err();
        assert!(refused.to_string().starts_with("group_by: field `f` is declared as geo"), "{refused}");
    }

    #[test]
    fn among_and_beyond_are_what_the_groups_of_a_record_say() {
        let by = by("f", None);
        let values = [1.into(), 1.0.into(), 2.into(), "1".into(), true.into(), 0.5.into(), Value::Null];
        let known: BTreeSet<GroupKey> = [GroupKey::Int(1), GroupKey::Bool(true)].into();
        for a in &values {
            for b in &values {
                let payload = payload(Value::List(vec![a.clone(), b.clone()]));
                let groups: BTreeSet<GroupKey> = by.groups(&payload).into_keys().collect();
                let among = by.among(known.iter()).matches(&1.into(), &payload);
                assert_eq!(among, !groups.is_disjoint(&known), "{payload:?}");
                let beyond = by.beyond(known.clone()).matches(&1.into(), &payload);
                assert_eq!(beyond, !groups.is_subset(&known), "{payload:?}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let spec = CollectionSpec {
            name: "c".into(),
            fields: [("x".to_owned(), FieldType::Float), ("n".to_owned(), FieldType::Integer)].into(),
            strict: true,
            ..Default::default()
        };
        let refused = |field: &str| GroupBy::new(field, &spec).unwrap_err().to_string();
        assert!(refused("x").starts_with("group_by: field `x` is declared as float"), "{}", refused("x"));
        assert!(refused("y").contains("does not declare `y`; it declares [n, x]"), "{}", refused("y"));
        assert!(refused("a..b").contains("a step is empty"));
        assert_eq!(group_size(0, 10), Ok(3));
        assert_eq!(group_size(101, 1).unwrap_err().to_string(), "group_size: must be 1 to 100, got 101");
        let many = group_size(100, 101).unwrap_err().to_string();
        assert_eq!(many, "limit * group_size: must be 1 to 10000, got 10100");
    }
}
