//! The client itself: its channels, its identity, and how a call is sent again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::convert::map_from_wire;
use flotilla_proto::limits::MESSAGE_BYTES_MAX;
use flotilla_proto::placement::PlacementMap;
use flotilla_proto::v1;
use flotilla_proto::v1::cluster_client::ClusterClient;
use flotilla_proto::v1::collections_client::CollectionsClient;
use flotilla_proto::v1::records_client::RecordsClient;
use flotilla_proto::v1::search_client::SearchClient;
use flotilla_security::Keyed;
use flotilla_trace::Hop;
use futures::future::Either;
use futures::{Stream, TryStreamExt as _};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::credentials::Credentials;
use crate::error::{is_unknown, never_left};
use crate::hosts::{Channels, Hosts};
use crate::identity::{Held, Identity};
use crate::session::Session;
use crate::{Error, Kind, Read, ReadPreference, Result, Tokens};

const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What a client can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time of one call with all its retries. Default 30 s.
    pub timeout: Duration,
    /// Time of one try, at most; then the call is sent again. With several addresses, also at most half of what is left.
    /// Default 10 s.
    pub try_timeout: Duration,
    /// What reads say that do not say it themselves. Default: by the master, linearizable, whole.
    pub read: Read,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            timeout: Duration::from_secs(30),
            try_timeout: Duration::from_secs(10),
            read: Read::default(),
        }
    }
}

/// A client. Clones share its connections and its identity; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Client {
    channels: Arc<Channels>,
    options: Options,
    identity: Arc<Identity>,
    session: Option<Arc<Session>>,
    owned: Option<Arc<dyn Owned>>,
    /// The trace that was handed in.
    trace: Option<Hop>,
}

