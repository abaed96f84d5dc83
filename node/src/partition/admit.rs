//! Before a write is proposed: everything that can be refused is refused here, so that applying it cannot fail for the
//! caller's sake.

use flotilla_proto::filter::{Compiled, Filter};
use flotilla_proto::limits::BATCH_MAX;
use flotilla_proto::patch::Patch;
use flotilla_proto::record::{Key, Record};
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::{CollectionSpec, at_most, check_key};

use super::{Owned, Write};
use crate::machine::command::{Body, Expect, PatchRow, Rows, Rules};
use crate::machine::moves::{Cursor, Moves, Step};
use crate::storage::StoredRow;
use crate::storage::row::stored_vectors;

/// What the machine must be told first: what came by a move and, by the caller's map, is the partition's now.
pub(super) fn due(moves: &Moves, owned: &Owned) -> Option<Step> {
    let came = moves.incoming.as_ref()?;
    let is_due = came.cursor == Cursor::Complete && came.area.is_within(&owned.area);
    is_due.then_some(Step::EndImport { id: came.id, taken: true })
}

/// The command of a write.
pub(super) fn admit(
    spec: &CollectionSpec,
    moves: &Moves,
    owned: &Owned,
    write: Write,
) -> Result<Body, Refusal> {
    Ok(match write {
        Write::Upsert(records) => Body::Upsert(rows(spec, owned, &records)?),
        Write::UpsertIf(wishes) => {
            let (expected, records): (Vec<Expect>, Vec<Record>) = wishes.into_iter().unzip();
            Body::UpsertIf(expected.into_iter().zip(rows(spec, owned, &records)?).collect())
        }
        Write::Patch(patches) => {
            at_most("patches", "patches", BATCH_MAX, patches.len())?;
            let patches = (0..).zip(&patches).map(|(n, patch)| patch_row(spec, n, patch));
            let patches: Vec<PatchRow> = patches.collect::<Result<_, _>>()?;
            owned.check(patches.iter().map(|patch| patch.key.as_slice()))?;
            Body::Patch { patches, rules: rules(spec) }
        }
        Write::PatchMatching(filter, edit) => {
            edit.check("matching")?;
            check_matching(spec, moves, owned, &filter)?;
            Body::PatchMatching { filter, edit, rules: rules(spec), layout: moves.layout }
        }
        Write::Delete(keys) => {
            at_most("keys", "keys", BATCH_MAX, keys.len())?;
            keys.iter().try_for_each(|key| check_key("keys", key))?;
            let bytes: Vec<Vec<u8>> = keys.iter().map(Key::to_bytes).collect();
            owned.check(bytes.iter().map(Vec::as_slice))?;
            Body::Delete(keys)
        }
        Write::DeleteFilter(filter) => {
            check_matching(spec, moves, owned, &filter)?;
            Body::DeleteMatching { filter, fields: spec.fields.clone(), layout: moves.layout }
        }
    })
}

/// The same, within what its tenant may have by the newest map that this node knows. Deletes always are.
///
/// What a tenant stores in all its partitions is added up by the leader of the meta group, every few seconds, and the map says
/// whether that is as much as it may be; what is written until the next look, [`quota`](super::quota) bounds. How many records
/// there are only the log tells: the machine decides that.
pub(super) fn limited(body: Body, owned: &Owned) -> Result<Body, Refusal> {
    let Some(tenancy) = &owned.tenancy else { return Ok(body) };
    let is_write =
        matches!(body, Body::Upsert(_) | Body::UpsertIf(_) | Body::Patch { .. } | Body::PatchMatching { .. });
    if is_write && tenancy.is_full {
        return Err(tenancy.full());
    }
    Ok(match (body, owned.records_max) {
        (Body::Upsert(rows), Some(records_max)) => Body::Within { records_max, rows: Rows::All(rows) },
        (Body::UpsertIf(rows), Some(records_max)) => Body::Within { records_max, rows: Rows::If(rows) },
        (body, _) => body,
    })
}

/// Bytes that a command adds to the store, as far as they are in it: what a change of records by a condition adds, and what a patch
/// leaves of them, the next look tells.
pub(super) fn bytes(body: &Body) -> u64 {
    let patched = |patch: &PatchRow| {
        let values = patch.vectors.iter().map(|vector| vector.values.len() * 4).sum::<usize>();
        (patch.key.len() + values) as u64
    };
    match body {
        Body::Upsert(rows) | Body::Within { rows: Rows::All(rows), .. } => {
            rows.iter().map(|row| row.size() as u64).sum()
        }
        Body::UpsertIf(rows) | Body::Within { rows: Rows::If(rows), .. } => {
            rows.iter().map(|(_, row)| row.size() as u64).sum()
        }
        Body::Patch { patches, .. } => patches.iter().map(patched).sum(),
        _ => 0,
    }
}

/// Refuses a condition that says nothing here, or that the caller's map is too old or too new for. The machine refuses it if the
/// layout is another one by then.
fn check_matching(
    spec: &CollectionSpec,
    moves: &Moves,
    owned: &Owned,
    filter: &Filter,
) -> Result<(), Refusal> {
    Compiled::new(filter, spec)?;
    if !moves.gained.is_within(&owned.area) || moves.given.overlaps(&owned.area) {
        return Err(owned.stale());
    }
    Ok(())
}

fn rules(spec: &CollectionSpec) -> Rules {
    Rules { fields: spec.fields.clone(), strict: spec.strict }
}

fn patch_row(spec: &CollectionSpec, n: usize, patch: &Patch) -> Result<PatchRow, Violation> {
    patch.check(&format!("patches[{n}]"), spec)?;
    Ok(PatchRow {
        key: patch.key.to_bytes(),
        edit: patch.edit.clone(),
        vectors: stored_vectors(&patch.vectors, spec)?,
        if_version: patch.if_version,
    })
}

/// The rows of records that fit the collection and are the partition's, in order.
pub(super) fn rows(
    spec: &CollectionSpec,
    owned: &Owned,
    records: &[Record],
) -> Result<Vec<StoredRow>, Refusal> {
    at_most("records", "records", BATCH_MAX, records.len())?;
    for (n, record) in records.iter().enumerate() {
        spec.check_record(&format!("records[{n}]"), record)?;
    }
    let rows = records.iter().map(|record| StoredRow::from_domain(record, spec));
    let rows: Vec<StoredRow> = rows.collect::<Result<_, _>>()?;
    owned.check(rows.iter().map(|row| row.key.as_slice()))?;
    Ok(rows)
}
