//! The accept side of every port: router, data and peer ports are served by this one loop.
//!
//! A connection is counted before anything is read of it. Up to [`Bounds::connections_max`] are served; a few beyond it get an
//! answer each, pages as ever and calls `RESOURCE_EXHAUSTED` with the time after which to try again, and are closed; those
//! beyond that are closed at once. So a probe is answered while strangers hold every place. A listener that fails, as when the
//! process has no file left, is asked again after a pause.
//!
//! What a connection may do is bounded in time. Opening it (the handshake) and its first bytes have
//! [`Bounds::connection_timeout`], and so has each head of HTTP/1. One that keeps silent is asked by HTTP/2 pings every
//! [`Bounds::keep_alive`] and closed without an answer. One that takes nothing of what is written, or nothing of the
//! answers that wait for it, is closed: [`Guest`] keeps the account, and the loop looks through all accounts at
//! every tick. A stream of requests that says nothing for [`Bounds::stream_idle`] ends with `DEADLINE_EXCEEDED`.
//!
//! A call goes on with the trace that its caller is in, or begins one at a port for clients ([`Hop`]).
//!
//! The bounds may change while a port serves ([`Doors::set`]). How many connections there may be and how long one may be stuck
//! holds for all from then on; what HTTP is told when a connection begins, for new ones.

mod body;
mod guest;
mod offence;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::http::{Request, Response};
use flotilla_proto::refusal::Refusal;
use flotilla_security::tls;
use flotilla_trace::Hop;
use futures::{Stream, StreamExt as _};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::server::Connected;
use tower::ServiceExt as _;

use crate::body::{InFlight, Patient, Told};
use crate::guest::{Guest, Watched};
use crate::offence::{Offenders, is_offence};

/// Why this side ends a connection: there are too many, it does not begin, nobody takes what waits, or it breaks the rules.
const REASONS: [&str; 6] = ["full", "flood", "handshake", "silent", "stalled", "protocol"];
/// Connections beyond the bound that are answered at once, each with a refusal.
const OVERFLOW_MAX: usize = 64;
/// How long such a connection has for its one question and the answer.
const OVERFLOW_TIME: Duration = Duration::from_secs(2);
/// When a caller that was refused may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a listener that fails is left alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two looks at all accounts.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Bytes under way to us, unread, at most: of one call, and of one connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of the head of a request, at most.
const HEAD_BYTES_MAX: u32 = 16 << 10;
/// Bytes read ahead of an HTTP/1 request, at most; and the lines of its head.
const HTTP1_BYTES_MAX: usize = 64 << 10;
const HTTP1_HEADERS_MAX: usize = 64;
/// Streams of one connection that may end by an error of the other side before it is closed.
const ERRORS_MAX: usize = 1_024;
/// A ping is answered within the time between two, at least and at most within this.
const PONG_MIN: Duration = Duration::from_secs(2);
const PONG_MAX: Duration = Duration::from_secs(20);
/// Bytes of answers that wait on one connection: beyond it, it is asked to take them first.
const OWED_BYTES_MAX: usize = 32 << 20;
/// Bytes of answers that wait for their callers, of all connections: beyond it nobody may be stuck for longer than
/// [`PATIENCE_PRESSED`].
const WAITING_BYTES_MAX: i64 = 256 << 20;
const PATIENCE_PRESSED: Duration = Duration::from_secs(5);

/// The bounds that may change while ports serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections of one port at once. Default 10,000.
    pub connections_max: usize,
    /// How long a connection may take to open and to say its first bytes, a head of HTTP/1 to arrive, and a write to move
    /// on. Default 30 s.
    pub connection_timeout: Duration,
    /// A connection silent for this long is asked whether it lives. Default 60 s.
    pub keep_alive: Duration,
    /// How long a stream of requests may say nothing, and a caller take nothing of its answers. Default 10 min.
    pub stream_idle: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            connections_max: 10_000,
            connection_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            stream_idle: Duration::from_secs(600),
        }
    }
}

/// What a port is for.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name in the metrics.
    pub name: &'static str,
    /// Whether it has pages for HTTP/1.
    pub has_pages: bool,
    /// Calls of one connection at once.
    pub streams_max: u32,
    /// Calls that the other side may give up before they are looked at; beyond, the connection is closed.
    pub resets_max: usize,
    /// Pings come at least this often, whatever the bounds say.
    pub keep_alive_max: Duration,
    /// Whether its streams of requests may be idle for as long as they like: those of other members are.
    pub may_idle: bool,
    /// Whether who breaks the rules waits when it comes back: members are known, many may have one address, and a wait of theirs
    /// is everybody's.
    pub holds_back: bool,
    /// Whether a call that belongs to no trace begins one.
    pub begins_traces: bool,
}

