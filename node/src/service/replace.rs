//! Steps of a replacement of a generation, between wire and replica.

use flotilla_proto::convert::filter_from_wire;
use flotilla_proto::ids::Epoch;
use flotilla_proto::limits::BATCH_MAX;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::at_most;
use flotilla_proto::shard::replace_request::Turn as WireTurn;
use flotilla_proto::shard::{self, replace_step::Step};

use super::write::records_from_wire;
use crate::env::clock;
use crate::machine::command::RequestId;
use crate::meta::catalogue::Change;
use crate::meta::catalogue::replaces::Turn;
use crate::partition::{Owned, Replica};

/// Takes a step of the replacement in this partition, which this node leads.
pub(super) async fn step(
    replica: &Replica,
    owned: &Owned,
    epoch: Epoch,
    request: Option<RequestId>,
    step: shard::ReplaceStep,
) -> Result<shard::WriteResponse, Refusal> {
    let RequestId { client, serial } = request.ok_or_else(|| Violation::new("request", "is missing"))?;
    let id = (client, serial);
    match step.step.ok_or_else(|| Violation::new("replace.step", "is missing"))? {
        Step::Begin(filter) => {
            let (generation, log_index) =
                replica.replace_begin(id, epoch, filter_from_wire(filter)?, owned).await?;
            Ok(shard::WriteResponse { log_index, generation, ..Default::default() })
        }
        Step::Stage(shard::ReplacePart { sequence, records }) => {
            at_most("records", "records", BATCH_MAX, records.len())?;
            let records = records_from_wire(records)?;
            let (affected, log_index) = replica.replace_stage(id, sequence, &records, owned).await?;
            Ok(shard::WriteResponse { affected, log_index, ..Default::default() })
        }
        Step::Settle(shard::ReplaceSettle {}) => {
            let done = replica.replace_settle(id, owned).await?;
            let done = done.ok_or_else(|| {
                Refusal::Aborted("the replacement was done, and what came of it is forgotten".to_owned())
            })?;
            Ok(shard::WriteResponse {
                affected: done.written,
                removed: done.removed,
                log_index: done.index,
                generation: owned.replaces.generation,
                ..Default::default()
            })
        }
    }
}

/// The change of the catalogue that is asked for.
pub(super) fn change_from_wire(request: &shard::ReplaceRequest) -> Result<Change, Violation> {
    let collection = request
        .collection_id
        .parse()
        .map_err(|_| Violation::new("collection_id", format!("`{}` is not an id", request.collection_id)))?;
    let id = request.id.as_ref().ok_or_else(|| Violation::new("id", "is missing"))?;
    let turn = match request.turn() {
        WireTurn::Open => Turn::Open { now_ms: clock::unix_millis() },
        WireTurn::Commit => Turn::Commit { settled: request.settled },
        WireTurn::Close => Turn::Close,
    };
    Ok(Change::Replace { collection, id: (id.client, id.serial), turn })
}
