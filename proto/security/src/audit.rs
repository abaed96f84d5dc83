//! The audit log: one line of JSON for each administrative call and for each call that was refused because of who called.
//!
//! `{"time":"2026-11-20T10:00:00Z","caller":"key 1f… (ci)","method":"flotilla.v1.Collections/Delete","collection":"docs",
//! "outcome":"Ok"}`. Calls do not wait for it: lines go through a bounded queue to a thread that writes, and what does not
//! fit is counted as lost. A file that has reached its size becomes `FILE.1`, in the place of the one before it. No line
//! holds anything that a caller sent but the name of a collection, cut to its length.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use flotilla_proto::access::Note;
use parking_lot::Mutex;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Fault, Metrics};

/// Lines that wait to be written, at most.
const QUEUE_MAX: usize = 4_096;
/// Characters of a name that are written, at most.
const NAME_MAX: usize = 256;

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    caller: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    method: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    collection: Option<String>,
    outcome: String,
}

/// The log. What waits is written before it goes.
#[derive(Debug)]
pub struct Audit {
    queue: Mutex<Option<SyncSender<String>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Opens the file, or goes on with it.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub fn open(path: &Path, bytes_max: u64, metrics: &Metrics) -> Result<Audit, Fault> {
        let file = Log::open(path, bytes_max).map_err(|why| Fault::new(path, why))?;
        let (queue, lines) = sync_channel(QUEUE_MAX);
        let metrics = metrics.clone();
        let writer = std::thread::Builder::new().name("audit".to_owned());
        let writer =
            writer.spawn(move || write(file, &lines, &metrics)).map_err(|why| Fault::new(path, why))?;
        Ok(Audit { queue: Mutex::new(Some(queue)), writer: Mutex::new(Some(writer)) })
    }

    fn take(&self, line: String, metrics: &Metrics) {
        let is_taken = self.queue.lock().as_ref().is_some_and(|queue| queue.try_send(line).is_ok());
        if !is_taken {
            metrics.audit_lost();
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.queue.lock().take();
        if let Some(writer) = self.writer.lock().take() {
            // A writer that gave up has counted what it lost.
            let _ = writer.join();
        }
    }
}

fn write(mut log: Log, lines: &Receiver<String>, metrics: &Metrics) {
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            if let Err(why) = log.add(&line) {
                tracing::error!(%why, "a line of the audit log is lost");
                metrics.audit_lost();
            }
            next = lines.try_recv().ok();
        }
        if let Err(why) = log.file.flush() {
            tracing::error!(%why, "lines of the audit log are lost");
            metrics.audit_lost();
        }
    }
}

struct Log {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    bytes_max: u64,
}

impl Log {
    fn open(path: &Path, bytes_max: u64) -> std::io::Result<Log> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = File::options().create(true).append(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Log { path: path.to_owned(), file: BufWriter::new(file), bytes, bytes_max })
    }

    fn add(&mut self, line: &str) -> std::io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.file.flush()?;
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            std::fs::rename(&self.path, before)?;
            *self = Log::open(&self.path, self.bytes_max)?;
        }
        self.file.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// Takes down calls: counts them, and writes them if there is an audit log.
#[derive(Clone, Debug)]
pub struct Recorder {
    audit: Option<Arc<Audit>>,
    metrics: Metrics,
}

impl Recorder {
    /// With or without a log.
    pub fn new(audit: Option<Arc<Audit>>, metrics: Metrics) -> Recorder {
        Recorder { audit, metrics }
    }

    /// Takes down what became of a call.
    pub fn note(&self, note: &Note<'_>) {
        use tonic::Code;
        match note.outcome {
            Code::Unauthenticated => self.metrics.refused(false),
            Code::PermissionDenied => self.metrics.refused(true),
            _ => {}
        }
        let Some(audit) = &self.audit else { return };
        let cut = |text: &str| text.chars().take(NAME_MAX).collect::<String>();
        let line = Line {
            time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            caller: note.caller.map(|caller| caller.name.as_str()),
            tenant: note.caller.and_then(|caller| caller.tenant.as_deref()),
            method: cut(note.method),
            collection: note.collection.map(cut),
            outcome: format!("{:?}", note.outcome),
        };
        match serde_json::to_string(&line) {
            Ok(mut line) => {
                line.push('\n');
                audit.take(line, &self.metrics);
            }
            Err(_) => self.metrics.audit_lost(),
        }
    }
}
