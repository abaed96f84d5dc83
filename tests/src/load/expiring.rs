//! Records that expire: on the last few keys, by times that each value tells.
//!
//! Whether an upsert gives its record a time, and which, follows from its value, so a record read shows whether it has the
//! time that it ought to have: an upsert without one takes it away, a patch leaves it. A record expires when the log says so,
//! at the leader's clock: not before its time, as far as clocks are right, and some time after it. So the expiry goes down as a
//! write of unknown outcome, from the earliest moment on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla_proto::v1;
use rand::Rng as _;

use super::{Client, wire_key};
use crate::history::{Act, Key, NEVER, Operation, Outcome};
use crate::seed::generator;

/// Keys whose records expire.
const EXPIRING: Key = 4;
/// The shortest and the longest time to live of those that are to expire during a test, in milliseconds.
const SHORT_MS: std::ops::Range<u64> = 50..1_500;
/// Longer than a test, and than any clock is off.
const LONG: Duration = Duration::from_secs(4 * 3_600);
/// Clocks are read in whole milliseconds, once to set a time and once to see whether it has come.
const ROUNDED: Duration = Duration::from_millis(2);

impl Client {
    /// The first of the keys whose records expire; the last is the last of all.
    pub(super) fn first_expiring(&self) -> Key {
        self.work.keys.saturating_sub(EXPIRING) + 1
    }

    /// For how long the record of an upsert is to live; none: for ever.
    pub(super) fn lifetime(&self, key: Key, value: u64) -> Option<Duration> {
        let mut draw = generator(value ^ 0x11fe);
        let span = match draw.random_range(0..4) {
            0 => None,
            1 => Some(LONG),
            _ => Some(Duration::from_millis(draw.random_range(SHORT_MS))),
        };
        span.filter(|_| (self.first_expiring()..=self.work.keys).contains(&key))
    }

    /// Gives the records of an upsert their times: by the leader's clock where there is one record, else by ours.
    pub(super) fn give_time(&self, request: &mut v1::UpsertRequest, keys: &[Key], value: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for (record, key) in request.records.iter_mut().zip(keys) {
            let Some(span) = self.lifetime(*key, value) else { continue };
            if keys.len() == 1 {
                request.ttl_ms = millis(span);
            } else {
                record.expires_at_ms = Some(millis(now + span));
            }
        }
    }

    /// The expiries of what was upserted, as writes that nobody is told of: from when on they may be.
    pub(super) fn expiries(&self, operations: &[Operation]) -> Vec<Operation> {
        // One leader's clock gives the time, another's says that it has come.
        let early = self.work.clocks_off * 2 + ROUNDED;
        let expiry = |write: &Operation| {
            let (Act::Upsert(value) | Act::UpsertIf(value, _)) = write.act else { return None };
            let span = self.lifetime(write.key, value)?.saturating_sub(early);
            let invoked = write.invoked.saturating_add(u64::try_from(span.as_micros()).unwrap_or(NEVER));
            let (act, outcome, returned) = (Act::Expire(value), Outcome::Unknown, NEVER);
            Some(Operation { act, outcome, invoked, returned, position: None, ..*write })
        };
        operations.iter().filter(|write| write.outcome != Outcome::Failed).filter_map(expiry).collect()
    }

    /// Keys whose records expire soon or ought to have gone, by our clock and the most that others are off.
    ///
    /// # Errors
    /// That of the read.
    pub async fn expiring(&mut self) -> Result<Vec<Key>, tonic::Status> {
        let keys = (self.first_expiring()..=self.work.keys).map(wire_key).collect();
        let collection = self.work.collection.clone();
        let found = self.api().get(v1::GetRequest { collection, keys, ..Default::default() }).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let soon = millis(now.saturating_sub(self.work.clocks_off)) + SHORT_MS.end;
        let goes = |record: &&v1::Record| record.expires_at_ms.is_some_and(|at| at < soon);
        Ok(self.keys_of(found.records.iter().filter(goes).map(|record| &record.key)))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
