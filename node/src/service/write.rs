//! Writes from the wire, and what became of them to the wire.

use flotilla_proto::convert::{
    edit_from_wire, filter_from_wire, key_to_wire, patch_from_wire, record_from_wire, write_mode_from_wire,
};
use flotilla_proto::limits::{BATCH_MAX, EXPIRES_AT_MS_MAX};
use flotilla_proto::record::{Key, Record};
use flotilla_proto::refusal::Violation;
use flotilla_proto::schema::{at_most, check_ttl};
use flotilla_proto::shard::{self, write_request::Command};
use flotilla_proto::v1::{self, WriteMode};

use super::shard::keys_from_wire;
use crate::env::clock;
use crate::machine::Refused;
use crate::machine::command::Expect;
use crate::partition::{Write, Written};

/// A write, and where what it names stands in the request that it is a part of.
pub(super) struct Part {
    write: Write,
    places: Vec<u32>,
}

pub(super) fn records_from_wire(records: Vec<v1::Record>) -> Result<Vec<Record>, Violation> {
    let records = records.into_iter().enumerate();
    records.map(|(n, record)| record_from_wire(&format!("records[{n}]"), record)).collect()
}

/// What a record of a write in this mode expects; nothing if it is to be written in any case.
fn expected(mode: WriteMode, record: &Record) -> Option<Expect> {
    match (mode, record.version) {
        (WriteMode::Upsert, _) => None,
        (WriteMode::InsertOnly, _) | (WriteMode::IfVersion, 0) => Some(Expect::Absent),
        (WriteMode::UpdateOnly, _) => Some(Expect::Present),
        (WriteMode::IfVersion, version) => Some(Expect::Version(version)),
    }
}

/// Records that do not say when they expire do so after `ttl_ms` from now, unless that is 0.
fn expire(records: &mut [Record], ttl_ms: u64) -> Result<(), Violation> {
    check_ttl(ttl_ms)?;
    if ttl_ms > 0 {
        let when = clock::unix_millis().saturating_add(ttl_ms).min(EXPIRES_AT_MS_MAX);
        for record in records.iter_mut().filter(|record| record.expires_at_ms.is_none()) {
            record.expires_at_ms = Some(when);
        }
    }
    Ok(())
}

fn upsert_if(command: shard::RecordsIf) -> Result<Part, Violation> {
    let shard::RecordsIf { records, mode, places, ttl_ms } = command;
    at_most("records", "records", BATCH_MAX, records.len())?;
    check_places(&places, records.len())?;
    let mode = write_mode_from_wire(mode)?;
    let mut records = records_from_wire(records)?;
    expire(&mut records, ttl_ms)?;
    if mode == WriteMode::Upsert {
        return Ok(Part { write: Write::Upsert(records), places });
    }
    let expecting = |record: Record| {
        let expect = expected(mode, &record);
        let expect = expect.ok_or_else(|| Violation::new("mode", "names no condition"))?;
        Ok((expect, record))
    };
    let records = records.into_iter().map(expecting);
    Ok(Part { write: Write::UpsertIf(records.collect::<Result<_, Violation>>()?), places })
}

fn patch(command: shard::Patches) -> Result<Part, Violation> {
    let shard::Patches { patches, places } = command;
    at_most("patches", "patches", BATCH_MAX, patches.len())?;
    check_places(&places, patches.len())?;
    let patches = patches.into_iter().enumerate();
    let patches = patches.map(|(n, patch)| patch_from_wire(&format!("patches[{n}]"), patch));
    Ok(Part { write: Write::Patch(patches.collect::<Result<_, _>>()?), places })
}

fn matching(command: v1::PatchMatching) -> Result<Write, Violation> {
    let v1::PatchMatching { filter, set, unset } = command;
    let filter = filter.ok_or_else(|| Violation::new("matching.filter", "is missing"))?;
    Ok(Write::PatchMatching(filter_from_wire(filter)?, edit_from_wire("matching", set, unset)?))
}

/// Refuses places that are not one for each of `wanted` items.
fn check_places(places: &[u32], wanted: usize) -> Result<(), Violation> {
    if places.len() == wanted {
        return Ok(());
    }
    Err(Violation::new("places", format!("{} places for {wanted}: each has one", places.len())))
}

/// The write that a command asks for.
pub(super) fn part_from_wire(command: Option<Command>) -> Result<Part, Violation> {
    let write = match command {
        Some(Command::Upsert(shard::Records { records })) => Write::Upsert(records_from_wire(records)?),
        Some(Command::Delete(list)) => Write::Delete(keys_from_wire(list.keys)?),
        Some(Command::DeleteFilter(filter)) => Write::DeleteFilter(filter_from_wire(filter)?),
        Some(Command::UpsertIf(command)) => return upsert_if(command),
        Some(Command::Patch(command)) => return patch(command),
        Some(Command::PatchMatching(command)) => matching(command)?,
        Some(Command::Replace(_)) => return Err(Violation::new("command", "is a step of a replacement")),
        None => return Err(Violation::new("command", "is missing")),
    };
    Ok(Part { write, places: Vec::new() })
}

/// What became of a part whose items have these places in the request.
pub(super) fn written_to_wire(written: Written, places: &[u32]) -> shard::WriteResponse {
    let conflict = |(at, refused): (u32, Refused)| {
        let Refused { key, version, reason, .. } = refused;
        let place = places.get(at as usize).copied().unwrap_or_default();
        v1::Conflict { key: Key::from_bytes(&key).as_ref().map(key_to_wire), version, reason, place }
    };
    shard::WriteResponse {
        affected: written.affected,
        log_index: written.log_index,
        conflicts: written.refused.into_iter().map(conflict).collect(),
        unnamed: written.unnamed,
        ..Default::default()
    }
}

impl Part {
    /// The write, and the places of what it names.
    pub fn into_write(self) -> (Write, Vec<u32>) {
        (self.write, self.places)
    }
}
