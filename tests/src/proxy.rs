//! A link that misbehaves when told to: a TCP proxy between two processes.
//!
//! What it can do to every connection at once: carry bytes later ([`Proxy::delay`]), hold what goes in one direction or in
//! both without telling anybody ([`Proxy::hold`]), end one direction in order while the other goes on
//! ([`Proxy::half_close`]), or reset all connections ([`Proxy::reset`]). Bytes are never lost, changed or reordered, since
//! TCP never does that; memory is bounded by connections times bytes under way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Connections at once, at most: more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// Bytes read at once.
const CHUNK: usize = 16 << 10;
/// Chunks under way in one direction of a connection, at most.
const CHUNKS_MAX: usize = 32;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From who connects to who is connected to.
    There,
    /// From who is connected to back.
    Back,
}

/// Both ways.
pub const BOTH: [Way; 2] = [Way::There, Way::Back];

/// What holds for all connections.
#[derive(Clone, Copy, Debug, Default)]
struct Conditions {
    delay: Duration,
    /// By way.
    is_held: [bool; 2],
    /// By way: how often it was told to close.
    closes: [u64; 2],
    /// How often all connections were told to end.
    resets: u64,
}

/// A proxy at work. It ends, with its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    conditions: watch::Sender<Conditions>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens there and carries to the target. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<Proxy> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let conditions = watch::Sender::new(Conditions::default());
        let task = tokio::spawn(accept(listener, target, conditions.clone()));
        Ok(Proxy { address, conditions, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes read from now on are carried this much later.
    pub fn delay(&self, delay: Duration) {
        self.conditions.send_modify(|conditions| conditions.delay = delay);
    }

    /// From now on nothing is carried these ways, until [`Proxy::release`]. Connections are accepted all the same.
    pub fn hold(&self, ways: &[Way]) {
        self.conditions.send_modify(|conditions| {
            ways.iter().for_each(|way| conditions.is_held[*way as usize] = true);
        });
    }

    /// Carries again, first of all what was held.
    pub fn release(&self) {
        self.conditions.send_modify(|conditions| conditions.is_held = [false; 2]);
    }

    /// Ends this way of all connections there are, as one who has nothing more to say; the other way goes on.
    pub fn half_close(&self, way: Way) {
        self.conditions.send_modify(|conditions| conditions.closes[way as usize] += 1);
    }

    /// Resets all connections there are, on both sides.
    pub fn reset(&self) {
        self.conditions.send_modify(|conditions| conditions.resets += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, conditions: watch::Sender<Conditions>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Its tasks end with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((near, _)) = listener.accept().await else { continue };
        let conditions = conditions.subscribe();
        let began = *conditions.borrow();
        connections.spawn(async move {
            // Who connects sees a target that is not there as a connection that ends.
            if let Ok(far) = TcpStream::connect(target).await {
                carry(near, far, began, conditions).await;
            }
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Carries both ways until both have ended, or until it is told to reset.
async fn carry(
    mut near: TcpStream,
    mut far: TcpStream,
    began: Conditions,
    conditions: watch::Receiver<Conditions>,
) {
    let mut told = conditions.clone();
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (from_near, to_near) = near.split();
    let (from_far, to_far) = far.split();
    let there = carry_one_way(from_near, to_far, Way::There, began, conditions.clone());
    let back = carry_one_way(from_far, to_near, Way::Back, began, conditions);
    tokio::select! {
        _ = futures::future::join(there, back) => {}
        _ = told.wait_for(|now| now.resets != began.resets) => {
            // Dropped with nothing to linger for, a socket sends a reset.
            let _ = (near.set_zero_linger(), far.set_zero_linger());
        }
    }
}

async fn carry_one_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: Way,
    began: Conditions,
    mut conditions: watch::Receiver<Conditions>,
) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let now = conditions.clone();
    let read = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            let due = Instant::now() + now.borrow().delay;
            if sender.send((due, chunk[..count].to_vec())).await.is_err() {
                break;
            }
        }
        drop(sender);
    };
    let mut held = conditions.clone();
    let write = async {
        while let Some((due, chunk)) = chunks.recv().await {
            tokio::time::sleep_until(due).await;
            let is_free = held.wait_for(|now| !now.is_held[way as usize]).await.is_ok();
            if !is_free || to.write_all(&chunk).await.is_err() {
                break;
            }
        }
    };
    let closed = conditions.wait_for(|now| now.closes[way as usize] != began.closes[way as usize]);
    tokio::select! {
        _ = futures::future::join(read, write) => {}
        _ = closed => {}
    }
    // The other side may be gone.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests;
