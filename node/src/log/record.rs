//! One record of a lane: a header of 40 bytes, then the body.
//!
//! ```text
//! 0 header crc u32 | 4 body length u32 | 8 body crc u32 | 12 group u64 | 20 sequence u64 | 28 index u64
//! 36 records since the last sync u16 | 38 kind u8 | 39 zero | 40 body
//! ```
//!
//! Little endian. Header and body have a checksum each, so that damage in a body still tells the group it
//! belongs to and where the next record begins. Both start from the segment's random *salt*: bytes of another
//! log that a user stored as a payload never pass for a record of this one.

/// Bytes of a record before its body.
pub const HEADER_BYTES: usize = 40;

/// Longest body of a record, in bytes: the whole record stays within 64 MiB.
pub const BODY_BYTES_MAX: usize = (64 << 20) - HEADER_BYTES;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The next entry of the group.
    Entry = 1,
    /// An entry written again, to free an older segment.
    Moved = 2,
    /// The group's vote.
    Vote = 3,
    /// Entries after `index` are gone.
    Truncate = 4,
    /// All entries are gone.
    TruncateAll = 5,
    /// Entries up to `index` are gone; the body is the owner's id of that entry.
    Purge = 6,
    /// The group's committed mark.
    Committed = 7,
    /// The group with all it had is gone; also ends a quarantine.
    Removed = 8,
    /// Everything before this record is durable.
    Durable = 9,
    /// Segments before number `index` are no longer needed.
    Reclaimed = 10,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Entry, Moved, Vote, Truncate, TruncateAll, Purge, Committed, Removed, Durable, Reclaimed]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub group: u64,
    pub index: u64,
    pub seq: u64,
    /// Records written before this one since the last sync.
    pub run: u16,
    pub body_len: u32,
    body_crc: u32,
}

impl Header {
    /// Bytes of the whole record.
    pub fn record_len(&self) -> usize {
        HEADER_BYTES + self.body_len as usize
    }

    /// Sequence of the first record of this one's run: all before it were durable when this was written.
    pub fn run_start(&self) -> u64 {
        self.seq - u64::from(self.run)
    }

    /// Whether `body` is what was written.
    pub fn fits(&self, body: &[u8], salt: u32) -> bool {
        body.len() == self.body_len as usize && checksum(body, salt) == self.body_crc
    }
}

/// What the caller chooses of a header; lengths and checksums follow from the body.
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    pub kind: Kind,
    pub group: u64,
    pub index: u64,
    pub seq: u64,
    pub run: u16,
}

/// Appends the record to `out`; `body` is at most [`BODY_BYTES_MAX`] long. Returns its header.
pub fn encode(out: &mut Vec<u8>, draft: Draft, body: &[u8], salt: u32) -> Header {
    debug_assert!(body.len() <= BODY_BYTES_MAX);
    let Draft { kind, group, index, seq, run } = draft;
    let header =
        Header { kind, group, index, seq, run, body_len: body.len() as u32, body_crc: checksum(body, salt) };
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&header.body_len.to_le_bytes());
    out.extend_from_slice(&header.body_crc.to_le_bytes());
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&run.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0]);
    let crc = checksum(&out[start + 4..], salt);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(body);
    header
}

/// The header at the start of `bytes`, if there is a valid one. The body is not looked at.
pub fn decode(bytes: &[u8], salt: u32) -> Option<Header> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    let kind = Kind::of(bytes[38])?;
    let header = Header {
        kind,
        group: u64_at(bytes, 12),
        index: u64_at(bytes, 28),
        seq: u64_at(bytes, 20),
        run: u16::from_le_bytes([bytes[36], bytes[37]]),
        body_len: u32_at(bytes, 4),
        body_crc: u32_at(bytes, 8),
    };
    let plausible =
        bytes[39] == 0 && header.body_len as usize <= BODY_BYTES_MAX && header.seq >= u64::from(header.run);
    (plausible && checksum(&bytes[4..], salt) == u32_at(bytes, 0)).then_some(header)
}

/// Gives what stands at the start of `bytes`, which hold a header's length, the checksums of a record.
#[cfg(any(test, feature = "fuzz"))]
pub fn restamp(bytes: &mut [u8], salt: u32) {
    let body = bytes.get(HEADER_BYTES..).and_then(|rest| rest.get(..u32_at(bytes, 4) as usize));
    if let Some(crc) = body.map(|body| checksum(body, salt)) {
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = checksum(&bytes[4..HEADER_BYTES], salt);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The sequence field of what may be a header; a cheap test before [`decode`]. `bytes` holds a header's length.
pub fn peek_seq(bytes: &[u8]) -> u64 {
    u64_at(bytes, 20)
}

fn checksum(bytes: &[u8], salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// Four bytes at `at`; the caller has checked the length.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// Eight bytes at `at`; the caller has checked the length.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        let draft = Draft { kind: Kind::Entry, group: 7, index: 9, seq: 40, run: 3 };
        let header = encode(&mut bytes, draft, b"a body", 99);
        assert_eq!(decode(&bytes, 99), Some(header));
        assert!(header.fits(&bytes[HEADER_BYTES..], 99));
        assert_eq!((header.run_start(), header.record_len()), (37, bytes.len()));
        assert_eq!(decode(&bytes, 98), None, "another segment's record");
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let whole = decode(&bytes, 99).is_some_and(|h| h.fits(&bytes[HEADER_BYTES..], 99));
            assert!(!whole, "bit {bit}");
        }
        for cut in 0..HEADER_BYTES {
            assert_eq!(decode(&bytes[..cut], 99), None);
        }
        assert_eq!(decode(&[0; 64], 0), None, "zeros are no record");
    }
}
