//! Tenancies and limits.

use crate::refusal::Violation;
use crate::tenant::{Class, Isolation, Limits, Tenancy, check_tenant};
use crate::v1;

/// Limits for the wire.
pub fn limits_to_wire(limits: &Limits) -> v1::TenantLimits {
    v1::TenantLimits {
        max_collections: limits.max_collections,
        max_vectors_per_collection: limits.max_vectors_per_collection,
        max_storage_bytes: limits.max_storage_bytes,
        max_requests_per_minute: limits.max_requests_per_minute,
    }
}

/// Limits.
pub fn limits_from_wire(limits: &v1::TenantLimits) -> Limits {
    Limits {
        max_collections: limits.max_collections,
        max_vectors_per_collection: limits.max_vectors_per_collection,
        max_storage_bytes: limits.max_storage_bytes,
        max_requests_per_minute: limits.max_requests_per_minute,
    }
}

/// A tenancy for the wire.
pub fn tenancy_to_wire(tenancy: &Tenancy) -> v1::Tenancy {
    let isolation = match tenancy.isolation {
        Isolation::None => v1::TenantIsolation::None,
        Isolation::Collection => v1::TenantIsolation::Collection,
        Isolation::Storage => v1::TenantIsolation::Storage,
    };
    v1::Tenancy {
        tenant: tenancy.tenant.clone(),
        class: tenancy.class.name().to_owned(),
        isolation: isolation.into(),
        limits: Some(limits_to_wire(&tenancy.limits)),
        is_full: tenancy.is_full,
    }
}

/// A tenancy; without limits it has those that its class has where nothing is configured.
pub fn tenancy_from_wire(tenancy: v1::Tenancy) -> Result<Tenancy, Violation> {
    check_tenant("tenancy.tenant", &tenancy.tenant)?;
    let class = Class::of_text("tenancy.class", &tenancy.class)?;
    let isolation = match tenancy.isolation() {
        v1::TenantIsolation::Unspecified | v1::TenantIsolation::None => Isolation::None,
        v1::TenantIsolation::Collection => Isolation::Collection,
        v1::TenantIsolation::Storage => Isolation::Storage,
    };
    let limits = tenancy.limits.as_ref().map_or_else(|| class.limits(), limits_from_wire);
    Ok(Tenancy { tenant: tenancy.tenant, class, isolation, limits, is_full: tenancy.is_full })
}
