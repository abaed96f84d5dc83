//! An index of either kind: what a segment opens by what its file begins with.

use super::quantized::{self, QuantizedGraph};
use super::{
    Accept, Backing, Bitset, Calibration, Cancelled, Damage, Distance, Effort, Lsh, Neighbor, Packed,
    Progress, Rows, Stats, VectorIndex, lsh,
};

/// How to build it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Params {
    /// A graph.
    Graph(quantized::Params),
    /// Hashes.
    Lsh(lsh::Params),
}

impl Default for Params {
    fn default() -> Params {
        Params::Graph(quantized::Params::default())
    }
}

/// See the module.
#[derive(Debug)]
pub enum AnyIndex {
    /// A graph, with codes or without.
    Graph(QuantizedGraph),
    /// Hashes.
    Lsh(Lsh),
}

impl AnyIndex {
    fn graph(&self) -> Option<&QuantizedGraph> {
        match self {
            AnyIndex::Graph(graph) => Some(graph),
            AnyIndex::Lsh(_) => None,
        }
    }

    /// Measures how much effort it takes; see [`Calibration`].
    ///
    /// # Errors
    /// [`Cancelled`] if `progress` was cancelled before the end.
    pub fn calibrate(
        &mut self,
        rows: Rows<'_>,
        distance: Distance,
        progress: &Progress,
    ) -> Result<(), Cancelled> {
        let measured = Calibration::measure(self, rows, distance, progress)?;
        match self {
            AnyIndex::Graph(graph) => graph.calibration = measured,
            AnyIndex::Lsh(lsh) => lsh.calibration = measured,
        }
        Ok(())
    }

    /// How much effort it takes, as far as that was measured.
    pub fn calibration(&self) -> Calibration {
        match self {
            AnyIndex::Graph(graph) => graph.calibration,
            AnyIndex::Lsh(lsh) => lsh.calibration,
        }
    }

    /// Whether there are codes.
    pub fn has_codes(&self) -> bool {
        self.graph().is_some_and(QuantizedGraph::has_codes)
    }

    /// See [`QuantizedGraph::pack`].
    pub fn pack(&self, rows: &Bitset) -> Option<Packed> {
        self.graph()?.pack(rows)
    }

    /// See [`QuantizedGraph::scan_codes`].
    pub fn scan_codes(
        &self,
        rows: Rows<'_>,
        distance: Distance,
        query: &[f32],
        wanted: (usize, Option<usize>),
        accept: Accept<'_>,
        stats: &mut Stats,
    ) -> Option<Vec<Neighbor>> {
        self.graph()?.scan_codes(rows, distance, query, wanted, accept, stats)
    }

    /// See [`QuantizedGraph::scan_packed`].
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
        self.graph()?.scan_packed(rows, packed, distance, query, wanted, accept, stats)
    }
}

impl VectorIndex for AnyIndex {
    type Params = Params;

    fn build(
        rows: Rows<'_>,
        distance: Distance,
        params: &Params,
        threads: usize,
        progress: &Progress,
    ) -> Result<AnyIndex, Cancelled> {
        match params {
            Params::Graph(params) => {
                QuantizedGraph::build(rows, distance, params, threads, progress).map(AnyIndex::Graph)
            }
            Params::Lsh(params) => Lsh::build(rows, distance, params, threads, progress).map(AnyIndex::Lsh),
        }
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
        match self {
            AnyIndex::Graph(graph) => graph.search(rows, distance, query, k, effort, accept, stats),
            AnyIndex::Lsh(lsh) => lsh.search(rows, distance, query, k, effort, accept, stats),
        }
    }

    fn len(&self) -> usize {
        match self {
            AnyIndex::Graph(graph) => graph.len(),
            AnyIndex::Lsh(lsh) => lsh.len(),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            AnyIndex::Graph(graph) => graph.to_bytes(),
            AnyIndex::Lsh(lsh) => lsh.to_bytes(),
        }
    }

    fn open(backing: Backing) -> Result<AnyIndex, Damage> {
        if Lsh::is_begun_by((*backing).as_ref()) {
            Lsh::open(backing).map(AnyIndex::Lsh)
        } else {
            QuantizedGraph::open(backing).map(AnyIndex::Graph)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::sample;
    use super::*;

    #[test]
    fn each_kind_is_opened_as_itself() {
        let sample = sample::clustered(3, 300, 8, 5);
        for params in [Params::default(), Params::Lsh(lsh::Params::default())] {
            let (rows, distance) = (sample.rows(), Distance::Euclidean);
            let mut built = AnyIndex::build(rows, distance, &params, 1, &Progress::new()).unwrap();
            built.calibrate(rows, distance, &Progress::new()).unwrap();
            let opened = AnyIndex::open(Arc::new(built.to_bytes())).unwrap();
            let is_lsh = matches!(params, Params::Lsh(_));
            assert_eq!(matches!(opened, AnyIndex::Lsh(_)), is_lsh);
            assert_eq!((opened.len(), opened.has_codes()), (300, !is_lsh));
            assert_eq!(opened.calibration(), built.calibration());
            assert_ne!(opened.calibration(), Calibration::default());
            let search = |index: &AnyIndex| {
                index.search(rows, distance, rows.row(7), 5, 300, Accept::All, &mut Stats::default())
            };
            assert_eq!(search(&built), search(&opened));
            assert_eq!(built.pack(&Bitset::full(300)).is_none(), is_lsh);
        }
    }
}