impl Kind {
    /// The port that applications call.
    pub const CLIENTS: Kind = Kind {
        name: "api",
        has_pages: true,
        streams_max: 256,
        resets_max: 128,
        keep_alive_max: Duration::MAX,
        may_idle: false,
        holds_back: true,
        begins_traces: true,
    };
    /// The port that routers call: few connections, each with all that a router has under way. One that gives many calls up
    /// at once, as after a pause, is no attacker.
    pub const ROUTERS: Kind = Kind {
        name: "data",
        has_pages: true,
        streams_max: 16_384,
        resets_max: 10_000,
        keep_alive_max: Duration::from_secs(10),
        may_idle: true,
        holds_back: false,
        begins_traces: false,
    };
    /// The port that other nodes call; as [`Kind::ROUTERS`].
    pub const PEERS: Kind =
        Kind { name: "peer", has_pages: false, keep_alive_max: Duration::from_secs(5), ..Kind::ROUTERS };
}

/// The bounds and the figures of all ports of a process.
#[derive(Clone, Debug)]
pub struct Doors(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bounds: ArcSwap<Bounds>,
    open: IntGaugeVec,
    closed: IntCounterVec,
    waiting: IntGauge,
    in_flight: IntGaugeVec,
}

impl Doors {
    /// Ports with these bounds.
    ///
    /// # Errors
    /// Never: the names of the metrics are fixed.
    pub fn new(bounds: Bounds) -> Result<Doors, prometheus::Error> {
        let open = Opts::new("flotilla_connections", "Connections that are open");
        let closed = Opts::new(
            "flotilla_connections_closed_total",
            "Connections that this side refused or closed, by the reason",
        );
        let waiting = "Bytes of answers that wait for callers to take them";
        let in_flight = Opts::new(
            "flotilla_requests_in_flight",
            "Calls that have come and whose answers are not given whole, streams among them",
        );
        Ok(Doors(Arc::new(Shared {
            bounds: ArcSwap::from_pointee(bounds),
            open: IntGaugeVec::new(open, &["port"])?,
            closed: IntCounterVec::new(closed, &["port", "reason"])?,
            waiting: IntGauge::new("flotilla_answer_bytes_waiting", waiting)?,
            in_flight: IntGaugeVec::new(in_flight, &["port"])?,
        })))
    }

    /// The bounds from now on.
    pub fn set(&self, bounds: Bounds) {
        self.0.bounds.store(Arc::new(bounds));
    }

    /// What is to be registered for `/metrics`.
    pub fn collectors(&self) -> [Box<dyn Collector>; 4] {
        let Shared { open, closed, waiting, in_flight, .. } = &*self.0;
        [
            Box::new(open.clone()),
            Box::new(closed.clone()),
            Box::new(waiting.clone()),
            Box::new(in_flight.clone()),
        ]
    }

    /// A port.
    pub fn door(&self, kind: Kind) -> Door {
        let open = self.0.open.with_label_values(&[kind.name]);
        REASONS.iter().for_each(|reason| drop(self.0.closed.with_label_values(&[kind.name, reason])));
        let port = Port {
            in_flight: self.0.in_flight.with_label_values(&[kind.name]),
            doors: self.0.clone(),
            kind,
            open,
            inside: AtomicUsize::new(0),
            overflow: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
            offenders: Offenders::default(),
        };
        Door { port: Arc::new(port), tls: None }
    }
}

/// The accept side of one port.
#[derive(Clone, Debug)]
pub struct Door {
    port: Arc<Port>,
    tls: Option<tls::Door>,
}

#[derive(Debug)]
struct Port {
    doors: Arc<Shared>,
    kind: Kind,
    open: IntGauge,
    in_flight: IntGauge,
    inside: AtomicUsize,
    overflow: AtomicUsize,
    /// Whether the log said so already.
    is_full: AtomicBool,
    offenders: Offenders,
}

/// A connection's place; given back when it is dropped.
struct Seat {
    port: Arc<Port>,
    from: Option<IpAddr>,
    is_overflow: bool,
}

impl Seat {
    fn taken(&self) -> &AtomicUsize {
        if self.is_overflow { &self.port.overflow } else { &self.port.inside }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken().fetch_sub(1, Ordering::Relaxed);
        self.port.open.dec();
    }
}

impl Port {
    fn bounds(&self) -> Arc<Bounds> {
        self.doors.bounds.load_full()
    }

    fn closed(&self, reason: &'static str) {
        self.doors.closed.with_label_values(&[self.kind.name, reason]).inc();
    }

