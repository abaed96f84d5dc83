//! A small file that says what it is: magic, format version, length, checksum, body. Read whole, replaced whole.

use std::path::Path;

use super::Fault;
use crate::env::fs;

/// Bytes before the body: magic (8), format version (4), body length (4), CRC-32 of everything else (4).
pub(super) const HEAD: usize = 20;

/// The largest body that is read back.
const BODY_MAX: u64 = 1 << 30;

/// A kind of such file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Its first bytes.
    pub magic: [u8; 8],
    /// The newest format that this program reads, and the one that it writes.
    pub version: u32,
}

impl Kind {
    /// Replaces the file at `path`, durably.
    pub fn write(&self, path: &Path, body: &[u8]) -> Result<(), Fault> {
        let Some(len) = u32::try_from(body.len()).ok().filter(|len| u64::from(*len) <= BODY_MAX) else {
            return Err(Fault::damaged(path, 0, format!("{} bytes are too many for this file", body.len())));
        };
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.extend_from_slice(&self.magic);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&checksum(&bytes, body).to_le_bytes());
        bytes.extend_from_slice(body);
        fs::write_atomic(path, &bytes).map_err(|error| Fault::io(path, &error))
    }

    /// The body of the file at `path`.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, Fault> {
        let file = fs::open(path).map_err(|error| Fault::io(path, &error))?;
        let len = file.len().map_err(|error| Fault::io(path, &error))?;
        if len < HEAD as u64 || len > BODY_MAX + HEAD as u64 {
            return Err(Fault::damaged(path, 0, format!("{len} bytes cannot be a whole file of this kind")));
        }
        drop(file);
        let mut bytes = fs::read(path).map_err(|error| Fault::io(path, &error))?;
        let word = |at: usize| bytes.get(at..at + 4).and_then(|w| w.try_into().ok()).map(u32::from_le_bytes);
        if bytes.get(..8) != Some(&self.magic) {
            return Err(Fault::damaged(path, 0, "not a file of this kind"));
        }
        let (Some(found), Some(body_len), Some(crc)) = (word(8), word(12), word(16)) else {
            return Err(Fault::damaged(path, 0, "cut short"));
        };
        if bytes.len() - HEAD != body_len as usize || checksum(&bytes[..16], &bytes[HEAD..]) != crc {
            return Err(Fault::damaged(path, HEAD as u64, "the checksum does not match"));
        }
        if found > self.version {
            return Err(Fault::Newer { file: path.to_owned(), found, known: self.version });
        }
        Ok(bytes.split_off(HEAD))
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { magic: *b"FLOTTEST", version: 3 };

    #[test]
    fn any_flipped_or_missing_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("F");
        KIND.write(&path, b"some body").unwrap();
        assert_eq!(KIND.read(&path).unwrap(), b"some body");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            assert!(KIND.read(&path).is_err(), "flip at {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(KIND.read(&path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("F");
        Kind { version: 4, ..KIND }.write(&path, b"x").unwrap();
        let fault = KIND.read(&path).unwrap_err();
        assert!(matches!(fault, Fault::Newer { found: 4, known: 3, .. }), "{fault}");
    }
}
