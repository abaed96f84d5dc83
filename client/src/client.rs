//! The client itself: its channel, its identity, and how a call is sent again.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::convert::map_from_wire;
use flotilla_proto::limits::MESSAGE_BYTES_MAX;
use flotilla_proto::placement::PlacementMap;
use flotilla_proto::v1;
use flotilla_proto::v1::cluster_client::ClusterClient;
use flotilla_proto::v1::collections_client::CollectionsClient;
use flotilla_proto::v1::records_client::RecordsClient;
use flotilla_proto::v1::search_client::SearchClient;
use futures::{Stream, TryStreamExt as _};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::error::is_unknown;
use crate::{Error, Kind, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What a client can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time of one call with all its retries. Default 30 s.
    pub timeout: Duration,
    /// Time of one try, at most; then the call is sent again. Default 10 s.
    pub try_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { timeout: Duration::from_secs(30), try_timeout: Duration::from_secs(10) }
    }
}

/// A client. Clones share its connection and its identity; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    options: Options,
    identity: Arc<Identity>,
    owned: Option<Arc<dyn Owned>>,
}

/// A server that lives in this process and belongs to its clients: it may end when the last of them is gone.
pub trait Owned: std::fmt::Debug + Send + Sync {
    /// Ends the server: finishes the calls under way, and returns when everything is closed. Idempotent.
    fn close(&self) -> futures::future::BoxFuture<'_, Result<()>>;
}

/// Who writes, and how many-th write it is.
#[derive(Debug)]
struct Identity {
    client: u64,
    serial: AtomicU64,
}

impl Client {
    /// Connects to a router, such as `http://localhost:15010`; later it reconnects by itself.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), flotilla_client::Error> {
    /// let client = flotilla_client::Client::connect("http://localhost:15010").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Kind::FixRequest`] if `url` is none, [`Kind::Retry`] if nobody answers there.
    pub async fn connect(url: &str) -> Result<Client> {
        let wrong = |e| Error::new(Kind::FixRequest, format!("`{url}` is not an address: {e}"));
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(wrong)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        let silent = |e: tonic::transport::Error| {
            let cause = std::error::Error::source(&e).map_or_else(String::new, |cause| format!(": {cause}"));
            Error::new(Kind::Retry, format!("no server answers at {url}: {e}{cause}"))
        };
        Ok(Client::from_channel(endpoint.connect().await.map_err(silent)?))
    }

    /// A client over a channel, such as one to a server in this process.
    pub fn from_channel(channel: Channel) -> Client {
        // Without random bytes the id is 0: writes are then not deduplicated, and not sent again.
        let client = getrandom::u64().unwrap_or(0);
        let identity = Arc::new(Identity { client, serial: AtomicU64::new(1) });
        Client { channel, options: Options::default(), identity, owned: None }
    }

    /// The same client, to which (with its clones) the server belongs.
    pub fn owning(mut self, server: Arc<dyn Owned>) -> Client {
        self.owned = Some(server);
        self
    }

    /// Ends the server if it belongs to this client: what a folder was opened for is over, for its clones too, and the
    /// folder may be opened again. Does nothing to a server at an address.
    ///
    /// # Errors
    /// If a part of the server ended before it was told to.
    pub async fn close(self) -> Result<()> {
        match &self.owned {
            Some(server) => server.close().await,
            None => Ok(()),
        }
    }

    /// The same client with other options.
    pub fn with_options(mut self, options: Options) -> Client {
        self.options = options;
        self
    }

    pub(crate) fn collections(&self) -> CollectionsClient<Channel> {
        CollectionsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn records(&self) -> RecordsClient<Channel> {
        RecordsClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn searching(&self) -> SearchClient<Channel> {
        SearchClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The id of the next write.
    pub(crate) fn next_request(&self) -> v1::RequestId {
        let serial = self.identity.serial.fetch_add(1, Ordering::Relaxed);
        v1::RequestId { client: self.identity.client, serial }
    }

    /// Whether a write may be sent twice.
    pub(crate) fn is_deduplicated(&self) -> bool {
        self.identity.client != 0
    }

    /// Sends once, within the whole time.
    pub(crate) async fn once<M, T, F>(&self, message: M, send: impl FnOnce(Request<M>) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(self.options.timeout);
        Ok(send(request).await?.into_inner())
    }

    /// Sends `message` until there is an answer, as long as its fate is unknown and time is left. Only for what may be
    /// sent twice.
    pub(crate) async fn repeated<M, T, F>(&self, message: M, send: impl Fn(Request<M>) -> F) -> Result<T>
    where
        M: Clone,
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let end = Instant::now() + self.options.timeout;
        let mut pause = PAUSE.0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut request = Request::new(message.clone());
            request.set_timeout(left.min(self.options.try_timeout));
            let status = match send(request).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            if !is_unknown(&status) || end.saturating_duration_since(Instant::now()) <= pause {
                return Err(status.into());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// The placement map, and the server's version.
    pub async fn describe(&self) -> Result<(PlacementMap, String)> {
        let mut cluster = self.cluster();
        let answer =
            self.once(v1::DescribeRequest {}, async |request| cluster.describe(request).await).await?;
        let map = answer.placement.ok_or_else(|| Error::nonsense("it holds no map"))?;
        Ok((map_from_wire(map).map_err(Error::nonsense)?, answer.version))
    }

    /// The placement map if it is newer than `after_epoch` (0: in any case), then each newer one.
    pub async fn watch(
        &self,
        after_epoch: u64,
    ) -> Result<impl Stream<Item = Result<PlacementMap>> + Send + 'static + use<>> {
        let maps = self.cluster().watch(v1::WatchRequest { after_epoch }).await?.into_inner();
        Ok(maps
            .map_err(Error::from)
            .and_then(|map| std::future::ready(map_from_wire(map).map_err(Error::nonsense))))
    }

    /// Compares the replicas of each partition at one log index: of one collection, or of all where none is named. `deep`
    /// reads every record. One answer per collection; all of it within [`Options::timeout`].
    pub async fn verify(
        &self,
        collection: Option<&str>,
        deep: bool,
    ) -> Result<impl Stream<Item = Result<v1::VerifyResponse>> + Send + 'static + use<>> {
        let message = v1::VerifyRequest { collection: collection.unwrap_or_default().to_owned(), deep };
        let mut cluster = self.cluster();
        let answers = self.once(message, async |request| cluster.verify(request).await).await?;
        Ok(answers.map_err(Error::from))
    }

    /// Whether the server is ready to serve.
    pub async fn health(&self) -> Result<bool> {
        let mut health = HealthClient::new(self.channel.clone());
        let message = HealthCheckRequest::default();
        let answer = self.once(message, async |request| health.check(request).await).await?;
        Ok(answer.status() == ServingStatus::Serving)
    }
}
