//! The way of a patch: check all of it, and send it as any write ([`crate::write`]).
//!
//! What the patch alone tells is checked here, so that a batch with one bad patch changes nothing. What only the record that
//! comes out tells is decided at its partition, record by record: it comes back as a conflict.

use flotilla_proto::convert::{edit_from_wire, filter_from_wire, patch_from_wire, patch_to_wire};
use flotilla_proto::filter::Compiled;
use flotilla_proto::limits::{BATCH_MAX, CONFLICTS_MAX};
use flotilla_proto::refusal::Violation;
use flotilla_proto::schema::at_most;
use flotilla_proto::shard::write_request::Command;
use flotilla_proto::v1::patch_request::Target;
use flotilla_proto::{shard, v1};
use tonic::Status;

use crate::Router;
use crate::admission::Deadline;
use crate::placement::View;
use crate::write::write;

/// Changes the records that the request names, or all that its filter matches.
pub async fn patch(
    router: &Router,
    request: v1::PatchRequest,
    deadline: Deadline,
) -> Result<v1::PatchResponse, Status> {
    let view = router.placement.view(&request.collection, deadline).await?;
    let command = match request.target {
        None => return Err(Violation::new("target", "patches or matching is needed").into()),
        Some(Target::Patches(list)) => Command::Patch(checked(&view, list.patches)?),
        Some(Target::Matching(matching)) => Command::PatchMatching(checked_matching(&view, matching)?),
    };
    let mut done = write(router, &request.collection, command, request.request, deadline).await?;
    let mut conflicts = done.take_conflicts();
    let conflicted = done.unnamed() + conflicts.len() as u64;
    conflicts.truncate(CONFLICTS_MAX);
    Ok(v1::PatchResponse {
        patched: done.affected(),
        conflicts,
        conflicted,
        coverage: Some(done.covered.told()?),
    })
}

/// The patches, ready to send; the first that is wrong is named.
fn checked(view: &View, patches: Vec<v1::Patch>) -> Result<shard::Patches, Violation> {
    at_most("patches", "patches", BATCH_MAX, patches.len())?;
    let places = (0..).take(patches.len()).collect();
    let check = |(n, patch): (usize, v1::Patch)| {
        let at = format!("patches[{n}]");
        let patch = patch_from_wire(&at, patch)?;
        patch.check(&at, &view.spec)?;
        Ok(patch_to_wire(patch))
    };
    let patches = patches.into_iter().enumerate().map(check).collect::<Result<_, Violation>>()?;
    Ok(shard::Patches { patches, places })
}

fn checked_matching(view: &View, matching: v1::PatchMatching) -> Result<v1::PatchMatching, Violation> {
    let filter = matching.filter.clone();
    let filter = filter.ok_or_else(|| Violation::new("matching.filter", "a filter is needed"))?;
    Compiled::new(&filter_from_wire(filter)?, &view.spec)?;
    let edit = edit_from_wire("matching", matching.set.clone(), matching.unset.clone())?;
    if edit.is_empty() {
        return Err(Violation::new("matching", "changes nothing: set or unset is needed"));
    }
    edit.check("matching")?;
    Ok(matching)
}