/// A server that lives in this process and belongs to its clients: it may end when the last of them is gone.
pub trait Owned: std::fmt::Debug + Send + Sync {
    /// Ends the server: finishes the calls under way, and returns when everything is closed. Idempotent.
    fn close(&self) -> futures::future::BoxFuture<'_, Result<()>>;
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
        let hosts = Hosts { master: vec![url.to_owned()], replicas: Vec::new() };
        Client::connect_hosts(&hosts, ReadPreference::Master).await
    }

    /// Connects to several routers: each call goes to one that is meant for it, and to another if that does not answer.
    /// `preference` is what reads prefer that do not say.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), flotilla_client::Error> {
    /// use flotilla_client::{Client, Hosts, ReadPreference};
    /// let hosts = Hosts {
    ///     master: vec!["http://router-0:15010".into(), "http://router-1:15010".into()],
    ///     replicas: vec!["http://replicas:15010".into()],
    /// };
    /// let client = Client::connect_hosts(&hosts, ReadPreference::Replica).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Kind::FixRequest`] if an address is none or there is none, [`Kind::Retry`] if nobody answers at any.
    pub async fn connect_hosts(hosts: &Hosts, preference: ReadPreference) -> Result<Client> {
        Client::connect_with(hosts, preference, &Credentials::default()).await
    }

    /// As [`Client::connect_hosts`], to servers that want to know who calls, or at `https://` addresses.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), flotilla_client::Error> {
    /// use flotilla_client::{Client, Credentials, Hosts, ReadPreference, Secret};
    /// let hosts = Hosts { master: vec!["https://router-0:15010".into()], replicas: Vec::new() };
    /// let key = std::env::var("FLOTILLA_API_KEY").ok().map(Secret::new);
    /// let credentials =
    ///     Credentials { api_key: key, ca_file: Some("ca.pem".into()), ..Credentials::default() };
    /// let client = Client::connect_with(&hosts, ReadPreference::Master, &credentials).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As there; also [`Kind::FixRequest`] if a file cannot be read.
    pub async fn connect_with(
        hosts: &Hosts,
        preference: ReadPreference,
        credentials: &Credentials,
    ) -> Result<Client> {
        let mut client = Client::over(Channels::connect(hosts, &credentials.read()?).await?);
        client.options.read = Read::new().preference(preference);
        Ok(client)
    }

    /// A client over a channel, such as one to a server in this process.
    pub fn from_channel(channel: Channel) -> Client {
        Client::over(Channels::one(channel.into()))
    }

    fn over(channels: Channels) -> Client {
        Client {
            channels: Arc::new(channels),
            options: Options::default(),
            identity: Arc::default(),
            session: None,
            owned: None,
            trace: None,
        }
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

    /// The same client, whose reads say this if they do not say otherwise.
    pub fn with_read(mut self, read: Read) -> Client {
        self.options.read = read;
        self
    }

    /// The same client, whose calls are part of the trace that a W3C `traceparent` names. Without one they are part of the
    /// trace that is current where they are made, as OpenTelemetry's `Context::current()` has it, if there is one.
    ///
    /// # Errors
    /// [`Kind::FixRequest`] if it names none.
    pub fn within_trace(mut self, traceparent: &str) -> Result<Client> {
        let trace = Hop::within(traceparent);
        self.trace = Some(trace.ok_or_else(|| Error::new(Kind::FixRequest, "traceparent: names no trace"))?);
        Ok(self)
    }

    /// Sends within the trace that was handed in, if one was.
    fn traced<F: Future>(&self, sent: F) -> impl Future<Output = F::Output> + use<F> {
        match &self.trace {
            Some(trace) => Either::Left(trace.clone().around(sent)),
            None => Either::Right(sent),
        }
    }

    /// A client that remembers its writes: its reads, and its clones', see them on any replica. The client that it comes
    /// from does not.
    pub fn session(&self) -> Client {
        Client { session: Some(Arc::default()), ..self.clone() }
    }

    pub(crate) fn collections(channel: Keyed) -> CollectionsClient<Keyed> {
        CollectionsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn records(channel: Keyed) -> RecordsClient<Keyed> {
        RecordsClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn searching(channel: Keyed) -> SearchClient<Keyed> {
        SearchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn cluster(channel: Keyed) -> ClusterClient<Keyed> {
        ClusterClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The identity of the next write, for as long as it is under way.
    pub(crate) fn identity(&self) -> Held<'_> {
        self.identity.take()
    }

    /// What a read of `collection` says, with what it does not say itself.
    pub(crate) fn read(&self, collection: &str, read: Read) -> Read {
        let read = read.or(&self.options.read);
        match &self.session {
            Some(session) => read.after(&session.tokens(collection)),
            None => read,
        }
    }

    /// A write to `collection` was acknowledged.
    pub(crate) fn note(&self, collection: &str, tokens: &Tokens) {
        if let Some(session) = &self.session {
            session.note(collection, tokens);
        }
    }

    /// Sends within the whole time; a second time only if the first one never left.
    pub(crate) async fn once<M, T, F>(&self, message: M, send: impl Fn(Keyed, Request<M>) -> F) -> Result<T>
    where
        M: Clone,
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(self.options.timeout);
        let (metadata, extensions, message) = request.into_parts();
        let send = |channel| {
            send(channel, Request::from_parts(metadata.clone(), extensions.clone(), message.clone()))
        };
        Ok(self.begun(send).await?.into_inner())
    }

    /// Begins a call, a stream as a rule, at the first host that can be reached.
    pub(crate) async fn begun<T, F>(&self, send: impl Fn(Keyed) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Status>>,
    {
        let order = self.channels.order(ReadPreference::Master);
        for host in &order {
            match self.traced(send(self.channels.channel(*host))).await {
                Err(status) if never_left(&status) && Some(host) != order.last() => {
                    self.channels.failed(*host);
                }
                end => return Ok(end?),
            }
        }
        Err(Error::new(Kind::FixRequest, "no address is given"))
    }

    /// Sends `message` until there is an answer, as long as its fate is unknown and time is left: to the hosts that
    /// `preference` means first, then to the others. Only for what may be sent twice.
    pub(crate) async fn repeated<M, T, F>(
        &self,
        message: M,
        preference: ReadPreference,
        send: impl Fn(Keyed, Request<M>) -> F,
    ) -> Result<T>
    where
        M: Clone,
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let end = Instant::now() + self.options.timeout;
        let mut pause = PAUSE.0;
        loop {
            let mut last = None;
            for host in self.channels.order(preference) {
                let started = Instant::now();
                let left = end.saturating_duration_since(started);
                if left.is_zero() && last.is_some() {
                    break;
                }
                let part = if self.channels.len() > 1 { left / 2 } else { left };
                let mut request = Request::new(message.clone());
                request.set_timeout(part.min(self.options.try_timeout));
                match self.traced(send(self.channels.channel(host), request)).await {
                    Ok(answer) => {
                        self.channels.answered(host, started.elapsed());
                        return Ok(answer.into_inner());
                    }
                    Err(status) if is_unknown(&status) => {
                        self.channels.failed(host);
                        last = Some(status);
                    }
                    Err(status) => return Err(status.into()),
                }
            }
            let Some(status) = last else { return Err(Error::new(Kind::FixRequest, "no address is given")) };
            let wait = jitter(pause);
            if end.saturating_duration_since(Instant::now()) <= wait {
                return Err(status.into());
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// The placement map, and the server's version.
    pub async fn describe(&self) -> Result<(PlacementMap, String)> {
        let send = |channel, request| async move { Client::cluster(channel).describe(request).await };
        let answer = self.repeated(v1::DescribeRequest {}, ReadPreference::Master, send).await?;
        let map = answer.placement.ok_or_else(|| Error::nonsense("it holds no map"))?;
        Ok((map_from_wire(map).map_err(Error::nonsense)?, answer.version))
    }

    /// The placement map if it is newer than `after_epoch` (0: in any case), then each newer one.
    pub async fn watch(
        &self,
        after_epoch: u64,
    ) -> Result<impl Stream<Item = Result<PlacementMap>> + Send + 'static + use<>> {
        let watch =
            |channel| async move { Client::cluster(channel).watch(v1::WatchRequest { after_epoch }).await };
        let maps = self.begun(watch).await?.into_inner();
        Ok(maps
            .map_err(Error::from)
            .and_then(|map| std::future::ready(map_from_wire(map).map_err(Error::nonsense))))
    }

    /// Whether the server is ready to serve.
    pub async fn health(&self) -> Result<bool> {
        let send = |channel, request| async move { HealthClient::new(channel).check(request).await };
        let answer = self.once(HealthCheckRequest::default(), send).await?;
        Ok(answer.status() == ServingStatus::Serving)
    }
}

/// From half of `pause` to all of it, so that those who wait for one server do not all come back at once.
fn jitter(pause: Duration) -> Duration {
    let part = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + (pause / 2).mul_f64(f64::from(part) / f64::from(u32::MAX))
}
