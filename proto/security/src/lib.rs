//! Who calls, and over which connections: what makes a Flotilla safe to expose.
//!
//! Two doors, two kinds of callers. At the public API stand users: [`callers`] knows them by API keys ([`credentials`]), by
//! signed tokens ([`jwt`]) or by the certificate of their connection. Between the processes of a cluster there is one
//! question only, whether the other one is a member: [`trust`] answers it by a shared key, by certificates, or both. What a
//! known caller may do is decided elsewhere, by the table in `flotilla_proto::access`.
//!
//! Connections are [`tls`], or plain. Everything that is read from files ([`watched`]) is read anew when the files change; a
//! file that is damaged then is told and leaves what was there before. What was refused, and what administrators did, is
//! taken down by [`audit`].
//!
//! Invariants: a secret is held in a [`Secret`], which no log line, error or debug print can show; at rest there is only its
//! hash; two secrets are compared in a time that does not tell where they differ.

pub mod audit;
pub mod callers;
pub mod credentials;
pub mod jwt;
pub mod keyed;
pub mod metrics;
pub mod secret;
pub mod tls;
pub mod trust;
pub mod watched;

pub use callers::Callers;
pub use keyed::Keyed;
pub use metrics::Metrics;
pub use secret::Secret;
pub use trust::Trust;
pub use watched::Watched;

use std::path::PathBuf;

/// A file that says something else than it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct Fault {
    /// Which file.
    pub file: String,
    /// What is wrong with it; never what it holds.
    pub reason: String,
}

impl Fault {
    pub(crate) fn new(file: impl Into<PathBuf>, reason: impl std::fmt::Display) -> Fault {
        Fault { file: file.into().display().to_string(), reason: reason.to_string() }
    }
}

/// Seconds since 1970. A clock before that is a broken one: then everything that expires has expired.
pub fn unix_seconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(u64::MAX, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
