//! When a run loop calls its store, and what it does with late answers, in a paused runtime: time
//! passes only when nothing runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "other tests use other parts of the weather")]

mod weather;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::DateTime;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use pgqrs::*;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use weather::{Call, Fate, Weather};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_queue_with_plenty_has_two_claims_on_their_way_and_never_too_many_messages_out() {
    let weather = tasks(1_000).await;
    weather.set(Call::Claim, Fate::Slow(SECOND));
    let (until, most) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let running = start(&weather, until.clone());
    // The first claim goes alone: nobody knows yet what there is.
    for half_seconds in 1..60 {
        sleep(SECOND / 2).await;
        let leased = |m: &&LiveMessage| m.state == MessageState::Leased;
        most.fetch_max(live(&weather).await.iter().filter(leased).count(), Ordering::SeqCst);
        let claims = weather.count(Call::Claim);
        assert!(half_seconds < 8 || claims > half_seconds / 2 + 1, "{claims}");
        assert!(claims <= half_seconds + 2, "{claims} claims after {half_seconds} half seconds");
    }
    assert_eq!(most.load(Ordering::SeqCst), 8, "4 handlers, 4 in the buffer");
    until.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_empty_queue_has_one_claim_on_its_way() {
    let weather = tasks(0).await;
    weather.set(Call::Claim, Fate::Slow(SECOND));
    let until = CancellationToken::new();
    let running = start(&weather, until.clone());
    for seconds in 1..60 {
        sleep(SECOND).await;
        assert!(weather.count(Call::Claim) <= seconds + 1);
    }
    until.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn wake_ups_from_everywhere_let_it_look_half_as_often() {
    let silent = tasks(0).await.without_wake_ups();
    for (weather, looks) in [(tasks(0).await, 25..=40), (silent, 50..=80)] {
        let until = CancellationToken::new();
        let running = start(&weather, until.clone());
        sleep(60 * SECOND).await;
        let claims = weather.count(Call::Claim);
        assert!(looks.contains(&claims), "{claims} looks in a minute");
        until.cancel();
        running.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_wake_ups_a_message_waits_for_the_next_look_at_most() {
    let weather = tasks(0).await.without_wake_ups();
    let until = CancellationToken::new();
    let handle = dequeue().from("tasks").handle(|_| async { Ok(()) });
    let handle = handle.poll_interval(8 * SECOND).until(until.clone());
    let looped = weather.clone();
    let running = tokio::spawn(async move { handle.poll(&looped).await.unwrap() });
    sleep(SECOND).await;
    add(&weather.store, 1).await;
    sleep(10 * SECOND).await;
    assert_eq!(live(&weather).await.len(), 0);
    let looks = weather.count(Call::Claim);
    assert!(looks <= 5, "{looks} looks in 11 s");
    until.cancel();
    assert_eq!(running.await.unwrap().handled, 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_claim_brings_after_the_stop_is_given_back() {
    let weather = tasks(100).await;
    weather.set(Call::Claim, Fate::Slow(5 * SECOND));
    let until = CancellationToken::new();
    let running = start(&weather, until.clone());
    sleep(SECOND).await;
    until.cancel();
    let report = running.await.unwrap();
    assert_eq!((report.released, report.handled), (8, 0), "{report}");
    let free = |m: &LiveMessage| m.state == MessageState::Ready && m.attempts == 0;
    assert!(live(&weather).await.iter().all(free));
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_fails_is_tried_again() {
    let weather = tasks(0).await;
    let until = CancellationToken::new();
    let running = start(&weather, until.clone());
    sleep(SECOND).await;
    let worker = admin(&weather.store).workers(WorkerFilter::default()).await.unwrap().remove(0);
    admin(&weather.store).transition(worker.id, WorkerChange::Stop).await.unwrap();
    weather.set(Call::Other, Fate::Refuse);
    sleep(30 * SECOND).await;
    weather.clear();
    add(&weather.store, 1).await;
    sleep(10 * SECOND).await;
    until.cancel();
    assert_eq!(running.await.unwrap().handled, 1);
    let workers = admin(&weather.store).workers(WorkerFilter::default()).await.unwrap();
    assert_eq!(workers.len(), 2, "{workers:?}");
}

#[tokio::test(start_paused = true)]
async fn two_claims_that_find_the_worker_stopped_register_once() {
    let weather = tasks(1_000).await;
    let until = CancellationToken::new();
    let running = start(&weather, until.clone());
    weather.set(Call::Claim, Fate::Slow(SECOND));
    sleep(5 * SECOND + SECOND / 3).await;
    let worker = admin(&weather.store).workers(WorkerFilter::default()).await.unwrap().remove(0);
    admin(&weather.store).transition(worker.id, WorkerChange::Stop).await.unwrap();
    sleep(20 * SECOND).await;
    until.cancel();
    running.await.unwrap();
    let workers = admin(&weather.store).workers(WorkerFilter::default()).await.unwrap();
    assert_eq!(workers.len(), 2, "{workers:?}");
}

#[tokio::test(start_paused = true)]
async fn metrics_count_what_the_report_counts() {
    let (recorder, weather) = (Recorder::default(), tasks(30).await);
    let _guard = metrics::set_default_local_recorder(&recorder);
    let until = CancellationToken::new();
    let handle = dequeue().from("tasks").handle(|message| async move {
        match message.payload.as_i64().unwrap_or_default() {
            0..10 => Ok(()),
            10..15 => Err("broken".into()),
            15..20 => Err(Retry::never().into()),
            _ => Err(Retry::release(100 * SECOND).into()),
        }
    });
    let handle = handle.concurrency(4).backoff(|_| 100 * SECOND).until(until.clone());
    let looped = weather.clone();
    let running = tokio::spawn(async move { handle.poll(&looped).await.unwrap() });
    sleep(10 * SECOND).await;
    until.cancel();
    let report = running.await.unwrap();
    let counted = ["archived", "retrying", "dead", "released"]
        .map(|outcome| recorder.count(&format!("{}:{outcome}", telemetry::SETTLED)));
    assert_eq!(counted, [10, 5, 5, 10]);
    assert_eq!(counted, [report.handled, report.failed, report.dead, report.released]);
    assert_eq!(recorder.count(telemetry::CLAIMED), 30);
    assert_eq!(recorder.count(telemetry::HANDLER_SECONDS), 30);
    assert_eq!(recorder.count(telemetry::WAIT_SECONDS), 30);
    assert_eq!(recorder.count(telemetry::LEASE_LOST), 0);
    assert!(recorder.count(telemetry::CLAIM_BATCH) >= 4);
    assert!(recorder.count(telemetry::SETTLE_BATCH) >= 1);
    assert_eq!(f64::from_bits(recorder.count(telemetry::IN_WORK)), 0.0);
}

/// A loop of 4 handlers that do nothing.
fn start(weather: &Weather, until: CancellationToken) -> tokio::task::JoinHandle<Report> {
    let weather = weather.clone();
    tokio::spawn(async move {
        let handle = dequeue().from("tasks").vt_offset(300).handle(|_| async { Ok(()) });
        handle.concurrency(4).until(until).poll(&weather).await.unwrap()
    })
}

/// Keeps counters and gauges, and how many values histograms got, by name and outcome.
#[derive(Debug, Default)]
struct Recorder(Mutex<HashMap<String, Arc<AtomicU64>>>);

impl Recorder {
    fn count(&self, name: &str) -> u64 {
        self.0.lock().unwrap()[name].load(Ordering::SeqCst)
    }

    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let outcome = key.labels().find(|label| label.key() == "outcome");
        let outcome = outcome.map_or(String::new(), |outcome| format!(":{}", outcome.value()));
        assert!(key.labels().any(|label| (label.key(), label.value()) == ("queue", "tasks")));
        self.0.lock().unwrap().entry(format!("{}{outcome}", key.name())).or_default().clone()
    }
}

#[derive(Debug)]
struct Values(Arc<AtomicU64>);

impl HistogramFn for Values {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Values(self.cell(key))))
    }
}

async fn tasks(messages: usize) -> Weather {
    let start = Instant::now();
    let store = MemoryStore::with_clock(move || DateTime::UNIX_EPOCH + start.elapsed());
    admin(&store).create_queue("tasks").await.unwrap();
    add(&store, messages).await;
    Weather::over(store)
}

async fn add(store: &MemoryStore, messages: usize) {
    if messages > 0 {
        enqueue().messages(0..messages).to("tasks").execute(store).await.unwrap();
    }
}

async fn live(weather: &Weather) -> Vec<LiveMessage> {
    let filter = MessageFilter { page: Page::first(BatchSize::MAX), ..MessageFilter::default() };
    admin(&weather.store).messages(filter).await.unwrap()
}
