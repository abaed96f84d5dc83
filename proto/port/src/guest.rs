//! The account of one connection: what it said, whether a write to it is stuck, and what waits for it.
//!
//! The account is written where bytes pass ([`Watched`], [`Told`](crate::body::Told)) and read by the port's loop, so that
//! no connection needs a timer of its own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes by which HTTP/2 makes itself known.
const PREFACE_BYTES: usize = 24;

/// The account.
#[derive(Debug)]
pub(crate) struct Guest {
    came: Instant,
    read: AtomicUsize,
    has_called: AtomicBool,
    /// When the write that is stuck began to be, in milliseconds after it came, plus 1; 0: none is.
    stuck: AtomicU64,
    /// Bytes of answers that it has not taken, and when it last took some.
    waiting: AtomicUsize,
    moved: AtomicU64,
    all_waiting: IntGauge,
    end: Notify,
}

impl Guest {
    /// One that comes now; what waits for it counts in `all_waiting` too.
    pub(crate) fn new(all_waiting: IntGauge) -> Guest {
        Guest {
            came: Instant::now(),
            read: AtomicUsize::new(0),
            has_called: AtomicBool::new(false),
            stuck: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            all_waiting,
            end: Notify::new(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.came.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// It has asked something.
    pub(crate) fn calls(&self) {
        self.has_called.store(true, Ordering::Relaxed);
    }

    /// Bytes of an answer begin to wait.
    pub(crate) fn owe(&self, bytes: usize) {
        if self.waiting.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.moved.store(self.now(), Ordering::Relaxed);
        }
        self.all_waiting.add(signed(bytes));
    }

    /// Bytes of an answer wait no more.
    pub(crate) fn pay(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        self.moved.store(self.now(), Ordering::Relaxed);
        self.all_waiting.sub(signed(bytes));
    }

    /// Bytes of answers that it has not taken.
    pub(crate) fn owed(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Why it has to go, if it has.
    pub(crate) fn overstays(&self, timeout: Duration, patience: Duration) -> Option<&'static str> {
        let now = self.now();
        let longer = |since: u64, than: Duration| Duration::from_millis(now.saturating_sub(since)) > than;
        let has_begun =
            self.has_called.load(Ordering::Relaxed) || self.read.load(Ordering::Relaxed) >= PREFACE_BYTES;
        if !has_begun && longer(0, timeout) {
            return Some("silent");
        }
        let stuck = self.stuck.load(Ordering::Relaxed);
        let is_stuck = stuck > 0 && longer(stuck - 1, timeout);
        let is_owed = self.owed() > 0;
        let is_slow = is_owed && longer(self.moved.load(Ordering::Relaxed), patience);
        (is_stuck || is_slow).then_some("stalled")
    }

    /// Has its connection end.
    pub(crate) fn end(&self) {
        self.end.notify_one();
    }

    /// Waits for that.
    pub(crate) async fn ended(&self) {
        self.end.notified().await;
    }

    fn wrote<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &outcome {
            Poll::Pending if self.stuck.load(Ordering::Relaxed) == 0 => {
                self.stuck.store(self.now() + 1, Ordering::Relaxed);
            }
            Poll::Pending => {}
            Poll::Ready(_) => self.stuck.store(0, Ordering::Relaxed),
        }
        outcome
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A connection whose account is kept.
pub(crate) struct Watched<IO> {
    io: IO,
    guest: Arc<Guest>,
}

impl<IO> Watched<IO> {
    pub(crate) fn new(io: IO, guest: Arc<Guest>) -> Watched<IO> {
        Watched { io, guest }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let outcome = Pin::new(&mut self.io).poll_read(cx, into);
        let bytes = into.filled().len() - before;
        if self.guest.read.load(Ordering::Relaxed) < PREFACE_BYTES {
            self.guest.read.fetch_add(bytes, Ordering::Relaxed);
        }
        outcome
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.guest.wrote(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.guest.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.guest.wrote(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
        self.guest.wrote(outcome)
    }
}
