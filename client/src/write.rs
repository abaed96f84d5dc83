//! Writes with conditions.

use std::time::Duration;

use flotilla_proto::convert::{edit_to_wire, filter_to_wire, key_from_wire, patch_to_wire, record_to_wire};
use flotilla_proto::filter::Filter;
use flotilla_proto::record::{Key, Record};
use flotilla_proto::v1;
pub use flotilla_proto::v1::WriteMode;
use flotilla_proto::v1::patch_request::Target;

use crate::{Client, Edit, Error, Patch, ReadPreference, Result, Tokens, Upserted};

/// A record that a write left as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Its key.
    pub key: Key,
    /// The version of the record that is there; 0: there is none.
    pub version: u64,
    /// Why.
    pub reason: String,
    /// Its place in the request, from 0.
    pub place: usize,
}

/// An acknowledged patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patched {
    /// How many records were changed.
    pub patched: u64,
    /// Records left as they were: by the place of their patch, or those that passed a filter; the first 1,000.
    pub conflicts: Vec<Conflict>,
    /// How many there are.
    pub conflicted: u64,
    /// A read that carries them sees this write on any replica.
    pub tokens: Tokens,
}

impl Client {
    /// Writes those of the records that the mode lets pass: at most 1,000, decided one after the other. The others are no
    /// error: they come back as [`Upserted::conflicts`]. With [`WriteMode::IfVersion`] each record brings the version that
    /// it replaces; 0: there is none.
    ///
    /// ```no_run
    /// # use flotilla_client::{Client, Get, With, WriteMode};
    /// # async fn example(client: Client) -> Result<(), flotilla_client::Error> {
    /// let mut got = client.get("vms", Get::new(["vm-1"]).with(With::ALL)).await?;
    /// if let Some(record) = got.records.pop() {
    ///     let next = record.field("state", "on");
    ///     let done = client.upsert_with("vms", vec![next], WriteMode::IfVersion).await?;
    ///     println!("{}", if done.conflicts.is_empty() { "written" } else { "somebody was faster" });
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn upsert_with(
        &self,
        collection: &str,
        records: Vec<Record>,
        mode: WriteMode,
    ) -> Result<Upserted> {
        self.upsert_for(collection, records, mode, Duration::ZERO).await
    }

    /// The same, and the records that do not say when they expire do so after `ttl`, by the clock of the server that takes the
    /// write; zero: never. A record may be seen for some seconds longer than its time.
    pub async fn upsert_for(
        &self,
        collection: &str,
        records: Vec<Record>,
        mode: WriteMode,
        ttl: Duration,
    ) -> Result<Upserted> {
        let held = self.identity();
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let request = upsert_request(collection, records, held.id);
        let message = v1::UpsertRequest { mode: mode.into(), ttl_ms, ..request };
        let send = |channel, request| async move { Client::records(channel).upsert(request).await };
        let answer = self.repeated(message, ReadPreference::Master, send).await?;
        let tokens = self.written(collection, answer.coverage);
        Ok(Upserted { upserted: answer.upserted, conflicts: conflicts(answer.conflicts)?, tokens })
    }

    /// Changes parts of records: at most 1,000 patches, decided one after the other. Records that are not there, or cannot be changed
    /// so, are no error: they come back as [`Patched::conflicts`].
    ///
    /// ```no_run
    /// # use flotilla_client::{Client, Patch};
    /// # async fn example(client: Client) -> Result<(), flotilla_client::Error> {
    /// let patch = Patch::new("vm-1").set("power.state", "on").unset("power.since");
    /// println!("{} changed", client.patch("vms", vec![patch]).await?.patched);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn patch(&self, collection: &str, patches: Vec<Patch>) -> Result<Patched> {
        let patches = patches.into_iter().map(patch_to_wire).collect();
        self.patched(collection, Target::Patches(v1::PatchList { patches })).await
    }

    /// Changes all records that pass `filter`, up to 10,000 of each partition: where there are more, nothing is changed and the call is
    /// refused.
    pub async fn patch_filter(&self, collection: &str, filter: &Filter, edit: Edit) -> Result<Patched> {
        let (set, unset) = edit_to_wire(edit);
        let filter = Some(filter_to_wire(filter));
        self.patched(collection, Target::Matching(v1::PatchMatching { filter, set, unset })).await
    }

    async fn patched(&self, collection: &str, target: Target) -> Result<Patched> {
        let held = self.identity();
        let (target, request) = (Some(target), Some(held.id));
        let message = v1::PatchRequest { collection: collection.to_owned(), target, request };
        let send = |channel, request| async move { Client::records(channel).patch(request).await };
        let answer = self.repeated(message, ReadPreference::Master, send).await?;
        Ok(Patched {
            patched: answer.patched,
            conflicts: conflicts(answer.conflicts)?,
            conflicted: answer.conflicted,
            tokens: self.written(collection, answer.coverage),
        })
    }
}

/// An upsert of all the records.
pub(crate) fn upsert_request(collection: &str, records: Vec<Record>, id: v1::RequestId) -> v1::UpsertRequest {
    let records = records.into_iter().map(record_to_wire).collect();
    let collection = collection.to_owned();
    v1::UpsertRequest { collection, records, request: Some(id), ..Default::default() }
}

/// What a server says was left as it was.
pub(crate) fn conflicts(conflicts: Vec<v1::Conflict>) -> Result<Vec<Conflict>> {
    let one = |conflict: v1::Conflict| {
        let v1::Conflict { key, version, reason, place } = conflict;
        let key = key_from_wire("conflict.key", key).map_err(Error::nonsense)?;
        Ok(Conflict { key, version, reason, place: place as usize })
    };
    conflicts.into_iter().map(one).collect()
}
