//! Locality-sensitive hashing, in two levels: rows whose vectors point the same way share the bits of their hashes.
//!
//! A hash function is a direction through the rows' centre; its bit says on which side a row lies (Charikar, 2002). Directions are
//! the axes of random rotations, so those of one rotation are orthogonal (Ji et al., 2012). The **coarse** functions (16) number a
//! bucket; the rows of a bucket lie side by side with their **fine** hashes (64 bits). A search visits buckets in the order of how
//! far the query lies from the sides that it has to change (Lv et al., 2007: multi-probe), gathers so many rows for each unit of effort,
//! keeps those whose fine hashes differ least, and orders them by their vectors.
//!
//! It is built in one pass over the rows, each independent of the others, and takes 12 to 20 bytes per row: far quicker to build and
//! smaller than a graph, and far less exact at the same speed. Effort is what it trades for recall; with effort enough for all rows
//! it is exact.
//!
//! ```text
//! 64 bytes  magic (8), version u32, dims u32, rows u32, coarse u32, fine u32, buckets u32, seed u64, a
//!           [`Calibration`], zeros, CRC-32 of what follows, CRC-32 of all before
//! centre    dims x f32
//! buckets   u32 each, ascending: the numbers of those that hold rows
//! starts    u32 each: where each of them begins
//! rows      u32 each, bucket by bucket, ascending within a bucket
//! fine      u64 each, in the same order
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::codes::scan::rescore;
use super::rotation::Rotation;
use super::{
    Accept, Backing, Calibration, Cancelled, Damage, Distance, Effort, MAX_ROWS, Neighbor, Progress, Rows,
    Stats, VectorIndex,
};

const MAGIC: [u8; 8] = *b"FLLSH\r\n\n";
const VERSION: u32 = 1;
const HEADER: usize = 64;
/// Where the calibration stands in the header.
const CALIBRATION: usize = 40;
/// Rows gathered from buckets for each unit of effort.
const GATHERED: usize = 16;
/// Of those, rows whose vectors are read.
const READ: usize = 4;

/// How to build it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Functions that number a bucket, 1 to 20.
    pub coarse: u32,
    /// Functions of a fine hash, 1 to 64.
    pub fine: u32,
    /// Where the directions come from.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Params {
        Params { coarse: 16, fine: 64, seed: 0x666c_6f74_696c_6c61 }
    }
}

impl Params {
    fn bounded(self) -> Params {
        Params { coarse: self.coarse.clamp(1, 20), fine: self.fine.clamp(1, 64), ..self }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Lsh {
    directions: Directions,
    /// Buckets that hold rows, ascending, and where each begins.
    buckets: Vec<u32>,
    starts: Vec<u32>,
    rows: Vec<u32>,
    fine: Vec<u64>,
    pub(super) calibration: Calibration,
}

/// The hash functions.
#[derive(Debug)]
struct Directions {
    params: Params,
    centre: Vec<f32>,
    rotations: Vec<Rotation>,
}

impl Directions {
    fn new(params: Params, centre: Vec<f32>) -> Directions {
        let wanted = (params.coarse + params.fine) as usize;
        let count = wanted.div_ceil(centre.len().max(1)) as u64;
        let rotation = |number| Rotation::new(centre.len(), params.seed.wrapping_add(number));
        Directions { params, rotations: (0..count).map(rotation).collect(), centre }
    }

    /// How far a vector lies on the one side of each function, or on the other: coarse ones first.
    fn sides(&self, vector: &[f32]) -> Vec<f32> {
        let mut offset: Vec<f32> =
            vector.iter().zip(&self.centre).map(|(value, mean)| value - mean).collect();
        offset.resize(self.centre.len(), 0.0);
        let mut sides = Vec::with_capacity(self.rotations.len() * offset.len());
        for rotation in &self.rotations {
            let mut rotated = offset.clone();
            rotation.apply(&mut rotated);
            sides.extend(rotated);
        }
        sides.resize((self.params.coarse + self.params.fine) as usize, 0.0);
        sides
    }

    /// The bucket and the fine hash.
    fn hashes(&self, sides: &[f32]) -> (u32, u64) {
        let (coarse, fine) = sides.split_at(self.params.coarse as usize);
        let bits = |sides: &[f32]| {
            sides.iter().enumerate().fold(0u64, |bits, (at, side)| bits | u64::from(*side > 0.0) << at)
        };
        (bits(coarse) as u32, bits(fine))
    }
}

/// Buckets in the order of how far the query lies from them: each is the query's own with some sides changed.
struct Probes {
    /// Coarse functions, the one whose side the query is nearest to changing first: what that costs, and its bit.
    flips: Vec<(f32, u32)>,
    own: u32,
    /// Cost in ordered bits, the bits changed, and the last of the flips among them.
    ahead: BinaryHeap<Reverse<(u32, u32, usize)>>,
    is_begun: bool,
}

impl Probes {
    fn new(own: u32, sides: &[f32]) -> Probes {
        let finite = |side: f32| if side.is_finite() { side * side } else { f32::MAX };
        let mut flips: Vec<(f32, u32)> =
            sides.iter().zip(0..).map(|(side, at)| (finite(*side), 1 << at)).collect();
        flips.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Probes { flips, own, ahead: BinaryHeap::new(), is_begun: false }
    }

    fn push(&mut self, cost: f32, bits: u32, last: usize) {
        // Costs are not below zero, so their bits order as they do.
        self.ahead.push(Reverse((cost.min(f32::MAX).to_bits(), bits, last)));
    }
}

impl Iterator for Probes {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if !self.is_begun {
            self.is_begun = true;
            if let Some((cost, bit)) = self.flips.first().copied() {
                self.push(cost, bit, 0);
            }
            return Some(self.own);
        }
        let Reverse((cost, bits, last)) = self.ahead.pop()?;
        // Each set of flips is made of one other: by adding the flip behind its last one, or by putting it in the last one's place.
        if let (Some((old, old_bit)), Some((new, bit))) =
            (self.flips.get(last).copied(), self.flips.get(last + 1).copied())
        {
            let cost = f32::from_bits(cost);
            self.push(cost + new, bits | bit, last + 1);
            self.push((cost - old).max(0.0) + new, bits & !old_bit | bit, last + 1);
        }
        Some(self.own ^ bits)
    }
}

impl Lsh {
    /// Whether these bytes begin as hashes do.
    pub(super) fn is_begun_by(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// The rows of a bucket, with their fine hashes.
    fn bucket(&self, bucket: u32) -> impl Iterator<Item = (u32, u64)> + '_ {
        let range = match self.buckets.binary_search(&bucket) {
            Ok(at) => {
                let start = |at: usize| self.starts.get(at).map_or(self.rows.len(), |start| *start as usize);
                start(at)..start(at + 1)
            }
            Err(_) => 0..0,
        };
        let rows = self.rows.get(range.clone()).unwrap_or_default();
        rows.iter().copied().zip(self.fine.get(range).unwrap_or_default().iter().copied())
    }
}

impl VectorIndex for Lsh {
    type Params = Params;

