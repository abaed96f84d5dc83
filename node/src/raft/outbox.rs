//! The sender's side of a raft snapshot: hard links of the durable state, offered by their checksums, and only what the
//! receiver lacks is sent, in pieces, at a bounded rate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::peer;
use flotilla_proto::peer::raft_client::RaftClient;
use flotilla_security::Keyed;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::network::encode;
use super::state_machine::DurableState;
use super::types::{Mark, Vote};
use crate::env::{clock, fs, task};

/// Bytes of one piece, at most.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// Pieces read ahead of the network.
const PIECES_AHEAD: usize = 4;
/// Files of one snapshot, at most.
pub(super) const FILES_MAX: usize = 1 << 16;
/// How long the receiver may take to compare what it has, and to install.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// Between the name of a folder and what is drawn, in the name of a folder of links to it.
pub(super) const OUTGOING: &str = ".out-";

/// A folder of hard links that is removed with its last owner.
#[derive(Debug)]
pub struct Outgoing(PathBuf);

impl Outgoing {
    /// Owns `folder`.
    pub fn new(folder: PathBuf) -> Outgoing {
        Outgoing(folder)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Err(why) = fs::remove_dir_all(&self.0)
            && why.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.0.display(), %why, "the links of a sent snapshot stay");
        }
    }
}

/// Bytes per second for all snapshots and moves of a node together. 0: no bound.
#[derive(Debug, Default)]
pub struct Throttle {
    state: Mutex<Budget>,
}

#[derive(Debug, Default)]
struct Budget {
    per_second: u64,
    /// Until when what was taken so far is spread.
    until: Option<clock::Instant>,
}

impl Throttle {
    /// Sets the bound.
    pub fn set(&self, per_second: u64) {
        self.state.lock().per_second = per_second;
    }

    /// Waits until `bytes` more may go.
    pub async fn take(&self, bytes: usize) {
        let until = {
            let mut state = self.state.lock();
            if state.per_second == 0 {
                return;
            }
            let now = clock::now();
            let since = state.until.filter(|until| *until > now).unwrap_or(now);
            let cost = Duration::from_secs_f64(bytes as f64 / state.per_second as f64);
            let until = since + cost;
            state.until = Some(until);
            since
        };
        tokio::time::sleep_until(until.to_tokio()).await;
    }
}

/// What the head of an offer says.
pub(super) type OfferHead = (Vote, Mark);

/// Sends the state; the receiver's vote comes back.
pub(super) async fn send(
    client: RaftClient<Keyed>,
    to: peer::To,
    vote: Vote,
    state: DurableState,
    throttle: Arc<Throttle>,
) -> Result<Vote, Status> {
    let internal = |why: String| Status::internal(why);
    let links = state.links.clone().ok_or_else(|| internal("there is no durable state to send".into()))?;
    let listed = links.clone();
    let files = task::spawn_cpu(move || list(listed.path())).await;
    let files = files.map_err(|e| internal(e.to_string()))?.map_err(|e| internal(e.to_string()))?;
    let head: OfferHead = (vote, state.mark.clone());
    let head = encode(&head).map_err(|e| internal(e.to_string()))?;
    let offer = peer::SnapshotOffer { to: Some(to.clone()), head, files: files.clone() };
    let mut offering = client.clone();
    let mut request = tonic::Request::new(offer);
    request.set_timeout(ANSWER_MAX);
    let wanted = offering.offer(request).await?.into_inner();
    if !wanted.refused.is_empty() {
        return postcard::from_bytes(&wanted.refused).map_err(|e| internal(e.to_string()));
    }
    if wanted.from.len() != files.len() {
        return Err(internal("the receiver answered for other files".into()));
    }
    let bytes: u64 =
        files.iter().zip(&wanted.from).map(|(file, from)| file.bytes.saturating_sub(*from)).sum();
    tracing::info!(group = to.group, node = to.node, files = files.len(), bytes, "sends a snapshot");
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    let reading = task::spawn(read(links, to, files, wanted.from, sender, throttle));
    let mut sending = client;
    let sent = sending.send(ReceiverStream::new(pieces)).await;
    reading.abort();
    let installed = sent?.into_inner();
    postcard::from_bytes(&installed.body).map_err(|e| internal(e.to_string()))
}

/// Every file below `folder`, with its length and checksum, in a fixed order.
pub(super) fn list(folder: &Path) -> std::io::Result<Vec<peer::SnapshotFile>> {
    let mut files = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(inside) = folders.pop() {
        for name in fs::read_dir(&folder.join(&inside))? {
            let path = if inside.is_empty() { name } else { format!("{inside}/{name}") };
            let at = folder.join(&path);
            if fs::is_dir(&at)? {
                folders.push(path);
            } else {
                let (bytes, crc) = checksum(&at)?;
                files.push(peer::SnapshotFile { path, bytes, crc });
            }
            if files.len() > FILES_MAX {
                return Err(std::io::Error::other(format!("more than {FILES_MAX} files in a snapshot")));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Length and CRC-32 of a whole file.
pub(super) fn checksum(path: &Path) -> std::io::Result<(u64, u32)> {
    let file = fs::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return Ok((at, hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        at += read as u64;
    }
}

async fn read(
    links: Arc<Outgoing>,
    to: peer::To,
    files: Vec<peer::SnapshotFile>,
    from: Vec<u64>,
    sender: mpsc::Sender<peer::SnapshotPiece>,
    throttle: Arc<Throttle>,
) {
    // The first piece names the group, also where nothing is missing.
    let first = peer::SnapshotPiece {
        to: Some(to),
        file: 0,
        offset: from.first().copied().unwrap_or(0),
        bytes: Bytes::new(),
    };
    if sender.send(first).await.is_err() {
        return;
    }
    for (n, (file, from)) in files.iter().zip(from).enumerate() {
        let mut at = from;
        while at < file.bytes {
            let path = links.path().join(&file.path);
            let length = usize::try_from(file.bytes - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
            throttle.take(length).await;
            let bytes = task::spawn_cpu(move || {
                let mut bytes = vec![0; length];
                fs::open(&path)?.read_exact_at(&mut bytes, at)?;
                std::io::Result::Ok(bytes)
            });
            let bytes = match bytes.await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(why)) => return tracing::warn!(file = file.path, %why, "a snapshot cannot be read"),
                Err(why) => return tracing::warn!(file = file.path, %why, "a snapshot cannot be read"),
            };
            let piece =
                peer::SnapshotPiece { to: None, file: n as u32, offset: at, bytes: Bytes::from(bytes) };
            if sender.send(piece).await.is_err() {
                return;
            }
            at += length as u64;
        }
    }
}
