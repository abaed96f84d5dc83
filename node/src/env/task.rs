//! Running work: tasks of the runtime, long computations, and long-lived loops that block on files.
//!
//! The real environment gives computations the runtime's blocking threads and gives each blocking loop a
//! thread of its own; a simulator runs all three as tasks of its one thread.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::sync::oneshot;
pub use tokio::task::JoinHandle;

use super::clock;

/// The work panicked or the runtime was shut down before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was lost: it panicked, or the runtime ended")]
pub struct Lost;

/// Starts a task on the current runtime.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Starts a computation or a long run of file calls away from the runtime's own threads, at once; the answer
/// comes through the returned future. Dropping the future does not stop the work.
pub fn spawn_cpu<T, F>(work: F) -> impl Future<Output = Result<T, Lost>> + Send
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    #[cfg(any(test, feature = "sim"))]
    let running = match super::sim::world() {
        Some(world) => {
            let effort = (world.effort)();
            spawn(async move {
                tokio::time::sleep(effort).await;
                work()
            })
        }
        None => tokio::task::spawn_blocking(work),
    };
    #[cfg(not(any(test, feature = "sim")))]
    let running = tokio::task::spawn_blocking(work);
    async move { running.await.map_err(|_| Lost) }
}

/// The end of a loop started by [`spawn_loop`].
#[derive(Debug)]
pub struct LoopEnd(oneshot::Receiver<()>);

impl LoopEnd {
    /// Waits until the loop has returned; [`Lost`] if it panicked.
    pub async fn wait(self) -> Result<(), Lost> {
        self.0.await.map_err(|_| Lost)
    }
}

/// Runs a loop that blocks on files between its awaits, on a named thread of its own.
///
/// `future` may await only things that need no runtime (channels, notifications). Fails if no thread can be
/// started.
pub fn spawn_loop<F>(name: &str, future: F) -> io::Result<LoopEnd>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (ended, end) = oneshot::channel();
    #[cfg(any(test, feature = "sim"))]
    if super::sim::world().is_some() {
        spawn(async move {
            future.await;
            let _ = ended.send(());
        });
        return Ok(LoopEnd(end));
    }
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        block_on(future);
        let _ = ended.send(());
    })?;
    Ok(LoopEnd(end))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    /// When this thread's loop is to be polled again, if nothing wakes it before.
    static ALARM: Cell<Option<clock::Instant>> = const { Cell::new(None) };
}

fn block_on(future: impl Future<Output = ()>) {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    while future.as_mut().poll(&mut context).is_pending() {
        match ALARM.take() {
            Some(at) => thread::park_timeout(at - clock::now()),
            None => thread::park(),
        }
    }
}

/// Waits a while, in a loop started by [`spawn_loop`] and nowhere else.
pub async fn pause_loop(span: Duration) {
    #[cfg(any(test, feature = "sim"))]
    if super::sim::world().is_some() {
        return tokio::time::sleep(span).await;
    }
    let until = clock::now() + span;
    std::future::poll_fn(|_| {
        if clock::now() >= until {
            return Poll::Ready(());
        }
        ALARM.set(Some(ALARM.get().map_or(until, |at| at.min(until))));
        Poll::Pending
    })
    .await;
}

/// Before a sync: a simulated disk takes its time. Nothing in the product, where the system does that.
pub async fn wait_for_disk() {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = super::sim::world() {
        let span = (world.sync)();
        if !span.is_zero() {
            tokio::time::sleep(span).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_comes_back() {
        assert_eq!(spawn_cpu(|| 7).await, Ok(7));
        assert_eq!(spawn(async { 8 }).await.unwrap(), 8);
        assert_eq!(spawn_cpu(|| panic!("on purpose")).await, Err::<(), _>(Lost));
    }

    #[tokio::test]
    async fn a_loop_hears_its_channel_and_ends() {
        let (send, mut receive) = tokio::sync::mpsc::channel::<u32>(1);
        let (answer, sum) = oneshot::channel();
        let end = spawn_loop("sum", async move {
            let mut total = 0;
            while let Some(n) = receive.recv().await {
                total += n;
            }
            let _ = answer.send(total);
        })
        .unwrap();
        for n in 0..100 {
            send.send(n).await.unwrap();
        }
        drop(send);
        assert_eq!(sum.await.unwrap(), 4950);
        assert_eq!(end.wait().await, Ok(()));
    }

    #[tokio::test]
    async fn a_loop_pauses_and_hears_beside_it() {
        let (ended, end) = oneshot::channel();
        let (ring, rung) = oneshot::channel::<()>();
        let paused = spawn_loop("pauses", async move {
            let began = clock::now();
            pause_loop(Duration::from_millis(5)).await;
            let first = began.elapsed();
            let pause = pin!(pause_loop(Duration::from_secs(3_600)));
            futures::future::select(pause, rung).await;
            let _ = ended.send(first);
        });
        ring.send(()).unwrap();
        assert!(end.await.unwrap() >= Duration::from_millis(5));
        assert_eq!(paused.unwrap().wait().await, Ok(()));
    }
}
