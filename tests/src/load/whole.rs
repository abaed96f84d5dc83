//! Questions about the whole collection: a scan through all pages, an exact search with room for every key, a count, an
//! aggregation by key. And searches for some of the keys: by vector among what a filter passes, and by words.
//!
//! Each answer goes down as a set ([`crate::history::SetAnswer`]); what a scan, a search or an aggregation shows of each key
//! goes down as a read of it too, so that an index that lost a record, or kept an old vector or value, is found out by the
//! judges of single keys.

use std::collections::BTreeMap;

use flotilla_proto::v1;
use flotilla_proto::v1::aggregation::{Kind, Metric, Terms};
use flotilla_proto::v1::aggregation_result::Kind as Told;
use rand::Rng as _;
use tonic::Status;

use super::{Answer, Client, Touch, covered, of_keys, positions, wire_key, word};
use crate::api::{self, vector_of};
use crate::history::{Act, Freshness, Key, Seen, SetAnswer};
use crate::seed::unit_vector;

/// Records of a scan's page: a scan has several.
const PAGE: u32 = 20;
/// A score may differ by this from that of the vector which the hit carries.
const SCORE_ERROR_MAX: f32 = 1e-3;

impl Client {
    /// Reads everything, page by page.
    pub async fn scan(&mut self) {
        let invoked = self.recorder.now();
        let answer = match self.pages().await {
            Ok((records, coverage)) => {
                self.saw(invoked, Seen::Scan(self.keys_of(records.iter().map(|record| &record.key))));
                let touched = self.seen(&self.sorted_keys(), &records, Freshness::Linearizable);
                Ok(Answer { coverage, touched })
            }
            Err(status) => Err((status, vec![])),
        };
        self.ended("scan", invoked, Some(Freshness::Linearizable), vec![], answer);
    }

    /// Every record, and the coverage of every page: a page whose view is gone comes from a newer one.
    async fn pages(&mut self) -> Result<(Vec<v1::Record>, Vec<v1::PartitionIndex>), Status> {
        let read = self.may_be_partial();
        let (mut records, mut seen, mut next) = (Vec::new(), Vec::new(), String::new());
        loop {
            let page = v1::ScanRequest {
                collection: self.work.collection.clone(),
                limit: PAGE,
                next,
                with_payload: true,
                with_vectors: true,
                read: read.clone(),
                ..Default::default()
            };
            let page = self.api().scan(page).await?;
            let coverage = whole(page.coverage)?;
            // What any page showed is known from now on.
            self.knows(&positions(&coverage));
            seen.extend(coverage.into_iter().filter(|at| !seen.contains(at)).collect::<Vec<_>>());
            records.extend(page.items);
            next = page.next;
            if next.is_empty() {
                return Ok((records, seen));
            }
        }
    }

    /// One search of three.
    pub(super) async fn search_somehow(&mut self) {
        match self.draw.random_range(0..3) {
            0 => self.search().await,
            1 => self.search_among().await,
            _ => self.search_words().await,
        }
    }

    /// Searches exactly among the records that a filter passes.
    async fn search_among(&mut self) {
        let keys = self.keys();
        let vector = unit_vector(self.id << 32 | self.serial, super::DIMS);
        let among = v1::SearchRequest {
            exact: true,
            filter: Some(of_keys(&keys)),
            ..api::search(&self.work.collection, vector, keys.len() as u32)
        };
        self.search_for("search-among", keys, among).await;
    }

    /// Searches for the words that the records of some keys have, and no others.
    async fn search_words(&mut self) {
        let keys = self.keys();
        let words: Vec<String> = keys.iter().map(|key| word(*key)).collect();
        let text = v1::TextQuery { field: "words".into(), query: words.join(" "), ..Default::default() };
        let limit = Some(keys.len() as u32);
        let collection = self.work.collection.clone();
        let words = v1::SearchRequest { collection, text: Some(text), limit, ..Default::default() };
        self.search_for("search-words", keys, words).await;
    }

