//! What a run loop holds, keeps and lets go, in a paused runtime: time passes only when nothing runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

#[allow(dead_code, reason = "other tests use other parts of the scene")]
mod scene;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt};
use pgqrs::*;
use scene::{HOUR, SECOND, add, live, nap, start, tasks};
use serde_json::json;
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn buffered_leases_are_kept_alive_and_given_back_on_shutdown() {
    let store = tasks(5).await;
    let options = dequeue().from("tasks").vt_offset(30).handle(|_| nap(HOUR));
    let running = start(&store, options.prefetch(3).grace(Duration::ZERO));
    sleep(SECOND).await;
    let before = live(&store).await;
    assert_eq!(before.iter().filter(|m| m.state == MessageState::Leased).count(), 4);
    sleep(600 * SECOND).await;
    let after = live(&store).await;
    let receipts = |live: &[LiveMessage]| live.iter().map(|m| m.receipt).collect::<Vec<_>>();
    assert_eq!(receipts(&before), receipts(&after), "the same leases");
    assert_eq!(after.iter().filter(|m| m.state == MessageState::Leased).count(), 4);
    assert_eq!(running.stop().await.released, 4);
    let given_back = |m: &LiveMessage| (m.state, m.attempts, m.receipt);
    assert!(live(&store).await.iter().all(|m| given_back(m) == (MessageState::Ready, 0, None)));
}

#[tokio::test(start_paused = true)]
async fn a_message_lost_in_the_buffer_is_not_handled() {
    let store = tasks(2).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let handle = dequeue().from("tasks").vt_offset(30).handle(move |message| {
        noted.lock().unwrap().push(message.payload);
        nap(60 * SECOND)
    });
    let running = start(&store, handle.prefetch(1));
    sleep(SECOND).await;
    // Somebody else gets hold of the receipt and ends the lease.
    let receipt = live(&store).await[1].receipt.unwrap();
    let settlements = vec![Settlement { receipt, action: Action::Delete }];
    store.settle(Settle { settlements, now: None }).await.unwrap()[0].unwrap();
    sleep(120 * SECOND).await;
    let report = running.stop().await;
    assert_eq!((report.handled, report.lost, report.released), (1, 1, 0), "{report}");
    assert_eq!(*seen.lock().unwrap(), [json!(0)]);
}

#[tokio::test(start_paused = true)]
async fn without_prefetch_only_what_is_free_is_claimed() {
    for (prefetch, most) in [(Some(0), 4), (Some(2), 6), (None, 8)] {
        let store = tasks(40).await;
        let handle = dequeue().from("tasks").handle(|_| nap(10 * SECOND)).concurrency(4);
        let handle = prefetch.into_iter().fold(handle, |handle, n| handle.prefetch(n));
        let running = start(&store, handle);
        let mut leased = Vec::new();
        for _ in 0..90 {
            sleep(SECOND).await;
            let held = |m: &&LiveMessage| m.state == MessageState::Leased;
            leased.push(live(&store).await.iter().filter(held).count());
        }
        assert_eq!(leased.iter().max(), Some(&most), "prefetch {prefetch:?}: {leased:?}");
        sleep(30 * SECOND).await;
        assert_eq!(running.stop().await.handled, 40);
    }
}

