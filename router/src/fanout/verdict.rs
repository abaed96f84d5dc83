//! What the end of one try means for the call. What a refusal says is [`refusal::advice`]'s to know; what a broken
//! connection looks like is known here.

use std::error::Error as _;

use flotilla_proto::ids::NodeId;
use flotilla_proto::refusal::{self, Advice, Refusal};
use flotilla_proto::v1;
use tonic::{Code, Status};

use crate::admission::exceeded;

/// What to do after a try that gave no answer.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// The view is stale; here is the newer placement, if the node gave it.
    Stale(Option<Box<v1::CollectionPlacement>>),
    /// Another replica leads; this one, if it is known.
    NotLeader(Option<NodeId>),
    /// Not here, or not now: go elsewhere.
    Elsewhere,
    /// This replica's data is damaged: another one's may not be.
    Damaged,
    /// The caller's to know.
    Tell,
}

impl Verdict {
    /// The verdict on a status.
    pub(super) fn on(status: &Status) -> Verdict {
        match refusal::advice(status) {
            Advice::Reroute(newer) => Verdict::Stale(newer),
            Advice::GoTo(leader) if status.code() == Code::FailedPrecondition => {
                Verdict::NotLeader(leader.map(NodeId))
            }
            Advice::GoTo(_) => Verdict::Elsewhere,
            Advice::TellCaller if is_broken_connection(status) => Verdict::Elsewhere,
            Advice::TellCaller if status.code() == Code::DataLoss => Verdict::Damaged,
            Advice::TellCaller => Verdict::Tell,
        }
    }
}

/// Whether the status says that the node was not reached or fell silent, rather than what the node answered.
pub(super) fn is_silence(status: &Status) -> bool {
    is_broken_connection(status) || (status.code() == Code::Unavailable && status.source().is_some())
}

/// Whether the status was made here, of a broken connection, rather than sent by the node.
fn is_broken_connection(status: &Status) -> bool {
    status.source().is_some()
        && !is_timeout(status)
        && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled)
}

/// tonic's word for a timeout, at either end.
fn is_timeout(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message() == "Timeout expired"
}

/// Whether no connection came about, so that the call cannot have arrived.
pub(super) fn never_left(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// A node's status as the caller is told it: code, message and details, without the hop's own headers.
pub(super) fn told(status: Status) -> Status {
    if is_timeout(&status) {
        return exceeded("a node did not answer in time");
    }
    if is_broken_connection(&status) {
        return Refusal::Unavailable(format!("the connection to a node broke: {}", status.message())).into();
    }
    Status::with_details(status.code(), status.message(), bytes::Bytes::copy_from_slice(status.details()))
}

/// Whether the status leaves a partition without an answer through no fault of the request, so that an answer may do
/// without it if the caller allows.
pub(super) fn is_missing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::DataLoss
            | Code::Cancelled
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let on = |refusal: Refusal| Verdict::on(&refusal.into());
        assert_eq!(on(Refusal::StaleEpoch { seen: 1, current: 2, placement: None }), Verdict::Stale(None));
        let led = |leader| Refusal::NotLeader { partition: 7, leader };
        assert_eq!(on(led(Some(3))), Verdict::NotLeader(Some(NodeId(3))));
        assert_eq!(on(led(None)), Verdict::NotLeader(None));
        assert_eq!(on(Refusal::Unavailable("lags".into())), Verdict::Elsewhere);
        assert_eq!(on(Refusal::DataLoss("segment".into())), Verdict::Damaged);
        assert_eq!(on(Refusal::Internal("x".into())), Verdict::Tell);
        assert_eq!(on(Refusal::Aborted("x".into())), Verdict::Tell);
        assert!(!is_silence(&Refusal::Unavailable("lags".into()).into()), "it answered");
    }
}
