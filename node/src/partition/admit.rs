//! Before a write is proposed: everything that can be refused is refused here, so that applying it cannot fail for the
//! caller's sake.

use flotilla_proto::filter::Compiled;
use flotilla_proto::limits::BATCH_MAX;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::{CollectionSpec, at_most, check_key};

use super::{Owned, Write};
use crate::machine::command::Body;
use crate::machine::moves::{Cursor, Moves, Step};
use crate::storage::StoredRow;

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
        Write::Upsert(records) => {
            at_most("records", "records", BATCH_MAX, records.len())?;
            for (n, record) in records.iter().enumerate() {
                spec.check_record(&format!("records[{n}]"), record)?;
            }
            let rows = records.iter().map(|record| StoredRow::from_domain(record, spec));
            let rows: Vec<StoredRow> = rows.collect::<Result<_, _>>()?;
            owned.check(rows.iter().map(|row| row.key.as_slice()))?;
            Body::Upsert(rows)
        }
        Write::Delete(keys) => {
            at_most("keys", "keys", BATCH_MAX, keys.len())?;
            keys.iter().try_for_each(|key| check_key("keys", key))?;
            let bytes: Vec<Vec<u8>> = keys.iter().map(Key::to_bytes).collect();
            owned.check(bytes.iter().map(Vec::as_slice))?;
            Body::Delete(keys)
        }
        Write::DeleteFilter(filter) => {
            Compiled::new(&filter, spec)?;
            // The machine refuses it if the layout is another one by then.
            if !moves.gained.is_within(&owned.area) || moves.given.overlaps(&owned.area) {
                return Err(owned.stale());
            }
            Body::DeleteMatching { filter, fields: spec.fields.clone(), layout: moves.layout }
        }
    })
}
