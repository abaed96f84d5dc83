//! Patches.

use super::record::{key_from_wire, key_to_wire, value_from_wire, value_to_wire};
use super::record::{vector_from_wire, vector_to_wire};
use crate::patch::{Edit, Patch};
use crate::refusal::Violation;
use crate::v1;

/// What becomes of payloads. `field` names its place in the request, such as `patches[3]`.
pub fn edit_from_wire(
    field: &str,
    set: std::collections::BTreeMap<String, v1::Value>,
    unset: Vec<String>,
) -> Result<Edit, Violation> {
    let at = format!("{field}.set");
    let set = set.into_iter().map(|(path, value)| Ok((path, value_from_wire(&at, value)?)));
    Ok(Edit { set: set.collect::<Result<_, Violation>>()?, unset })
}

/// A change of a record. `field` names its place in the request, such as `patches[3]`.
pub fn patch_from_wire(field: &str, patch: v1::Patch) -> Result<Patch, Violation> {
    let v1::Patch { key, set, unset, vectors, if_version } = patch;
    let vector = |(name, vector): (String, v1::Vector)| {
        let vector = vector_from_wire(&format!("{field}.vectors[{name}]"), Some(vector))?;
        Ok((name, vector))
    };
    Ok(Patch {
        key: key_from_wire(&format!("{field}.key"), key)?,
        edit: edit_from_wire(field, set, unset)?,
        vectors: vectors.into_iter().map(vector).collect::<Result<_, Violation>>()?,
        if_version,
    })
}

/// A change of a record for the wire.
pub fn patch_to_wire(patch: Patch) -> v1::Patch {
    let Patch { key, edit, vectors, if_version } = patch;
    let (set, unset) = edit_to_wire(edit);
    let vectors = vectors.into_iter().map(|(name, vector)| (name, vector_to_wire(vector))).collect();
    v1::Patch { key: Some(key_to_wire(&key)), set, unset, vectors, if_version }
}

/// What becomes of payloads, for the wire: what is set, and what is unset.
pub fn edit_to_wire(edit: Edit) -> (std::collections::BTreeMap<String, v1::Value>, Vec<String>) {
    (edit.set.iter().map(|(path, value)| (path.clone(), value_to_wire(value))).collect(), edit.unset)
}
