//! Marks of the vertices that a walk has seen.

/// One epoch stamp per vertex: starting a new walk is one addition, and the marks are wiped every 65,535 walks.
#[derive(Debug, Default)]
pub(super) struct Visited {
    stamps: Vec<u16>,
    epoch: u16,
    len: usize,
}

impl Visited {
    /// Starts a walk over vertices `0..len`, none of them seen.
    pub(super) fn start(&mut self, len: usize) {
        if self.stamps.len() < len {
            self.stamps.resize(len, 0);
        }
        self.len = len;
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.stamps.fill(0);
            self.epoch = 1;
        }
    }

    /// Marks a vertex. True the first time in this walk; false ever after, and for a vertex outside the walk.
    #[inline]
    pub(super) fn first(&mut self, vertex: u32) -> bool {
        let Some(stamp) = self.stamps[..self.len].get_mut(vertex as usize) else { return false };
        let is_first = *stamp != self.epoch;
        *stamp = self.epoch;
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_lasts_one_walk_even_when_epochs_wrap() {
        let mut visited = Visited::default();
        for walk in 0..70_000u32 {
            visited.start(if walk % 2 == 0 { 4 } else { 2 });
            assert!(visited.first(walk % 2) && !visited.first(walk % 2));
            assert!(!visited.first(4), "outside");
            assert_eq!(visited.first(3), walk % 2 == 0);
        }
    }
}
