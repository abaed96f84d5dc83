//! Byte strings, one after the other in one allocation.

/// A list of byte strings that only grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Blobs {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Blobs {
    /// An empty list with room.
    pub fn with_capacity(count: usize, bytes: usize) -> Blobs {
        Blobs { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(count) }
    }

    /// Adds one.
    pub fn push(&mut self, blob: &[u8]) {
        self.bytes.extend_from_slice(blob);
        self.ends.push(self.bytes.len());
    }

    /// Adds all of another list.
    pub fn extend(&mut self, other: &Blobs) {
        let base = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| base + end));
    }

    /// One of them; empty beyond the last.
    pub fn get(&self, place: u32) -> &[u8] {
        let place = place as usize;
        let start = match place.checked_sub(1) {
            Some(before) => self.ends.get(before).copied(),
            None => Some(0),
        };
        match (start, self.ends.get(place)) {
            (Some(start), Some(end)) => self.bytes.get(start..*end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all of them together.
    pub fn total(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_concatenate() {
        let mut list = Blobs::default();
        list.push(b"ab");
        list.push(b"");
        let mut other = Blobs::with_capacity(1, 1);
        other.push(b"c");
        list.extend(&other);
        assert_eq!([0, 1, 2, 3].map(|i| list.get(i)), [&b"ab"[..], b"", b"c", b""]);
        assert_eq!((list.len(), list.total()), (3, 3));
    }
}
