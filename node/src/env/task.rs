//! Running work: tasks of the runtime, long computations, and long-lived loops that block on files.
//!
//! The real environment gives computations the runtime's blocking threads and gives each blocking loop a
//! thread of its own; a simulator runs all three as tasks of its one thread.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};

use tokio::sync::oneshot;
pub use tokio::task::JoinHandle;

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

fn block_on(future: impl Future<Output = ()>) {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    while future.as_mut().poll(&mut context).is_pending() {
        thread::park();
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
}
