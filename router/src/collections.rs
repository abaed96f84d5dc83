//! Collections: checked here, decided by the meta group, and visible at this router before the caller hears of it.

use flotilla_proto::convert::{collection_to_wire, fields_from_wire, spec_from_wire};
use flotilla_proto::ids::Epoch;
use flotilla_proto::limits::EF_MAX;
use flotilla_proto::refusal::Violation;
use flotilla_proto::schema::{check_name, check_path};
use flotilla_proto::{shard, v1};
use tonic::Status;

use crate::Router;
use crate::admission::Deadline;
use crate::fanout::Resend;

/// Makes a collection, a tenant's if it is said whose.
pub(crate) async fn create(
    router: &Router,
    request: v1::CreateCollectionRequest,
    tenancy: Option<v1::Tenancy>,
    deadline: Deadline,
) -> Result<v1::CreateCollectionResponse, Status> {
    let spec = request.spec.clone().ok_or_else(|| Violation::new("spec", "is missing"))?;
    if tenancy.is_none() {
        // Only a tenant's own name has the tenant before it.
        check_name("spec.name", &spec.name)?;
    }
    spec_from_wire(spec)?.check()?;
    let request = shard::CreateRequest { spec: request.spec, tenancy };
    let send = |mut meta: Meta, request| async move { meta.create(request).await };
    let answer: v1::CreateCollectionResponse =
        router.fanout.meta(deadline, Resend::IfRefused, request, send).await?;
    router.placement.wait_for(epoch(answer.collection.as_ref()), deadline).await?;
    Ok(answer)
}

type Meta = flotilla_proto::shard::meta_client::MetaClient<crate::line::Line>;

fn epoch(collection: Option<&v1::Collection>) -> Epoch {
    Epoch(collection.map_or(0, |c| c.epoch))
}

/// All collections, by name.
pub(crate) async fn list(router: &Router, deadline: Deadline) -> Result<v1::ListCollectionsResponse, Status> {
    let map = router.placement.known(deadline).await?;
    Ok(v1::ListCollectionsResponse { collections: map.collections.iter().map(collection_to_wire).collect() })
}

/// Adds fields, changes search defaults.
pub(crate) async fn update(
    router: &Router,
    request: v1::UpdateCollectionRequest,
    deadline: Deadline,
) -> Result<v1::UpdateCollectionResponse, Status> {
    request.add_fields.keys().try_for_each(|path| check_path("add_fields", path))?;
    let (fields, languages) = (request.add_fields.clone(), request.languages.clone());
    fields_from_wire(("add_fields", "languages"), fields, languages)?;
    for (name, ef) in &request.ef_search {
        if *ef == 0 || *ef > EF_MAX {
            return Err(Violation::range(format!("ef_search[{name}]"), 1, EF_MAX, ef).into());
        }
    }
    let send = |mut meta: Meta, request| async move { meta.update(request).await };
    let answer: v1::UpdateCollectionResponse =
        router.fanout.meta(deadline, Resend::IfRefused, request, send).await?;
    router.placement.wait_for(epoch(answer.collection.as_ref()), deadline).await?;
    Ok(answer)
}

/// Deletes a collection with all its records.
pub(crate) async fn delete(
    router: &Router,
    request: v1::DeleteCollectionRequest,
    deadline: Deadline,
) -> Result<v1::DeleteCollectionResponse, Status> {
    let name = request.name.clone();
    let known = router.placement.known(deadline).await?;
    let doomed = known.collection(&name).map(|c| c.id);
    let send = |mut meta: Meta, request| async move { meta.delete(request).await };
    let answer = router.fanout.meta(deadline, Resend::IfRefused, request, send).await?;
    let is_gone = |map: &flotilla_proto::placement::PlacementMap| match doomed {
        Some(id) => map.collection_by_id(id).is_none(),
        None => map.epoch > known.epoch || map.collection(&name).is_none(),
    };
    router.placement.catch_up(deadline, is_gone).await?;
    Ok(answer)
}
