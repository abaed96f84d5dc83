//! Encrypted connections, and what their certificates say.
//!
//! [`Door`] is the side that is called: [`open`] makes a connection of an accepted socket, plain or by a handshake, which
//! has [`HANDSHAKE_MAX`], in the connection's own task. [`Dialer`] is the side that calls. TLS 1.2 and 1.3 only. Certificates, keys and authorities come from PEM files and are read anew when
//! these change: connections that are there go on, new ones get the new certificate.

mod files;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::codegen::http::Uri;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use self::stream::Stream;
use crate::watched::Refresh;
use crate::{Fault, Metrics, Watched};

/// How long a handshake may take.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// What a process of a cluster is, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A shard node.
    Node,
    /// A router.
    Router,
}

impl Role {
    /// The URI among the names of its certificate.
    pub fn uri(self) -> &'static str {
        match self {
            Role::Node => "flotilla://node",
            Role::Router => "flotilla://router",
        }
    }
}

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its common name, or else its serial number.
    pub name: String,
    /// What it is in the cluster.
    pub role: Option<Role>,
}

impl Identity {
    /// Out of a certificate whose signature was checked.
    fn read(certificate: &CertificateDer<'_>) -> Option<Identity> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let named = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
        let name = named.map_or_else(|| certificate.raw_serial_as_string(), str::to_owned);
        let others = certificate.subject_alternative_name().ok().flatten();
        let is = |role: &Role| {
            let names = others.iter().flat_map(|names| &names.value.general_names);
            names.clone().any(|name| matches!(name, GeneralName::URI(uri) if *uri == role.uri()))
        };
        Some(Identity { name, role: [Role::Node, Role::Router].into_iter().find(is) })
    }
}

/// What is known of a connection: in the extensions of its requests.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where it comes from.
    pub remote: Option<SocketAddr>,
    /// Whom its certificate names.
    pub identity: Option<Arc<Identity>>,
}

/// A certificate (PEM, with those between it and the authority) and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificates.
    pub cert_file: PathBuf,
    /// The key.
    pub key_file: PathBuf,
}

/// Whether those who connect are asked for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Not at all.
    Unasked,
    /// They may show one of these authorities (PEM); what needs one is up to the calls.
    Asked(PathBuf),
    /// Nobody gets in without one.
    Required(PathBuf),
}

/// The side that is called.
#[derive(Clone, Debug)]
pub struct Door {
    config: Arc<Watched<ServerConfig>>,
    metrics: Metrics,
}

impl Door {
    /// Reads the files.
    ///
    /// # Errors
    /// If one is damaged, or the key is not the certificate's.
    pub fn new(own: &Pair, clients: &Clients, metrics: Metrics) -> Result<Door, Fault> {
        let mut files = vec![own.cert_file.clone(), own.key_file.clone()];
        let is_required = matches!(clients, Clients::Required(_));
        if let Clients::Asked(authorities) | Clients::Required(authorities) = clients {
            files.push(authorities.clone());
        }
        let config = Watched::open("certificates", files, move |all| files::server(all, is_required))?;
        Ok(Door { config, metrics })
    }

    /// What to look at for changes.
    pub fn watched(&self) -> Arc<dyn Refresh> {
        self.config.clone()
    }

    async fn shake(&self, socket: TcpStream) -> io::Result<Stream> {
        let acceptor = TlsAcceptor::from(self.config.get());
        let shaken = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(socket)).await;
        shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(Stream::taken).inspect_err(|why| {
            self.metrics.handshake_failed();
            tracing::debug!(%why, "a connection ended in its handshake");
        })
    }
}

/// A connection of an accepted socket: through the door if there is one.
///
/// # Errors
/// If the handshake fails or takes too long.
pub async fn open(socket: TcpStream, door: Option<&Door>) -> io::Result<Stream> {
    // Answers are whole messages: waiting for more only delays them.
    socket.set_nodelay(true)?;
    match door {
        Some(door) => door.shake(socket).await,
        None => Ok(Stream::plain(socket)),
    }
}

/// Files of the side that calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialOptions {
    /// The authorities (PEM) whose servers are believed.
    pub ca_file: PathBuf,
    /// What to show a server that asks.
    pub own: Option<Pair>,
    /// What the server's certificate must say that it is.
    pub expects: Option<Role>,
}

/// The side that calls: connects, shakes hands, and looks at whom it has reached.
#[derive(Clone, Debug)]
pub struct Dialer {
    config: Arc<Watched<ClientConfig>>,
    expects: Option<Role>,
}

impl Dialer {
    /// Reads the files.
    ///
    /// # Errors
    /// If one is damaged, or the key is not the certificate's.
    pub fn new(options: &DialOptions) -> Result<Dialer, Fault> {
        let mut files = vec![options.ca_file.clone()];
        if let Some(own) = &options.own {
            files.extend([own.cert_file.clone(), own.key_file.clone()]);
        }
        let config = Watched::open("certificates", files, files::client)?;
        Ok(Dialer { config, expects: options.expects })
    }

    /// What to look at for changes.
    pub fn watched(&self) -> Arc<dyn Refresh> {
        self.config.clone()
    }

    async fn dial(self, uri: Uri) -> io::Result<TokioIo<Stream>> {
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{uri}: {why}"));
        let host = uri.host().ok_or_else(|| wrong("names no host"))?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong("names no host"))?;
        let socket = TcpStream::connect((host.as_str(), port)).await?;
        socket.set_nodelay(true)?;
        let connected = TlsConnector::from(self.config.get()).connect(name, socket).await?;
        let stream = Stream::made(connected);
        let role = stream.identity().and_then(|identity| identity.role);
        match self.expects {
            Some(expected) if role != Some(expected) => {
                Err(wrong(&format!("its certificate does not name the URI {}", expected.uri())))
            }
            _ => Ok(TokioIo::new(stream)),
        }
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}
