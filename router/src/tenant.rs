//! Tenants, where their requests come in.
//!
//! A caller's credentials say whose it is ([`Member`]). What it asks is counted ([`rate`]), has a share of what the router
//! does at once ([`Share`]), and is about its own collections: [`Scope`] puts the tenant before each name that comes
//! in and takes it off each that goes out, and is the only one that does.
//!
//! How many requests there may be is kept by the meta group, from which routers get some in advance; what a tenant may store is
//! kept to by the nodes. Here it is only told: [`figures`], and [`usage`].

pub(crate) mod figures;
pub(crate) mod rate;
pub(crate) mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flotilla_proto::access::{Caller, Right};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::tenant::{Class, Classes, Isolation, Limit, check_tenant};
use flotilla_proto::v1;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use self::figures::Figures;
use self::rate::Purse;
use crate::admission::{Deadline, Limits, exceeded};
use crate::fanout::Fanout;
use crate::scope::Scope;

/// Tenants remembered at once; of those beyond, who has nothing under way is forgotten.
const TENANTS_MAX: usize = 10_000;
/// A tenant has this part of the permits and of the queue.
const SHARE_PART: usize = 4;

/// How long the refusal of a request too many is kept back. Who asks again at once would keep the router busy with refusals, at the
/// cost of others (2026-11: 16 callers in a loop, each refused some 500 times a second).
const REFUSED_AFTER: Duration = Duration::from_millis(100);
/// Refusals of a tenant that are kept back at one time; those beyond are told at once.
const KEPT_BACK_MAX: usize = 256;

/// What a router is told about tenants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hub {
    /// How far the collections that are made from now on are kept apart.
    pub isolation: Isolation,
    /// The limits of each class, for as long as no node of the meta group answers.
    pub classes: Classes,
}

/// Whose a caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The tenant.
    pub tenant: String,
    /// By what it is limited.
    pub class: Class,
    /// How far it is kept apart.
    pub isolation: Isolation,
}

impl Member {
    /// Of a caller; none of one that sees to the cluster as a whole.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if it is neither.
    pub fn of(caller: &Caller, hub: &Hub) -> Result<Option<Member>, Status> {
        let name = &caller.name;
        match &caller.tenant {
            Some(tenant) => {
                let wrong = |why| Refusal::Denied(format!("{name}: {why}"));
                check_tenant("tenant", tenant).map_err(wrong)?;
                let (tenant, class, isolation) = (tenant.clone(), caller.class, hub.isolation);
                Ok(Some(Member { tenant, class, isolation }))
            }
            None if caller.sees_all(Right::Admin) => Ok(None),
            None => Err(Refusal::Denied(format!(
                "{name}: belongs to no tenant; only who is admin of all collections needs none"
            ))
            .into()),
        }
    }

    /// Whose a collection that it makes is to be.
    pub fn tenancy(&self) -> v1::Tenancy {
        let isolation = match self.isolation {
            Isolation::None => v1::TenantIsolation::None,
            Isolation::Collection => v1::TenantIsolation::Collection,
            Isolation::Storage => v1::TenantIsolation::Storage,
        };
        v1::Tenancy {
            tenant: self.tenant.clone(),
            class: self.class.name().to_owned(),
            isolation: isolation.into(),
            ..Default::default()
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tenants {
    /// None: tenants are no more than words in credentials.
    pub hub: Option<Hub>,
    pub figures: Figures,
    known: Mutex<HashMap<String, Arc<Known>>>,
    /// Permits of each tenant, and how many may wait for them.
    share: (usize, usize),
}

/// What a router remembers of a tenant.
#[derive(Debug)]
struct Known {
    purse: Purse,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    kept_back: AtomicUsize,
}

/// A tenant's part of what the router does at once, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Share(#[expect(dead_code, reason = "is held")] OwnedSemaphorePermit);

impl Tenants {
    /// Of a router with so many permits and places in its queue.
    pub fn new(hub: Option<Hub>, figures: Figures, limits: &Limits) -> Tenants {
        let part = |count: usize| (count / SHARE_PART).clamp(1, Semaphore::MAX_PERMITS);
        Tenants {
            hub,
            figures,
            known: Mutex::default(),
            share: (part(limits.running_max), part(limits.waiting_max)),
        }
    }

    fn known(&self, tenant: &str) -> Arc<Known> {
        let mut known = self.known.lock();
        if let Some(found) = known.get(tenant) {
            return found.clone();
        }
        if known.len() >= TENANTS_MAX {
            known.retain(|_, one| Arc::strong_count(one) > 1);
        }
        let permits = Arc::new(Semaphore::new(self.share.0));
        let (waiting, kept_back) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let new = Arc::new(Known { purse: Purse::default(), permits, waiting, kept_back });
        known.insert(tenant.to_owned(), new.clone());
        new
    }

    /// Counts a request, if it is a tenant's.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if it is one too many; that is told after a while.
    pub async fn count(&self, scope: &Scope, fanout: &Fanout, by: Deadline) -> Result<(), Status> {
        let (Some(member), Some(hub)) = (scope.member(), &self.hub) else { return Ok(()) };
        let known = self.known(&member.tenant);
        let limits = hub.classes.limits(member.class);
        if let Err(refused) = known.purse.spend(member, &limits, fanout, by).await {
            let kept_back = Waiting::new(&known.kept_back);
            if kept_back.before < KEPT_BACK_MAX {
                tokio::time::sleep(REFUSED_AFTER.min(by.left() / 2)).await;
            }
            return Err(refused);
        }
        self.figures.request(&member.tenant);
        Ok(())
    }

    /// A share of what the router does at once, if the request is a tenant's. To be had before a permit: who waits here keeps
    /// nobody else from one.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if too many of the tenant's requests wait already, `DEADLINE_EXCEEDED`.
    pub async fn share(&self, scope: &Scope, by: Deadline) -> Result<Option<Share>, Status> {
        let Some(member) = scope.member() else { return Ok(None) };
        let known = self.known(&member.tenant);
        if let Ok(permit) = known.permits.clone().try_acquire_owned() {
            return Ok(Some(Share(permit)));
        }
        let waiting = Waiting::new(&known.waiting);
        if waiting.before >= self.share.1 {
            let (limit, max) = (Limit::Concurrency, self.share.0 as u64);
            let (tenant, retry_after) = (member.tenant.clone(), limit.retry_after());
            return Err(Refusal::Quota { tenant, limit, max, retry_after }.into());
        }
        match tokio::time::timeout_at(by.at(), known.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Some(Share(permit))),
            Ok(Err(_)) => Err(Refusal::Unavailable("the router is going down".into()).into()),
            Err(_) => Err(exceeded("the time was up behind other requests of the tenant")),
        }
    }

    /// A status as the caller is told it; one for the sake of a limit is counted.
    pub fn told(&self, scope: &Scope, status: Status) -> Status {
        if let Some(member) = scope.member() {
            self.figures.refused(&member.tenant, &status);
        }
        scope.told(status)
    }
}

/// One that waits, for as long as it is there.
struct Waiting<'a> {
    all: &'a AtomicUsize,
    before: usize,
}

impl Waiting<'_> {
    fn new(all: &AtomicUsize) -> Waiting<'_> {
        Waiting { all, before: all.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}
