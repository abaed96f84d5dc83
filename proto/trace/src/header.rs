//! The headers `traceparent` and `tracestate` as W3C has them (Trace Context, level 1): version 00 is written, and later ones are
//! read as far as they are the same.

use std::str::FromStr as _;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tonic::codegen::http::{HeaderMap, HeaderValue};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
/// Bytes of a state that is handed on, at most: what the standard asks for.
const STATE_BYTES_MAX: usize = 512;

/// The span that the caller is in, if it says so.
pub(crate) fn read(headers: &HeaderMap) -> Option<SpanContext> {
    let parent = parse(headers.get(PARENT)?.to_str().ok()?)?;
    let state = headers.get(STATE).filter(|state| state.len() <= STATE_BYTES_MAX);
    let state = state.and_then(|state| TraceState::from_str(state.to_str().ok()?).ok());
    let Some(state) = state else { return Some(parent) };
    Some(SpanContext::new(parent.trace_id(), parent.span_id(), parent.trace_flags(), true, state))
}

/// `00-<32 hex digits: trace>-<16: span>-<2: flags>`.
pub(crate) fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = u8::try_from(hex(version, 2)?).ok()?;
    if version == u8::MAX || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let trace = TraceId::from(hex(trace, 32)?);
    let span = SpanId::from(u64::try_from(hex(span, 16)?).ok()?);
    let flags = TraceFlags::new(u8::try_from(hex(flags, 2)?).ok()?) & TraceFlags::SAMPLED;
    let parent = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    parent.is_valid().then_some(parent)
}

/// So many lower-case digits, and nothing else.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_whole = text.len() == digits && text.bytes().all(is_digit);
    is_whole.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// Writes the current span, if there is one.
pub(crate) fn write(headers: &mut HeaderMap) {
    Context::map_current(|context| {
        let span = context.span();
        let known = span.span_context();
        if !known.is_valid() {
            return;
        }
        let flags = (known.trace_flags() & TraceFlags::SAMPLED).to_u8();
        let parent = format!("00-{}-{}-{flags:02x}", known.trace_id(), known.span_id());
        if let Ok(parent) = HeaderValue::from_str(&parent) {
            headers.insert(PARENT, parent);
        }
        let state = known.trace_state().header();
        if let Some(state) = HeaderValue::from_str(&state).ok().filter(|state| !state.is_empty()) {
            headers.insert(STATE, state);
        }
    });
}
