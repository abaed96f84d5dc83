//! Bodies that are accounted for: of requests, how long they say nothing ([`Patient`]); of answers, what is not yet taken
//! ([`Told`]).
//!
//! HTTP/2 takes an answer from us as soon as its caller would take one byte of it, and keeps the rest. Only the bytes
//! themselves know when they go: [`Owed`] tells the connection's account as they are written, or dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use flotilla_proto::refusal::Refusal;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use prometheus::IntGauge;
use tokio::time::{Instant, Sleep};

use crate::guest::Guest;

/// A request's body that may not keep silent for longer than a bound while it is waited for.
pub(crate) struct Patient {
    body: Incoming,
    idle: Option<Duration>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// `body`; no bound: it may be silent for as long as it likes.
    pub(crate) fn new(body: Incoming, idle: Option<Duration>) -> Patient {
        Patient { body, idle, alarm: None }
    }
}

impl Body for Patient {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.alarm = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(idle) = this.idle else { return Poll::Pending };
        let alarm =
            this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)));
        if alarm.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let why = format!("server.stream_idle_ms: the request said nothing for {} ms", idle.as_millis());
        Poll::Ready(Some(Err(tonic::Status::from(Refusal::DeadlineExceeded(why)).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A call that is counted until its answer has been given, or is dropped.
pub(crate) struct InFlight(IntGauge);

impl InFlight {
    /// One more.
    pub(crate) fn new(all: &IntGauge) -> InFlight {
        all.inc();
        InFlight(all.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// An answer's body.
pub(crate) struct Told {
    body: axum::body::Body,
    guest: Arc<Guest>,
    _in_flight: Option<InFlight>,
}

impl Told {
    /// `body` for this connection; its call counts as long as it is there.
    pub(crate) fn new(body: axum::body::Body, guest: Arc<Guest>, in_flight: Option<InFlight>) -> Told {
        Told { body, guest, _in_flight: in_flight }
    }
}

impl Body for Told {
    type Data = Owed;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Owed>, axum::Error>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        frame.map_ok(|frame| frame.map_data(|bytes| Owed::new(bytes, this.guest.clone())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer that are not yet on their way.
pub(crate) struct Owed {
    bytes: Bytes,
    guest: Arc<Guest>,
}

impl Owed {
    fn new(bytes: Bytes, guest: Arc<Guest>) -> Owed {
        guest.owe(bytes.len());
        Owed { bytes, guest }
    }
}

impl Buf for Owed {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [std::io::IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(into)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.guest.pay(count);
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.guest.pay(self.bytes.len());
        }
    }
}
