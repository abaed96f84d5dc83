//! The doors for fuzzing of the log: a record, and the recovery of a lane.

// What a door needs to begin with is there, or nothing can be tried.
#![allow(clippy::expect_used, clippy::panic)]

mod lane;

use super::record::{self, Draft, HEADER_BYTES};

pub use lane::log_recovery;
#[cfg(test)]
pub use lane::scripts;

/// Four bytes of salt, then what may be a record. Then the same again with a header checksum that fits, as no bit rot makes
/// it but a hostile hand could.
///
/// **Promise.** Bytes are a record or none, without a panic; a record is no longer than the longest; encoded again it is
/// the same bytes.
pub fn log_record(bytes: &[u8]) {
    let Some((salt, bytes)) = bytes.split_first_chunk::<4>() else { return };
    let salt = u32::from_le_bytes(*salt);
    comes_back(bytes, salt);
    if bytes.len() >= HEADER_BYTES {
        let mut bytes = bytes.to_vec();
        record::restamp(&mut bytes, salt);
        comes_back(&bytes, salt);
    }
}

fn comes_back(bytes: &[u8], salt: u32) {
    let Some(header) = record::decode(bytes, salt) else { return };
    assert!(header.record_len() <= HEADER_BYTES + record::BODY_BYTES_MAX);
    assert!(header.run_start() <= header.seq);
    let Some(body) = bytes.get(HEADER_BYTES..header.record_len()) else { return };
    if header.fits(body, salt) {
        let record::Header { kind, group, index, seq, run, .. } = header;
        let mut again = Vec::new();
        assert_eq!(record::encode(&mut again, Draft { kind, group, index, seq, run }, body, salt), header);
        assert_eq!(again, bytes[..header.record_len()]);
    }
}

/// A record with a body, for the corpus.
#[cfg(test)]
pub fn sample() -> Vec<u8> {
    let mut bytes = 99_u32.to_le_bytes().to_vec();
    let draft = Draft { kind: record::Kind::Entry, group: 7, index: 9, seq: 40, run: 3 };
    record::encode(&mut bytes, draft, b"a body", 99);
    bytes
}
