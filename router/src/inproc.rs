//! Real gRPC without a network: an in-process pipe between a client and a server of one process.
//!
//! [`pair`] gives the two ends: the [`Connector`] dials, the [`Listener`] hands the accepted pipes to tonic's
//! `serve_with_incoming`. The backlog and each pipe's buffer are bounded. Nothing is encoded differently from TCP, so the
//! embedded tier runs the very code that a cluster runs.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Uri};

/// Pipes dialled and not yet accepted, at most.
const BACKLOG: usize = 64;
/// Bytes under way in each direction of a pipe, at most.
const PIPE_BYTES: usize = 1 << 20;

/// The dialling end. Clones dial the same listener.
#[derive(Clone, Debug)]
pub struct Connector {
    dialled: mpsc::Sender<DuplexStream>,
}

/// The accepting end: a stream of pipes, for `serve_with_incoming`. It ends when no connector is left.
#[derive(Debug)]
pub struct Listener {
    accepted: mpsc::Receiver<DuplexStream>,
}

/// A connected connector and listener.
pub fn pair() -> (Connector, Listener) {
    let (dialled, accepted) = mpsc::channel(BACKLOG);
    (Connector { dialled }, Listener { accepted })
}

impl Connector {
    /// Dials; waits while the backlog is full.
    ///
    /// # Errors
    /// `ConnectionRefused` if the listener is gone.
    pub async fn connect(&self) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "the in-process server is gone");
        self.dialled.send(far).await.map_err(gone)?;
        Ok(near)
    }

    /// A channel that dials lazily, and again when the pipe breaks.
    pub fn channel(&self) -> Channel {
        Endpoint::from_static("http://inproc").connect_with_connector_lazy(self.clone())
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<DuplexStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

impl Stream for Listener {
    type Item = io::Result<DuplexStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted.poll_recv(cx).map(|pipe| pipe.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_one_end_writes_the_other_reads() {
        let (connector, mut listener) = pair();
        let mut near = connector.connect().await.unwrap();
        let mut far = listener.next().await.unwrap().unwrap();
        near.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
    }

    #[tokio::test]
    async fn a_listener_that_is_gone_refuses() {
        let (connector, listener) = pair();
        drop(listener);
        assert_eq!(connector.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
