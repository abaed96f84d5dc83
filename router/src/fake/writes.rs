//! Writes of a fake node, the obvious way.

use flotilla_proto::convert::{
    edit_from_wire, key_from_wire, key_to_wire, patch_from_wire, record_from_wire,
};
use flotilla_proto::ids::PartitionId;
use flotilla_proto::patch::Edit;
use flotilla_proto::record::{Key, Record};
use flotilla_proto::shard::write_request::Command;
use flotilla_proto::{shard, v1};
use tonic::Status;

use super::{Fake, Store};

impl Fake {
    /// Carries a write out, once per request id.
    pub(super) fn apply(
        &self,
        partition: PartitionId,
        message: shard::WriteRequest,
        doomed: &[Record],
    ) -> Result<shard::WriteResponse, Status> {
        let mut stores = self.0.common.stores.lock();
        let store = stores.entry(partition).or_default();
        let id = message.request.map(|r| (r.client, r.serial)).filter(|(client, _)| *client != 0);
        let is_new = id.is_none_or(|id| store.serials.insert(id));
        store.log_index += u64::from(is_new);
        let mut conflicts = Vec::new();
        let affected = match message.command.unwrap() {
            _ if !is_new => 0,
            Command::Upsert(batch) => {
                batch.records.iter().try_for_each(|record| store.put(record))?;
                batch.records.len()
            }
            Command::UpsertIf(batch) => {
                let named = batch.records.len();
                for (record, place) in batch.records.iter().zip(&batch.places) {
                    match store.conflict(record, batch.mode()) {
                        None => store.put(record)?,
                        Some(conflict) => conflicts.push(v1::Conflict { place: *place, ..conflict }),
                    }
                }
                named - conflicts.len()
            }
            Command::Delete(list) => {
                let key = |key: &v1::Key| key_from_wire("k", Some(key.clone())).unwrap();
                list.keys.iter().filter(|k| store.records.remove(&key(k)).is_some()).count()
            }
            Command::Patch(list) => {
                let named = list.patches.len();
                for (n, patch) in list.patches.into_iter().enumerate() {
                    let patch = patch_from_wire("p", patch)?;
                    let (key, place) = (Some(key_to_wire(&patch.key)), list.places[n]);
                    if !store.edit(&patch.key, &patch.edit) {
                        conflicts.push(v1::Conflict { key, place, ..Default::default() });
                    }
                }
                named - conflicts.len()
            }
            Command::PatchMatching(matching) => {
                let edit = edit_from_wire("m", matching.set, matching.unset)?;
                doomed.iter().filter(|record| store.edit(&record.key, &edit)).count()
            }
            Command::Replace(_) => return Err(Status::unimplemented("a fake node holds nothing back")),
            Command::DeleteFilter(_) => {
                doomed.iter().filter(|r| store.records.remove(&r.key).is_some()).count()
            }
        };
        Ok(shard::WriteResponse {
            affected: affected as u64,
            log_index: store.log_index,
            conflicts,
            ..Default::default()
        })
    }
}

impl Store {
    fn put(&mut self, record: &v1::Record) -> Result<(), Status> {
        let mut record = record_from_wire("r", record.clone())?;
        record.version = self.log_index;
        self.records.insert(record.key.clone(), record);
        Ok(())
    }

    /// False if there is no such record, or it cannot be changed so.
    fn edit(&mut self, key: &Key, edit: &Edit) -> bool {
        let Some(record) = self.records.get_mut(key) else { return false };
        let mut payload = record.payload.clone();
        let is_done = edit.apply(&mut payload).is_ok();
        if is_done {
            (record.payload, record.version) = (payload, self.log_index);
        }
        is_done
    }

    fn conflict(&self, record: &v1::Record, mode: v1::WriteMode) -> Option<v1::Conflict> {
        let key = key_from_wire("k", record.key.clone()).unwrap();
        let version = self.records.get(&key).map_or(0, |present| present.version);
        let is_met = match mode {
            v1::WriteMode::Upsert => true,
            v1::WriteMode::InsertOnly => version == 0,
            v1::WriteMode::UpdateOnly => version != 0,
            v1::WriteMode::IfVersion => version == record.version,
        };
        let key = record.key.clone();
        (!is_met).then(|| v1::Conflict { key, version, ..Default::default() })
    }
}
