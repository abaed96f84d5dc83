//! What tenants have and did: read from the map, from a replica of each partition, and from who counts requests.

use std::collections::BTreeMap;

use flotilla_proto::refusal::Refusal;
use flotilla_proto::tenant::{Class, Isolation};
use flotilla_proto::v1;
use futures::{StreamExt as _, TryStreamExt as _};
use tonic::Status;

use super::{Member, rate};
use crate::Router;
use crate::admission::Deadline;
use crate::read;
use crate::scope::Scope;

/// Collections asked for at once.
const AT_ONCE: usize = 8;

/// The usage of the caller's tenant; for one without a tenant of all, or of the one that it names.
///
/// # Errors
/// `PERMISSION_DENIED` for another tenant's; that of a collection that does not tell.
pub(crate) async fn usage(
    router: &Router,
    request: v1::UsageRequest,
    scope: &Scope,
    by: Deadline,
) -> Result<v1::UsageResponse, Status> {
    let map = router.placement.known(by).await?;
    let mut owners: BTreeMap<String, (Class, Vec<String>)> = BTreeMap::new();
    if let Some(member) = scope.member() {
        if !request.tenant.is_empty() && request.tenant != member.tenant {
            return Err(Refusal::Denied("this is told to that tenant and to operators alone".into()).into());
        }
        owners.insert(member.tenant.clone(), (member.class, Vec::new()));
    }
    for collection in &map.collections {
        let Some(tenancy) = collection.tenancy.as_ref() else { continue };
        let is_wanted = request.tenant.is_empty() || request.tenant == tenancy.tenant;
        let is_own = scope.member().is_none_or(|member| member.tenant == tenancy.tenant);
        let is_seen = scope.member().is_some() || scope.sees(&collection.spec.name);
        if is_wanted && is_own && is_seen {
            let owner = owners.entry(tenancy.tenant.clone()).or_insert((tenancy.class, Vec::new()));
            owner.1.push(collection.spec.name.clone());
        }
    }
    let mut tenants = Vec::with_capacity(owners.len());
    for (tenant, (class, names)) in owners {
        tenants.push(of(router, Member { tenant, class, isolation: Isolation::None }, names, by).await?);
    }
    Ok(v1::UsageResponse { tenants })
}

async fn of(
    router: &Router,
    member: Member,
    names: Vec<String>,
    by: Deadline,
) -> Result<v1::TenantUsage, Status> {
    let counted = rate::lease(&router.fanout, &member, 0, by).await?;
    let mut usage = v1::TenantUsage {
        class: member.class.name().to_owned(),
        tenant: member.tenant,
        requests_last_minute: counted.last_minute,
        limits: counted.limits,
        ..Default::default()
    };
    let one = |name: String| async move {
        match read::collection_status(router, &name, by).await {
            // It went since the map was looked at.
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            answer => answer.map(Some),
        }
    };
    let mut told = futures::stream::iter(names).map(one).buffer_unordered(AT_ONCE);
    while let Some(answer) = told.try_next().await? {
        let Some(v1::GetCollectionResponse { collection, status }) = answer else { continue };
        let status = status.unwrap_or_default();
        let vectors = collection.and_then(|c| c.spec).map_or(0, |spec| spec.vectors.len() as u64);
        usage.collections += 1;
        usage.records += status.records;
        usage.vectors += status.records.saturating_mul(vectors);
        usage.storage_bytes += status.disk_bytes;
    }
    Ok(usage)
}
