//! The run loop while the store fails, in a paused runtime: time passes only when nothing runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

#[allow(dead_code, reason = "other tests use other parts of the scene")]
mod scene;
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
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use pgqrs::*;
use scene::{HOUR, SECOND, add, live, nap, tasks};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use weather::{Call, Fate, Weather};

#[tokio::test(start_paused = true)]
async fn a_settle_whose_answer_is_lost_is_repeated_and_no_handler_runs_twice() {
    let weather = Weather::over(tasks(50).await);
    weather.set(Call::Settle, Fate::LoseAnswer);
    let running = Running::start(&weather, |_| async { Ok(()) });
    sleep(10 * SECOND).await;
    weather.clear();
    sleep(10 * SECOND).await;
    let calls = running.calls();
    let report = running.stop().await;
    assert_eq!((calls, report.handled, report.lost, report.unsettled), (50, 50, 0, 0), "{report}");
    assert!(weather.count(Call::Settle) < 60, "it backs off: {}", weather.count(Call::Settle));
}

#[tokio::test(start_paused = true)]
async fn claims_that_fail_back_off_and_go_on() {
    for fate in [Fate::Refuse, Fate::LoseAnswer] {
        let weather = Weather::over(tasks(0).await);
        weather.set(Call::Claim, fate);
        let running = Running::start(&weather, |_| async { Ok(()) });
        sleep(60 * SECOND).await;
        let claims = weather.count(Call::Claim);
        assert!((12..60).contains(&claims), "{claims} claims in a minute");
        weather.clear();
        add(&weather.store, 1).await;
        running.until_called(1, 6 * SECOND).await;
        assert_eq!(running.stop().await.handled, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_cannot_renew_lets_go_before_anybody_else_begins() {
    for fate in [Fate::Refuse, Fate::LoseAnswer, Fate::Hang] {
        let (recorder, weather) = (Recorder::default(), Weather::over(tasks(1).await));
        let _guard = metrics::set_default_local_recorder(&recorder);
        let spans = Arc::new(Spans::default());
        let (first, second) = (spans.clone(), spans.clone());
        let cut_off = Running::start(&weather, move |_| first.clone().record("cut off", HOUR));
        cut_off.until_called(1, SECOND).await;
        weather.set(Call::Renew, fate);
        weather.set(Call::Claim, Fate::Refuse);
        let calm = Weather::over(weather.store.clone());
        let other = Running::start(&calm, move |_| second.clone().record("other", SECOND));
        // An answer lost means a lease renewed: the last renewal holds it, and no more.
        other.until_called(1, 70 * SECOND).await;
        sleep(2 * SECOND).await;
        let spans = spans.0.lock().unwrap().clone();
        let end = |who| spans.iter().find(|span| span.0 == who).unwrap();
        assert!(end("cut off").2 < end("other").1, "{fate:?}: they overlap: {spans:?}");
        assert_eq!(recorder.count(telemetry::LEASE_LOST), 1);
        weather.clear();
        assert_eq!(cut_off.stop().await.lost, 1);
        assert_eq!(other.stop().await.handled, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_failure_of_renewals_costs_nothing() {
    let weather = Weather::over(tasks(1).await);
    let running = Running::start(&weather, |_| nap(HOUR / 2));
    for _ in 0..20 {
        sleep(60 * SECOND).await;
        weather.set(Call::Renew, Fate::Hang);
        sleep(10 * SECOND).await;
        weather.clear();
    }
    sleep(HOUR / 2).await;
    assert_eq!((running.calls(), running.stop().await.handled), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_claim_answered_after_its_leases_lapsed_starts_no_handler() {
    let weather = Weather::over(tasks(1).await);
    weather.set(Call::Claim, Fate::Slow(40 * SECOND));
    let running = Running::start(&weather, |_| async { Ok(()) });
    sleep(60 * SECOND).await;
    assert_eq!(running.calls(), 0);
    weather.clear();
    sleep(60 * SECOND).await;
    let (calls, report) = (running.calls(), running.stop().await);
    assert_eq!((calls, report.handled), (1, 1));
    assert!(report.lost >= 1, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_while_a_claim_is_on_its_way_is_not_lost() {
    let weather = Weather::over(tasks(0).await);
    weather.set(Call::Claim, Fate::Slow(SECOND / 2));
    let running = Running::start(&weather, |_| async { Ok(()) });
    sleep(SECOND / 10).await;
    // The claim on its way has found nothing and will say so.
    add(&weather.store, 1).await;
    running.until_called(1, SECOND).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_the_store_cannot_take_does_not_block_the_others() {
    let weather = Weather::over(tasks(100).await);
    let stuck = live(&weather.store).await[50].id;
    weather.set(Call::Settle, Fate::Choke(stuck));
    let running = Running::start(&weather, |_| async { Ok(()) });
    sleep(20 * SECOND).await;
    let left = live(&weather.store).await;
    assert_eq!(left.iter().map(|message| message.id).collect::<Vec<_>>(), [stuck]);
    let report = running.stop().await;
    assert_eq!(report.handled, 99, "{report}");
    assert!(report.unsettled >= 1, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_does_not_keep_the_loop_from_stopping() {
    let weather = Weather::over(tasks(10).await);
    let running = Running::start(&weather, |_| nap(HOUR));
    running.until_called(4, SECOND).await;
    for call in [Call::Claim, Call::Settle, Call::Renew, Call::Transition, Call::Sweep] {
        weather.set(call, Fate::Hang);
    }
    sleep(5 * SECOND).await;
    let start = Instant::now();
    let report = running.stop().await;
    assert!(start.elapsed() <= (30 + 10 + 10) * SECOND, "{:?}", start.elapsed());
    assert_eq!(report.lost + report.unsettled, 8, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_stays_alive_through_a_few_seconds_without_heartbeats() {
    let (start, weather) = (Instant::now(), Weather::over(tasks(1).await));
    let running = Running::start(&weather, |_| nap(HOUR));
    running.until_called(1, SECOND).await;
    for fate in [Fate::Refuse, Fate::Hang] {
        sleep(60 * SECOND).await;
        weather.set(Call::Transition, fate);
        sleep(8 * SECOND).await;
        weather.clear();
    }
    sleep(60 * SECOND).await;
    let workers = admin(&weather.store).workers(WorkerFilter::default()).await.unwrap();
    assert_eq!((workers.len(), workers[0].state), (1, WorkerState::Ready));
    let now = DateTime::UNIX_EPOCH + start.elapsed();
    assert!(workers[0].heartbeat_at + 6 * SECOND >= now, "{workers:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_loop_costs_at_most_a_call_a_second() {
    let weather = Weather::over(tasks(0).await);
    let running = Running::start(&weather, |_| async { Ok(()) });
    sleep(SECOND).await;
    let before = weather.total();
    sleep(600 * SECOND).await;
    let calls = weather.total() - before;
    assert!((300..=600).contains(&calls), "{calls} calls in ten minutes");
    assert!(weather.count(Call::Transition) >= 119, "a heartbeat every 5 s");
    assert!(weather.count(Call::Sweep) >= 600 / 5, "a sweep every 5 s at most");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_worker_is_not_driven_by_wake_ups() {
    let weather = Weather::over(tasks(0).await);
    let worker = consumer("worker-1", 7, "tasks").create(&weather).await.unwrap();
    worker.suspend().await.unwrap();
    let (until, looped) = (CancellationToken::new(), weather.clone());
    let stop = until.clone();
    let running = tokio::spawn(async move {
        let handle = dequeue().worker(&*worker).handle(|_| async { Ok(()) });
        handle.until(until).poll(&looped).await
    });
    for _ in 0..1_000 {
        add(&weather.store, 1).await;
        sleep(SECOND / 100).await;
    }
    assert!(weather.count(Call::Claim) <= 16, "{} claims in 10 s", weather.count(Call::Claim));
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// A loop in a task of its own: 4 handlers at once, 30 s of lease.
struct Running {
    calls: Arc<AtomicUsize>,
    looped: scene::Running,
}

impl Running {
    fn start<F, Fut>(weather: &Weather, handler: F) -> Self
    where
        F: Fn(Message) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let handler = move |message| {
            counted.fetch_add(1, Ordering::SeqCst);
            handler(message)
        };
        let handle = dequeue().from("tasks").vt_offset(30).handle(handler).concurrency(4);
        Self { calls, looped: scene::start(weather, handle) }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn until_called(&self, calls: usize, limit: Duration) {
        let called = async {
            while self.calls() < calls {
                sleep(SECOND / 1_000).await;
            }
        };
        timeout(limit, called).await.unwrap_or_else(|_| panic!("not called within {limit:?}"));
    }

    async fn stop(self) -> Report {
        self.looped.stop().await
    }
}

/// From when until when handlers ran, cancelled ones included.
#[derive(Debug, Default)]
struct Spans(Mutex<Vec<(&'static str, Instant, Instant)>>);

impl Spans {
    async fn record(
        self: Arc<Self>,
        who: &'static str,
        work: Duration,
    ) -> Result<(), HandlerError> {
        struct Span(Arc<Spans>, &'static str, Instant);
        impl Drop for Span {
            fn drop(&mut self) {
                self.0.0.lock().unwrap().push((self.1, self.2, Instant::now()));
            }
        }
        let _span = Span(self, who, Instant::now());
        nap(work).await
    }
}

/// Keeps counters by name.
#[derive(Debug, Default)]
struct Recorder(Mutex<HashMap<String, Arc<AtomicU64>>>);

impl Recorder {
    fn count(&self, name: &str) -> u64 {
        self.0.lock().unwrap()[name].load(Ordering::SeqCst)
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = self.0.lock().unwrap();
        Counter::from_arc(counters.entry(key.name().to_owned()).or_default().clone())
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
