//! Free ports that stay free while their owner is down.
//!
//! A port of the system's own choosing lies in the range from which outgoing connections take theirs; while a killed node is
//! away, any client might get it. So ports are drawn below that range, and tried.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, TcpListener};

use anyhow::Context as _;
use rand::Rng as _;

use crate::seed::generator;

/// Tries before giving up.
const TRIES: usize = 200;
/// Ports below are for others.
const LOWEST: u16 = 10_240;
/// Where outgoing connections begin, unless the system says otherwise.
const EPHEMERAL: u16 = 32_768;

/// A port that nobody listens on at this moment, at any of these addresses.
///
/// # Errors
/// If none is found.
pub fn free(hosts: &[IpAddr]) -> anyhow::Result<u16> {
    // Two test processes at once draw differently; nothing else hangs on this choice.
    let mut draw = generator(RandomState::new().build_hasher().finish());
    let highest = ephemeral().max(LOWEST + 1);
    let is_free = |port: &u16| hosts.iter().all(|host| TcpListener::bind((*host, *port)).is_ok());
    let mut tries = std::iter::repeat_with(|| draw.random_range(LOWEST..highest)).take(TRIES);
    tries.find(is_free).with_context(|| format!("no free port on {hosts:?} in {TRIES} tries"))
}

fn ephemeral() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(EPHEMERAL)
}
