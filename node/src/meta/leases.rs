//! How many requests tenants may still make: counted at one place, by the leader of the meta group.
//!
//! Routers ask for requests in advance, a quarter of a second's worth at once, so all of them together keep to the limit
//! and none asks for each request. The counts are in memory: who begins to lead begins with full buckets, which is a burst of
//! two seconds' worth.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use flotilla_proto::tenant::Bucket;
use parking_lot::Mutex;

use crate::env::clock;

/// Tenants counted at once. Beyond, the one that was silent the longest is forgotten.
const TENANTS_MAX: usize = 10_000;
const MINUTE: u64 = 60;
/// How often the class of a tenant may change, at most.
const CLASSIFY_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Leases {
    began: clock::Instant,
    tenants: Mutex<HashMap<String, Lease>>,
}

#[derive(Debug)]
struct Lease {
    bucket: Bucket,
    /// Seconds, and what was granted in each.
    granted: VecDeque<(u64, u64)>,
    asked: Duration,
    classified: Option<Duration>,
}

/// What a router is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Requests.
    pub count: u64,
    /// With none: until there are some.
    pub retry_after: Duration,
    /// Granted to all routers within the last minute.
    pub last_minute: u64,
}

impl Default for Leases {
    fn default() -> Leases {
        Leases { began: clock::now(), tenants: Mutex::default() }
    }
}

impl Leases {
    /// As many of the tenant's requests as there are, at most `wanted`.
    pub fn take(&self, tenant: &str, per_minute: u64, wanted: u64) -> Granted {
        self.take_at(tenant, per_minute, wanted, self.began.elapsed())
    }

    fn take_at(&self, tenant: &str, per_minute: u64, wanted: u64, now: Duration) -> Granted {
        let mut tenants = self.tenants.lock();
        if tenants.len() >= TENANTS_MAX && !tenants.contains_key(tenant) {
            forget_one(&mut tenants);
        }
        let lease = tenants.entry(tenant.to_owned()).or_insert_with(|| Lease {
            bucket: Bucket::new(per_minute, now),
            granted: VecDeque::new(),
            asked: now,
            classified: None,
        });
        lease.asked = now;
        lease.bucket.set(per_minute, now);
        let count = lease.bucket.take(wanted, now);
        lease.count(count, now.as_secs());
        let retry_after = if count == 0 { lease.bucket.wait(wanted) } else { Duration::ZERO };
        let last_minute = lease.granted.iter().map(|(_, count)| count).sum();
        Granted { count, retry_after, last_minute }
    }
}

impl Leases {
    /// Whether the class of a tenant may be changed now: keys of one tenant that name several classes must not have the map
    /// changed with each call.
    pub fn may_classify(&self, tenant: &str) -> bool {
        let now = self.began.elapsed();
        let mut tenants = self.tenants.lock();
        let Some(lease) = tenants.get_mut(tenant) else { return false };
        let may = lease.classified.is_none_or(|at| now.saturating_sub(at) >= CLASSIFY_EVERY);
        if may {
            lease.classified = Some(now);
        }
        may
    }
}

impl Lease {
    fn count(&mut self, count: u64, second: u64) {
        while self.granted.front().is_some_and(|(at, _)| at + MINUTE <= second) {
            self.granted.pop_front();
        }
        match self.granted.back_mut() {
            _ if count == 0 => {}
            Some((at, counted)) if *at == second => *counted += count,
            _ => self.granted.push_back((second, count)),
        }
    }
}

fn forget_one(tenants: &mut HashMap<String, Lease>) {
    let longest = tenants.iter().min_by_key(|(_, lease)| lease.asked).map(|(tenant, _)| tenant.clone());
    if let Some(tenant) = longest {
        tenants.remove(&tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_within_a_minute_is_told_and_each_tenant_has_its_own() {
        let leases = Leases::default();
        let at = |tenant: &str, wanted: u64, millis: u64| {
            leases.take_at(tenant, 600, wanted, Duration::from_millis(millis))
        };
        assert_eq!(at("a", 15, 0).count, 15);
        let rest = at("a", 15, 0);
        assert_eq!((rest.count, rest.last_minute), (5, 20));
        let none = at("a", 5, 0);
        assert_eq!((none.count, none.retry_after), (0, Duration::from_millis(500)));
        assert_eq!(at("b", 3, 0), Granted { count: 3, retry_after: Duration::ZERO, last_minute: 3 });
        assert_eq!(at("a", 5, 500).count, 5);
        assert_eq!(at("a", 0, 59_999).last_minute, 25);
        assert_eq!(at("a", 0, 60_001).last_minute, 0);
    }

    #[test]
    fn tenants_beyond_the_most_take_the_place_of_the_most_silent() {
        let leases = Leases::default();
        for n in 0..TENANTS_MAX as u64 + 10 {
            leases.take_at(&n.to_string(), 60, 1, Duration::from_secs(n));
        }
        let tenants = leases.tenants.lock();
        assert_eq!(tenants.len(), TENANTS_MAX);
        assert!(!tenants.contains_key("0") && tenants.contains_key("10"));
    }
}
