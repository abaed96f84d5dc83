//! Waiting for a condition with a deadline. A test never waits for time to pass.

use std::time::{Duration, Instant};

use anyhow::bail;

const PAUSE: Duration = Duration::from_millis(10);

/// Asks `probe` again and again until it gives a value.
///
/// # Errors
/// If it gave none `within` this time; `what` names the condition.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe().await {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("not within {within:?}: {what}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`eventually`] for a thread.
///
/// # Errors
/// If `probe` gave nothing `within` this time.
pub fn eventually_blocking<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("not within {within:?}: {what}");
        }
        std::thread::sleep(PAUSE / 2);
    }
}