    /// A place inside, or one of those for who is only told that there is none.
    fn seat(self: &Arc<Port>, from: Option<IpAddr>) -> Option<Seat> {
        let seat = |is_overflow| {
            self.open.inc();
            Seat { port: self.clone(), from, is_overflow }
        };
        let connections_max = self.doors.bounds.load().connections_max;
        if self.inside.fetch_add(1, Ordering::Relaxed) < connections_max {
            self.is_full.store(false, Ordering::Relaxed);
            return Some(seat(false));
        }
        self.inside.fetch_sub(1, Ordering::Relaxed);
        if !self.is_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(port = self.kind.name, connections_max, "connections are refused: all are taken");
        }
        if self.overflow.fetch_add(1, Ordering::Relaxed) < OVERFLOW_MAX {
            self.closed("full");
            return Some(seat(true));
        }
        self.overflow.fetch_sub(1, Ordering::Relaxed);
        self.closed("flood");
        None
    }

    /// How HTTP is spoken on a connection that begins now.
    fn http(&self, bounds: &Bounds) -> auto::Builder<TokioExecutor> {
        let mut http = auto::Builder::new(TokioExecutor::new());
        if !self.kind.has_pages {
            http = http.http2_only();
        }
        let keep_alive = bounds.keep_alive.min(self.kind.keep_alive_max);
        http.http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(self.kind.streams_max)
            .max_header_list_size(HEAD_BYTES_MAX)
            .max_pending_accept_reset_streams(self.kind.resets_max)
            .max_local_error_reset_streams(ERRORS_MAX)
            .keep_alive_interval(keep_alive)
            .keep_alive_timeout(keep_alive.clamp(PONG_MIN, PONG_MAX));
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.connection_timeout)
            .max_buf_size(HTTP1_BYTES_MAX)
            .max_headers(HTTP1_HEADERS_MAX);
        http
    }
}

impl Door {
    /// The same port behind encryption, if there is any.
    pub fn behind(self, tls: Option<tls::Door>) -> Door {
        Door { tls, ..self }
    }

