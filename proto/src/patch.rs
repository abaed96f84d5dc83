//! Changing parts of a record: payload fields by dotted path, and whole vectors.
//!
//! A path steps through maps only. What it sets is made together with the maps on the way; an explicit null on the way counts as
//! absent, as for filters. A list or a scalar on the way is not replaced unasked: the record is left as it is ([`Stuck`]).
//! No path of an edit lies within another, so their order does not matter, and an edit that is made twice changes nothing
//! the second time.
//!
//! Checks come in two halves: what the edit alone tells ([`Edit::check`], at the router and the node), and what only the
//! record that comes out tells ([`crate::schema::CollectionSpec::check_payload`], where the edit is applied).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::{PATCH_PATHS_MAX, PAYLOAD_BYTES_MAX};
use crate::record::{Key, Payload, Value, Vector};
use crate::refusal::Violation;
use crate::schema::{CollectionSpec, at_most, check_key, check_path, check_values};

/// What becomes of a payload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edit {
    /// Values by dotted path.
    pub set: BTreeMap<String, Value>,
    /// Dotted paths that go, with whatever lies below them.
    pub unset: Vec<String>,
}

/// A path that steps through what is no map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The path.
    pub path: String,
    /// The type of what is in the way.
    pub found: &'static str,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "path `{}` steps through a value of type {}, which is no map", self.path, self.found)
    }
}

impl Edit {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.unset.is_empty()
    }

    /// Refuses an edit that no record can be changed by. `at` names its place in the request, such as `patches[3]`.
    pub fn check(&self, at: &str) -> Result<(), Violation> {
        at_most(at, "paths", PATCH_PATHS_MAX, self.set.len() + self.unset.len())?;
        self.set.keys().try_for_each(|path| check_path(&format!("{at}.set"), path))?;
        self.unset.iter().try_for_each(|path| check_path(&format!("{at}.unset"), path))?;
        let mut paths: Vec<Vec<&str>> =
            self.set.keys().chain(&self.unset).map(|path| path.split('.').collect()).collect();
        paths.sort_unstable();
        // In this order, what lies within a path follows it at once.
        if let Some(pair) = paths.windows(2).find(|pair| pair[1].starts_with(&pair[0])) {
            let why =
                format!("`{}` lies within `{}`: name one of them", pair[1].join("."), pair[0].join("."));
            return Err(Violation::new(at, why));
        }
        let bytes = check_values(&format!("{at}.set"), &self.set)?;
        at_most(&format!("{at}.set"), "bytes", PAYLOAD_BYTES_MAX, bytes)
    }

    /// Makes the edit. The payload may be half changed if that fails.
    pub fn apply(&self, payload: &mut Payload) -> Result<(), Stuck> {
        self.set.iter().try_for_each(|(path, value)| set(payload, path, value))?;
        self.unset.iter().try_for_each(|path| unset(payload, path))
    }
}

/// A dotted path, cut behind its last dot: the maps on the way, and the name in the last of them.
fn cut(path: &str) -> (std::str::Split<'_, char>, &str) {
    match path.rsplit_once('.') {
        Some((way, name)) => (way.split('.'), name),
        None => {
            let mut none = "".split('.');
            none.next();
            (none, path)
        }
    }
}

fn stuck(path: &str, found: &Value) -> Stuck {
    Stuck { path: path.to_owned(), found: found.type_name() }
}

fn set(payload: &mut Payload, path: &str, value: &Value) -> Result<(), Stuck> {
    let (way, name) = cut(path);
    let mut fields = payload;
    for step in way {
        let next = fields.entry(step.to_owned()).or_insert(Value::Null);
        if *next == Value::Null {
            *next = Value::Map(Payload::new());
        }
        fields = match next {
            Value::Map(fields) => fields,
            other => return Err(stuck(path, other)),
        };
    }
    fields.insert(name.to_owned(), value.clone());
    Ok(())
}

fn unset(payload: &mut Payload, path: &str) -> Result<(), Stuck> {
    let (way, name) = cut(path);
    let mut fields = payload;
    for step in way {
        fields = match fields.get_mut(step) {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Map(fields)) => fields,
            Some(other) => return Err(stuck(path, other)),
        };
    }
    fields.remove(name);
    Ok(())
}

/// A change of one record.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// Whose.
    pub key: Key,
    /// What becomes of its payload.
    pub edit: Edit,
    /// Vectors that replace those of the same name.
    pub vectors: BTreeMap<String, Vector>,
    /// Only if the record is of this version.
    pub if_version: Option<u64>,
}

