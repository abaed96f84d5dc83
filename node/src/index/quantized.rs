//! A graph with codes beside it: what a segment searches.
//!
//! ```text
//! 64 bytes   magic (8), version u32, kind u32, length of the graph u64, length of the codes u64, a [`Calibration`], zeros, CRC-32 of
//!            all before
//! graph      as [`Graph`] writes it, then zeros up to the next multiple of 64
//! codes      as [`Codes`] writes them; none for kind 0
//! ```
//!
//! A file that begins with a graph is one from before there were codes: it is opened without any.

use std::ops::Range;
use std::sync::Arc;

use super::calibration;
use super::codes::Kind;
use super::codes::packed::Packed;
use super::codes::scan::Scan;
use super::hnsw;
use super::{
    Accept, Backing, Bitset, Calibration, Cancelled, Codes, Damage, Distance, Effort, Graph, Neighbor,
    Progress, Rows, Stats, VectorIndex,
};

const MAGIC: [u8; 8] = *b"FLQUANT\n";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const LINE: usize = 64;
/// Where the calibration stands in the header.
const CALIBRATION: usize = 32;

/// What a search looks at before it reads whole vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantization {
    /// Nothing: each distance is that of the vectors.
    None,
    /// Eight bits for each value, and one-bit sketches of each row and of what a vertex links to; see [`super::codes`].
    #[default]
    Scalar,
    /// One-bit sketches of each row.
    Binary,
    /// Eight bits for each group of eight values.
    Product,
}

impl Quantization {
    fn kind(self) -> Option<Kind> {
        match self {
            _ if cfg!(target_endian = "big") => None,
            Self::None => None,
            Self::Scalar => Some(Kind::Scalar),
            Self::Binary => Some(Kind::Binary),
            Self::Product => Some(Kind::Product),
        }
    }
}

/// How to build it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// The graph.
    pub graph: hnsw::Params,
    /// The codes.
    pub quantization: Quantization,
}

/// See the module.
#[derive(Debug)]
pub struct QuantizedGraph {
    graph: Graph,
    codes: Option<Codes>,
    pub(super) calibration: Calibration,
}

impl QuantizedGraph {
    /// Bytes of a file's header, for what holds its length.
    fn header(kind: u32, graph: usize, codes: usize, calibration: Calibration) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&kind.to_le_bytes());
        header[16..24].copy_from_slice(&(graph as u64).to_le_bytes());
        header[24..32].copy_from_slice(&(codes as u64).to_le_bytes());
        header[CALIBRATION..CALIBRATION + calibration::BYTES].copy_from_slice(&calibration.to_bytes());
        let crc = crc32fast::hash(&header[..HEADER - 4]);
        header[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Whether there are codes.
    pub fn has_codes(&self) -> bool {
        self.codes.is_some()
    }

    /// The `k` nearest accepted rows, by looking at the codes of each of them, and ordering so many by their vectors (see [`Effort`]);
    /// `None` without codes.
    pub fn scan_codes(
        &self,
        rows: Rows<'_>,
        distance: Distance,
        query: &[f32],
        wanted: (usize, Option<usize>),
        accept: Accept<'_>,
        stats: &mut Stats,
    ) -> Option<Vec<Neighbor>> {
        let scan = self.scan(rows, distance, query, wanted)?;
        let mut all = 0..scan.codes.len().min(rows.len()) as u32;
        Some(match accept {
            Accept::All => scan.scattered(all, stats),
            Accept::Bits(bits) => scan.scattered(bits.iter().take_while(|row| all.contains(row)), stats),
            Accept::Live { .. } | Accept::Without(_) => {
                scan.scattered(all.by_ref().filter(|row| accept.contains(*row)), stats)
            }
        })
    }

    /// Gathers the codes of these rows, for scans of the same rows again and again; `None` without codes.
    pub fn pack(&self, rows: &Bitset) -> Option<Packed> {
        Some(Packed::new(self.codes.as_ref()?, rows.iter()))
    }

    /// The `k` nearest of the packed rows that are accepted; `None` without codes.
    #[allow(clippy::too_many_arguments)]
    pub fn scan_packed(
        &self,
        rows: Rows<'_>,
        packed: &Packed,
        distance: Distance,
        query: &[f32],
        wanted: (usize, Option<usize>),
        accept: Accept<'_>,
        stats: &mut Stats,
    ) -> Option<Vec<Neighbor>> {
        let scan = self.scan(rows, distance, query, wanted)?;
        Some(scan.packed(packed, |row| accept.contains(row), stats))
    }

    fn scan<'a>(
        &'a self,
        rows: Rows<'a>,
        distance: Distance,
        query: &'a [f32],
        (k, rescored): (usize, Option<usize>),
    ) -> Option<Scan<'a>> {
        let codes = self.codes.as_ref().filter(|codes| codes.dims() == rows.dims())?;
        Some(Scan { codes, rows, distance, query, k, rescored })
    }
}

