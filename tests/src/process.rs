//! Child processes of the tests: a command run to its end, and a service that says in one line that it is ready.
//!
//! Every child ends with its owner, a stopped one too. Signals go through `kill`, so that nothing here needs more than the
//! standard library.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::wait::eventually_blocking;

/// How long a start may take: the machine may be busy with other tests.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a drain may take.
const DRAIN_WITHIN: Duration = Duration::from_secs(40);
/// How long a disk may hold a call that a stopped process stands in.
const FROZEN_WITHIN: Duration = Duration::from_secs(20);
/// How long any other command may take.
const RUN_WITHIN: Duration = Duration::from_secs(180);
/// Of each stream, this much is kept.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// What a finished command said.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The command, without what the caller's environment would change in it.
pub fn command(binary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    clean(&mut command).args(args).stdin(Stdio::null());
    command
}

/// Takes out of a command's environment what would change the binary.
pub(crate) fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FLOTILLA_")) {
        command.env_remove(name);
    }
    command.env_remove("SHARD_ID").env_remove("RUST_LOG").env_remove("RUST_BACKTRACE")
}

/// Runs a command to its end.
///
/// # Errors
/// If it cannot be started, or does not end in time (then it is killed).
pub fn run(mut command: Command) -> anyhow::Result<Finished> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting")?;
    let stdout = Tail::of(child.stdout.take().context("no stdout")?);
    let stderr = Tail::of(child.stderr.take().context("no stderr")?);
    let mut child = Reaped(child);
    let ended = child.exit(&format!("{command:?} ends"), RUN_WITHIN);
    if ended.is_err() {
        child.kill();
    }
    let (stdout, stderr) = (stdout.finish(), stderr.finish());
    let status = ended.with_context(|| format!("stdout: {stdout}\nstderr: {stderr}"))?;
    Ok(Finished { code: status.code(), stdout, stderr })
}

/// A child that ends with its owner.
#[derive(Debug)]
struct Reaped(Child);

impl Reaped {
    fn exit(&mut self, what: &str, within: Duration) -> anyhow::Result<ExitStatus> {
        let child = &mut self.0;
        eventually_blocking(what, within, || child.try_wait().transpose())?.context("waiting for it")
    }

    fn kill(&mut self) {
        // Already gone is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last part of what a stream carried.
struct Tail {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Tail {
    fn of(mut stream: impl Read + Send + 'static) -> Tail {
        let text = Arc::new(Mutex::new(Vec::new()));
        let kept = text.clone();
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 8192];
            while let Ok(read @ 1..) = stream.read(&mut chunk) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&chunk[..read]);
                let over = kept.len().saturating_sub(OUTPUT_BYTES_MAX);
                kept.drain(..over);
            }
        });
        Tail { text, reader }
    }

    fn so_far(&self) -> String {
        let kept = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// Everything, once the stream has ended.
    fn finish(self) -> String {
        let Tail { text, reader } = self;
        let _ = reader.join();
        let kept = text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }
}

/// A signal that does not end a process for good.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// SIGTERM: asks it to drain.
    Terminate,
    /// SIGSTOP: nothing of it runs until it is continued.
    Stop,
    /// SIGCONT.
    Continue,
}

/// What may be under way in a process that is frozen.
#[derive(Clone, Copy, Debug)]
pub enum InFlight {
    /// Nothing: each system call has come to its end.
    Nothing,
    /// Calls that wait for a disk: as when the power goes under them.
    Calls,
}

impl InFlight {
    fn allow(self, state: char) -> bool {
        // Stopped, stopped under a tracer, or ended.
        "TtZX".contains(state) || (matches!(self, InFlight::Calls) && state == 'D')
    }
}

/// A service that runs: its process, its log, and the lines that it has said.
pub struct Service {
    child: Reaped,
    lines: Receiver<String>,
    stderr: Tail,
}

impl Service {
    /// Starts a command that goes on until it is told to stop.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(mut command: Command) -> anyhow::Result<Service> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = Tail::of(child.stderr.take().context("no stderr")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Service { child: Reaped(child), lines, stderr })
    }

    /// Waits for its first line: the one that says that it is ready.
    ///
    /// # Errors
    /// If it ends instead, or says nothing in time; with what it logged.
    pub fn ready_line(&mut self) -> anyhow::Result<String> {
        let deadline = Instant::now() + READY_WITHIN;
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("not ready within {READY_WITHIN:?}; stderr:\n{}", self.log())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.exit("it ends after closing its output", DRAIN_WITHIN);
                bail!("ended instead of serving: {status:?}; stderr:\n{}", self.log())
            }
        }
    }

    /// SIGSTOP, and waits until no thread of it runs; what stands in a system call meanwhile returns from it only afterwards.
    ///
    /// # Errors
    /// If it does not run, or a thread does not come to rest in time.
    pub fn freeze(&self, calls: InFlight) -> anyhow::Result<()> {
        self.signal(Signal::Stop)?;
        let deadline = Instant::now() + FROZEN_WITHIN;
        while !self.threads()?.into_iter().all(|state| calls.allow(state)) {
            ensure!(Instant::now() < deadline, "a thread still runs {FROZEN_WITHIN:?} after SIGSTOP");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// The state of each of its threads, as the kernel writes it.
    fn threads(&self) -> anyhow::Result<Vec<char>> {
        let tasks = format!("/proc/{}/task", self.id());
        let mut states = Vec::new();
        for task in std::fs::read_dir(&tasks).with_context(|| tasks.clone())? {
            // One that has ended since it was listed does not run.
            let Ok(stat) = std::fs::read_to_string(task?.path().join("stat")) else { continue };
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            states.push(state.with_context(|| format!("{tasks}: {stat}"))?);
        }
        Ok(states)
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.stderr.so_far()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.0.try_wait(), Ok(None))
    }

    /// Sends a signal; returns without waiting.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let name = match signal {
            Signal::Terminate => "TERM",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        let kill = format!("kill -{name} {}", self.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().context("running sh")?;
        ensure!(sent.success(), "{kill}: {sent}");
        Ok(())
    }

    /// SIGKILL: as a crash of the process, at this very moment; returns its log.
    pub fn kill9(mut self) -> String {
        self.child.kill();
        self.stderr.finish()
    }

    /// SIGTERM, and its end, whatever its exit code; returns its log.
    ///
    /// # Errors
    /// If it does not end in time; then it is killed.
    pub fn stopped(mut self) -> anyhow::Result<String> {
        if !self.has_ended() {
            self.signal(Signal::Terminate)?;
        }
        let ended = self.child.exit("it ends after SIGTERM", DRAIN_WITHIN);
        self.child.kill();
        ended.map(|_| self.stderr.finish())
    }

    /// The end of a drain that a signal began; returns its log.
    ///
    /// # Errors
    /// If it does not end in time, with exit code 0, and without a panic in its log.
    pub fn drained(mut self) -> anyhow::Result<String> {
        let ended = self.child.exit("it ends after SIGTERM", DRAIN_WITHIN);
        if ended.is_err() {
            self.child.kill();
        }
        let log = self.stderr.finish();
        let status = ended.with_context(|| format!("stderr:\n{log}"))?;
        ensure!(status.success(), "ended with {status}; stderr:\n{log}");
        ensure!(!log.contains("panicked at"), "a panic in the log:\n{log}");
        Ok(log)
    }
}