    /// A search that finds the records of these keys and no others.
    async fn search_for(&mut self, what: &'static str, mut keys: Vec<Key>, search: v1::SearchRequest) {
        keys.sort_by_key(|key| api::sortable(&wire_key(*key)));
        let read = self.may_be_partial();
        let request = v1::SearchRequest { with_payload: true, with_vectors: true, read, ..search };
        let invoked = self.recorder.now();
        let found = self.api().search(request).await;
        let answer = match found.and_then(|found| Ok((whole(found.coverage)?, found.hits))) {
            Ok((coverage, hits)) => {
                let mut records: Vec<v1::Record> = hits.into_iter().filter_map(|hit| hit.record).collect();
                records.sort_by_key(|record| record.key.as_ref().map(api::sortable));
                Ok(Answer { coverage, touched: self.seen(&keys, &records, Freshness::Linearizable) })
            }
            Err(status) => Err((status, vec![])),
        };
        self.ended(what, invoked, Some(Freshness::Linearizable), vec![], answer);
    }

    /// Searches exactly, for as many as there are keys.
    pub async fn search(&mut self) {
        let vector = unit_vector(self.id << 32 | self.serial, super::DIMS);
        let limit = u32::try_from(self.work.keys).unwrap_or(u32::MAX);
        let request = v1::SearchRequest {
            exact: true,
            with_payload: true,
            with_vectors: true,
            read: self.may_be_partial(),
            ..api::search(&self.work.collection, vector.clone(), limit)
        };
        let invoked = self.recorder.now();
        let found = self.api().search(request).await;
        let answer = match found.and_then(|found| Ok((whole(found.coverage.clone())?, found))) {
            Ok((coverage, found)) => {
                self.scored(&vector, &found.hits);
                let mut records: Vec<v1::Record> =
                    found.hits.into_iter().filter_map(|hit| hit.record).collect();
                records.sort_by_key(|record| record.key.as_ref().map(api::sortable));
                self.saw(invoked, Seen::Search(self.keys_of(records.iter().map(|record| &record.key))));
                let touched = self.seen(&self.sorted_keys(), &records, Freshness::Linearizable);
                Ok(Answer { coverage, touched })
            }
            Err(status) => Err((status, vec![])),
        };
        self.ended("search", invoked, Some(Freshness::Linearizable), vec![], answer);
    }

    /// Each score is that of the hit's own vector, and they descend.
    fn scored(&self, vector: &[f32], hits: &[v1::Hit]) {
        for hit in hits {
            let values = hit.record.as_ref().map_or(&[][..], vector_of);
            let cosine: f32 = vector.iter().zip(values).map(|(a, b)| a * b).sum();
            if (cosine - hit.score).abs() > SCORE_ERROR_MAX {
                self.damage(format!("a hit's score is not that of its vector, {cosine}: {hit:?}"));
            }
        }
        if hits.windows(2).any(|pair| pair[0].score < pair[1].score) {
            self.damage("hits are not sorted by score".to_owned());
        }
    }

    /// Counts everything.
    pub async fn count(&mut self) {
        let (collection, read) = (self.work.collection.clone(), self.may_be_partial());
        let request = v1::CountRequest { collection, read, ..Default::default() };
        let invoked = self.recorder.now();
        let counted = self.api().count(request).await;
        let answer = match counted.and_then(|counted| Ok((whole(counted.coverage)?, counted.count))) {
            Ok((coverage, count)) => {
                self.saw(invoked, Seen::Count(count));
                Ok(Answer { coverage, touched: vec![] })
            }
            Err(status) => Err((status, vec![])),
        };
        self.ended("count", invoked, Some(Freshness::Linearizable), vec![], answer);
    }

