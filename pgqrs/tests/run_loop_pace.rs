//! When a run loop calls its store, and what it does with late answers, in a paused runtime: time
//! passes only when nothing runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "other tests use other parts of the scene and of the weather")]

mod scene;
mod weather;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use pgqrs::*;
use scene::{Running, SECOND, add, live, start, tasks};
use tokio::time::sleep;
use weather::{Call, Fate, Weather};

#[tokio::test(start_paused = true)]
async fn a_queue_with_plenty_has_two_claims_on_their_way_and_never_too_many_messages_out() {
    let weather = Weather::over(tasks(1_000).await);
    weather.set(Call::Claim, Fate::Slow(SECOND));
    let most = Arc::new(AtomicUsize::new(0));
    let running = start_four(&weather);
    // The first claim goes alone: nobody knows yet what there is.
    for half_seconds in 1..60 {
        sleep(SECOND / 2).await;
        let leased = |m: &&LiveMessage| m.state == MessageState::Leased;
        most.fetch_max(live(&weather.store).await.iter().filter(leased).count(), Ordering::SeqCst);
        let claims = weather.count(Call::Claim);
        assert!(half_seconds < 8 || claims > half_seconds / 2 + 1, "{claims}");
        assert!(claims <= half_seconds + 2, "{claims} claims after {half_seconds} half seconds");
    }
    assert_eq!(most.load(Ordering::SeqCst), 8, "4 handlers, 4 in the buffer");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_has_become_slow_is_asked_by_one_claim_at_a_time() {
    let weather = Weather::over(tasks(1_000).await);
    weather.set(Call::Claim, Fate::Slow(SECOND));
    let running = start_four(&weather);
    sleep(10 * SECOND).await;
    weather.set(Call::Claim, Fate::Slow(20 * SECOND));
    sleep(100 * SECOND).await;
    let before = weather.count(Call::Claim);
    sleep(200 * SECOND).await;
    let claims = weather.count(Call::Claim) - before;
    assert!((9..=11).contains(&claims), "{claims} claims of 20 s each in 200 s");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_queue_has_one_claim_on_its_way() {
    let weather = Weather::over(tasks(0).await);
    weather.set(Call::Claim, Fate::Slow(SECOND));
    let running = start_four(&weather);
    for seconds in 1..60 {
        sleep(SECOND).await;
        assert!(weather.count(Call::Claim) <= seconds + 1);
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn wake_ups_from_everywhere_let_it_look_half_as_often() {
    let silent = Weather::over(tasks(0).await).without_wake_ups();
    for (weather, looks) in [(Weather::over(tasks(0).await), 25..=40), (silent, 50..=80)] {
        let running = start_four(&weather);
        sleep(60 * SECOND).await;
        let claims = weather.count(Call::Claim);
        assert!(looks.contains(&claims), "{claims} looks in a minute");
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_wake_ups_a_message_waits_for_the_next_look_at_most() {
    let weather = Weather::over(tasks(0).await).without_wake_ups();
    let handle = dequeue().from("tasks").handle(|_| async { Ok(()) });
    let running = start(&weather, handle.poll_interval(8 * SECOND));
    sleep(SECOND).await;
    add(&weather.store, 1).await;
    sleep(10 * SECOND).await;
    assert_eq!(live(&weather.store).await.len(), 0);
    let looks = weather.count(Call::Claim);
    assert!(looks <= 5, "{looks} looks in 11 s");
    assert_eq!(running.stop().await.handled, 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_claim_brings_after_the_stop_is_given_back() {
    let weather = Weather::over(tasks(100).await);
    weather.set(Call::Claim, Fate::Slow(5 * SECOND));
    let running = start_four(&weather);
    sleep(SECOND).await;
    let report = running.stop().await;
    assert_eq!((report.released, report.handled), (8, 0), "{report}");
    let free = |m: &LiveMessage| m.state == MessageState::Ready && m.attempts == 0;
    assert!(live(&weather.store).await.iter().all(free));
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_fails_is_tried_again() {
    let weather = Weather::over(tasks(0).await);
    let running = start_four(&weather);
    sleep(SECOND).await;
    let worker = admin(&weather.store).workers(WorkerFilter::default()).await.unwrap().remove(0);
    admin(&weather.store).transition(worker.id, WorkerChange::Stop).await.unwrap();
    weather.set(Call::Other, Fate::Refuse);
    sleep(30 * SECOND).await;
    weather.clear();
    add(&weather.store, 1).await;
    sleep(10 * SECOND).await;
    assert_eq!(running.stop().await.handled, 1);
    let workers = admin(&weather.store).workers(WorkerFilter::default()).await.unwrap();
    assert_eq!(workers.len(), 2, "{workers:?}");
}

#[tokio::test(start_paused = true)]
async fn two_claims_that_find_the_worker_stopped_register_once() {
    let weather = Weather::over(tasks(1_000).await);
    let running = start_four(&weather);
    weather.set(Call::Claim, Fate::Slow(SECOND));
    sleep(5 * SECOND + SECOND / 3).await;
    let worker = admin(&weather.store).workers(WorkerFilter::default()).await.unwrap().remove(0);
    admin(&weather.store).transition(worker.id, WorkerChange::Stop).await.unwrap();
    sleep(20 * SECOND).await;
    running.stop().await;
    let workers = admin(&weather.store).workers(WorkerFilter::default()).await.unwrap();
    assert_eq!(workers.len(), 2, "{workers:?}");
}

#[tokio::test(start_paused = true)]
async fn metrics_count_what_the_report_counts() {
    let (recorder, weather) = (Recorder::default(), Weather::over(tasks(30).await));
    let _guard = metrics::set_default_local_recorder(&recorder);
    let handle = dequeue().from("tasks").handle(|message| async move {
        match message.payload.as_i64().unwrap_or_default() {
            0..10 => Ok(()),
            10..15 => Err("broken".into()),
            15..20 => Err(Retry::never().into()),
            _ => Err(Retry::release(100 * SECOND).into()),
        }
    });
    let running = start(&weather, handle.concurrency(4).backoff(|_| 100 * SECOND));
    sleep(10 * SECOND).await;
    let report = running.stop().await;
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
fn start_four(weather: &Weather) -> Running {
    let handle = dequeue().from("tasks").vt_offset(300).handle(|_| async { Ok(()) });
    start(weather, handle.concurrency(4))
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
