//! One type for connections with TLS and without, with what is known of the other side.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsStream, client, server};
use tonic::transport::server::Connected;

use super::{Connection, Identity};

#[derive(Debug)]
enum Way {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection.
#[derive(Debug)]
pub struct Stream {
    way: Way,
    about: Connection,
}

impl Stream {
    /// Without TLS.
    pub fn plain(socket: TcpStream) -> Stream {
        let about = Connection { remote: socket.peer_addr().ok(), identity: None };
        Stream { way: Way::Plain(socket), about }
    }

    pub(super) fn taken(shaken: server::TlsStream<TcpStream>) -> Stream {
        Stream::tls(TlsStream::Server(shaken))
    }

    pub(super) fn made(shaken: client::TlsStream<TcpStream>) -> Stream {
        Stream::tls(TlsStream::Client(shaken))
    }

    fn tls(shaken: TlsStream<TcpStream>) -> Stream {
        let (socket, session) = shaken.get_ref();
        let first = session.peer_certificates().and_then(|all| all.first());
        let identity = first.and_then(Identity::read).map(Arc::new);
        let about = Connection { remote: socket.peer_addr().ok(), identity };
        Stream { way: Way::Tls(Box::new(shaken)), about }
    }

    /// Whom the other side's certificate names.
    pub fn identity(&self) -> Option<&Identity> {
        self.about.identity.as_deref()
    }
}

impl Connected for Stream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.about.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.way {
            Way::Plain(way) => Pin::new(way).poll_read(context, into),
            Way::Tls(way) => Pin::new(way.as_mut()).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.way {
            Way::Plain(way) => Pin::new(way).poll_write(context, bytes),
            Way::Tls(way) => Pin::new(way.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        all: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.way {
            Way::Plain(way) => Pin::new(way).poll_write_vectored(context, all),
            Way::Tls(way) => Pin::new(way.as_mut()).poll_write_vectored(context, all),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.way {
            Way::Plain(way) => way.is_write_vectored(),
            Way::Tls(way) => way.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.way {
            Way::Plain(way) => Pin::new(way).poll_flush(context),
            Way::Tls(way) => Pin::new(way.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.way {
            Way::Plain(way) => Pin::new(way).poll_shutdown(context),
            Way::Tls(way) => Pin::new(way.as_mut()).poll_shutdown(context),
        }
    }
}
