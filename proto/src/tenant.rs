//! Tenants: whose a collection is, and what its owner may have and do.
//!
//! A tenant comes from a caller's credentials. With [`Isolation::Collection`] and [`Isolation::Storage`] it has names of its
//! own: its collection `docs` is the collection `acme/docs` of the cluster, and since a user's name cannot hold the
//! separator, no name of one tenant is one of another's, or of nobody's. Routers put the tenant before the name where a
//! request comes in, and take it off where an answer goes out; everything behind them knows the whole name only.
//!
//! What a tenant may have is said for its [`Class`]. The meta group keeps the limits of each class, and hands those of its
//! tenant out with each collection ([`Tenancy`]), so that nodes need no credentials. A limit on the records of a collection
//! is divided among its partitions by the slots that they own ([`shares`]): each keeps to its share without asking anybody,
//! and together they never have more. [`Bucket`] is how requests are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::PartitionId;
use crate::placement::CollectionPlacement;
use crate::refusal::{Refusal, Violation};
use crate::schema::{at_most, check_name};

/// Bytes of a tenant's name, at most: it is the name of a folder, too.
pub const TENANT_BYTES_MAX: usize = 63;
/// Tenants that figures are told of by name.
pub const TENANTS_NAMED_MAX: usize = 100;
/// The name of all others together, and so no tenant's.
pub const TENANT_OTHER: &str = "other";
/// Between the tenant and its collection's name.
pub const SEPARATOR: char = '/';
/// A bucket holds the requests of so many seconds, so that a minute sees 3.3 % more than its limit at most.
const BURST_SECONDS: u64 = 2;

/// Refuses what is no name of a tenant: 1 to 63 of `a-z 0-9 -`, and not `other`.
pub fn check_tenant(field: &str, tenant: &str) -> Result<(), Violation> {
    if tenant.is_empty() {
        return Err(Violation::new(field, "a tenant's name has at least 1 character"));
    }
    at_most(field, "bytes", TENANT_BYTES_MAX, tenant.len())?;
    match tenant.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        None if tenant == TENANT_OTHER => {
            Err(Violation::new(field, "`other` is no tenant's name: it stands for all others"))
        }
        None => Ok(()),
        Some(bad) => Err(Violation::new(
            field,
            format!("character {bad:?} is not allowed in a tenant's name; allowed are a-z 0-9 -"),
        )),
    }
}

/// The cluster's name of a tenant's collection.
pub fn inside(tenant: &str, name: &str) -> String {
    format!("{tenant}{SEPARATOR}{name}")
}

/// The tenant in a cluster's name of a collection, if it holds one, and the name as that tenant knows it.
pub fn split(name: &str) -> (Option<&str>, &str) {
    match name.split_once(SEPARATOR) {
        Some((tenant, name)) => (Some(tenant), name),
        None => (None, name),
    }
}

/// Refuses what is no cluster's name of a collection: a name, with or without a tenant before it.
pub fn check_collection(field: &str, name: &str) -> Result<(), Violation> {
    let (tenant, name) = split(name);
    tenant.map_or(Ok(()), |tenant| check_tenant(field, tenant))?;
    check_name(field, name)
}

/// By what a tenant is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Whoever is not said to be of another one.
    #[default]
    Default,
    /// Ten times as much.
    Enterprise,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 2] = [Class::Default, Class::Enterprise];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Class::Default => "default",
            Class::Enterprise => "enterprise",
        }
    }

    /// The class of this name; an empty one is the default.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn of_text(field: &str, name: &str) -> Result<Class, Violation> {
        if name.is_empty() {
            return Ok(Class::Default);
        }
        let known = Class::ALL.into_iter().find(|class| class.name() == name);
        known.ok_or_else(|| Violation::new(field, format!("must be default | enterprise, got `{name}`")))
    }

    /// Its limits, unless they are configured otherwise.
    pub const fn limits(self) -> Limits {
        match self {
            Class::Default => Limits {
                max_collections: 100,
                max_vectors_per_collection: 10_000_000,
                max_storage_bytes: 100 << 30,
                max_requests_per_minute: 1_000,
            },
            Class::Enterprise => Limits {
                max_collections: 1_000,
                max_vectors_per_collection: 100_000_000,
                max_storage_bytes: 1 << 40,
                max_requests_per_minute: 10_000,
            },
        }
    }
}

/// What a tenant may have and do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Collections.
    pub max_collections: u64,
    /// Vectors of one collection.
    pub max_vectors_per_collection: u64,
    /// Bytes of all its collections, each partition counted once.
    pub max_storage_bytes: u64,
    /// Requests.
    pub max_requests_per_minute: u64,
}

/// The limits of each class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classes(pub BTreeMap<Class, Limits>);

impl Default for Classes {
    fn default() -> Classes {
        Classes(Class::ALL.into_iter().map(|class| (class, class.limits())).collect())
    }
}

