//! Who broke the rules of HTTP, as by masses of calls that are given up at once, and comes again: from the same address a new
//! connection waits a moment before a byte of it is read. What it costs this side to see through such a connection is a
//! millisecond or so; without the wait, a few callers that come again at once have all of its time.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long an address is held back after its last offence. Of so long, what its connections cost is a hundredth.
const HELD_BACK: Duration = Duration::from_secs(1);
/// Addresses that are remembered at once; of more, those that come last are not.
const ADDRESSES_MAX: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Offenders(Mutex<HashMap<IpAddr, Instant>>);

impl Offenders {
    /// Remembers the address.
    pub fn note(&self, address: IpAddr, now: Instant) {
        let mut known = self.0.lock();
        if known.len() >= ADDRESSES_MAX {
            known.retain(|_, until| *until > now);
        }
        if known.len() < ADDRESSES_MAX || known.contains_key(&address) {
            known.insert(address, now + HELD_BACK);
        }
    }

    /// Until when a new connection from there has to wait, if it has to.
    pub fn until(&self, address: IpAddr, now: Instant) -> Option<Instant> {
        let mut known = self.0.lock();
        let until = known.get(&address).copied()?;
        if until <= now {
            known.remove(&address);
        }
        (until > now).then_some(until)
    }
}

/// Whether a connection ended by what its caller said, rather than by the network.
pub(crate) fn is_offence(why: &(dyn Error + 'static)) -> bool {
    let (mut next, mut is_http) = (Some(why), false);
    while let Some(why) = next {
        if why.is::<io::Error>() {
            return false;
        }
        if let Some(http) = why.downcast_ref::<hyper::Error>() {
            is_http |= !http.is_timeout() && !http.is_incomplete_message();
        }
        next = why.source();
    }
    is_http
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offender_waits_for_a_moment_and_others_do_not() {
        let (offenders, now) = (Offenders::default(), Instant::now());
        let (bad, good) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        offenders.note(bad, now);
        assert_eq!(offenders.until(bad, now), Some(now + HELD_BACK));
        assert_eq!(offenders.until(good, now), None);
        assert_eq!(offenders.until(bad, now + HELD_BACK), None);
        assert!(offenders.0.lock().is_empty(), "what is over is forgotten");
    }

    #[test]
    fn no_more_addresses_are_remembered_than_may_be() {
        let (offenders, now) = (Offenders::default(), Instant::now());
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..ADDRESSES_MAX as u32 + 10 {
            offenders.note(address(n), now);
        }
        assert_eq!(offenders.0.lock().len(), ADDRESSES_MAX);
        offenders.note(address(1), now + HELD_BACK);
        assert_eq!(offenders.0.lock().len(), 1, "those that are over make room");
    }

    #[test]
    fn what_the_network_ends_is_no_offence() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(!is_offence(&reset));
        assert!(!is_offence(&io::Error::other(reset)));
    }
}
