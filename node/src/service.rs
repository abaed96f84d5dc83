//! The edge of the node: wire in, domain down, wire out. Checks who is meant and at which epoch; decides nothing else.

mod appends;
pub mod digests;
pub mod facts;
mod fleet;
mod fulltext;
mod meta;
mod moves;
mod peer;
mod raft;
mod replace;
mod shard;
mod splits;
mod write;

use std::time::Duration;

use tonic::{Request, Status};

pub use self::meta::{Defaults, MetaService};
pub use self::moves::Mover;
pub use self::peer::PeerService;
pub use self::raft::RaftService;
pub use self::shard::ShardService;

/// How long a call may take when its caller does not say.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);
/// How long a call may take, at most.
const DEADLINE_MAX: Duration = Duration::from_secs(600);

/// The time that the caller leaves, from the `grpc-timeout` header.
fn time_left<T>(request: &Request<T>) -> Duration {
    let header = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
    header.and_then(parse_timeout).unwrap_or(DEADLINE_DEFAULT).min(DEADLINE_MAX)
}

/// At most eight digits and a unit, as the gRPC protocol has it.
fn parse_timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// Runs `work` within the caller's time.
async fn within<T>(
    left: Duration,
    work: impl Future<Output = Result<T, flotilla_proto::refusal::Refusal>>,
) -> Result<T, Status> {
    match tokio::time::timeout(left, work).await {
        Ok(done) => done.map_err(Status::from),
        Err(_) => Err(flotilla_proto::refusal::Refusal::DeadlineExceeded(format!(
            "not done within {} ms; a write may still be applied",
            left.as_millis()
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit_and_rubbish_is_not() {
        assert_eq!(parse_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for rubbish in ["", "S", "5", "-5S", "123456789S", "5é", "+5S"] {
            assert_eq!(parse_timeout(rubbish), None, "{rubbish}");
        }
    }
}