impl Classes {
    /// Of one class.
    pub fn limits(&self, class: Class) -> Limits {
        self.0.get(&class).copied().unwrap_or_else(|| class.limits())
    }
}

/// How far the collections of a tenant are kept apart from those of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// One space of names for all.
    None,
    /// Names of its own.
    #[default]
    Collection,
    /// Names, and folders, of its own.
    Storage,
}

impl Isolation {
    /// All of them.
    pub const ALL: [Isolation; 3] = [Isolation::None, Isolation::Collection, Isolation::Storage];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Isolation::None => "none",
            Isolation::Collection => "collection",
            Isolation::Storage => "storage",
        }
    }

    /// Whether a tenant has names of its own.
    pub fn has_names(self) -> bool {
        self != Isolation::None
    }
}

/// Whose a collection is, and what that means for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenancy {
    /// Whose.
    pub tenant: String,
    /// By what the tenant is limited.
    pub class: Class,
    /// As it was when the collection was made.
    pub isolation: Isolation,
    /// The limits of the class.
    pub limits: Limits,
    /// Whether the tenant stores as much as it may.
    pub is_full: bool,
}

impl Tenancy {
    /// Refuses one that contradicts itself, or the collection's name.
    pub fn check(&self, collection: &str) -> Result<(), Violation> {
        check_tenant("tenancy.tenant", &self.tenant)?;
        let expected = self.isolation.has_names().then_some(self.tenant.as_str());
        if split(collection).0 == expected {
            return Ok(());
        }
        Err(Violation::new("spec.name", format!("`{collection}` is no name of tenant `{}`", self.tenant)))
    }

    /// The refusal of a write that would need more room.
    pub fn full(&self) -> Refusal {
        self.refused(Limit::Storage, self.limits.max_storage_bytes)
    }

    /// The refusal of a write beyond a share of the collection's records.
    pub fn crowded(&self) -> Refusal {
        self.refused(Limit::Vectors, self.limits.max_vectors_per_collection)
    }

    fn refused(&self, limit: Limit, max: u64) -> Refusal {
        Refusal::Quota { tenant: self.tenant.clone(), limit, max, retry_after: limit.retry_after() }
    }
}

/// Which limit of a tenant was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// See [`Limits::max_collections`].
    Collections,
    /// See [`Limits::max_vectors_per_collection`].
    Vectors,
    /// See [`Limits::max_storage_bytes`].
    Storage,
    /// See [`Limits::max_requests_per_minute`].
    Requests,
    /// A tenant's share of what a router does at once.
    Concurrency,
}

impl Limit {
    /// Its name: that of its key, if it has one.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Collections => "max_collections",
            Limit::Vectors => "max_vectors_per_collection",
            Limit::Storage => "max_storage_bytes",
            Limit::Requests => "max_requests_per_minute",
            Limit::Concurrency => "concurrent_requests",
        }
    }

    /// When it is worth trying again, if nothing better is known: after something was deleted.
    pub fn retry_after(self) -> Duration {
        match self {
            Limit::Collections | Limit::Vectors | Limit::Storage => Duration::from_secs(60),
            Limit::Requests | Limit::Concurrency => Duration::from_millis(250),
        }
    }
}

/// Records that a partition of this collection may have, if its owner is limited: its share by the slots that it owns, so that
/// all shares together are the limit. A record counts for each vector that the collection declares.
pub fn share(placement: &CollectionPlacement, partition: PartitionId) -> Option<u64> {
    let vectors = placement.spec.vectors.len() as u64;
    let max = placement.tenancy.as_ref()?.limits.max_vectors_per_collection.checked_div(vectors)?;
    let slots = (placement.slots.len() as u64).max(1);
    let owned = |ordinal: usize| {
        placement.slots.iter().filter(|owner| usize::from(**owner) == ordinal).count() as u64
    };
    let floor = |ordinal: usize| (u128::from(max) * u128::from(owned(ordinal)) / u128::from(slots)) as u64;
    let at = placement.partitions.iter().position(|p| p.id == partition)?;
    let given: u64 = (0..placement.partitions.len()).map(floor).sum();
    // What does not divide goes to the first ones that own anything.
    let owners = (0..at).filter(|ordinal| owned(*ordinal) > 0).count() as u64;
    let more = u64::from(owned(at) > 0 && owners < max - given);
    Some(floor(at) + more)
}

/// Counts requests: it fills steadily, and what is taken must be in it. Times are since any fixed point.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    per_minute: u64,
    /// In parts of 60,000,000: one request for each minute and microsecond.
    level: u128,
    at: Duration,
}

const REQUEST: u128 = 60_000_000;

impl Bucket {
    /// A full one.
    pub fn new(per_minute: u64, now: Duration) -> Bucket {
        Bucket { per_minute, level: Bucket::room(per_minute), at: now }
    }