    /// Groups everything by key, each group with what its records have: there is one to a key.
    pub async fn aggregate(&mut self) {
        let aggregation = |field: &str, kind| v1::Aggregation {
            field: field.to_owned(),
            kind: Some(kind),
            aggregations: BTreeMap::new(),
        };
        let greatest = |field: &str| (field.to_owned(), aggregation(field, Kind::Metric(Metric::Max.into())));
        let size = u32::try_from(self.work.keys).unwrap_or(u32::MAX);
        let terms = v1::Aggregation {
            aggregations: [greatest("value"), greatest("base")].into(),
            ..aggregation("key", Kind::Terms(Terms { size, ..Terms::default() }))
        };
        let request = v1::AggregateRequest {
            collection: self.work.collection.clone(),
            filter: None,
            aggregations: [("keys".to_owned(), terms)].into(),
            read: self.may_be_partial(),
        };
        let invoked = self.recorder.now();
        let counted = self.api().aggregate(request).await;
        let answer = match counted.and_then(|counted| Ok((whole(counted.coverage.clone())?, counted))) {
            Ok((coverage, counted)) => Ok(Answer { coverage, touched: self.grouped(invoked, &counted) }),
            Err(status) => Err((status, vec![])),
        };
        self.ended("aggregate", invoked, Some(Freshness::Linearizable), vec![], answer);
    }

    /// What groups by key show: each key as often as it was counted, and the value of each.
    fn grouped(&self, invoked: u64, counted: &v1::AggregateResponse) -> Vec<Touch> {
        let (mut keys, mut shown) = (Vec::new(), BTreeMap::new());
        let buckets = match counted.results.get("keys").map(|result| &result.kind) {
            Some(Some(Told::Buckets(buckets))) => buckets.buckets.as_slice(),
            _ => &[],
        };
        for bucket in buckets {
            let inner = |field: &str| match &bucket.results.get(field)?.kind {
                Some(Told::Value(value)) => number(Some(value)),
                _ => None,
            };
            match (number(bucket.value.as_ref()), inner("value"), inner("base")) {
                (Some(key), Some(value), Some(base)) if (1..=self.work.keys).contains(&key) => {
                    keys.extend((0..bucket.count).map(|_| key));
                    shown.insert(key, (value, base));
                }
                other => self.damage(format!("a group of no key, {other:?}: {bucket:?}")),
            }
        }
        if keys.len() as u64 != counted.count {
            self.damage(format!("of {} records {} are in groups: {keys:?}", counted.count, keys.len()));
        }
        self.saw(invoked, Seen::Groups(keys));
        let read = |key: Key| {
            let (value, base) = shown.get(&key).copied().unzip();
            Touch { base, ..Touch::of(key, Act::Read(value, Freshness::Linearizable)) }
        };
        (1..=self.work.keys).map(read).collect()
    }

    /// Half of the answers may lack partitions, if they say so: those that say nothing must be whole.
    fn may_be_partial(&mut self) -> Option<v1::ReadOptions> {
        let partial = v1::ReadOptions { partial: v1::Partial::Allow.into(), ..Default::default() };
        self.draw.random_bool(0.5).then_some(partial)
    }

    fn saw(&self, invoked: u64, seen: Seen) {
        let (client, returned) = (self.id, self.recorder.now());
        let answer = SetAnswer { client, invoked, returned, freshness: Freshness::Linearizable, seen };
        self.recorder.note(|history| history.sets.push(answer));
    }

    /// The test's keys, as the server sorts them.
    fn sorted_keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = (1..=self.work.keys).collect();
        keys.sort_by_key(|key| api::sortable(&wire_key(*key)));
        keys
    }

    /// The test's keys for those of an answer; one that is none of ours is noticed where the records are looked at.
    pub(super) fn keys_of<'a>(&self, wire: impl Iterator<Item = &'a Option<v1::Key>>) -> Vec<Key> {
        let ours: BTreeMap<_, Key> =
            (1..=self.work.keys).map(|key| (api::sortable(&wire_key(key)), key)).collect();
        wire.flatten().filter_map(|key| ours.get(&api::sortable(key)).copied()).collect()
    }
}

fn number(value: Option<&v1::Value>) -> Option<u64> {
    match value?.kind {
        Some(v1::value::Kind::Integer(number)) => u64::try_from(number).ok(),
        _ => None,
    }
}

/// The indexes of an answer that claims to be whole; one that says what it lacks is no answer here.
fn whole(coverage: Option<v1::Coverage>) -> Result<Vec<v1::PartitionIndex>, Status> {
    match coverage.as_ref().and_then(|coverage| coverage.missing.first()) {
        Some(missing) => {
            Err(Status::unavailable(format!("partial, as it says: partition {}", missing.partition)))
        }
        None => Ok(covered(coverage)),
    }
}
