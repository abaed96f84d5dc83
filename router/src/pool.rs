//! From a node's address to a line: dialled lazily, kept, dialled anew by tonic when it breaks.
//!
//! An address is `host:port`, resolved at each dial, or `inproc` for the node inside the same process.

use std::collections::HashMap;
use std::time::Duration;

use flotilla_proto::limits::MESSAGE_BYTES_MAX;
use flotilla_proto::shard::meta_client::MetaClient;
use flotilla_proto::shard::shard_client::ShardClient;
use flotilla_security::{Keyed, Trust};
use parking_lot::Mutex;
use tonic::Status;
#[cfg(feature = "sim")]
use tonic::transport::Channel;
use tonic::transport::Endpoint;

use crate::line::Line;

/// The address of the node inside the same process.
pub const INPROC: &str = "inproc";
/// Lines kept, at most: beyond it all are dropped and dialled anew as they are needed.
const LINES_MAX: usize = 4_096;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes under way to us, unread, at most: of one call, and of one connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The lines to the nodes.
#[derive(Debug)]
pub struct Pool {
    inproc: Option<Line>,
    trust: Trust,
    lines: Mutex<HashMap<String, Line>>,
}

impl Pool {
    /// A pool; `inproc` reaches the node inside the same process, if there is one, and `trust` is what other nodes are
    /// shown.
    pub fn new(inproc: Option<Line>, trust: Trust) -> Pool {
        Pool { inproc, trust, lines: Mutex::new(HashMap::new()) }
    }

    /// The line to `address`.
    ///
    /// # Errors
    /// `INTERNAL` if the address is none.
    pub fn line(&self, address: &str) -> Result<Line, Status> {
        let mut lines = self.lines.lock();
        if let Some(line) = lines.get(address) {
            return Ok(line.clone());
        }
        if lines.len() >= LINES_MAX {
            lines.clear();
        }
        let line = self.dial(address)?;
        lines.insert(address.to_owned(), line.clone());
        Ok(line)
    }

    /// The shard service at `address`.
    pub fn shard(&self, address: &str) -> Result<ShardClient<Line>, Status> {
        let client = ShardClient::new(self.line(address)?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The meta service at `address`.
    pub fn meta(&self, address: &str) -> Result<MetaClient<Line>, Status> {
        let client = MetaClient::new(self.line(address)?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn dial(&self, address: &str) -> Result<Line, Status> {
        if address == INPROC {
            let missing = || Status::internal("address `inproc`: there is no node in this process");
            return self.inproc.clone().ok_or_else(missing);
        }
        let wrong = |e| Status::internal(format!("`{address}` is not a node's address: {e}"));
        let endpoint = Endpoint::from_shared(self.trust.url(address)).map_err(wrong)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Ok(Line::Wire(connect_lazy(&endpoint, &self.trust)))
    }
}

fn connect_lazy(endpoint: &Endpoint, trust: &Trust) -> Keyed {
    #[cfg(feature = "sim")]
    if let Some(connect) = DIALS.get() {
        return trust.over(connect(endpoint));
    }
    trust.connect_lazy(endpoint)
}

#[cfg(feature = "sim")]
static DIALS: std::sync::OnceLock<fn(&Endpoint) -> Channel> = std::sync::OnceLock::new();

/// Has nodes be reached through a simulated network, from now on and in the whole process.
#[cfg(feature = "sim")]
pub fn dial_by(connect: fn(&Endpoint) -> Channel) {
    let _ = DIALS.set(connect);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        let pool = Pool::new(None, Trust::default());
        assert!(pool.line("host:15002").is_ok());
        assert!(pool.line("no address").is_err());
        assert!(pool.line(INPROC).is_err());
    }
}
