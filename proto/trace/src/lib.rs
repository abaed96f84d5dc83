//! One trace through all hops: the header that carries it, and a span for each hop.
//!
//! A trace is followed by the W3C header `traceparent`. A call that arrives ([`Hop::arriving`]) goes on with the trace that its
//! caller is in; a call that leaves ([`Hop::leaving`]) takes the trace along that is current then. What is current is
//! OpenTelemetry's own `Context::current()`: an application that traces itself is followed without a word, and a process
//! that exports nothing still hands on what it was handed.
//!
//! Spans are those of `tracing`, all of the target [`TARGET`]. Who wants them installs a layer that turns that target into
//! OpenTelemetry's spans (the binary does where it is told to); nobody else should show them. Without such a layer, and without
//! the header, a hop costs the look for the header and for the current context: nothing is allocated, which a test counts.
//!
//! A trace is found again by the metrics: [`Timings`] remember an exported one for each bucket of a histogram, and the [`Page`] of
//! metrics shows them to a scraper that takes OpenMetrics.
//!
//! Invariants: what a stranger wrote into a header is read whole or not at all, and never makes a call fail. A trace begins at a
//! port for clients only; behind it there are no spans without a trace, so that what a cluster does on its own is none.

mod header;
mod page;
#[cfg(test)]
mod tests;
mod timings;

pub use page::Page;
pub use timings::{Exemplar, Timings};

use std::pin::Pin;
use std::task::{Context as Poller, Poll};

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use pin_project_lite::pin_project;
use tonic::Code;
use tonic::codegen::http::{Request, Response};
use tracing::Span;
use tracing::field::Empty;

/// The target of all spans of hops.
pub const TARGET: &str = "flotilla::hop";
/// What can begin a trace where nobody handed one in: the public services.
const PUBLIC: &str = "/flotilla.v1.";

/// Whether what happens now is part of a trace.
pub fn is_traced() -> bool {
    Context::map_current(|context| context.has_active_span() && context.span().span_context().is_valid())
}

/// The id of the current trace, if it is one that is exported.
pub fn exported() -> Option<String> {
    let id = |context: &Context| {
        let span = context.span();
        let known = span.span_context();
        (known.is_valid() && known.is_sampled()).then(|| known.trace_id().to_string())
    };
    Context::map_current(id)
}

/// A span of a step within a hop, such as `step!("propose", partition = 7)`; none outside of a trace.
#[macro_export]
macro_rules! step {
    ($name:literal $(, $($fields:tt)*)?) => {
        if $crate::is_traced() {
            ::tracing::info_span!(target: $crate::TARGET, $name $(, $($fields)*)?)
        } else {
            ::tracing::Span::none()
        }
    };
}

/// One hop of a trace, or nothing.
#[derive(Clone, Debug)]
pub struct Hop {
    span: Span,
    /// What was handed in.
    context: Option<Context>,
}

impl Hop {
    fn none() -> Hop {
        Hop { span: Span::none(), context: None }
    }

    /// A call that arrives at `port`. Without a trace of its caller's it begins one if it `may_begin`.
    pub fn arriving<B>(request: &Request<B>, port: &'static str, may_begin: bool) -> Hop {
        let path = request.uri().path();
        let parent = header::read(request.headers());
        if parent.is_none() && !(may_begin && path.starts_with(PUBLIC)) {
            return Hop::none();
        }
        let context = parent.map(|parent| Context::new().with_remote_span_context(parent));
        let _is_parent = context.clone().map(Context::attach);
        let span = tracing::info_span!(
            target: TARGET, "serve", otel.name = name(path), otel.kind = "server", rpc.system = "grpc", port,
            partition = Empty, collection = Empty, rpc.grpc.status_code = Empty, otel.status_code = Empty,
        );
        Hop { span, context }
    }

    /// A call that leaves: its headers get the trace that is current, if there is one.
    pub fn leaving<B>(request: &mut Request<B>) -> Hop {
        if !is_traced() {
            return Hop::none();
        }
        let span = tracing::info_span!(
            target: TARGET, "call", otel.name = name(request.uri().path()), otel.kind = "client", rpc.system = "grpc",
            rpc.grpc.status_code = Empty, otel.status_code = Empty,
        );
        span.in_scope(|| header::write(request.headers_mut()));
        Hop { span, context: None }
    }

    /// The trace that this `traceparent` names, for calls to come. None if it names none.
    pub fn within(traceparent: &str) -> Option<Hop> {
        let context = Context::new().with_remote_span_context(header::parse(traceparent)?);
        Some(Hop { span: Span::none(), context: Some(context) })
    }

    /// Work that happens within it.
    pub fn around<F: Future>(self, work: F) -> Around<F> {
        Around { work, hop: self, ended: |_, _| {} }
    }

    /// Work within it that ends with the head of an answer: that tells how the call ended, unless a stream is yet to.
    pub fn answering<F, B, E>(self, work: F) -> Around<F>
    where
        F: Future<Output = Result<Response<B>, E>>,
    {
        Around { work, hop: self, ended }
    }
}

/// As OpenTelemetry names a call: `package.Service/Method`.
fn name(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

/// Tells the outcome to the span.
fn ended<B, E>(span: &Span, outcome: &Result<Response<B>, E>) {
    let code = match outcome {
        Ok(answer) => match answer.headers().get("grpc-status") {
            Some(status) => Code::from_bytes(status.as_bytes()),
            None => Code::Ok,
        },
        Err(_) => Code::Unavailable,
    };
    span.record("rpc.grpc.status_code", i64::from(code as i32));
    if is_failure(code) {
        span.record("otel.status_code", "ERROR");
    }
}

/// Whether a call that ended so failed, rather than its caller asked for what could not be.
fn is_failure(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

/// Says which partition of which collection the current hop is about.
pub fn about(partition: u64, collection: &dyn std::fmt::Display) {
    if is_traced() {
        let span = Span::current();
        span.record("partition", i64::try_from(partition).unwrap_or(i64::MAX));
        span.record("collection", tracing::field::display(collection));
    }
}

pin_project! {
    /// Work within a hop.
    #[derive(Debug)]
    pub struct Around<F: Future> {
        #[pin]
        work: F,
        hop: Hop,
        ended: fn(&Span, &F::Output),
    }
}

impl<F: Future> Future for Around<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Hop { span, context } = this.hop;
        // Dropped in the other order: the span's context goes before the one that was handed in.
        let _handed_in = context.clone().map(Context::attach);
        let _entered = span.enter();
        let outcome = std::task::ready!(this.work.poll(poller));
        if !span.is_disabled() {
            (this.ended)(span, &outcome);
        }
        Poll::Ready(outcome)
    }
}