impl Patch {
    /// A patch of `key` that changes nothing yet.
    pub fn new(key: impl Into<Key>) -> Patch {
        Patch { key: key.into(), edit: Edit::default(), vectors: BTreeMap::new(), if_version: None }
    }

    /// And sets the value at this dotted path.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Patch {
        self.edit.set.insert(path.to_owned(), value.into());
        self
    }

    /// And removes what is at this dotted path.
    pub fn unset(mut self, path: &str) -> Patch {
        self.edit.unset.push(path.to_owned());
        self
    }

    /// And replaces the vector `name`.
    pub fn vector(mut self, name: &str, vector: impl Into<Vector>) -> Patch {
        self.vectors.insert(name.to_owned(), vector.into());
        self
    }

    /// But only if the record is of this version.
    pub fn if_version(mut self, version: u64) -> Patch {
        self.if_version = Some(version);
        self
    }

    /// Refuses a patch that no record of the collection can be changed by.
    pub fn check(&self, at: &str, spec: &CollectionSpec) -> Result<(), Violation> {
        check_key(&format!("{at}.key"), &self.key)?;
        if self.edit.is_empty() && self.vectors.is_empty() {
            return Err(Violation::new(at, "changes nothing: set, unset or vectors are needed"));
        }
        self.edit.check(at)?;
        spec.check_vectors(at, &self.vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, Value)]) -> Value {
        Value::Map(payload(fields))
    }

    fn payload(fields: &[(&str, Value)]) -> Payload {
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn edited(before: &Payload, patch: Patch) -> Result<Payload, Stuck> {
        let mut after = before.clone();
        patch.edit.apply(&mut after).map(|()| after)
    }

    #[test]
    fn paths_make_their_maps_and_leave_what_lies_beside_them() {
        let before = payload(&[("a", map(&[("x", 1.into()), ("y", 2.into())])), ("n", Value::Null)]);
        let patch =
            Patch::new(1).set("a.x", 5).set("a.z.deep", "new").set("n.m", true).unset("a.y").unset("b.c");
        let after = edited(&before, patch.clone()).unwrap();
        let a = map(&[("x", 5.into()), ("z", map(&[("deep", "new".into())]))]);
        assert_eq!(after, payload(&[("a", a), ("n", map(&[("m", true.into())]))]));
        assert_eq!(edited(&after, patch).unwrap(), after, "made twice it is made once");
    }

    #[test]
    fn what_is_no_map_is_in_the_way() {
        let list = Value::List(vec![map(&[("x", 1.into())])]);
        let before = payload(&[("s", "text".into()), ("l", list)]);
        for patch in [Patch::new(1).set("s.x", 1), Patch::new(1).set("l.x", 1), Patch::new(1).unset("l.x.y")]
        {
            assert!(edited(&before, patch).unwrap_err().to_string().contains("which is no map"));
        }
        let replaced = edited(&before, Patch::new(1).set("s", 1).unset("l")).unwrap();
        assert_eq!(replaced, payload(&[("s", 1.into())]), "at its end a path replaces anything");
    }

    #[test]
    fn an_edit_that_contradicts_itself_or_breaks_a_limit_is_refused() {
        let deep = (0..40).fold(Value::Int(1), |value, _| Value::List(vec![value]));
        let many = (0..=PATCH_PATHS_MAX).fold(Patch::new(1), |patch, n| patch.unset(&format!("f{n}")));
        let spec = CollectionSpec::default();
        for (patch, why) in [
            (Patch::new(1), "changes nothing"),
            (Patch::new(""), "at least 1 byte"),
            (Patch::new(1).set("a..b", 1), "a step is empty"),
            (Patch::new(1).unset(""), "a step is empty"),
            (Patch::new(1).set("a", 1).set("a.b", 1), "`a.b` lies within `a`"),
            (Patch::new(1).set("a.b", 1).set("a-b", 1).unset("a"), "`a.b` lies within `a`"),
            (Patch::new(1).unset("a").unset("a"), "`a` lies within `a`"),
            (Patch::new(1).set("a", f64::NAN), "not a finite number"),
            (Patch::new(1).set("a", deep), "levels"),
            (Patch::new(1).set("a", "x".repeat(PAYLOAD_BYTES_MAX)), "bytes"),
            (Patch::new(1).vector("v", vec![1.0]), "no vector of this name"),
            (many, "257 paths, the limit is 256"),
        ] {
            let refused = patch.check("patches[0]", &spec).unwrap_err().to_string();
            assert!(refused.starts_with("patches[0]") && refused.contains(why), "{refused}");
        }
        assert!(Patch::new(1).set("a.b", 1).set("a.c", 1).unset("ab").check("patches[0]", &spec).is_ok());
    }
}
