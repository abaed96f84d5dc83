//! Every refusal that crosses a process boundary: few kinds, each an advice to the caller (mend the request, go
//! elsewhere, wait, give up), carried as a gRPC status with `google.rpc` details.

use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::tenant::Limit;
use crate::v1;

const DOMAIN: &str = "flotilla";
const TENANT_LIMIT: &str = "TENANT_LIMIT";
/// The trailer that carries the newer placement of the collection with a refusal of a stale epoch.
pub const PLACEMENT_TRAILER: &str = "flotilla-placement-bin";

/// One field of a request that is wrong, and why. The text names the limit and the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Violation {
        Violation { field: field.into(), description: description.into() }
    }

    /// A number outside `min` to `max`.
    pub fn range(
        field: impl Into<String>,
        min: impl std::fmt::Display,
        max: impl std::fmt::Display,
        got: impl std::fmt::Display,
    ) -> Violation {
        Violation::new(field, format!("must be {min} to {max}, got {got}"))
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.description)
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// There is no such thing: (kind, name).
    NotFound(&'static str, String),
    /// There is one already: (kind, name).
    AlreadyExists(&'static str, String),
    /// The request is wrong: mend it.
    Invalid(Violation),
    /// The caller's map is older than the collection's placement; here is the newer one.
    StaleEpoch {
        /// The caller's epoch.
        seen: u64,
        /// The node's epoch.
        current: u64,
        /// The placement as the node knows it; none if the collection is gone.
        placement: Option<Box<v1::CollectionPlacement>>,
    },
    /// The replica here does not lead the partition; the leader's node, if known.
    NotLeader {
        /// The partition.
        partition: u64,
        /// The leader's node, if known.
        leader: Option<u64>,
    },
    /// The caller has not said who it is, or not in a way that holds.
    Unauthenticated(String),
    /// The caller may not do this.
    Denied(String),
    /// Not now; a retry can help.
    Unavailable(String),
    /// Too much at the moment: wait, then try again.
    Exhausted {
        /// What ran out.
        what: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A tenant has, or does, as much as it may.
    Quota {
        /// Which tenant.
        tenant: String,
        /// What of it.
        limit: Limit,
        /// How much it may.
        max: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// Nothing changed; run the operation again from its start.
    Aborted(String),
    /// The time was up; a write may still happen.
    DeadlineExceeded(String),
    /// Data is damaged here, and this replica does not answer from it.
    DataLoss(String),
    /// We are broken.
    Internal(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::NotFound(kind, name) => write!(f, "there is no {kind} `{name}`"),
            Refusal::AlreadyExists(kind, name) => write!(f, "{kind} `{name}` exists already"),
            Refusal::Invalid(violation) => violation.fmt(f),
            Refusal::StaleEpoch { seen, current, .. } => {
                write!(f, "the request was routed by epoch {seen}; the placement is at epoch {current}")
            }
            Refusal::NotLeader { partition, leader: Some(node) } => {
                write!(f, "partition {partition} is led by node {node}")
            }
            Refusal::NotLeader { partition, leader: None } => {
                write!(f, "partition {partition} has no known leader")
            }
            Refusal::Exhausted { what, retry_after } => {
                write!(f, "{what}; try again in {} ms", retry_after.as_millis())
            }
            Refusal::Quota { tenant, limit, max, retry_after } => {
                let (limit, millis) = (limit.name(), retry_after.as_millis());
                write!(f, "tenant `{tenant}` has reached its limit {limit}, {max}; try again in {millis} ms")
            }
            Refusal::Unauthenticated(why)
            | Refusal::Denied(why)
            | Refusal::Unavailable(why)
            | Refusal::Aborted(why)
            | Refusal::DeadlineExceeded(why)
            | Refusal::DataLoss(why)
            | Refusal::Internal(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Refusal {
        Refusal::Invalid(violation)
    }
}

impl Refusal {
    fn code(&self) -> (Code, &'static str) {
        match self {
            Refusal::NotFound(..) => (Code::NotFound, "NOT_FOUND"),
            Refusal::AlreadyExists(..) => (Code::AlreadyExists, "ALREADY_EXISTS"),
            Refusal::Invalid(_) => (Code::InvalidArgument, "INVALID_ARGUMENT"),
            Refusal::StaleEpoch { .. } => (Code::FailedPrecondition, "STALE_EPOCH"),
            Refusal::NotLeader { .. } => (Code::FailedPrecondition, "NOT_LEADER"),
            Refusal::Unauthenticated(_) => (Code::Unauthenticated, "UNAUTHENTICATED"),
            Refusal::Denied(_) => (Code::PermissionDenied, "PERMISSION_DENIED"),
            Refusal::Unavailable(_) => (Code::Unavailable, "UNAVAILABLE"),
            Refusal::Exhausted { .. } => (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
            Refusal::Quota { .. } => (Code::ResourceExhausted, TENANT_LIMIT),
            Refusal::Aborted(_) => (Code::Aborted, "ABORTED"),
            Refusal::DeadlineExceeded(_) => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Refusal::DataLoss(_) => (Code::DataLoss, "DATA_LOSS"),
            Refusal::Internal(_) => (Code::Internal, "INTERNAL"),
        }
    }

    fn details(&self, reason: &str) -> ErrorDetails {
        let mut facts = std::collections::HashMap::new();
        match self {
            Refusal::StaleEpoch { seen, current, .. } => {
                facts.insert("seen_epoch".to_owned(), seen.to_string());
                facts.insert("epoch".to_owned(), current.to_string());
            }
            Refusal::NotLeader { partition, leader } => {
                facts.insert("partition".to_owned(), partition.to_string());
                facts.extend(leader.map(|node| ("leader".to_owned(), node.to_string())));
            }
            Refusal::NotFound(kind, name) | Refusal::AlreadyExists(kind, name) => {
                facts.insert((*kind).to_owned(), name.clone());
            }
            Refusal::Quota { tenant, limit, max, .. } => {
                facts.insert("tenant".to_owned(), tenant.clone());
                facts.insert("limit".to_owned(), limit.name().to_owned());
                facts.insert("max".to_owned(), max.to_string());
            }
            _ => {}
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, facts);
        match self {
            Refusal::Invalid(violation) => {
                details.add_bad_request_violation(violation.field.clone(), violation.description.clone());
            }
            Refusal::Exhausted { what, retry_after } => {
                details.set_retry_info(Some(*retry_after));
                details.add_quota_failure_violation(DOMAIN, what.clone());
            }
            Refusal::Quota { tenant, limit, max, retry_after } => {
                details.set_retry_info(Some(*retry_after));
                let what = format!("{} of tenant `{tenant}` is {max}", limit.name());
                details.add_quota_failure_violation(format!("tenant:{tenant}"), what);
            }
            Refusal::Unavailable(_) => {
                details.set_retry_info(Some(Duration::from_millis(100)));
            }
            _ => {}
        }
        details
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let (code, reason) = refusal.code();
        let mut status = Status::with_error_details(code, refusal.to_string(), refusal.details(reason));
        if let Refusal::StaleEpoch { placement: Some(placement), .. } = &refusal {
            let value = tonic::metadata::MetadataValue::from_bytes(&placement.encode_to_vec());
            status.metadata_mut().insert_bin(PLACEMENT_TRAILER, value);
        }
        status
    }
}

impl From<Violation> for Status {
    fn from(violation: Violation) -> Status {
        Refusal::Invalid(violation).into()
    }
}

/// The limit of a tenant for whose sake a status refuses, if it does.
pub fn tenant_limit(status: &Status) -> Option<String> {
    let info = status.get_details_error_info().filter(|info| info.reason == TENANT_LIMIT)?;
    info.metadata.get("limit").cloned()
}

/// A status whose texts, and whose facts of this name, are put otherwise.
pub fn reworded(
    status: &Status,
    text: impl Fn(&str) -> String,
    (fact, value): (&str, impl Fn(&str) -> String),
) -> Status {
    let mut details = status.get_error_details();
    if let Some(mut info) = details.error_info().cloned() {
        if let Some(told) = info.metadata.get_mut(fact) {
            *told = value(told);
        }
        details.set_error_info(info.reason, info.domain, info.metadata);
    }
    if let Some(mut bad) = details.bad_request().cloned() {
        bad.field_violations.iter_mut().for_each(|one| one.description = text(&one.description));
        details.set_bad_request(bad.field_violations);
    }
    Status::with_error_details(status.code(), text(status.message()), details)
}

/// What a router does about a node's refusal.
#[derive(Clone, Debug, PartialEq)]
pub enum Advice {
    /// Take the newer placement (absent: ask for the map) and send again.
    Reroute(Option<Box<v1::CollectionPlacement>>),
    /// Send again to this node, or to any other if none is named.
    GoTo(Option<u64>),
    /// Tell the caller.
    TellCaller,
}

/// Reads the advice out of a status.
pub fn advice(status: &Status) -> Advice {
    let info = status.get_details_error_info();
    let reason = info.as_ref().map_or("", |info| info.reason.as_str());
    match reason {
        "STALE_EPOCH" => {
            let bytes = status.metadata().get_bin(PLACEMENT_TRAILER).and_then(|v| v.to_bytes().ok());
            Advice::Reroute(bytes.and_then(|b| v1::CollectionPlacement::decode(b).ok()).map(Box::new))
        }
        "NOT_LEADER" => {
            let leader = info.and_then(|info| info.metadata.get("leader")?.parse().ok());
            Advice::GoTo(leader)
        }
        _ if status.code() == Code::Unavailable => Advice::GoTo(None),
        _ => Advice::TellCaller,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_names_its_field_in_the_details() {
        let status = Status::from(Violation::range("limit", 1, 10_000, 0));
        assert_eq!(status.code(), Code::InvalidArgument);
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "limit");
        assert_eq!(status.message(), "limit: must be 1 to 10000, got 0");
    }

    #[test]
    fn a_stale_epoch_carries_the_newer_placement() {
        let placement = v1::CollectionPlacement { slots: vec![3; 1024], ..Default::default() };
        let refusal =
            Refusal::StaleEpoch { seen: 1, current: 7, placement: Some(Box::new(placement.clone())) };
        let status = Status::from(refusal);
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(advice(&status), Advice::Reroute(Some(Box::new(placement))));
    }

    #[test]
    fn a_tenants_limit_is_named_with_its_value_and_when_to_retry() {
        let (limit, retry_after) = (Limit::Collections, Duration::from_secs(60));
        let status = Status::from(Refusal::Quota { tenant: "acme".into(), limit, max: 100, retry_after });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(
            status.message().contains("tenant `acme`") && status.message().contains("max_collections, 100")
        );
        let quota = status.get_details_quota_failure().unwrap();
        assert_eq!(quota.violations[0].subject, "tenant:acme");
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(retry_after));
        assert_eq!(tenant_limit(&status).as_deref(), Some("max_collections"));
    }

    #[test]
    fn a_reworded_status_keeps_what_it_does_not_name() {
        let text = |text: &str| text.replace("acme/", "");
        let there = Refusal::NotFound("collection", "acme/docs".into());
        let status = reworded(&there.into(), text, ("collection", text));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "there is no collection `docs`"));
        assert_eq!(status.get_details_error_info().unwrap().metadata["collection"], "docs");
        let waits = Refusal::Unavailable("acme/x".into());
        assert!(reworded(&waits.into(), text, ("collection", text)).get_details_retry_info().is_some());
    }

    #[test]
    fn exhaustion_says_when_to_retry() {
        let status = Status::from(Refusal::Exhausted {
            what: "memory".into(),
            retry_after: Duration::from_millis(250),
        });
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(Duration::from_millis(250)));
        assert_eq!(advice(&status), Advice::TellCaller);
    }
}
