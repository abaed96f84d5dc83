//! What a client shows a server, and what it believes a server by.

use std::path::PathBuf;

use flotilla_security::tls::{DialOptions, Dialer, Pair};
use flotilla_security::{Keyed, Secret};
use tonic::transport::{Channel, Endpoint};

use crate::{Error, Kind, Result};

/// Credentials. By default none: plain connections, no key.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// An API key or a signed token, sent with each call.
    pub api_key: Option<Secret>,
    /// The authorities (PEM) by which servers at `https://` are believed. Needed for these.
    pub ca_file: Option<PathBuf>,
    /// An own certificate (PEM) and its key, for servers that ask for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// How channels are made with them.
#[derive(Debug)]
pub(crate) struct Shown {
    key: Option<Secret>,
    dialer: Option<Dialer>,
}

impl Credentials {
    /// Reads the files.
    pub(crate) fn read(&self) -> Result<Shown> {
        let own =
            self.own.as_ref().map(|(cert, key)| Pair { cert_file: cert.clone(), key_file: key.clone() });
        if own.is_some() && self.ca_file.is_none() {
            return Err(wrong("a client certificate is given, and no authority to believe servers by"));
        }
        let open = |ca_file: &PathBuf| {
            Dialer::new(&DialOptions { ca_file: ca_file.clone(), own: own.clone(), expects: None })
        };
        let dialer = self.ca_file.as_ref().map(open).transpose().map_err(wrong)?;
        Ok(Shown { key: self.api_key.clone(), dialer })
    }
}

fn wrong(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::FixRequest, why.to_string())
}

impl Shown {
    /// The dialer for this address.
    pub(crate) fn dialer(&self, url: &str) -> Result<Option<Dialer>> {
        let is_encrypted = url.to_ascii_lowercase().starts_with("https:");
        match &self.dialer {
            Some(dialer) if is_encrypted => Ok(Some(dialer.clone())),
            Some(_) => Err(wrong(format!("`{url}` is plain, and an authority is given: say https://"))),
            None if is_encrypted => {
                Err(wrong(format!("`{url}` needs an authority to believe it by (--tls-ca)")))
            }
            None => Ok(None),
        }
    }

    /// Calls over this channel, with the key.
    pub(crate) fn over(&self, channel: Channel) -> Result<Keyed> {
        match &self.key {
            Some(key) => Keyed::with(channel, key).map_err(wrong),
            None => Ok(channel.into()),
        }
    }
}

/// Dials now.
pub(crate) async fn dialled(
    endpoint: &Endpoint,
    dialer: Option<Dialer>,
) -> std::result::Result<Channel, tonic::transport::Error> {
    match dialer {
        Some(dialer) => endpoint.connect_with_connector(dialer).await,
        None => endpoint.connect().await,
    }
}

/// Dials when it is needed.
pub(crate) fn lazily(endpoint: &Endpoint, dialer: Option<Dialer>) -> Channel {
    match dialer {
        Some(dialer) => endpoint.connect_with_connector_lazy(dialer),
        None => endpoint.connect_lazy(),
    }
}
