//! From a row of a segment to the record that a caller asked for.

use flotilla_proto::record::{Key, Record};
use flotilla_proto::schema::CollectionSpec;

use super::Parts;
use crate::storage::{Fault, SegmentView};

/// The record in this row, with the parts that were asked for.
pub(super) fn read_record(
    segment: &dyn SegmentView,
    row: u32,
    key: Key,
    spec: &CollectionSpec,
    parts: &Parts,
) -> Result<Record, Fault> {
    let mut record = Record::new(key);
    record.version = segment.version(row);
    record.expires_at_ms = segment.expires_at_ms(row)?;
    if parts.payload {
        let payload = segment.payload(row)?;
        record.payload = match &parts.fields {
            Some(fields) => fields.of(payload),
            None => payload,
        };
    }
    if parts.vectors {
        for name in spec.vectors.keys() {
            record.vectors.extend(segment.vector(name, row)?.map(|values| (name.clone(), values)));
        }
    }
    Ok(record)
}
