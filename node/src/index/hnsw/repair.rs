//! Making every row reachable.
//!
//! Pruning can cut the last link to a vertex; rows that equal many others lose theirs most easily. After the
//! insertions one thread floods layer 0 from the entry. For each row the flood did not reach it looks up the
//! nearest reached vertices and links the row to one with a free slot; where all are full, the nearest one's last
//! link `v -> w` becomes `v -> row -> w`. Nothing reached is ever lost, so one pass over the rows is enough.

use super::super::{Bitset, Cancelled, Progress};
use super::beam::Scratch;
use super::build::Growing;
use super::layer::{Layer, Metric};

/// Reached vertices that are asked for a free slot.
const NEAREST: usize = 16;

/// Links every row of layer 0 so that a walk from `entry` can reach it.
pub(super) fn reach_all<M: Metric>(
    layer: &Growing,
    entry: u32,
    metric: &M,
    progress: &Progress,
) -> Result<(), Cancelled> {
    let mut reached = Bitset::new(layer.len());
    let mut scratch = Scratch::default();
    flood(layer, entry, &mut reached);
    for row in 0..layer.len() as u32 {
        if !reached.contains(row) {
            progress.advance(0)?;
            let mut probe = metric.from(row);
            scratch.walk(layer, &mut probe, &[entry], NEAREST, None);
            splice(layer, row, scratch.beam.found().map(|(vertex, _)| vertex));
            flood(layer, row, &mut reached);
        }
    }
    Ok(())
}

/// Marks `start` and everything that links lead to from it.
fn flood(layer: &Growing, start: u32, reached: &mut Bitset) {
    let mut ahead = vec![start];
    reached.insert(start);
    while let Some(vertex) = ahead.pop() {
        ahead.extend(layer.links(vertex).filter(|link| reached.insert(*link)));
    }
}

/// Links one of `nearest` (all reached, nearest first) to `row`.
fn splice(layer: &Growing, row: u32, nearest: impl Iterator<Item = u32>) {
    let mut nearest = nearest.peekable();
    let Some(&closest) = nearest.peek() else { return };
    if nearest.any(|vertex| layer.add_link(vertex, row)) {
        return;
    }
    let displaced = layer.replace_last(closest, row);
    if layer.links(row).all(|link| link != displaced) && !layer.add_link(row, displaced) {
        layer.replace_last(row, displaced);
    }
}
