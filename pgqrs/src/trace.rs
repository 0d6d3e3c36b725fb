//! W3C Trace Context: the trace that a message belongs to, carried in its headers.
//!
//! With the feature `otel` an enqueue puts the current OpenTelemetry context into the headers and a
//! handler's span continues it. Without it a program may put the headers in itself; handler spans
//! show them in any case.

use std::{fmt, str::FromStr};

use serde_json::{Map, Value};

#[cfg(feature = "otel")]
pub(crate) use otel::{carried, continue_in};

/// The header that names trace and parent span: <https://www.w3.org/TR/trace-context/>.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what vendors add to it.
pub const TRACESTATE: &str = "tracestate";

/// The trace and the span from which a message was enqueued: the value of [`TRACEPARENT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

impl TraceParent {
    /// What the headers of a message say; `None` if they say nothing, or nothing that is well formed.
    pub fn of(headers: &Map<String, Value>) -> Option<Self> {
        headers.get(TRACEPARENT)?.as_str()?.parse().ok()
    }

    /// The trace; never 0.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The span within it; never 0.
    pub fn parent_id(&self) -> u64 {
        self.parent_id
    }

    /// Whether the caller may have recorded the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

/// A traceparent that is not well formed; by the standard it is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, no id 0")]
pub struct InvalidTraceParent;

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    /// A version later than 00 may have more parts, which are left alone.
    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let mut part = |digits| hex(parts.next(), digits);
        let (version, trace_id, parent_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let has_more = parts.next().is_some();
        if version == 0xff || version == 0 && has_more || trace_id == 0 || parent_id == 0 {
            return Err(InvalidTraceParent);
        }
        let parent_id = u64::try_from(parent_id).map_err(|_| InvalidTraceParent)?;
        Ok(Self { trace_id, parent_id, flags: (flags & 0xff) as u8 })
    }
}

/// So many lower-case digits.
fn hex(part: Option<&str>, digits: usize) -> Result<u128, InvalidTraceParent> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let part = part.filter(|part| part.len() == digits && part.bytes().all(is_digit));
    u128::from_str_radix(part.ok_or(InvalidTraceParent)?, 16).map_err(|_| InvalidTraceParent)
}

#[cfg(feature = "otel")]
mod otel {
    use opentelemetry::{
        Context,
        trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
    };
    use serde_json::{Map, Value};
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use super::{TRACEPARENT, TRACESTATE, TraceParent};
    use crate::{Json, Message, Result};

    /// The headers with the current trace context in them, unless they have one already.
    pub(crate) fn carried(headers: Option<Json>) -> Result<Option<Json>> {
        let context = Span::current().context();
        let span = context.span();
        let current = span.span_context();
        if !current.is_valid() {
            return Ok(headers);
        }
        let mut map: Map<String, Value> = headers.as_ref().map_or(Ok(Map::new()), Json::parse)?;
        if map.contains_key(TRACEPARENT) {
            return Ok(headers);
        }
        let parent = TraceParent {
            trace_id: u128::from_be_bytes(current.trace_id().to_bytes()),
            parent_id: u64::from_be_bytes(current.span_id().to_bytes()),
            flags: current.trace_flags().to_u8(),
        };
        map.insert(TRACEPARENT.to_owned(), parent.to_string().into());
        let state = current.trace_state().header();
        if !state.is_empty() {
            map.insert(TRACESTATE.to_owned(), state.into());
        }
        Json::new(&map).map(Some)
    }

    /// Makes `span` continue the trace of its message; a batch's span is linked to the trace of each.
    pub(crate) fn continue_in(span: &Span, group: &[Message]) {
        for message in group {
            let Some(remote) = remote(&message.headers) else { continue };
            if group.len() > 1 {
                span.add_link(remote);
                continue;
            }
            // Refused only where no OpenTelemetry layer keeps the span.
            let _ = span.set_parent(Context::new().with_remote_span_context(remote));
        }
    }

    fn remote(headers: &Map<String, Value>) -> Option<SpanContext> {
        let TraceParent { trace_id, parent_id, flags } = TraceParent::of(headers)?;
        let state = headers.get(TRACESTATE).and_then(Value::as_str);
        let state = state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
        let (trace, span) = (TraceId::from(trace_id), SpanId::from(parent_id));
        Some(SpanContext::new(trace, span, TraceFlags::new(flags), true, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_as_it_stands() {
        let parent: TraceParent = GOOD.parse().unwrap();
        assert_eq!(parent.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((parent.parent_id(), parent.is_sampled()), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(parent.to_string(), GOOD);
    }

    #[test]
    fn a_later_version_may_have_more_parts() {
        let later = GOOD.replacen("00", "cc", 1) + "-what-the-future-will-be";
        assert_eq!(later.parse::<TraceParent>(), GOOD.parse());
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let zero_trace = GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_parent = GOOD.replace("00f067aa0ba902b7", &"0".repeat(16));
        let (more, forbidden) = (format!("{GOOD}-00"), GOOD.replacen("00", "ff", 1));
        let (upper, signed) = (GOOD.to_uppercase(), GOOD.replacen("4bf9", "+bf9", 1));
        let cases = ["", "00", &GOOD[1..], &GOOD[..54], &zero_trace, &zero_parent, &more];
        for text in cases.into_iter().chain([&*forbidden, &upper, &signed, "ä-ö-ü-ß"]) {
            assert_eq!(text.parse::<TraceParent>(), Err(InvalidTraceParent), "{text}");
        }
    }
}
