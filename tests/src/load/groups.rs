//! Groups of records that are replaced at once, in a collection of their own.
//!
//! Each group is one register: a generation is its value, and which records it has follows from the generation. So an answer
//! that has records of two generations, or not all of one, is damage in itself; and the judges of single keys say the rest: no
//! reader goes back behind a generation that was acknowledged, none finds an empty group where there was a set, and a stream
//! that did not come to its end is never seen.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_proto::v1::aggregation::{Kind, Terms};
use flotilla_proto::v1::aggregation_result::Kind as Told;
use futures::{StreamExt as _, stream};
use rand::Rng as _;
use tonic::Status;

use super::{Answer, Client, Touch, outcome};
use crate::api::{self, int_of};
use crate::history::{Act, Freshness, GROUP, Key, Outcome, Value};
use crate::seed::generator;

/// Of a hundred calls, where there are groups.
pub(super) const SHARE: u32 = 8;
const GROUPS: u64 = 2;
/// Records that a group may have.
const MEMBERS: u64 = 24;
/// Records of a message.
const PART: usize = 5;
/// When a client gives up that never says the end.
const GIVES_UP: Duration = Duration::from_millis(200);

/// A collection of groups, as the clients expect it.
pub fn groups(name: &str, partitions: u32) -> v1::CollectionSpec {
    let fields = ["of", "generation"].map(|field| (field, v1::FieldType::Integer)).to_vec();
    let mut spec = v1::CollectionSpec { partitions, ..api::collection(name, 2, fields) };
    spec.vectors.clear();
    spec
}

/// The records of a generation: at least one.
fn members(group: u64, generation: u64) -> Vec<v1::Record> {
    let mut draw = generator(generation ^ 0x9e0);
    let always = draw.random_range(0..MEMBERS);
    let has = (0..MEMBERS).filter(|n| *n == always || draw.random());
    let payload = || vec![("of", api::int(group as i64)), ("generation", api::int(generation as i64))];
    has.map(|n| api::record(key(group, n), vec![], payload())).collect()
}

fn key(group: u64, n: u64) -> v1::Key {
    api::key(format!("group-{group}/{n:02}"))
}

/// The generation that an answer shows, by how many records it has of each.
fn whole(group: u64, counts: &BTreeMap<u64, u64>) -> Result<Value, String> {
    match counts.iter().collect::<Vec<_>>()[..] {
        [] => Ok(None),
        [(generation, count)] if *count == members(group, *generation).len() as u64 => Ok(Some(*generation)),
        [(generation, count)] => {
            Err(format!("{count} records of generation {generation:x}, which has another number"))
        }
        _ => Err(format!("records of more than one generation: {counts:x?}")),
    }
}

impl Client {
    /// A call that is about a group.
    pub(super) async fn on_groups(&mut self) {
        let group = self.draw.random_range(0..GROUPS);
        match self.draw.random_range(0..10) {
            0..3 => self.replace(group).await,
            3 => self.replace_half(group).await,
            4 => self.replace_again().await,
            _ => self.look(group).await,
        }
    }

    /// Reads every group; how many there are.
    pub(super) async fn look_at_all(&mut self) -> usize {
        if self.work.groups.is_none() {
            return 0;
        }
        for group in 0..GROUPS {
            self.look(group).await;
        }
        GROUPS as usize
    }

    fn set(&mut self, group: u64) -> (u64, Vec<v1::ReplaceRequest>) {
        let request = self.request_id();
        let generation = self.value();
        let first = v1::ReplaceRequest {
            collection: self.work.groups.clone().unwrap_or_default(),
            filter: Some(of(group)),
            request,
            records: Vec::new(),
        };
        let records = members(group, generation);
        let part =
            |records: &[v1::Record]| v1::ReplaceRequest { records: records.to_vec(), ..Default::default() };
        (generation, std::iter::once(first).chain(records.chunks(PART).map(part)).collect())
    }

    async fn replace(&mut self, group: u64) {
        let (generation, messages) = self.set(group);
        self.last_set = Some(messages.clone());
        let invoked = self.recorder.now();
        let answer = self.api().replace(stream::iter(messages)).await;
        if let Ok(done) = &answer
            && done.written != members(group, generation).len() as u64
        {
            self.damage(format!("of generation {generation:x} {} records are written", done.written));
        }
        let touched = vec![Touch::of(GROUP + group, Act::Upsert(generation))];
        let answer = match answer {
            Ok(_) => Ok(Answer { coverage: vec![], touched }),
            Err(status) => {
                if outcome(&status) == Outcome::Failed {
                    self.last_set = None;
                }
                Err((status, touched))
            }
        };
        self.ended("replace", invoked, None, vec![], answer);
    }

