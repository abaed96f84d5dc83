//! A segment file: its header, its making, and the walk over its records.
//!
//! ```text
//! 0 magic 8 | 8 version u32 | 12 lane u32 | 16 number u32 | 20 oldest segment then u32 | 24 salt u32
//! 28 first sequence u64 | 36 file length u64 | 44 zero 16 | 60 crc u32 | 64 records, then zeros
//! ```
//!
//! A segment is made under another name, synced and renamed, so one whose header does not read is damaged, never
//! half made. It is zeros beyond its last record and keeps its first length for good.

use std::io;
use std::path::{Path, PathBuf};

use super::record::{self, HEADER_BYTES, Header, u32_at, u64_at};
use crate::env::mmap::Pages;
use crate::env::{self, fs};
use crate::planted::{self, Bug};

/// Bytes before the first record.
pub const SEGMENT_HEADER_BYTES: usize = 64;

/// A longer file is none of ours: the largest segment size plus the longest record.
const FILE_BYTES_MAX: u64 = (1 << 30) + (65 << 20);

/// No lane numbers so many records.
const SEQ_MAX: u64 = 1 << 62;

const MAGIC: &[u8; 8] = b"flotwal\n";
const VERSION: u32 = 1;

/// What stands at the start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Title {
    pub lane: u32,
    pub number: u32,
    /// Oldest segment of the lane when this one was made.
    pub oldest: u32,
    pub salt: u32,
    pub first_seq: u64,
    pub file_len: u64,
}

/// A segment that can be read and, while it is the newest, written.
#[derive(Debug)]
pub struct Segment {
    pub file: fs::File,
    pub title: Title,
}

/// The file's path.
pub fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:010}.wal"))
}

/// The number in a segment's file name.
pub fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".wal")?;
    (digits.len() == 10).then(|| digits.parse().ok())?
}

/// Makes a segment with room reserved for `file_len` bytes, durable with its name on return.
pub fn create(
    dir: &Path,
    lane: u32,
    number: u32,
    oldest: u32,
    first_seq: u64,
    file_len: u64,
) -> io::Result<Segment> {
    let title = Title { lane, number, oldest, salt: env::random::u64() as u32, first_seq, file_len };
    let (made, name) = (dir.join(format!("{number:010}.new")), path(dir, number));
    if let Err(error) = write_new(&made, &title) {
        // Give the space back; recovery would remove the file too.
        let _ = fs::remove_file(&made);
        return Err(error);
    }
    fs::rename(&made, &name)?;
    fs::sync_dir(dir).map_err(fs::for_good)?;
    Ok(Segment { file: fs::open_write(&name)?, title })
}

fn write_new(path: &Path, title: &Title) -> io::Result<()> {
    let file = fs::create(path)?;
    file.preallocate(title.file_len)?;
    file.write_at(&title.encode(), 0)?;
    // Even a sync that finds no space may be tried again here: the next try makes another file.
    file.sync_all()
}

impl Title {
    /// The bytes that [`Title::decode`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        for word in [VERSION, self.lane, self.number, self.oldest, self.salt] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&self.file_len.to_le_bytes());
        out.resize(SEGMENT_HEADER_BYTES - 4, 0);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the title of segment `number` of `lane`, or says what is wrong with it.
    pub fn decode(bytes: &[u8], lane: u32, number: u32) -> Result<Title, String> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_BYTES) else {
            return Err("the file ends within the segment header".into());
        };
        let crc_at = SEGMENT_HEADER_BYTES - 4;
        if &bytes[..8] != MAGIC || crc32fast::hash(&bytes[..crc_at]) != u32_at(bytes, crc_at) {
            return Err("the segment header does not match its checksum".into());
        }
        if u32_at(bytes, 8) != VERSION {
            return Err(format!("segment version {} is not {VERSION}", u32_at(bytes, 8)));
        }
        let title = Title {
            lane: u32_at(bytes, 12),
            number: u32_at(bytes, 16),
            oldest: u32_at(bytes, 20),
            salt: u32_at(bytes, 24),
            first_seq: u64_at(bytes, 28),
            file_len: u64_at(bytes, 36),
        };
        if title.first_seq > SEQ_MAX || title.file_len > FILE_BYTES_MAX {
            return Err(format!("{} bytes from record {} on cannot be", title.file_len, title.first_seq));
        }
        if (title.lane, title.number) != (lane, number) {
            return Err(format!("segment {} of lane {} under a foreign name", title.number, title.lane));
        }
        Ok(title)
    }
}

