//! From a row of a segment to the record that a caller asked for, encoded: what lies stored goes out without being built.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::convert::{Told, encode_record};
use flotilla_proto::record::Key;
use flotilla_proto::schema::CollectionSpec;

use super::Parts;
use crate::storage::{Fault, SegmentView, encode_payload, split_expiry};

/// Bytes that records are encoded into before the next such stretch is begun: those of a page share few allocations.
const STRETCH_BYTES: usize = 64 << 10;
/// Bytes that there is room for from the start, for each record.
const RECORD_BYTES: usize = 64;

/// Encodes records for the wire, one after the other.
pub(super) struct Reader<'a> {
    spec: &'a CollectionSpec,
    parts: &'a Parts,
    /// The payload of the record that is read.
    stored: Vec<u8>,
    stretch: Vec<u8>,
    ends: Vec<usize>,
    records: Vec<Bytes>,
}

impl<'a> Reader<'a> {
    /// Of about so many records of this collection, with the parts that were asked for.
    pub fn new(spec: &'a CollectionSpec, parts: &'a Parts, count: usize) -> Reader<'a> {
        let stretch = Vec::with_capacity(count.saturating_mul(RECORD_BYTES).min(STRETCH_BYTES));
        let (ends, records) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Reader { spec, parts, stored: Vec::new(), stretch, ends, records }
    }

    /// Reads the record in this row.
    pub fn read(&mut self, segment: &dyn SegmentView, row: u32, key: &Key) -> Result<(), Fault> {
        let mut vectors = BTreeMap::new();
        if self.parts.vectors {
            for name in self.spec.vectors.keys() {
                vectors.extend(segment.vector(name, row)?.map(|values| (name.clone(), values)));
            }
        }
        self.stored.clear();
        if self.parts.payload {
            self.payload(segment, row)?;
        }
        let told = Told {
            key,
            vectors,
            payload: self.parts.payload.then(|| split_expiry(&self.stored).1),
            version: segment.version(row),
            expires_at_ms: segment.expires_at_ms(row)?,
        };
        let is_wanted = |name: &str| self.parts.fields.as_ref().is_none_or(|fields| fields.wants(name));
        encode_record(told, is_wanted, &mut self.stretch).map_err(|_| segment.garbled(row))?;
        self.ends.push(self.stretch.len());
        if self.stretch.len() >= STRETCH_BYTES {
            self.cut();
        }
        Ok(())
    }

    /// Reads the stored payload, in which fields that are wanted in part are cut.
    fn payload(&mut self, segment: &dyn SegmentView, row: u32) -> Result<(), Fault> {
        match self.parts.fields.as_ref().filter(|fields| !fields.is_of_whole_fields()) {
            Some(fields) => {
                let cut = encode_payload(&fields.of(segment.payload(row)?));
                self.stored.extend_from_slice(&cut.map_err(|_| segment.garbled(row))?);
                Ok(())
            }
            None => segment.stored_payload(row, &mut self.stored),
        }
    }

    fn cut(&mut self) {
        let stretch = Bytes::from(std::mem::take(&mut self.stretch));
        let mut start = 0;
        self.records.extend(self.ends.drain(..).map(|end| {
            let record = stretch.slice(start..end);
            start = end;
            record
        }));
    }

    /// All that were read.
    pub fn records(mut self) -> Vec<Bytes> {
        self.cut();
        self.records
    }
}