    /// A set that never comes to its end: nobody may see it.
    async fn replace_half(&mut self, group: u64) {
        let (_, messages) = self.set(group);
        let endless = stream::iter(messages).chain(stream::pending());
        let answer = tokio::time::timeout(GIVES_UP, self.api().replace(endless)).await;
        if let Ok(Ok(done)) = answer {
            self.damage(format!("a replacement is done before its end: {done:?}"));
        }
    }

    /// Sends the last set once more, as it was: it is not replaced by it again.
    async fn replace_again(&mut self) {
        if let Some(messages) = self.last_set.clone() {
            // Its answer says nothing new.
            let _ = self.api().replace(stream::iter(messages)).await;
        }
    }

    /// Reads a group, in one of three ways.
    async fn look(&mut self, group: u64) {
        let (way, invoked) = (self.draw.random_range(0..3), self.recorder.now());
        let seen = match way {
            0 => self.groups_counted(group).await,
            1 => self.group_scanned(group).await,
            _ => self.group_got(group).await,
        };
        let answer = match seen.map(|counts| whole(group, &counts)) {
            Ok(Ok(value)) => {
                let act = Act::Read(value, Freshness::Linearizable);
                Ok(Answer { coverage: vec![], touched: vec![Touch::of(GROUP + group, act)] })
            }
            Ok(Err(why)) => {
                let way = ["an aggregation", "a scan", "a get"][way];
                self.damage(format!("{way} of group {group} at {invoked}: {why}"));
                Ok(Answer { coverage: vec![], touched: vec![] })
            }
            Err(status) => Err((status, vec![])),
        };
        self.ended("look", invoked, Some(Freshness::Linearizable), vec![], answer);
    }

    async fn groups_counted(&self, group: u64) -> Result<BTreeMap<u64, u64>, Status> {
        let terms = v1::Aggregation {
            field: "generation".into(),
            kind: Some(Kind::Terms(Terms { size: 100, ..Terms::default() })),
            ..Default::default()
        };
        let request = v1::AggregateRequest {
            collection: self.work.groups.clone().unwrap_or_default(),
            filter: Some(of(group)),
            aggregations: [("generations".to_owned(), terms)].into(),
            read: None,
        };
        let answer = self.api().aggregate(request).await?;
        let buckets = match answer.results.get("generations").map(|result| &result.kind) {
            Some(Some(Told::Buckets(buckets))) => buckets.buckets.as_slice(),
            _ => &[],
        };
        let value = |bucket: &v1::aggregation_result::Bucket| match bucket.value.as_ref()?.kind {
            Some(v1::value::Kind::Integer(number)) => u64::try_from(number).ok(),
            _ => None,
        };
        Ok(buckets.iter().map(|bucket| (value(bucket).unwrap_or(0), bucket.count)).collect())
    }

    /// All of it is one page, of one state of each partition.
    async fn group_scanned(&self, group: u64) -> Result<BTreeMap<u64, u64>, Status> {
        let request = v1::ScanRequest {
            collection: self.work.groups.clone().unwrap_or_default(),
            filter: Some(of(group)),
            limit: MEMBERS as u32 * 2,
            with_payload: true,
            ..Default::default()
        };
        Ok(self.counted(group, &self.api().scan(request).await?.items))
    }

    async fn group_got(&self, group: u64) -> Result<BTreeMap<u64, u64>, Status> {
        let request = v1::GetRequest {
            collection: self.work.groups.clone().unwrap_or_default(),
            keys: (0..MEMBERS).map(|n| key(group, n)).collect(),
            with_payload: true,
            ..Default::default()
        };
        Ok(self.counted(group, &self.api().get(request).await?.records))
    }

    /// How many records there are of each generation; they are those that it ought to have.
    fn counted(&self, group: u64, records: &[v1::Record]) -> BTreeMap<u64, u64> {
        let mut counts = BTreeMap::new();
        for record in records {
            let generation = int_of(record, "generation").unwrap_or(0) as u64;
            *counts.entry(generation).or_default() += 1;
            let is_one = |member: &v1::Record| member.key == record.key && member.payload == record.payload;
            if !members(group, generation).iter().any(is_one) {
                self.damage(format!(
                    "a record that generation {generation:x} of group {group} has not: {record:?}"
                ));
            }
        }
        counts
    }
}

fn of(group: Key) -> v1::Filter {
    api::equal("of", api::int(group as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_shows_one_generation_or_none() {
        let full = members(1, 7).len() as u64;
        let shown = |counts: &[(u64, u64)]| whole(1, &counts.iter().copied().collect());
        assert_eq!(shown(&[]), Ok(None));
        assert_eq!(shown(&[(7, full)]), Ok(Some(7)));
        assert!(shown(&[(7, full - 1)]).unwrap_err().contains("another number"));
        assert!(shown(&[(7, full), (8, 1)]).unwrap_err().contains("more than one generation"));
        assert!((1..1_000).all(|generation| !members(0, generation).is_empty()));
    }
}
