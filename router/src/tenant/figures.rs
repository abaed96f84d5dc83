//! What is counted of tenants: for a bounded number of them by name, for all others as one.

use std::collections::HashSet;
use std::sync::Arc;

use flotilla_proto::refusal::tenant_limit;
use flotilla_proto::tenant::{TENANT_OTHER, TENANTS_NAMED_MAX};
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts, Registry};
use tonic::{Code, Status};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    named: Arc<Mutex<HashSet<String>>>,
    requests: IntCounterVec,
    refused: IntCounterVec,
}

impl Figures {
    /// Registers them.
    ///
    /// # Errors
    /// If the registry holds one of the names already.
    pub fn new(registry: &Registry) -> Result<Figures, prometheus::Error> {
        let help = "Requests of tenants that were admitted; of the first 100 seen by name";
        let requests = IntCounterVec::new(Opts::new("flotilla_tenant_requests_total", help), &["tenant"])?;
        let help = "Requests of tenants that were refused because a limit was reached";
        let refused = Opts::new("flotilla_tenant_refused_total", help);
        let refused = IntCounterVec::new(refused, &["tenant", "limit"])?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Figures { named: Arc::default(), requests, refused })
    }

    fn label<'a>(&self, tenant: &'a str) -> &'a str {
        let mut named = self.named.lock();
        if named.contains(tenant) {
            return tenant;
        }
        if named.len() >= TENANTS_NAMED_MAX {
            return TENANT_OTHER;
        }
        named.insert(tenant.to_owned());
        tenant
    }

    /// A request was admitted.
    pub fn request(&self, tenant: &str) {
        self.requests.with_label_values(&[self.label(tenant)]).inc();
    }

    /// A request ended so; counted if a limit of the tenant is why.
    pub fn refused(&self, tenant: &str, status: &Status) {
        if status.code() != Code::ResourceExhausted {
            return;
        }
        if let Some(limit) = tenant_limit(status) {
            self.refused.with_label_values(&[self.label(tenant), &limit]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::refusal::Refusal;
    use flotilla_proto::tenant::Limit;

    use super::*;

    #[test]
    fn the_hundred_and_first_tenant_is_one_of_the_others() {
        let registry = Registry::new();
        let figures = Figures::new(&registry).unwrap();
        for n in 0..TENANTS_NAMED_MAX + 20 {
            figures.request(&format!("t{n}"));
        }
        assert_eq!(figures.requests.with_label_values(&["t99"]).get(), 1);
        assert_eq!(figures.requests.with_label_values(&[TENANT_OTHER]).get(), 20);
        let families = registry.gather();
        assert_eq!(families[0].get_metric().len(), TENANTS_NAMED_MAX + 1);
        let limit = Limit::Storage;
        let refusal = Refusal::Quota { tenant: "t1".into(), limit, max: 5, retry_after: limit.retry_after() };
        figures.refused("t1", &refusal.into());
        figures.refused("t1", &Refusal::Unavailable("x".into()).into());
        assert_eq!(figures.refused.with_label_values(&["t1", "max_storage_bytes"]).get(), 1);
    }
}
