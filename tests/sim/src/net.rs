//! Connections over turmoil's network: how members dial and accept, and how the storm breaks what stands.
//!
//! turmoil's TCP does not send again what was lost: a connection that lost a segment stays silent for good. So a link that is cut
//! and comes back has its connections [reset](reset), as a real one would have them time out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use flotilla_node::env::sim::Disk;
use futures::Stream;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};
use turmoil::net::{TcpListener, TcpStream};

/// Connections that stand, as their dialling ends know them.
static STANDING: Mutex<Vec<Arc<Line>>> = Mutex::new(Vec::new());
/// A host that says nothing any more once its disk has stopped.
static WATCHED: Mutex<Option<(String, Arc<Disk>)>> = Mutex::new(None);
static MADE: AtomicU64 = AtomicU64::new(0);

/// One end of a connection.
struct Line {
    from: String,
    to: String,
    is_reset: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

/// How many connections were made.
pub fn made() -> u64 {
    MADE.load(Ordering::Relaxed)
}

/// Breaks the connections between two hosts, or all of a host. How many there were.
pub fn reset(a: &str, b: Option<&str>) -> usize {
    let is_meant = |line: &Line| {
        let at = |name: &str| line.from == name || line.to == name;
        at(a) && b.is_none_or(at)
    };
    let mut lines = STANDING.lock();
    lines.retain(|line| Arc::strong_count(line) > 1);
    let meant: Vec<Arc<Line>> = lines.iter().filter(|line| is_meant(line)).cloned().collect();
    drop(lines);
    for line in &meant {
        line.is_reset.store(true, Ordering::SeqCst);
        std::mem::take(&mut *line.wakers.lock()).into_iter().for_each(Waker::wake);
    }
    meant.len()
}

/// Has a host fall silent in the moment in which its disk stops, and not only at the end of the tick: what it said before
/// arrives, and nothing after.
pub fn silence_with(host: &str, disk: &Arc<Disk>) {
    *WATCHED.lock() = Some((host.to_owned(), disk.clone()));
}

fn is_silent(host: &str) -> bool {
    WATCHED.lock().as_ref().is_some_and(|(name, disk)| name == host && disk.stopped_at().is_some())
}

/// A turmoil connection that can be reset.
pub struct Pipe {
    stream: TcpStream,
    line: Arc<Line>,
    /// Whose end it is.
    host: String,
}

impl Pipe {
    fn over(stream: TcpStream, host: String, from: String, to: String) -> Pipe {
        let line = Line { from, to, is_reset: AtomicBool::new(false), wakers: Mutex::default() };
        let line = Arc::new(line);
        STANDING.lock().push(line.clone());
        MADE.fetch_add(1, Ordering::Relaxed);
        Pipe { stream, line, host }
    }

    fn stands(&self, context: &Context<'_>) -> io::Result<()> {
        if self.line.is_reset.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut wakers = self.line.wakers.lock();
        if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
        Ok(())
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stands(context)?;
        Pin::new(&mut self.stream).poll_read(context, bytes)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stands(context)?;
        if is_silent(&self.host) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stands(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stands(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Pipe {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// The name of the host at an address.
fn name(address: std::net::IpAddr) -> String {
    turmoil::reverse_lookup(address).unwrap_or_else(|| address.to_string())
}

async fn dial(uri: Uri) -> io::Result<TokioIo<Pipe>> {
    let (host, port) = (uri.host().unwrap_or_default().to_owned(), uri.port_u16().unwrap_or(0));
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    let from = name(stream.local_addr()?.ip());
    Ok(TokioIo::new(Pipe::over(stream, from.clone(), from, host)))
}

/// The channel to an endpoint, dialled when it is first used.
pub fn connect(endpoint: &Endpoint) -> Channel {
    endpoint.connect_with_connector_lazy(tower::service_fn(dial))
}

/// The connections that come to a port of the calling host.
///
/// # Errors
/// If the port is taken.
pub async fn listen(port: u16) -> io::Result<impl Stream<Item = io::Result<Pipe>> + Send + 'static> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).await?;
    Ok(futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.and_then(|(stream, from)| {
            let to = name(stream.local_addr()?.ip());
            Ok(Pipe::over(stream, to.clone(), name(from.ip()), to))
        });
        Some((accepted, listener))
    }))
}
