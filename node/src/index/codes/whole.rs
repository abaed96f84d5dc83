//! Bytes that start on a cache line.

use std::ops::Range;

/// See the module. As long as it was made.
pub(super) struct Whole {
    words: Vec<u64>,
    /// Where the first byte stands.
    start: usize,
    len: usize,
}

impl Whole {
    const LINE: usize = 64;

    /// So many zeros.
    pub(super) fn new(len: usize) -> Whole {
        let words = vec![0u64; len.div_ceil(8) + Whole::LINE / 8];
        let start = words.as_ptr().align_offset(Whole::LINE).min(Whole::LINE / 8) * 8;
        Whole { words, start, len }
    }

    /// All of them, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        all.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }

    /// Some of them, to be written; none if they are not there.
    pub(super) fn part_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        self.bytes_mut().get_mut(range).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        let all: &[u8] = bytemuck::cast_slice(&self.words);
        all.get(self.start..self.start + self.len).unwrap_or_default()
    }
}
