//! Progress on stderr: a bar on a terminal, plain lines (at most one per second, and the last) anywhere else. What has no
//! known end has a rate and no time left.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_node::env::clock;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(1);

/// Progress of something. Shared by tasks.
pub struct Progress {
    label: String,
    bar: ProgressBar,
    line: Option<Turn>,
    started: clock::Instant,
}

impl Progress {
    /// Begins to show the progress of `total` things; of nobody knows how many, if that is `None`.
    pub fn new(label: &str, total: impl Into<Option<u64>>) -> Progress {
        let total = total.into();
        let on_terminal = std::io::stderr().is_terminal();
        let target =
            if on_terminal { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total, target);
        let template = match total {
            Some(_) => "{msg} [{bar:30}] {human_pos}/{human_len}, {per_sec:.0}, {eta} left",
            None => "{msg} {spinner} {human_pos}, {per_sec:.0}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(label.to_owned());
        Progress {
            label: label.to_owned(),
            bar,
            line: (!on_terminal).then(Turn::default),
            started: clock::now(),
        }
    }

    /// So many more are done.
    pub fn advance(&self, done: u64) {
        self.bar.inc(done);
        self.maybe_line();
    }

    /// So many are done in all.
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
        self.maybe_line();
    }

    /// So many are done.
    pub fn done(&self) -> u64 {
        self.bar.position()
    }

    /// Ends with a line that says how long it took.
    pub fn finish(&self) {
        let seconds = self.started.elapsed().as_secs_f64();
        // Asked first: a bar that is finished stands at its end, whatever was done.
        let done = self.bar.position();
        self.bar.finish_and_clear();
        let rate = done as f64 / seconds.max(1e-9);
        eprintln!("{}: {done} in {seconds:.1} s ({rate:.0}/s)", self.label);
    }

    fn maybe_line(&self) {
        let Some(turn) = &self.line else { return };
        let elapsed = self.started.elapsed();
        if turn.due(elapsed, LINE_EVERY) {
            let done = self.bar.position();
            let rate = done as f64 / elapsed.as_secs_f64();
            let Some(total) = self.bar.length() else {
                eprintln!("{}: {done}, {rate:.0}/s", self.label);
                return;
            };
            let left = total.saturating_sub(done) as f64 / rate.max(1e-9);
            eprintln!("{}: {done}/{total}, {rate:.0}/s, {left:.0} s left", self.label);
        }
    }
}

/// Whose turn it is to print: one of the tasks that find a line due.
#[derive(Default)]
struct Turn(AtomicU64);

impl Turn {
    fn due(&self, elapsed: Duration, every: Duration) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        let now = elapsed.as_millis() as u64;
        now >= last + every.as_millis() as u64
            && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_span() {
        let turn = Turn::default();
        let at = |millis| turn.due(Duration::from_millis(millis), LINE_EVERY);
        assert_eq!([at(10), at(1_000), at(1_500), at(2_000), at(2_001)], [false, true, false, true, false]);
    }
}