    fn room(per_minute: u64) -> u128 {
        u128::from((per_minute * BURST_SECONDS / 60).max(1)) * REQUEST
    }

    /// From now on it fills at this rate.
    pub fn set(&mut self, per_minute: u64, now: Duration) {
        self.fill(now);
        self.per_minute = per_minute;
        self.level = self.level.min(Bucket::room(per_minute));
    }

    fn fill(&mut self, now: Duration) {
        let more = now.saturating_sub(self.at).as_micros().saturating_mul(self.per_minute.into());
        self.level = self.level.saturating_add(more).min(Bucket::room(self.per_minute));
        self.at = self.at.max(now);
    }

    /// Takes as many as there are, at most so many.
    pub fn take(&mut self, wanted: u64, now: Duration) -> u64 {
        self.fill(now);
        let taken = u64::try_from(self.level / REQUEST).unwrap_or(u64::MAX).min(wanted);
        self.level -= u128::from(taken) * REQUEST;
        taken
    }

    /// How long until so many can be taken, if nobody takes any before.
    pub fn wait(&self, wanted: u64) -> Duration {
        let lacks = (u128::from(wanted) * REQUEST).saturating_sub(self.level);
        let micros = lacks.div_ceil(u128::from(self.per_minute.max(1)));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

/// Requests that a router asks for at once: those of a quarter of a second.
pub fn slice(per_minute: u64) -> u64 {
    (per_minute / 240).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use crate::placement::Partition;
    use crate::schema::{CollectionSpec, Distance, IndexKind, VectorSpec};

    #[test]
    fn a_tenants_name_is_no_path_and_its_collections_are_nobody_elses() {
        for good in ["a", "acme", "0-9", "-", &"a".repeat(63)] {
            check_tenant("tenant", good).unwrap();
        }
        for bad in ["", "other", ".", "..", "a/b", "A", "a_b", "a b", "a\0", "é", "%2e", &"a".repeat(64)] {
            assert!(check_tenant("tenant", bad).is_err(), "{bad}");
        }
        assert_eq!(split(&inside("acme", "docs")), (Some("acme"), "docs"));
        assert_eq!(split("docs"), (None, "docs"));
        for bad in ["acme/", "/docs", "acme/a/b", "Acme/docs", "acme/.x", "../docs"] {
            assert!(check_collection("name", bad).is_err(), "{bad}");
        }
        check_collection("name", "acme/docs").unwrap();
    }

    #[test]
    fn a_minute_sees_as_many_requests_as_its_limit_and_a_twentieth_more_at_most() {
        for per_minute in [60, 1_000, 10_000] {
            let mut bucket = Bucket::new(per_minute, Duration::ZERO);
            let taken: u64 = (0..6_000).map(|n| bucket.take(50, Duration::from_millis(n * 10))).sum();
            assert!((per_minute..=per_minute + per_minute / 20).contains(&taken), "{taken} of {per_minute}");
        }
    }

    #[test]
    fn a_bucket_says_when_there_is_something_in_it() {
        let mut bucket = Bucket::new(1_000, Duration::ZERO);
        assert_eq!(bucket.take(100, Duration::ZERO), 33);
        assert_eq!(bucket.take(1, Duration::ZERO), 0);
        let wait = bucket.wait(1);
        assert_eq!(bucket.take(1, wait - Duration::from_micros(1)), 0);
        assert_eq!(bucket.take(1, wait), 1);
    }

    #[test]
    fn the_shares_of_all_partitions_are_the_limit() {
        let vector = VectorSpec::new(2, Distance::Dot, IndexKind::Flat);
        for (max, vectors) in [(100, 1), (7, 1), (0, 1), (1_001, 2), (u64::MAX, 1)] {
            let named = (0..vectors).map(|n| (format!("v{n}"), vector));
            let limits = Limits { max_vectors_per_collection: max, ..Class::Default.limits() };
            let placement = CollectionPlacement {
                id: uuid::Uuid::nil(),
                spec: CollectionSpec { vectors: named.collect(), ..Default::default() },
                epoch: Epoch(1),
                partitions: (1..=4).map(|id| Partition::new(PartitionId(id), Vec::new())).collect(),
                // The third owns nothing yet.
                slots: (0..1_024).map(|n| [0, 1, 3][n % 3]).collect(),
                slot_move: None,
                replaces: Default::default(),
                tenancy: Some(Tenancy {
                    tenant: "acme".into(),
                    class: Class::Default,
                    isolation: Isolation::None,
                    limits,
                    is_full: false,
                }),
            };
            let shares: Vec<u64> = (1..=4).filter_map(|id| share(&placement, PartitionId(id))).collect();
            assert_eq!(shares.iter().sum::<u64>(), max / vectors, "{shares:?}");
            assert_eq!(shares[2], 0);
        }
    }
}
