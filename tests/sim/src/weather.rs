//! What the simulated world is like at the moment, for whoever asks from within a host.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use turmoil::Sim;

use crate::taps;

/// By host name, what is not as usual.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// How long a sync takes.
    pub sync: BTreeMap<String, Duration>,
    /// By how many milliseconds the wall clock is off.
    pub skew: BTreeMap<String, i64>,
}

thread_local! {
    static WEATHER: RefCell<Weather> = RefCell::default();
    static HOSTS: RefCell<HashMap<Id, String>> = RefCell::default();
}

/// Changes the weather.
pub fn change(change: impl FnOnce(&mut Weather)) {
    WEATHER.with_borrow_mut(change);
}

/// Says that the calling runtime is that of the host of this name: each start of a process is a new runtime.
pub fn enter(name: &str) {
    HOSTS.with_borrow_mut(|hosts| hosts.insert(Handle::current().id(), name.to_owned()));
}

/// The host whose code runs now.
fn here() -> Option<String> {
    let id = Handle::try_current().ok()?.id();
    HOSTS.with_borrow(|hosts| hosts.get(&id).cloned())
}

/// How long a sync of the calling host takes.
pub fn sync() -> Duration {
    WEATHER.with_borrow(|weather| {
        if weather.sync.is_empty() {
            return Duration::ZERO;
        }
        here().and_then(|name| weather.sync.get(&name).copied()).unwrap_or_default()
    })
}

/// By how much the calling host's wall clock is off.
pub fn skew() -> i64 {
    WEATHER.with_borrow(|weather| {
        if weather.skew.is_empty() {
            return 0;
        }
        here().and_then(|name| weather.skew.get(&name).copied()).unwrap_or_default()
    })
}

/// How long a computation takes: none is free, so that others run beside it.
pub fn effort() -> Duration {
    Duration::from_millis(1 + taps::next_below(4))
}

/// One tick.
pub fn step(sim: &mut Sim<'_>) {
    taps::set_time(sim.elapsed());
    if let Err(why) = sim.step() {
        tracing::error!(%why, "a host failed");
    }
}
