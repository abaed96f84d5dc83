//! Some fields of a payload: what a read asks for that does not want all of it.
//!
//! A path steps through maps by name and through lists into every element, as in a filter. What it reaches comes as it
//! stands, in the maps and lists on the way to it; elements of a list that it reaches nothing in are left out.

use std::collections::BTreeMap;

use crate::limits::PROJECTION_MAX;
use crate::record::{Payload, Value};
use crate::refusal::Violation;
use crate::schema::{at_most, check_path};

/// The paths that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projection {
    wanted: Tree,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tree {
    /// Whatever is here.
    is_end: bool,
    below: BTreeMap<String, Tree>,
}

impl Projection {
    /// These paths; nothing where none is named: then all is wanted.
    ///
    /// # Errors
    /// If there are too many, or one is not a dotted path.
    pub fn new(paths: &[String]) -> Result<Option<Projection>, Violation> {
        at_most("fields", "paths", PROJECTION_MAX, paths.len())?;
        let mut wanted = Tree::default();
        for path in paths {
            check_path("fields", path)?;
            let mut at = &mut wanted;
            for step in path.split('.') {
                at = at.below.entry(step.to_owned()).or_default();
            }
            at.is_end = true;
        }
        Ok((!paths.is_empty()).then_some(Projection { wanted }))
    }

    /// Whether fields come whole or not at all, so that [`Projection::wants`] says it all.
    pub fn is_of_whole_fields(&self) -> bool {
        self.wanted.below.values().all(|tree| tree.is_end)
    }

    /// Whether something of the field is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.wanted.below.contains_key(name)
    }

    /// What is wanted of the payload.
    pub fn of(&self, payload: Payload) -> Payload {
        self.wanted.map(payload)
    }
}

impl Tree {
    fn map(&self, mut fields: Payload) -> Payload {
        let part = |(name, tree): (&String, &Tree)| {
            let value = fields.remove(name)?;
            Some((name.clone(), tree.value(value)?))
        };
        self.below.iter().filter_map(part).collect()
    }

    fn value(&self, value: Value) -> Option<Value> {
        match value {
            value if self.is_end => Some(value),
            Value::Map(fields) => Some(self.map(fields)).filter(|part| !part.is_empty()).map(Value::Map),
            Value::List(items) => {
                let items: Vec<Value> = items.into_iter().filter_map(|item| self.value(item)).collect();
                (!items.is_empty()).then_some(Value::List(items))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<const N: usize>(fields: [(&str, Value); N]) -> Payload {
        fields.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn of(paths: &[&str], payload: &Payload) -> Payload {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        Projection::new(&paths).unwrap().unwrap().of(payload.clone())
    }

    #[test]
    fn paths_step_through_maps_and_lists_and_the_rest_is_left_out() {
        let disks = Value::List(vec![
            Value::Map(map([("size", 10.into()), ("name", "a".into())])),
            Value::Map(map([("name", "b".into())])),
            7.into(),
        ]);
        let payload = map([
            ("host", Value::Map(map([("name", "h".into()), ("cpu", 8.into())]))),
            ("disks", disks.clone()),
            ("note", Value::Null),
        ]);
        assert_eq!(of(&["host.cpu"], &payload), map([("host", Value::Map(map([("cpu", 8.into())])))]));
        let sizes = Value::List(vec![Value::Map(map([("size", 10.into())]))]);
        assert_eq!(of(&["disks.size", "note"], &payload), map([("disks", sizes), ("note", Value::Null)]));
        assert_eq!(of(&["disks.size", "disks"], &payload), map([("disks", disks)]));
        assert_eq!(of(&["host.name.first", "none", "note.x"], &payload), Payload::new());
        assert_eq!(Projection::new(&[]), Ok(None));
        for (paths, is_whole) in [(&["a", "b", "a.c"][..], true), (&["a", "b.c"], false)] {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            let projection = Projection::new(&paths).unwrap().unwrap();
            assert_eq!(projection.is_of_whole_fields(), is_whole);
            assert!(projection.wants("a") && projection.wants("b") && !projection.wants("c"));
        }
    }

    #[test]
    fn what_is_no_path_is_refused_and_so_are_too_many() {
        assert!(Projection::new(&["a..b".to_owned()]).unwrap_err().description.contains("a..b"));
        let many: Vec<String> = (0..=PROJECTION_MAX).map(|n| format!("f{n}")).collect();
        assert!(Projection::new(&many).unwrap_err().description.contains("the limit is 64"));
    }
}