/// Reads a whole segment file, refusing one longer than any we write.
pub fn load(file: &fs::File) -> io::Result<Pages> {
    let len = file.len()?;
    if len > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes are no segment")));
    }
    let mut bytes = Pages::zeroed(len as usize)?;
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// What the walk over a segment meets, in the file's order.
#[derive(Debug)]
pub enum Found<'a> {
    /// A whole record.
    Record(Header, &'a [u8]),
    /// A record whose header is fine and whose body is not.
    BadBody(Header),
    /// Bytes that are no record although records must have stood there.
    BadBytes,
}

/// How a segment ends.
#[derive(Debug, PartialEq, Eq)]
pub struct End {
    /// Where the next record would go.
    pub offset: usize,
    /// The sequence it would have.
    pub next_seq: u64,
    /// Something other than zeros follows, or the file is shorter than it was made: why.
    pub torn: Option<String>,
}

/// Walks the records of a segment (`bytes` is the whole file) and tells `visit` what stands at each offset.
///
/// In the lane's newest segment (`is_last`) bad bytes are a torn tail unless a record of a later run follows. In a
/// sealed one they are damage wherever a record follows; bad bytes at its end are told by [`End`], and the next
/// segment's first sequence tells whether a record stood there.
pub fn walk(bytes: &[u8], title: &Title, is_last: bool, mut visit: impl FnMut(usize, Found<'_>)) -> End {
    let salt = title.salt;
    let (mut at, mut seq) = (SEGMENT_HEADER_BYTES.min(bytes.len()), title.first_seq);
    loop {
        let rest = &bytes[at..];
        let header = record::decode(rest, salt).filter(|header| header.seq == seq);
        let reason = match header {
            Some(header) => match rest.get(HEADER_BYTES..header.record_len()) {
                Some(body) if header.fits(body, salt) => {
                    visit(at, Found::Record(header, body));
                    (at, seq) = (at + header.record_len(), seq + 1);
                    continue;
                }
                Some(_) if !is_last || runs_past(bytes, at + header.record_len(), seq, salt) => {
                    visit(at, Found::BadBody(header));
                    (at, seq) = (at + header.record_len(), seq + 1);
                    continue;
                }
                Some(_) => format!("record {seq} (group {}) does not match its checksum", header.group),
                None => format!("the file ends within record {seq} (group {})", header.group),
            },
            None if is_zero(rest) => {
                let cut = (bytes.len() as u64) < title.file_len;
                let torn = cut.then(|| format!("{} of {} bytes of the file", bytes.len(), title.file_len));
                return End { offset: at, next_seq: seq, torn };
            }
            None => format!("no record {seq} where one should begin"),
        };
        let next = next_record(bytes, at + 1, seq + 1, salt);
        match next {
            Some((offset, header)) if !is_last || runs_past(bytes, offset, seq, salt) => {
                visit(at, Found::BadBytes);
                (at, seq) = (offset, header.seq);
            }
            _ => return End { offset: at, next_seq: seq, torn: Some(reason) },
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Whether a whole record stands at or after `at` whose run began after record `seq`.
fn runs_past(bytes: &[u8], mut at: usize, seq: u64, salt: u32) -> bool {
    if planted::has(Bug::TruncateAtBadChecksum) {
        return false;
    }
    while let Some((offset, header)) = next_record(bytes, at, seq + 1, salt) {
        if header.run_start() > seq {
            return true;
        }
        at = offset + header.record_len();
    }
    false
}

/// The first whole record at or after `at` with a sequence of at least `seq` that the file could have reached.
fn next_record(bytes: &[u8], at: usize, seq: u64, salt: u32) -> Option<(usize, Header)> {
    let reach = seq.saturating_add((bytes.len() / HEADER_BYTES) as u64);
    for offset in at..bytes.len().saturating_sub(HEADER_BYTES - 1) {
        let rest = &bytes[offset..];
        if !(seq..=reach).contains(&record::peek_seq(rest)) {
            continue;
        }
        if let Some(header) = record::decode(rest, salt)
            && rest.get(HEADER_BYTES..header.record_len()).is_some_and(|body| header.fits(body, salt))
        {
            return Some((offset, header));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_that_claims_what_cannot_be_is_refused() {
        let title = Title { lane: 0, number: 1, oldest: 1, salt: 7, first_seq: 1, file_len: 4096 };
        assert_eq!(Title::decode(&title.encode(), 0, 1), Ok(title));
        for wrong in [Title { first_seq: u64::MAX, ..title }, Title { file_len: 1 << 40, ..title }] {
            let why = Title::decode(&wrong.encode(), 0, 1).unwrap_err();
            assert!(why.ends_with("cannot be"), "{why}");
        }
    }
}
