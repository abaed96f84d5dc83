//! Marks of the vertices that a walk has seen.

/// One bit per vertex, and which bits were set: the next walk takes them back. 100,000 vertices are 12.5 KB, which the
/// processor's nearest cache holds; with stamps of two bytes each mark was a miss (2026-11).
#[derive(Debug, Default)]
pub(super) struct Visited {
    bits: Vec<u64>,
    marked: Vec<u32>,
    len: usize,
}

impl Visited {
    /// Starts a walk over vertices `0..len`, none of them seen.
    pub(super) fn start(&mut self, len: usize) {
        for vertex in self.marked.drain(..) {
            if let Some(word) = self.bits.get_mut(vertex as usize / 64) {
                *word = 0;
            }
        }
        if self.bits.len() < len.div_ceil(64) {
            self.bits.resize(len.div_ceil(64), 0);
        }
        self.len = len;
    }

    /// Marks a vertex. True the first time in this walk; false ever after, and for a vertex outside the walk.
    #[inline]
    pub(super) fn first(&mut self, vertex: u32) -> bool {
        if vertex as usize >= self.len {
            return false;
        }
        let Some(word) = self.bits.get_mut(vertex as usize / 64) else { return false };
        let bit = 1 << (vertex % 64);
        let is_first = *word & bit == 0;
        if is_first {
            *word |= bit;
            self.marked.push(vertex);
        }
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_lasts_one_walk() {
        let mut visited = Visited::default();
        for walk in 0..100u32 {
            visited.start(if walk % 2 == 0 { 4 } else { 2 });
            assert!(visited.first(walk % 2) && !visited.first(walk % 2));
            assert!(!visited.first(4), "outside");
            assert_eq!(visited.first(3), walk % 2 == 0);
        }
    }
}
