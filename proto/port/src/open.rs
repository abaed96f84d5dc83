//! What stands between the listener and HTTP: one function, run in the connection's own task and bounded by
//! `connection_timeout`. A handshake belongs here.

use std::io;

use tokio::net::TcpStream;

/// What HTTP is spoken over.
pub(crate) type Io = TcpStream;

/// Makes of an accepted stream what HTTP is spoken over.
pub(crate) async fn open(stream: TcpStream) -> io::Result<Io> {
    stream.set_nodelay(true)?;
    Ok(stream)
}
