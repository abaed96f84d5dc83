//! The embedded tier, `flotilla up`, as a child process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::api::Api;
use crate::process::{Service, Signal, command};

/// A server that was started and has not said yet that it is ready.
pub struct Starting {
    service: Service,
    data: PathBuf,
}

impl Starting {
    /// Waits for the line that says where it serves.
    ///
    /// # Errors
    /// If it ends or says something else instead, or nothing in time; with what it logged.
    pub fn ready(mut self) -> anyhow::Result<Server> {
        let line = self.service.ready_line()?;
        let expected = || format!("expected the ready line, got {line:?}");
        let rest = line.strip_prefix("flotilla ready on http://").with_context(expected)?;
        let (address, data) = rest.split_once(", data in ").with_context(expected)?;
        ensure!(Path::new(data) == self.data, "serves {data}, not {}", self.data.display());
        let address = address.parse().with_context(expected)?;
        let Starting { service, data } = self;
        Ok(Server { service, address, data })
    }

    /// SIGKILL in the middle of its start.
    pub fn kill9(self) {
        self.service.kill9();
    }
}

/// A server that answers. Killed when dropped.
pub struct Server {
    service: Service,
    address: SocketAddr,
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
        up.args(args);
        Ok(Starting { service: Service::spawn(up)?, data: data.to_owned() })
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

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.service.id()
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.service.id()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.service.log()
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn client(&self) -> anyhow::Result<Api> {
        Api::connect(&self.url()).await.with_context(|| format!("stderr:\n{}", self.log()))
    }

    /// SIGKILL: as a crash of the process, at this very moment.
    pub fn kill9(self) {
        self.service.kill9();
    }

    /// SIGTERM: returns without waiting.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn signal_terminate(&self) -> anyhow::Result<()> {
        self.service.signal(Signal::Terminate)
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
    pub fn drained(self) -> anyhow::Result<String> {
        self.service.drained()
    }
}
