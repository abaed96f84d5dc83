//! The addresses that a client knows, and which of them it asks first.
//!
//! Every router can do everything, so the roles only order them: writes and reads of the master go to the masters' addresses
//! first, reads of replicas to the replicas'. One that failed is asked last for a moment.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flotilla_security::Keyed;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::credentials::{Shown, dialled, lazily};
use crate::{Error, Kind, ReadPreference, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one that failed is asked last.
const SHUNNED: Duration = Duration::from_secs(2);
/// The weight of the newest time in the smoothed one.
const NEWEST: f64 = 0.2;

/// Addresses by what they are meant for, such as `http://router-0:15010`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// For writes, and for reads of the master.
    pub master: Vec<String>,
    /// For reads of replicas.
    pub replicas: Vec<String>,
}

/// The channels to the hosts.
#[derive(Debug)]
pub(crate) struct Channels(Vec<Host>);

#[derive(Debug)]
struct Host {
    channel: Keyed,
    is_master: bool,
    lately: Mutex<Lately>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lately {
    failed: Option<Instant>,
    seconds: f64,
}

impl Host {
    fn new(channel: Keyed, is_master: bool) -> Host {
        Host { channel, is_master, lately: Mutex::default() }
    }

    fn lately(&self) -> std::sync::MutexGuard<'_, Lately> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channels {
    /// One channel, whatever it leads to.
    pub(crate) fn one(channel: Keyed) -> Channels {
        Channels(vec![Host::new(channel, true)])
    }

    /// Dials the hosts until one answers; the others are dialled when they are needed.
    pub(crate) async fn connect(hosts: &Hosts, shown: &Shown) -> Result<Channels> {
        let all = hosts.master.iter().map(|url| (url, true));
        let all = all.chain(hosts.replicas.iter().map(|url| (url, false)));
        let mut endpoints = Vec::new();
        for (url, is_master) in all {
            endpoints.push((url, endpoint(url)?, shown.dialer(url)?, is_master));
        }
        let mut answer = Err(Error::new(Kind::FixRequest, "no address is given"));
        let mut first = None;
        for (at, (url, endpoint, dialer, _)) in endpoints.iter().enumerate() {
            answer = dialled(endpoint, dialer.clone()).await.map_err(|e| silent(url, &e)).map(|channel| {
                first = Some((at, channel));
            });
            if answer.is_ok() {
                break;
            }
        }
        answer?;
        let answered = |at: usize| first.iter().find(|(n, _)| *n == at).map(|(_, channel)| channel.clone());
        let mut all = Vec::with_capacity(endpoints.len());
        for (at, (_, endpoint, dialer, is_master)) in endpoints.iter().enumerate() {
            let channel = answered(at).unwrap_or_else(|| lazily(endpoint, dialer.clone()));
            all.push(Host::new(shown.over(channel)?, *is_master));
        }
        Ok(Channels(all))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The channel of a host.
    pub(crate) fn channel(&self, host: usize) -> Keyed {
        self.0[host].channel.clone()
    }

    /// The hosts in the order in which they are asked.
    pub(crate) fn order(&self, preference: ReadPreference) -> Vec<usize> {
        let now = Instant::now();
        let rank = |at: &usize| {
            let host = &self.0[*at];
            let lately = *host.lately();
            let is_shunned =
                lately.failed.is_some_and(|since| now.saturating_duration_since(since) < SHUNNED);
            let micros = (lately.seconds * 1e6) as u64;
            match preference {
                ReadPreference::Master => (is_shunned, !host.is_master, 0),
                ReadPreference::Replica => (is_shunned, host.is_master, 0),
                ReadPreference::Nearest => (is_shunned, false, micros),
            }
        };
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        order.sort_by_key(rank);
        order
    }

    /// A host answered, after `time`.
    pub(crate) fn answered(&self, host: usize, time: Duration) {
        let mut lately = self.0[host].lately();
        let new = time.as_secs_f64();
        let old = if lately.seconds == 0.0 { new } else { lately.seconds };
        *lately = Lately { failed: None, seconds: old + (new - old) * NEWEST };
    }

    /// A host did not answer, or said that it cannot.
    pub(crate) fn failed(&self, host: usize) {
        self.0[host].lately().failed = Some(Instant::now());
    }
}

fn endpoint(url: &str) -> Result<Endpoint> {
    let wrong = |e| Error::new(Kind::FixRequest, format!("`{url}` is not an address: {e}"));
    Ok(Endpoint::from_shared(url.to_owned())
        .map_err(wrong)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20))
}

fn silent(url: &str, e: &tonic::transport::Error) -> Error {
    let cause = std::error::Error::source(e).map_or_else(String::new, |cause| format!(": {cause}"));
    Error::new(Kind::Retry, format!("no server answers at {url}: {e}{cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(roles: &[bool]) -> Channels {
        let host = |is_master: &bool| {
            Host::new(Endpoint::from_static("http://127.0.0.1:1").connect_lazy().into(), *is_master)
        };
        Channels(roles.iter().map(host).collect())
    }

    #[tokio::test]
    async fn roles_order_the_hosts_and_one_that_failed_comes_last() {
        let channels = channels(&[true, false, false]);
        assert_eq!(channels.order(ReadPreference::Master), [0, 1, 2]);
        assert_eq!(channels.order(ReadPreference::Replica), [1, 2, 0]);
        channels.answered(0, Duration::from_millis(9));
        channels.answered(1, Duration::from_millis(5));
        channels.answered(2, Duration::from_millis(2));
        assert_eq!(channels.order(ReadPreference::Nearest), [2, 1, 0]);
        channels.failed(2);
        channels.failed(0);
        assert_eq!(channels.order(ReadPreference::Nearest), [1, 2, 0]);
        assert_eq!(channels.order(ReadPreference::Master), [1, 0, 2]);
        channels.answered(0, Duration::from_millis(9));
        assert_eq!(channels.order(ReadPreference::Master), [0, 1, 2]);
    }
}
