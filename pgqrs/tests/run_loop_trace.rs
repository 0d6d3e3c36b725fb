//! What a run loop tells tracing: spans, and the traces of messages.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use pgqrs::*;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    layer::{Context as LayerContext, Layer, SubscriberExt},
    registry::{LookupSpan, Registry},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

#[tokio::test(start_paused = true)]
async fn the_spans_of_handler_claim_and_settle_say_what_they_are_about() {
    let (store, spans) = (tasks().await, Spans::default());
    let _guard = tracing::subscriber::set_default(Registry::default().with(spans.clone()));
    enqueue().message("x").to("tasks").execute(&store).await.unwrap();
    handle_one(&store).await;
    let handle = spans.named("handle").remove(0);
    assert_eq!(handle["queue"], "tasks");
    assert_eq!((&*handle["attempt"], &*handle["messages"]), ("1", "1"));
    assert!(!handle.contains_key("trace_id"));
    assert_eq!(spans.named("claim")[0]["limit"], "2");
    assert_eq!(spans.named("settle")[0]["settlements"], "1");
}

#[tokio::test(start_paused = true)]
async fn a_handlers_span_shows_the_trace_in_the_headers() {
    let (store, spans) = (tasks().await, Spans::default());
    let _guard = tracing::subscriber::set_default(Registry::default().with(spans.clone()));
    let headers = json!({ TRACEPARENT: format!("00-{TRACE}-{PARENT}-01") });
    enqueue().message("x").headers(&headers).to("tasks").execute(&store).await.unwrap();
    handle_one(&store).await;
    let handle = spans.named("handle").remove(0);
    assert_eq!((&*handle["trace_id"], &*handle["parent_id"]), (TRACE, PARENT));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_trace_is_ignored() {
    let (store, spans) = (tasks().await, Spans::default());
    let _guard = tracing::subscriber::set_default(Registry::default().with(spans.clone()));
    for malformed in [json!(7), json!(""), json!(format!("00-{}-{PARENT}-01", "0".repeat(32)))] {
        let headers = json!({ TRACEPARENT: malformed });
        enqueue().message("x").headers(&headers).to("tasks").execute(&store).await.unwrap();
        handle_one(&store).await;
    }
    let handled = spans.named("handle");
    assert_eq!(handled.len(), 3);
    assert!(handled.iter().all(|span| !span.contains_key("trace_id")), "{handled:?}");
}

#[cfg(feature = "otel")]
mod otel {
    use opentelemetry::{
        SpanId, TraceId,
        trace::{SpanKind, TracerProvider},
    };
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
    use tracing::Instrument;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_handler_continues_the_trace_of_its_enqueue() {
        let (store, exporter) = (tasks().await, InMemorySpanExporter::default());
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let _guard = tracing::subscriber::set_default(Registry::default().with(layer));
        let send = enqueue().message("x").headers(&json!({"own": 1})).to("tasks");
        // The context is taken when the call is made.
        async { send.execute(&store).await }.instrument(tracing::info_span!("send")).await.unwrap();
        let headers = live(&store).await.remove(0).headers.unwrap();
        let headers: serde_json::Map<_, _> = headers.parse().unwrap();
        let parent = TraceParent::of(&headers).unwrap();
        assert_eq!(headers["own"], 1);
        handle_one(&store).await;
        let spans = exporter.get_finished_spans().unwrap();
        let named = |name| spans.iter().find(|span| span.name == name).unwrap();
        let (send, handle) = (named("send"), named("handle"));
        assert_eq!(send.span_context.trace_id(), TraceId::from(parent.trace_id()));
        assert_eq!(send.span_context.span_id(), SpanId::from(parent.parent_id()));
        assert_eq!(handle.span_context.trace_id(), send.span_context.trace_id());
        assert_eq!(handle.parent_span_id, send.span_context.span_id());
        assert!(handle.parent_span_is_remote);
        assert_eq!(handle.span_kind, SpanKind::Consumer);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trace_in_the_callers_headers_is_kept_with_its_state() {
        let (store, exporter) = (tasks().await, InMemorySpanExporter::default());
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let _guard = tracing::subscriber::set_default(Registry::default().with(layer));
        let traceparent = format!("00-{TRACE}-{PARENT}-01");
        let headers = json!({ TRACEPARENT: traceparent, TRACESTATE: "vendor=7" });
        let send = enqueue().message("x").headers(&headers).to("tasks");
        async { send.execute(&store).await }.instrument(tracing::info_span!("send")).await.unwrap();
        handle_one(&store).await;
        let spans = exporter.get_finished_spans().unwrap();
        let handle = spans.iter().find(|span| span.name == "handle").unwrap();
        assert_eq!(handle.span_context.trace_id().to_string(), TRACE);
        assert_eq!(handle.parent_span_id.to_string(), PARENT);
        assert_eq!(handle.span_context.trace_state().get("vendor"), Some("7"));
    }

    async fn live(store: &MemoryStore) -> Vec<LiveMessage> {
        admin(store).messages(MessageFilter::default()).await.unwrap()
    }
}

/// The fields of spans, by the spans' names.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<Span>>>);

/// Id, name and fields.
type Span = (u64, &'static str, Fields);

type Fields = HashMap<&'static str, String>;

impl Spans {
    fn named(&self, name: &str) -> Vec<Fields> {
        let spans = self.0.lock().unwrap();
        let named = spans.iter().filter(|(_, span, _)| *span == name);
        named.map(|(_, _, fields)| fields.clone()).collect()
    }
}

impl<S: Subscriber + for<'l> LookupSpan<'l>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: LayerContext<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Note(&mut fields));
        self.0.lock().unwrap().push((id.into_u64(), attributes.metadata().name(), fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: LayerContext<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        // The newest: ids of closed spans are used again.
        let span = spans.iter_mut().rev().find(|(span, ..)| *span == id.into_u64());
        values.record(&mut Note(&mut span.unwrap().2));
    }
}

struct Note<'f>(&'f mut Fields);

impl Visit for Note<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

/// Handles what there is, one message, and ends.
async fn handle_one(store: &MemoryStore) {
    let until = CancellationToken::new();
    let stop = until.clone();
    let handler = move |_| {
        stop.cancel();
        async { Ok(()) }
    };
    let running =
        dequeue().from("tasks").handle(handler).grace(Duration::from_secs(1)).until(until);
    assert_eq!(running.poll(store).await.unwrap().handled, 1);
}

async fn tasks() -> MemoryStore {
    let store = MemoryStore::new();
    admin(&store).create_queue("tasks").await.unwrap();
    store
}
