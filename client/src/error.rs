//! Errors as advice.

use std::error::Error as _;
use std::time::Duration;

use flotilla_proto::refusal::Violation;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What to do about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mend the request; [`Error::violations`] say where.
    FixRequest,
    /// There is no such thing.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// The server does not know the caller, or does not let it do this: other credentials are needed.
    Denied,
    /// Try again; a write may have been applied.
    Retry,
    /// Too much at the moment: try again after this time.
    Wait(Duration),
    /// The server is broken; trying again will not help.
    Broken,
}

/// Why a call failed.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    violations: Vec<Violation>,
}

impl Error {
    /// An error that asks for `kind`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), violations: Vec::new() }
    }

    /// What to do about it.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The fields of the request that are wrong.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// A server's answer that makes no sense.
    pub(crate) fn nonsense(violation: impl std::fmt::Display) -> Error {
        Error::new(Kind::Broken, format!("the server's answer is damaged: {violation}"))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The wait of a refusal that names none.
const WAIT_DEFAULT: Duration = Duration::from_millis(500);

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        let wait = || status.get_details_retry_info().and_then(|info| info.retry_delay);
        let kind = match status.code() {
            _ if is_broken_connection(&status) => Kind::Retry,
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Kind::FixRequest,
            Code::NotFound => Kind::NotFound,
            Code::Unauthenticated | Code::PermissionDenied => Kind::Denied,
            Code::AlreadyExists => Kind::AlreadyExists,
            Code::ResourceExhausted => Kind::Wait(wait().unwrap_or(WAIT_DEFAULT)),
            Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => Kind::Retry,
            Code::FailedPrecondition => Kind::Retry,
            _ => Kind::Broken,
        };
        let violations = status.get_details_bad_request().map_or_else(Vec::new, |bad| {
            bad.field_violations.into_iter().map(|v| Violation::new(v.field, v.description)).collect()
        });
        Error { kind, message: status.message().to_owned(), violations }
    }
}

/// Whether a second sending may help and, with a request id, does no harm.
pub(crate) fn is_unknown(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
        || is_timeout(status)
        || is_broken_connection(status)
}

/// Whether no connection came about, so that the call cannot have arrived.
pub(crate) fn never_left(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn is_timeout(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message() == "Timeout expired"
}

/// Whether the status was made here, of a broken connection, rather than sent by the server.
fn is_broken_connection(status: &Status) -> bool {
    status.source().is_some() && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::refusal::Refusal;

    use super::*;

    #[test]
    fn refusals_become_advice() {
        let kind = |refusal: Refusal| Error::from(Status::from(refusal)).kind().clone();
        let wait = Duration::from_millis(70);
        assert_eq!(kind(Refusal::Exhausted { what: "memory".into(), retry_after: wait }), Kind::Wait(wait));
        assert_eq!(kind(Refusal::Unavailable("x".into())), Kind::Retry);
        assert_eq!(kind(Refusal::NotFound("collection", "x".into())), Kind::NotFound);
        assert_eq!(kind(Refusal::AlreadyExists("collection", "x".into())), Kind::AlreadyExists);
        assert_eq!(kind(Refusal::DataLoss("x".into())), Kind::Broken);
        assert_eq!(kind(Refusal::Denied("x".into())), Kind::Denied);
        assert_eq!(kind(Refusal::Unauthenticated("x".into())), Kind::Denied);
        let error = Error::from(Status::from(Violation::range("limit", 1, 10, 11)));
        assert_eq!(error.kind(), &Kind::FixRequest);
        assert_eq!(error.violations()[0].field, "limit");
    }
}
