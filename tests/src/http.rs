//! Plain HTTP/1, as much as a probe or a scraper needs.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

const WITHIN: Duration = Duration::from_secs(10);
const BYTES_MAX: u64 = 16 << 20;

/// An answer.
#[derive(Debug)]
pub struct Page {
    /// The status code.
    pub status: u16,
    /// The head, lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Gets a page.
///
/// # Errors
/// If the connection fails, or what comes back is no HTTP.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<Page> {
    call(address, "GET", path)
}

/// Calls a page by this method, with nothing.
///
/// # Errors
/// If the connection fails, or what comes back is no HTTP.
pub fn call(address: SocketAddr, method: &str, path: &str) -> anyhow::Result<Page> {
    let mut stream = TcpStream::connect_timeout(&address, WITHIN).context("connecting")?;
    stream.set_read_timeout(Some(WITHIN))?;
    // Version 1.0: the body ends with the connection, never in chunks.
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.take(BYTES_MAX).read_to_end(&mut bytes).context("reading")?;
    let text = String::from_utf8(bytes).context("not UTF-8")?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("no head in {text:?}") };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status in {head:?}"))?;
    Ok(Page { status, head: head.to_lowercase(), body: body.to_owned() })
}
