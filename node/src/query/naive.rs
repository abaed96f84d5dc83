//! A segment in memory that does everything the obvious way, but for its graph, which is as bad as it may be: it misses
//! rows and returns too few.

use std::collections::BTreeMap;

use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::{Key, Payload, Vector};
use flotilla_proto::schema::Distance;

use crate::index::{Bitset, Neighbor, Stats};
use crate::storage::row::encode_payload;
use crate::storage::{Fault, Matching, Method, Nearest, SegmentView, StoredRow};

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) version: LogIndex,
    pub(super) payload: Payload,
    pub(super) vector: Option<Vec<f32>>,
    pub(super) is_live: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Naive {
    pub(super) rows: Vec<Row>,
    pub(super) distance: Distance,
    pub(super) is_indexed: bool,
    /// The graph finds one accepted row in this many.
    pub(super) blindness: usize,
}

pub(super) fn distance(kind: Distance, a: &[f32], b: &[f32]) -> f32 {
    let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    match kind {
        Distance::Cosine => 1.0 - dot,
        Distance::Dot => -dot,
        Distance::Euclidean => a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum(),
        Distance::Manhattan | Distance::Hamming => a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum(),
    }
}

impl Naive {
    fn live_rows(&self) -> impl Iterator<Item = (u32, &Row)> {
        (0..).zip(&self.rows).filter(|(_, row)| row.is_live)
    }
}

impl SegmentView for Naive {
    fn rows(&self) -> u32 {
        self.rows.len() as u32
    }

    fn live(&self) -> u32 {
        self.live_rows().count() as u32
    }

    fn is_live(&self, row: u32) -> bool {
        self.rows.get(row as usize).is_some_and(|row| row.is_live)
    }

    fn key(&self, row: u32) -> Result<Key, Fault> {
        Ok(self.rows[row as usize].key.clone())
    }

    fn version(&self, row: u32) -> LogIndex {
        self.rows[row as usize].version
    }

    fn expires_at_ms(&self, _: u32) -> Result<Option<u64>, Fault> {
        Ok(None)
    }

    fn find(&self, key: &Key) -> Result<Option<u32>, Fault> {
        Ok(self.live_rows().find(|(_, row)| row.key == *key).map(|(number, _)| number))
    }

    fn payload(&self, row: u32) -> Result<Payload, Fault> {
        Ok(self.rows[row as usize].payload.clone())
    }

    fn stored(&self, row: u32) -> Result<StoredRow, Fault> {
        let Row { key, payload, .. } = &self.rows[row as usize];
        let payload =
            encode_payload(payload).map_err(|error| Fault::damaged("memory", 0, error.to_string()))?;
        Ok(StoredRow { key: key.to_bytes(), vectors: Vec::new(), payload })
    }

    fn vector(&self, _: &str, row: u32) -> Result<Option<Vector>, Fault> {
        Ok(self.rows[row as usize].vector.clone().map(Vector::Dense))
    }

    fn matching(&self, filter: &Compiled) -> Result<Matching, Fault> {
        let passing = self.live_rows().filter(|(_, row)| filter.matches(&row.key, &row.payload));
        Ok(Bitset::with_rows(self.rows.len(), passing.map(|(number, _)| number)).into())
    }

    fn nearest(&self, ask: &Nearest<'_>, stats: &mut Stats) -> Result<Vec<Neighbor>, Fault> {
        let accepted = |number: &u32| ask.rows.is_none_or(|rows| rows.contains(*number));
        let mut found: Vec<Neighbor> = self
            .live_rows()
            .filter(|(number, _)| accepted(number))
            .filter_map(|(number, row)| Some((number, row.vector.as_ref()?)))
            .map(|(row, vector)| Neighbor { row, distance: distance(self.distance, ask.query, vector) })
            .collect();
        stats.distances += found.len() as u64;
        if let (Method::Graph { ef }, true) = (ask.method, self.is_indexed) {
            assert!(ef >= ask.limit);
            found = found.into_iter().step_by(self.blindness).collect();
        }
        found.sort();
        found.truncate(ask.limit);
        Ok(found)
    }

    fn identity(&self) -> Option<u64> {
        None
    }

    fn is_indexed(&self, _: &str) -> bool {
        self.is_indexed
    }

    fn by_key<'a>(
        &'a self,
        after: Option<&Key>,
    ) -> Box<dyn Iterator<Item = Result<(Key, u32), Fault>> + Send + 'a> {
        let is_next = |key: &Key| after.is_none_or(|after| key > after);
        let rows = self.live_rows().filter(|(_, row)| is_next(&row.key));
        let sorted: BTreeMap<Key, u32> = rows.map(|(number, row)| (row.key.clone(), number)).collect();
        Box::new(sorted.into_iter().map(Ok))
    }
}