    fn build(
        rows: Rows<'_>,
        _: Distance,
        params: &Params,
        _: usize,
        progress: &Progress,
    ) -> Result<Lsh, Cancelled> {
        let params = params.bounded();
        let directions = Directions::new(params, super::codes::centre(rows));
        let mut hashed = Vec::with_capacity(rows.len());
        for row in 0..rows.len() as u32 {
            let (bucket, fine) = directions.hashes(&directions.sides(rows.row(row)));
            hashed.push((bucket, row, fine));
            progress.advance(1)?;
        }
        hashed.sort_unstable();
        let (mut buckets, mut starts) = (Vec::new(), Vec::new());
        for (at, (bucket, ..)) in hashed.iter().enumerate() {
            if buckets.last() != Some(bucket) {
                buckets.push(*bucket);
                starts.push(at as u32);
            }
        }
        let fine = hashed.iter().map(|(.., fine)| *fine).collect();
        Ok(Lsh {
            directions,
            buckets,
            starts,
            rows: hashed.into_iter().map(|(_, row, _)| row).collect(),
            fine,
            calibration: Calibration::default(),
        })
    }

    fn search(
        &self,
        rows: Rows<'_>,
        distance: Distance,
        query: &[f32],
        k: usize,
        effort: impl Into<Effort>,
        accept: Accept<'_>,
        stats: &mut Stats,
    ) -> Vec<Neighbor> {
        let sides = self.directions.sides(query);
        let (own, hash) = self.directions.hashes(&sides);
        let effort = effort.into().width.max(k).min(self.rows.len());
        let (wanted, read) = (effort.saturating_mul(GATHERED), effort.saturating_mul(READ));
        let mut found: Vec<(u32, u32)> = Vec::new();
        for bucket in Probes::new(own, &sides[..self.directions.params.coarse as usize]) {
            for (row, fine) in self.bucket(bucket) {
                stats.visited += 1;
                if (row as usize) < rows.len() && accept.contains(row) {
                    found.push(((fine ^ hash).count_ones(), row));
                }
            }
            if found.len() >= wanted {
                break;
            }
        }
        if found.len() > read && read > 0 {
            found.select_nth_unstable(read - 1);
            found.truncate(read);
        }
        found.sort_unstable_by_key(|(_, row)| *row);
        rescore(rows, distance, query, k, found.into_iter().map(|(_, row)| row), stats)
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let Directions { params, centre, .. } = &self.directions;
        let words = centre.len() + 2 * self.starts.len() + 3 * self.rows.len();
        let mut body = Vec::with_capacity(4 * words);
        centre.iter().for_each(|value| body.extend(value.to_le_bytes()));
        self.buckets
            .iter()
            .chain(&self.starts)
            .chain(&self.rows)
            .for_each(|word| body.extend(word.to_le_bytes()));
        self.fine.iter().for_each(|fine| body.extend(fine.to_le_bytes()));
        let mut bytes = MAGIC.to_vec();
        let (dims, len, buckets) = (centre.len() as u32, self.rows.len() as u32, self.buckets.len() as u32);
        let words = [VERSION, dims, len, params.coarse, params.fine, buckets];
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(params.seed.to_le_bytes());
        bytes.resize(CALIBRATION, 0);
        bytes.extend(self.calibration.to_bytes());
        bytes.resize(HEADER - 8, 0);
        bytes.extend(crc32fast::hash(&body).to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn open(backing: Backing) -> Result<Lsh, Damage> {
        let bytes = (*backing).as_ref();
        let header =
            bytes.first_chunk::<HEADER>().filter(|header| header[..8] == MAGIC).ok_or(Damage::Foreign)?;
        let words: [u32; HEADER / 4] = std::array::from_fn(|at| {
            header.as_chunks::<4>().0.get(at).map_or(0, |word| u32::from_le_bytes(*word))
        });
        let [_, _, version, dims, len, coarse, fine, buckets, seed, seed_high, .., body_crc, crc] = words;
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let params = Params { coarse, fine, seed: u64::from(seed) | u64::from(seed_high) << 32 };
        let is_sound = params == params.bounded()
            && (1..=1 << 16).contains(&dims)
            && len as usize <= MAX_ROWS
            && buckets <= len;
        if crc32fast::hash(&header[..HEADER - 4]) != crc || !is_sound {
            return Err(Damage::Header);
        }
        let (dims, len, buckets) = (dims as usize, len as usize, buckets as usize);
        let expected = (HEADER + 4 * (dims + 2 * buckets) + 12 * len) as u64;
        if expected != bytes.len() as u64 {
            return Err(Damage::Length { expected, actual: bytes.len() as u64 });
        }
        let body = &bytes[HEADER..];
        if crc32fast::hash(body) != body_crc {
            return Err(Damage::Checksum(0));
        }
        let (centre, rest) = body.split_at(4 * dims);
        let (numbers, rest) = rest.split_at(4 * buckets);
        let (starts, rest) = rest.split_at(4 * buckets);
        let (rows, hashes) = rest.split_at(4 * len);
        let centre = centre.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        let words = |bytes: &[u8]| -> Vec<u32> {
            bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
        };
        let (numbers, starts, rows) = (words(numbers), words(starts), words(rows));
        let is_sound =
            numbers.is_sorted() && starts.is_sorted() && starts.first().is_none_or(|first| *first == 0);
        if !is_sound || rows.iter().chain(&starts).any(|row| *row as usize >= len) {
            return Err(Damage::Vertex(0));
        }
        let fine = hashes.as_chunks::<8>().0.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
        let calibration =
            header[CALIBRATION..].first_chunk().map(Calibration::from_bytes).unwrap_or_default();
        let directions = Directions::new(params, centre);
        Ok(Lsh { directions, buckets: numbers, starts, rows, fine, calibration })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{exam, sample};
    use super::*;

    #[test]
    fn sits_the_exam() {
        exam::sit::<Lsh>(&Params::default(), false);
    }

    #[test]
    fn each_bucket_is_visited_once_and_the_near_ones_first() {
        let sides = [0.5f32, -0.1, 2.0, f32::NAN, 0.0];
        let cost = |bits: u32| -> f32 {
            let changed = (0..5).filter(|at| bits >> at & 1 == 1);
            changed.map(|at| if sides[at].is_finite() { sides[at] * sides[at] } else { 1e30 }).sum()
        };
        let visited: Vec<u32> = Probes::new(0b00101, &sides).collect();
        assert_eq!((visited.len(), visited[0]), (32, 0b00101));
        let mut each = visited.clone();
        each.sort_unstable();
        assert!(each.into_iter().eq(0..32));
        let costs: Vec<f32> = visited.iter().map(|bucket| cost(bucket ^ 0b00101)).collect();
        assert!(costs.is_sorted_by(|a, b| a <= &(b + 1e-5)), "{costs:?}");
    }

    #[test]
    fn more_effort_finds_more() {
        let sample = sample::clustered(5, 5_000, 64, 200);
        let queries = sample::clustered(5, 50, 64, 200);
        let index =
            Lsh::build(sample.rows(), Distance::Cosine, &Params::default(), 1, &Progress::new()).unwrap();
        let mut last = 0;
        for effort in [10, 40, 160, 5_000] {
            let mut hits = 0;
            for query in 0..50 {
                let (rows, query) = (sample.rows(), queries.rows().row(query));
                let mut top = super::super::TopK::new(10);
                super::super::scan(rows, Distance::Cosine, query, Accept::All, 0, &mut top);
                let truth = top.into_sorted();
                let found = index.search(
                    rows,
                    Distance::Cosine,
                    query,
                    10,
                    effort,
                    Accept::All,
                    &mut Stats::default(),
                );
                hits += truth.iter().filter(|near| found.contains(near)).count();
            }
            assert!(hits >= last, "effort {effort}: {hits} after {last}");
            last = hits;
        }
        assert_eq!(last, 500, "effort for all rows is exact");
    }
}
