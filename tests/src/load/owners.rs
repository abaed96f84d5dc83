//! Who owns which key, to tell afterwards which moved.

use std::collections::BTreeMap;

use flotilla_proto::convert::{key_from_wire, map_from_wire};

use super::{Key, wire_key};
use crate::api::Api;
use crate::history::Recorder;

/// The partition of each key at some moment.
#[derive(Clone, Debug, Default)]
pub struct Owners(BTreeMap<Key, u64>);

impl Owners {
    /// Those of the keys up to `keys`.
    ///
    /// # Errors
    /// If nobody tells the map, or it has no such collection.
    pub async fn of(api: &Api, collection: &str, keys: Key) -> anyhow::Result<Owners> {
        let map = map_from_wire(api.placement().await?).map_err(|why| anyhow::anyhow!("{why}"))?;
        let placement = map.collection(collection);
        let placement =
            placement.ok_or_else(|| anyhow::anyhow!("the map knows no collection `{collection}`"))?;
        let owner = |key: Key| {
            let wire = key_from_wire("key", Some(wire_key(key))).map_err(|why| anyhow::anyhow!("{why}"))?;
            let partition = placement.partition_of(&wire).map(|partition| partition.id.0);
            Ok((key, partition.ok_or_else(|| anyhow::anyhow!("key {wire} has no partition"))?))
        };
        (1..=keys).map(owner).collect::<anyhow::Result<_>>().map(Owners)
    }

    /// Writes down which keys have another owner by now.
    pub fn note_moved(&self, now: &Owners, recorder: &Recorder) {
        let moved = self.0.iter().filter(|(key, owner)| now.0.get(key).is_some_and(|now| now != *owner));
        recorder.note(|history| history.moved.extend(moved.map(|(key, _)| *key)));
    }
}