    /// Serves the connections of a TCP port until `shutdown`, then finishes what is under way.
    pub async fn listen(
        &self,
        listener: TcpListener,
        routes: axum::Router,
        shutdown: impl Future<Output = ()>,
    ) {
        let incoming = futures::stream::unfold(listener, |listener| async move {
            loop {
                match listener.accept().await {
                    Ok((stream, from)) => return Some(((Some(from.ip()), stream), listener)),
                    Err(why) => {
                        // The caller went before its turn, or there is no file left: neither ends the port.
                        tracing::debug!(%why, "a connection was not accepted");
                        if !is_of_the_caller(&why) {
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        });
        let open = |stream: TcpStream| {
            let tls = self.tls.clone();
            async move { tls::open(stream, tls.as_ref()).await }
        };
        self.admit(incoming, open, routes, shutdown).await;
    }

    /// Serves connections that are open already until `shutdown`, or until there are no more to come; then finishes what is
    /// under way.
    pub async fn serve<IO>(
        &self,
        incoming: impl Stream<Item = io::Result<IO>>,
        routes: axum::Router,
        shutdown: impl Future<Output = ()>,
    ) where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let incoming = incoming.filter_map(|next| std::future::ready(next.ok().map(|io| (None, io))));
        self.admit(incoming, |io| std::future::ready(Ok(io)), routes, shutdown).await;
    }

    async fn admit<C, IO, F>(
        &self,
        incoming: impl Stream<Item = (Option<IpAddr>, C)>,
        open: impl Fn(C) -> F,
        routes: axum::Router,
        shutdown: impl Future<Output = ()>,
    ) where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        F: Future<Output = io::Result<IO>> + Send + 'static,
    {
        let (closing, closed) = watch::channel(false);
        let mut crowd = Crowd { tasks: JoinSet::new(), guests: Vec::new(), next_look: Instant::now() };
        {
            let (mut incoming, mut shutdown) = (pin!(incoming), pin!(shutdown));
            loop {
                tokio::select! {
                    () = &mut shutdown => break,
                    next = incoming.next() => {
                        let Some((from, next)) = next else { break };
                        let Some(seat) = self.port.seat(from) else { continue };
                        crowd.add(seat, open(next), routes.clone(), closed.clone());
                    }
                    () = crowd.look(&self.port) => {}
                }
            }
        }
        closing.send_replace(true);
        while !crowd.tasks.is_empty() {
            crowd.look(&self.port).await;
        }
    }
}

/// Whether accepting failed for a reason that lies with the one connection.
fn is_of_the_caller(why: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    matches!(
        why.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | Interrupted | TimedOut | WouldBlock
    )
}

/// The connections of a port, and their accounts.
struct Crowd {
    tasks: JoinSet<()>,
    guests: Vec<Weak<Guest>>,
    next_look: Instant,
}

impl Crowd {
    fn add<IO, F>(&mut self, seat: Seat, open: F, routes: axum::Router, closed: watch::Receiver<bool>)
    where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        F: Future<Output = io::Result<IO>> + Send + 'static,
    {
        let guest = Arc::new(Guest::new(seat.port.doors.waiting.clone()));
        self.guests.push(Arc::downgrade(&guest));
        self.tasks.spawn(attend(seat, guest, open, routes, closed));
    }

    /// Waits for the next look at all accounts, or for the end of a connection, and closes those who overstay.
    async fn look(&mut self, port: &Port) {
        tokio::select! {
            Some(_) = self.tasks.join_next() => return,
            () = tokio::time::sleep_until(self.next_look) => {}
        }
        let bounds = port.bounds();
        let shortest = bounds.connection_timeout.min(bounds.stream_idle);
        self.next_look = Instant::now() + (shortest / 4).clamp(LOOK_MIN, LOOK_MAX);
        let is_pressed = port.doors.waiting.get() > WAITING_BYTES_MAX;
        let patience = if is_pressed { bounds.stream_idle.min(PATIENCE_PRESSED) } else { bounds.stream_idle };
        self.guests.retain(|guest| {
            let Some(guest) = guest.upgrade() else { return false };
            if let Some(reason) = guest.overstays(bounds.connection_timeout, patience) {
                port.closed(reason);
                guest.end();
                return false;
            }
            true
        });
    }
}

/// One connection, from its opening to its end.
async fn attend<IO, F>(
    seat: Seat,
    guest: Arc<Guest>,
    open: F,
    routes: axum::Router,
    mut closed: watch::Receiver<bool>,
) where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    F: Future<Output = io::Result<IO>>,
{
    let port = &*seat.port;
    if let Some(until) = seat.from.and_then(|from| port.offenders.until(from, Instant::now())) {
        // It is not to be taken for a silent one meanwhile.
        let until = until.min(Instant::now() + port.bounds().connection_timeout / 2);
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = guest.ended() => return,
            _ = closed.wait_for(|is_closing| *is_closing) => return,
        }
    }
    let bounds = port.bounds();
    let io = match tokio::time::timeout(bounds.connection_timeout, open).await {
        Ok(Ok(io)) => io,
        Ok(Err(why)) => {
            tracing::debug!(%why, "a connection was not opened");
            return port.closed("handshake");
        }
        Err(_) => return port.closed("handshake"),
    };
    let http = port.http(&bounds);
    let about = io.connect_info();
    let idle = (!port.kind.may_idle).then_some(bounds.stream_idle);
    let (is_overflow, answered) = (seat.is_overflow, Arc::new(Notify::new()));
    let service = service_fn(|request: Request<Incoming>| {
        guest.calls();
        let (routes, guest, answered) = (routes.clone(), guest.clone(), answered.clone());
        let about = about.clone();
        let hop = Hop::arriving(&request, port.kind.name, port.kind.begins_traces);
        let in_flight = is_call(&request).then(|| InFlight::new(&port.in_flight));
        hop.answering(async move {
            let response = match refusal(is_overflow, &guest).filter(|_| is_call(&request)) {
                Some(refusal) => tonic::Status::from(refusal).into_http(),
                None => {
                    let mut request = request.map(|body| Patient::new(body, idle));
                    request.extensions_mut().insert(about);
                    let Ok(response) = routes.oneshot(request).await;
                    response
                }
            };
            if is_overflow {
                answered.notify_one();
            }
            Ok::<Response<Told>, Infallible>(response.map(|body| Told::new(body, guest, in_flight)))
        })
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(Watched::new(io, guest.clone())), service));
    let until = is_overflow.then(|| Instant::now() + OVERFLOW_TIME);
    let overdue = async {
        match until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    let mut overdue = pin!(overdue);
    let mut is_closing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(why) = ended {
                    tracing::debug!(why, "a connection ended");
                    if is_offence(&*why) {
                        port.closed("protocol");
                        let held_back = seat.from.filter(|_| port.kind.holds_back);
                        held_back.into_iter().for_each(|from| port.offenders.note(from, Instant::now()));
                    }
                }
                return;
            }
            () = guest.ended() => return,
            () = &mut overdue => return,
            // A listener that is gone closes its connections too.
            _ = closed.wait_for(|is_closing| *is_closing), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = answered.notified(), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn is_call(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(axum::http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Why a call is not looked at, if it is not.
fn refusal(is_overflow: bool, guest: &Guest) -> Option<Refusal> {
    let owed = guest.owed();
    let what = match (is_overflow, owed > OWED_BYTES_MAX) {
        (true, _) => "server.max_connections: all connections are taken".to_owned(),
        (false, true) => {
            format!(
                "{owed} bytes of answers wait on this connection, the limit is {OWED_BYTES_MAX}: take them first"
            )
        }
        (false, false) => return None,
    };
    Some(Refusal::Exhausted { what, retry_after: RETRY_AFTER })
}