/// For each moment of the survivor's rhythm at which the other may die.
#[tokio::test(start_paused = true)]
async fn what_a_dead_process_held_is_handled_elsewhere_within_20_seconds() {
    for step in 0..40 {
        let store = tasks(1).await;
        let dying = start(&store, dequeue().from("tasks").vt_offset(3600).handle(|_| nap(HOUR)));
        sleep(SECOND).await;
        let handled = Arc::new(AtomicUsize::new(0));
        let counted = handled.clone();
        let handle = dequeue().from("tasks").handle(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        });
        let surviving = start(&store, handle);
        sleep(60 * SECOND + step * SECOND / 8).await;
        assert_eq!(handled.load(Ordering::SeqCst), 0);
        // Its heartbeat ends with it.
        dying.task.abort();
        sleep(20 * SECOND).await;
        assert_eq!(handled.load(Ordering::SeqCst), 1, "step {step}");
        surviving.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_error_says_when_or_never() {
    let store = tasks(2).await;
    let handle = dequeue().from("tasks").handle(|message| async move {
        match message.payload.as_i64() {
            Some(0) => Err(Retry::after(HOUR).because("busy").into()),
            _ => Err(Retry::never().because("no such thing").into()),
        }
    });
    let running = start(&store, handle);
    sleep(SECOND).await;
    let report = running.stop().await;
    assert_eq!((report.failed, report.dead), (1, 1), "{report}");
    let retried = live(&store).await.remove(0);
    assert_eq!(retried.last_error.as_deref(), Some("busy"));
    let wait = retried.visible_at - DateTime::UNIX_EPOCH;
    assert!((3600..3602).contains(&wait.num_seconds()), "{wait}");
    let letters = admin(&store).dead_letters("tasks", Page::default()).await.unwrap();
    assert_eq!((letters[0].last_error.as_deref(), letters[0].attempts), (Some("no such thing"), 1));
}

#[tokio::test(start_paused = true)]
async fn an_extension_is_never_cut_short_by_renewals() {
    for (wish, holds) in [(HOUR, 3600), (5 * SECOND, 30)] {
        let store = tasks(1).await;
        let extended = Arc::new(Mutex::new(None));
        let noted = extended.clone();
        let handle = dequeue().from("tasks").vt_offset(30).handle_with(move |_, context| {
            let noted = noted.clone();
            async move {
                *noted.lock().unwrap() = Some(context.extend(wish).await?);
                nap(HOUR / 2).await
            }
        });
        let running = start(&store, handle);
        sleep(SECOND).await;
        let promised: DateTime<Utc> = extended.lock().unwrap().unwrap();
        assert_eq!((promised - DateTime::UNIX_EPOCH).num_seconds(), holds);
        for _ in 0..170 {
            sleep(10 * SECOND).await;
            let message = live(&store).await.remove(0);
            assert_eq!(message.state, MessageState::Leased);
            assert!(message.visible_at >= promised, "{} < {promised}", message.visible_at);
        }
        sleep(200 * SECOND).await;
        assert_eq!(running.stop().await.handled, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_context_tells_the_attempt_the_message_and_the_worker() {
    let store = tasks(1).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let handle = dequeue().from("tasks").handle_with(move |message, context: Context| {
        assert_eq!((context.message_id(), context.worker()), (message.id, message.worker));
        assert!(context.worker().is_some());
        noted.lock().unwrap().push(context.attempt());
        async { Err(Retry::after(SECOND).into()) }
    });
    let running = start(&store, handle);
    sleep(10 * SECOND).await;
    running.stop().await;
    assert_eq!(*seen.lock().unwrap(), [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_anywhere_in_a_handler_fails_its_message_only() {
    struct PanicsInDrop;
    impl Drop for PanicsInDrop {
        fn drop(&mut self) {
            panic!("a drop");
        }
    }
    #[derive(Debug)]
    struct Picky;
    impl<'de> serde::Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("a payload")
        }
    }
    let store = tasks(1).await;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let dropping = dequeue().from("tasks").handle(|_| async {
        let _guard = PanicsInDrop;
        nap(HOUR).await
    });
    let running = start(&store, dropping.timeout(SECOND));
    sleep(SECOND * 3 / 2).await;
    let report = running.stop().await;
    let error = live(&store).await.remove(0).last_error;

    let parsing = tasks(1).await;
    let handle = dequeue().from("tasks").handle_json(|_: Picky| async { Ok(()) });
    let running = start(&parsing, handle);
    sleep(SECOND / 100).await;
    let parsed = running.stop().await;
    std::panic::set_hook(hook);
    assert!(report.failed >= 1 && parsed.failed >= 1, "{report}; {parsed}");
    assert_eq!(error.as_deref(), Some("handler panicked: a drop"));
    let error = live(&parsing).await.remove(0).last_error;
    assert_eq!(error.as_deref(), Some("handler panicked: a payload"));
}

#[tokio::test(start_paused = true)]
async fn a_new_backoff_is_heeded_without_a_restart() {
    let store = tasks(0).await;
    let retry = Some(Backoff::Fixed(10 * SECOND));
    let changes = QueueChanges { retry, max_attempts: Some(1000), ..QueueChanges::default() };
    admin(&store).update_queue("tasks", changes).await.unwrap();
    add(&store, 2).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let handle = dequeue().from("tasks").handle(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err("broken".into()) }
    });
    let running = start(&store, handle);
    sleep(25 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 6, "two messages, every 10 s");
    let changes = QueueChanges { retry: Some(Backoff::Fixed(HOUR)), ..QueueChanges::default() };
    admin(&store).update_queue("tasks", changes).await.unwrap();
    sleep(HOUR / 2).await;
    let after = calls.load(Ordering::SeqCst);
    assert!((8..=10).contains(&after), "once or twice more: {after}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_with_a_shorter_timeout_than_before_loses_nothing() {
    let store = tasks(0).await;
    let handle = dequeue().from("tasks").handle(|_| nap(60 * SECOND)).concurrency(2);
    let running = start(&store, handle);
    for seconds in [600, 3] {
        let timeout = VisibilityTimeout::seconds(seconds).unwrap();
        let changes = QueueChanges { visibility_timeout: Some(timeout), ..QueueChanges::default() };
        admin(&store).update_queue("tasks", changes).await.unwrap();
        add(&store, 1).await;
        sleep(SECOND).await;
    }
    sleep(120 * SECOND).await;
    let report = running.stop().await;
    assert_eq!((report.handled, report.lost), (2, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_a_batch_out_at_once_and_settles_each_way() {
    let store = tasks(5).await;
    let mut messages = dequeue().from("tasks").batch(4).vt_offset(30).stream(&store);
    let mut out = BTreeMap::new();
    for _ in 0..4 {
        let message = messages.next().await.unwrap().unwrap();
        out.insert(message.payload.as_i64().unwrap(), message);
    }
    sleep(600 * SECOND).await;
    assert!(messages.next().now_or_never().is_none(), "a batch is out");
    out.remove(&0).unwrap().archive().await.unwrap();
    let fifth = messages.next().await.unwrap().unwrap();
    assert_eq!(fifth.payload, json!(4));
    out.remove(&1).unwrap().delete().await.unwrap();
    out.remove(&2).unwrap().release(Delay::seconds(7200).unwrap()).await.unwrap();
    let failed = out.remove(&3).unwrap().fail("broken", RetryDecision::Dead).await.unwrap();
    assert_eq!(failed, Settled::Dead);
    drop(fifth);
    drop(messages);
    sleep(SECOND).await;
    let left = live(&store).await;
    let left: Vec<_> = left.iter().map(|m| (m.payload.as_str(), m.attempts, m.receipt)).collect();
    assert_eq!(left, [("2", 0, None), ("4", 0, None)]);
    let archived = admin(&store).archive(ArchiveFilter::default()).await.unwrap();
    assert_eq!(archived.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_the_error_of_its_queue() {
    let store = tasks(0).await;
    let mut messages = dequeue().from("nowhere").stream(&store);
    assert!(matches!(messages.next().await, Some(Err(Error::QueueNotFound { .. }))));
    assert!(messages.next().await.is_none());
}