/// A part of what an index is opened over.
struct Part {
    whole: Backing,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        (*self.whole).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl VectorIndex for QuantizedGraph {
    type Params = Params;

    fn build(
        rows: Rows<'_>,
        distance: Distance,
        params: &Params,
        threads: usize,
        progress: &Progress,
    ) -> Result<Self, Cancelled> {
        let kind = params.quantization.kind().filter(|_| distance.is_of_products());
        let Some(kind) = kind else {
            return Ok(Self {
                graph: Graph::build(rows, distance, &params.graph, threads, progress)?,
                codes: None,
                calibration: Calibration::default(),
            });
        };
        let (links, seed) = (params.graph.links_max(), params.graph.seed);
        let codes = Codes::build(rows, distance, kind, links, seed, threads, progress)?;
        let graph = match kind {
            Kind::Scalar => hnsw::build_by_codes(&codes, &params.graph, threads, progress)?,
            // Bytes are quicker to measure by than rows, and go when the graph is there.
            Kind::Binary | Kind::Product => {
                let bytes = Codes::build(rows, distance, Kind::Scalar, 0, seed, threads, progress)?;
                hnsw::build_by_codes(&bytes, &params.graph, threads, progress)?
            }
        };
        let codes = Some(codes.link(&graph, threads, progress)?);
        Ok(Self { graph, codes, calibration: Calibration::default() })
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
        let effort = effort.into();
        match &self.codes {
            Some(codes) if codes.dims() == rows.dims() => {
                self.graph.search_codes(rows, codes, distance, query, k, effort, accept, stats)
            }
            _ => self.graph.search(rows, distance, query, k, effort.width, accept, stats),
        }
    }

    fn len(&self) -> usize {
        self.graph.len()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let graph = self.graph.to_bytes();
        let codes = self.codes.as_ref().map_or(&[][..], Codes::bytes);
        let mut bytes = Vec::with_capacity(HEADER + graph.len().next_multiple_of(LINE) + codes.len());
        let kind = u32::from(self.codes.is_some());
        bytes.extend(Self::header(kind, graph.len(), codes.len(), self.calibration));
        bytes.extend(&graph);
        bytes.resize(bytes.len().next_multiple_of(LINE), 0);
        bytes.extend(codes);
        bytes
    }

    fn open(backing: Backing) -> Result<Self, Damage> {
        let bytes = (*backing).as_ref();
        let actual = bytes.len() as u64;
        let Some(header) = bytes.first_chunk::<HEADER>().filter(|header| header[..8] == MAGIC) else {
            let graph = Graph::open(backing)?;
            return Ok(Self { graph, codes: None, calibration: Calibration::default() });
        };
        let words: [u32; HEADER / 4] = std::array::from_fn(|at| {
            header.as_chunks::<4>().0.get(at).map_or(0, |word| u32::from_le_bytes(*word))
        });
        if words[2] != VERSION {
            return Err(Damage::Version(words[2]));
        }
        let long = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
        let (kind, graph, codes) = (words[3], long(4), long(6));
        if crc32fast::hash(&header[..HEADER - 4]) != words[15] || kind > 1 || (kind == 0) != (codes == 0) {
            return Err(Damage::Header);
        }
        let codes_at =
            graph.checked_next_multiple_of(LINE as u64).and_then(|len| len.checked_add(HEADER as u64));
        let expected = codes_at.and_then(|at| at.checked_add(codes)).ok_or(Damage::Header)?;
        if expected != actual {
            return Err(Damage::Length { expected, actual });
        }
        // Both are within the bytes, so they fit.
        let (graph, codes_at) = (graph as usize, codes_at.unwrap_or_default() as usize);
        let part = |range: Range<usize>| Arc::new(Part { whole: backing.clone(), range });
        let graph = Graph::open(part(HEADER..HEADER + graph))?;
        let codes = match kind {
            1 if cfg!(target_endian = "little") => {
                Some(Codes::open(part(codes_at..bytes.len()), graph.len())?)
            }
            _ => None,
        };
        let calibration = header[CALIBRATION..].first_chunk().map(Calibration::from_bytes);
        Ok(Self { graph, codes, calibration: calibration.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{exam, sample};
    use super::*;

    #[test]
    fn sits_the_exam() {
        exam::sit::<QuantizedGraph>(&Params::default(), false);
    }

    #[test]
    fn sits_the_exam_by_product_codes() {
        exam::sit::<QuantizedGraph>(
            &Params { quantization: Quantization::Product, ..Params::default() },
            false,
        );
    }

    fn built(quantization: Quantization) -> (sample::Sample, QuantizedGraph) {
        let sample = sample::clustered(5, 3_000, 96, 30);
        let params = Params { quantization, ..Params::default() };
        let index =
            QuantizedGraph::build(sample.rows(), Distance::Cosine, &params, 1, &Progress::new()).unwrap();
        (sample, index)
    }

    #[test]
    fn a_bare_graph_opens_without_codes() {
        let (_, index) = built(Quantization::None);
        let bare = index.graph.to_bytes();
        let opened = QuantizedGraph::open(Arc::new(bare)).unwrap();
        assert!(!opened.has_codes() && opened.len() == 3_000);
        let opened = QuantizedGraph::open(Arc::new(index.to_bytes())).unwrap();
        assert!(!opened.has_codes() && opened.len() == 3_000);
    }

    #[test]
    fn each_kind_of_codes_is_walked_and_scanned() {
        for quantization in [Quantization::Scalar, Quantization::Binary, Quantization::Product] {
            let (sample, index) = built(quantization);
            let opened = QuantizedGraph::open(Arc::new(index.to_bytes())).unwrap();
            let queries = sample::clustered(5, 50, 96, 30);
            let third = Bitset::with_rows(3_000, (0..3_000).filter(|row| row % 3 == 0));
            let packed = opened.pack(&third).unwrap();
            assert_eq!((packed.len(), packed.is_empty()), (1_000, false));
            assert!(packed.bytes() < 1_000 * 96 * 4 / 2);
            let (mut hits, mut stats) = ([0; 4], Stats::default());
            for query in 0..50 {
                let (rows, query) = (sample.rows(), queries.rows().row(query));
                let truth = |accept: Accept<'_>| -> Vec<Neighbor> {
                    let mut top = super::super::TopK::new(10);
                    super::super::scan(rows, Distance::Cosine, query, accept, 0, &mut top);
                    top.into_sorted()
                };
                let (all, some) = (truth(Accept::All), truth(Accept::Bits(&third)));
                let sixth = Bitset::with_rows(3_000, third.iter().filter(|row| row % 2 == 0));
                let few = truth(Accept::Bits(&sixth));
                let (distance, some_of, few_of) =
                    (Distance::Cosine, Accept::Bits(&third), Accept::Bits(&sixth));
                let mut scan = |accept| {
                    opened.scan_codes(rows, distance, query, (10, None), accept, &mut stats).unwrap()
                };
                let scanned = [scan(Accept::All), scan(some_of)];
                let walked = opened.search(rows, distance, query, 10, 100, Accept::All, &mut stats);
                let few_found =
                    opened.scan_packed(rows, &packed, distance, query, (10, None), few_of, &mut stats);
                let [all_scanned, some_scanned] = scanned;
                let found =
                    [(walked, &all), (all_scanned, &all), (some_scanned, &some), (few_found.unwrap(), &few)];
                for (hits, (found, wanted)) in hits.iter_mut().zip(found) {
                    assert!(found.is_sorted() && found.len() == 10);
                    *hits += wanted.iter().filter(|near| found.iter().any(|it| it.row == near.row)).count();
                }
            }
            assert!(hits.iter().all(|hits| *hits >= 475), "{quantization:?}: {hits:?} of 500");
        }
    }

    /// Hits of 500 that are right, and vectors read, of walks and of scans that order so many candidates by their vectors.
    fn rescoring(quantization: Quantization, rescored: Option<usize>) -> [(usize, u64); 2] {
        let (sample, index) = built(quantization);
        let (rows, queries) = (sample.rows(), sample::clustered(5, 50, 96, 30));
        let (mut told, mut measured) = ([(0, 0); 2], [Stats::default(); 2]);
        for query in 0..50 {
            let query = queries.rows().row(query);
            let mut truth = super::super::TopK::new(10);
            super::super::scan(rows, Distance::Cosine, query, Accept::All, 0, &mut truth);
            let truth = truth.into_sorted();
            let [walk, scan] = &mut measured;
            let effort = Effort { width: 100, rescored };
            let walked = index.search(rows, Distance::Cosine, query, 10, effort, Accept::All, walk);
            let scanned =
                index.scan_codes(rows, Distance::Cosine, query, (10, rescored), Accept::All, scan).unwrap();
            for ((hits, _), found) in told.iter_mut().zip([walked, scanned]) {
                assert_eq!(found.len(), 10);
                *hits += truth.iter().filter(|near| found.contains(near)).count();
            }
        }
        told.iter_mut().zip(measured).for_each(|(told, stats)| told.1 = stats.distances);
        told
    }

    #[test]
    fn as_many_are_ordered_by_their_vectors_as_is_asked_for() {
        for quantization in [Quantization::Scalar, Quantization::Binary, Quantization::Product] {
            let [few, some, many] = [1, 20, 80].map(|rescored| rescoring(quantization, Some(rescored)));
            let [walk, scan] = [0, 1].map(|way| [few[way], some[way], many[way]]);
            // Of one-bit sketches a scan reads what may be near enough, however many those are.
            let ways = if quantization == Quantization::Binary { vec![walk] } else { vec![walk, scan] };
            for way in ways {
                assert!(way.is_sorted(), "{quantization:?}: {way:?}");
            }
            // Never fewer than are wanted: 10, 20 and 80 of each query.
            let more = |a: (usize, u64), b: (usize, u64)| b.1 - a.1;
            assert_eq!([more(walk[0], walk[1]), more(walk[1], walk[2])], [500, 3_000], "{quantization:?}");
        }
        let codes_alone = rescoring(Quantization::Binary, Some(10))[0].0;
        let ordered = rescoring(Quantization::Binary, Some(80))[0].0;
        assert!(codes_alone + 50 < ordered, "{codes_alone} and {ordered} of 500 are right");
    }

    #[test]
    fn codes_read_few_vectors_and_lose_hardly_any_neighbour() {
        let (sample, index) = built(Quantization::Scalar);
        let opened = QuantizedGraph::open(Arc::new(index.to_bytes())).unwrap();
        assert!(opened.has_codes());
        let queries = sample::clustered(5, 100, 96, 30);
        let (mut by_codes, mut by_rows) = (Stats::default(), Stats::default());
        let (mut same, mut all) = (0, 0);
        for query in 0..100 {
            let (rows, query) = (sample.rows(), queries.rows().row(query));
            let found = opened.search(rows, Distance::Cosine, query, 10, 64, Accept::All, &mut by_codes);
            let truth = index.graph.search(rows, Distance::Cosine, query, 10, 64, Accept::All, &mut by_rows);
            same += truth.iter().filter(|near| found.iter().any(|found| found.row == near.row)).count();
            all += truth.len();
        }
        assert!(same * 100 >= all * 98, "{same} of {all}");
        assert!(by_codes.distances * 10 < by_rows.distances * 8, "{by_codes:?} {by_rows:?}");
    }
}
