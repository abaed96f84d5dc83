//! The real binary as a child process.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::api::Api;
use crate::wait::eventually_blocking;

/// How long a start may take: the machine may be busy with other tests.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a drain may take.
const DRAIN_WITHIN: Duration = Duration::from_secs(40);
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
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FLOTILLA_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE").args(args).stdin(Stdio::null());
    command
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

/// A server that was started and has not said yet that it is ready.
pub struct Starting {
    child: Reaped,
    lines: Receiver<String>,
    stderr: Tail,
    data: PathBuf,
}

impl Starting {
    /// Waits for the line that says where it serves.
    ///
    /// # Errors
    /// If it ends or says something else instead, or nothing in time; with what it logged.
    pub fn ready(mut self) -> anyhow::Result<Server> {
        let deadline = Instant::now() + READY_WITHIN;
        let line = match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                bail!("not ready within {READY_WITHIN:?}; stderr:\n{}", self.stderr.so_far())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.exit("it ends after closing its output", DRAIN_WITHIN);
                bail!("ended instead of serving: {status:?}; stderr:\n{}", self.stderr.finish())
            }
        };
        let expected = || format!("expected the ready line, got {line:?}");
        let rest = line.strip_prefix("flotilla ready on http://").with_context(expected)?;
        let (address, data) = rest.split_once(", data in ").with_context(expected)?;
        ensure!(Path::new(data) == self.data, "serves {data}, not {}", self.data.display());
        let address = address.parse().with_context(expected)?;
        let Starting { child, stderr, data, .. } = self;
        Ok(Server { child, address, stderr, data })
    }

    /// SIGKILL in the middle of its start.
    pub fn kill9(mut self) {
        self.child.kill();
    }
}

/// A server that answers. Killed when dropped.
pub struct Server {
    child: Reaped,
    address: SocketAddr,
    stderr: Tail,
    data: PathBuf,
}

impl Server {
    /// Starts `flotilla up` over `data` on a free port, with more arguments.
    ///
    /// # Errors
    /// If the binary cannot be started.
    pub fn spawn(binary: &Path, data: &Path, args: &[&str]) -> anyhow::Result<Starting> {
        let folder = data.to_str().context("the folder's name is not UTF-8")?;
        let mut up = command(binary, &["up", "--data", folder, "--port", "0"]);
        up.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = up.spawn().with_context(|| format!("starting {}", binary.display()))?;
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
        Ok(Starting { child: Reaped(child), lines, stderr, data: data.to_owned() })
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// See [`Starting::ready`].
    pub fn start(binary: &Path, data: &Path, args: &[&str]) -> anyhow::Result<Server> {
        Server::spawn(binary, data, args)?.ready()
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as `--to` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.stderr.so_far()
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn client(&self) -> anyhow::Result<Api> {
        Api::connect(&self.url()).await.with_context(|| format!("stderr:\n{}", self.log()))
    }

    /// SIGKILL: as a crash of the process, at this very moment.
    pub fn kill9(mut self) {
        self.child.kill();
    }

    /// SIGTERM: returns without waiting.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn signal_terminate(&self) -> anyhow::Result<()> {
        let kill = format!("kill -TERM {}", self.child.0.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().context("running sh")?;
        ensure!(sent.success(), "{kill}: {sent}");
        Ok(())
    }

    /// SIGTERM, and the whole drain; returns its log.
    ///
    /// # Errors
    /// If it does not end in time, with exit code 0, and without a panic in its log.
    pub fn terminate(self) -> anyhow::Result<String> {
        self.signal_terminate()?;
        self.drained()
    }

    /// The end of a drain that a signal began; returns its log.
    ///
    /// # Errors
    /// If it does not end in time, with exit code 0, and without a panic in its log.
    pub fn drained(mut self) -> anyhow::Result<String> {
        let ended = self.child.exit("the server ends after SIGTERM", DRAIN_WITHIN);
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
