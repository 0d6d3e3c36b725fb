//! The builders over a store, as an application writes them, on the store's own clock.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use pgqrs::*;
use serde_json::{Value, json};

use super::scene::assert_matches;

const HOUR: Duration = Duration::from_secs(3600);

/// An ephemeral consumer dequeues, processes and archives; `execute` returns how many.
pub async fn a_handled_message_is_archived_and_counted(store: &Arc<dyn Store>) {
    tasks(store, &[json!({"n": 1})]).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let archived = dequeue()
        .from("tasks")
        .handle(|msg| {
            let seen = seen.clone();
            async move {
                seen.lock().unwrap().push(msg.payload);
                Ok(())
            }
        })
        .execute(store)
        .await
        .unwrap();
    assert_eq!(archived, 1);
    assert_eq!(*seen.lock().unwrap(), [json!({"n": 1})]);
    assert_eq!(outcomes(store).await, [(Outcome::Done, None)]);
}

/// Without a ready message the handler is not called and nothing is counted.
pub async fn an_empty_queue_handles_nothing(store: &Arc<dyn Store>) {
    tasks(store, &[]).await;
    let handle =
        dequeue().from("tasks").handle(|_| async { Err("called without a message".into()) });
    assert_eq!(handle.execute(store).await.unwrap(), 0);
}

/// A handler's error fails the message: not archived, kept for a retry, the text recorded.
pub async fn a_handlers_error_keeps_the_message_for_a_retry(store: &Arc<dyn Store>) {
    tasks(store, &[json!(1), json!(2)]).await;
    let archived = dequeue()
        .from("tasks")
        .batch(2)
        .handle(|msg| async move { if msg.payload == 1 { Err("no paper".into()) } else { Ok(()) } })
        .execute(store)
        .await
        .unwrap();
    assert_eq!(archived, 1);
    let live = live(store).await;
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].last_error.as_deref(), Some("no paper"));
    assert_eq!((live[0].attempts, live[0].receipt), (1, None));
}

/// A handler's panic counts as an error; the process and the batch go on.
pub async fn a_handlers_panic_is_caught_and_the_batch_goes_on(store: &Arc<dyn Store>) {
    tasks(store, &[json!("bad"), json!("good")]).await;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let archived = dequeue()
        .from("tasks")
        .batch(2)
        .handle(|msg| async move {
            assert_ne!(msg.payload, "bad", "on purpose");
            Ok(())
        })
        .execute(store)
        .await;
    std::panic::set_hook(hook);
    assert_eq!(archived.unwrap(), 1);
    let error = live(store).await.remove(0).last_error.unwrap();
    assert!(error.starts_with("handler panicked: ") && error.contains("on purpose"), "{error}");
}

/// `Retry::never` makes a dead letter at once, with the reason as last error.
pub async fn retry_never_makes_a_dead_letter_at_once(store: &Arc<dyn Store>) {
    tasks(store, &[json!(1)]).await;
    let handle = dequeue()
        .from("tasks")
        .handle(|_| async { Err(Retry::never().because("no such address").into()) });
    assert_eq!(handle.execute(store).await.unwrap(), 0);
    assert_eq!(outcomes(store).await, [(Outcome::Dead, Some("no such address".to_owned()))]);
}

/// `Retry::after` overrides the queue's backoff.
pub async fn retry_after_overrides_the_queues_backoff(store: &Arc<dyn Store>) {
    tasks(store, &[json!(1)]).await;
    let hour = Duration::from_secs(3600);
    let handle = dequeue().from("tasks").handle(|_| async move { Err(Retry::after(hour).into()) });
    handle.execute(store).await.unwrap();
    let message = live(store).await.remove(0);
    assert_eq!(message.state, MessageState::Delayed);
    assert!(message.visible_at - message.enqueued_at >= chrono::TimeDelta::hours(1));
}

/// The queue's backoff sets the delay of a retry.
pub async fn the_queues_backoff_delays_the_retry(store: &Arc<dyn Store>) {
    tasks(store, &[json!(1)]).await;
    let retry = Some(Backoff::Fixed(Duration::from_secs(7200)));
    let changes = QueueChanges { retry, ..QueueChanges::default() };
    admin(store).update_queue("tasks", changes).await.unwrap();
    dequeue().from("tasks").handle(|_| async { Err("later".into()) }).execute(store).await.unwrap();
    let message = live(store).await.remove(0);
    assert!(message.visible_at - message.enqueued_at >= chrono::TimeDelta::hours(2));
}

/// A batch handler's messages are archived or failed together.
pub async fn a_batch_handler_settles_its_messages_together(store: &Arc<dyn Store>) {
    tasks(store, &[json!(1), json!(2), json!(3)]).await;
    let sizes = Mutex::new(Vec::new());
    let fail = |messages: Vec<Message>| {
        sizes.lock().unwrap().push(messages.len());
        async { Err(Retry::after(Duration::ZERO).because("all of them").into()) }
    };
    let batch = dequeue().from("tasks").batch(3);
    assert_eq!(batch.handle_batch(fail).execute(store).await.unwrap(), 0);
    assert!(live(store).await.iter().all(|m| m.last_error.as_deref() == Some("all of them")));
    let batch = dequeue().from("tasks").batch(3);
    assert_eq!(batch.handle_batch(|_| async { Ok(()) }).execute(store).await.unwrap(), 3);
    assert_eq!(*sizes.lock().unwrap(), [3]);
}

/// While a handler works its lease is renewed: for three timeouts nobody else gets the message.
pub async fn leases_are_renewed_while_a_handler_works(store: &Arc<dyn Store>) {
    tasks(store, &[json!("long")]).await;
    let timeout = Duration::from_millis(400);
    let probes = AtomicUsize::new(0);
    let archived = dequeue()
        .from("tasks")
        .with_vt(timeout)
        .handle(|_| async {
            let begin = Instant::now();
            while begin.elapsed() < 3 * timeout {
                let other = dequeue().from("tasks").fetch_all(store).await?;
                assert!(other.is_empty(), "the message was handed out again");
                probes.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
            Ok(())
        })
        .execute(store)
        .await
        .unwrap();
    assert_eq!(archived, 1);
    assert!(probes.into_inner() > 1, "the queue was looked at meanwhile");
}

/// A managed consumer settles by id what it fetched.
pub async fn a_managed_consumer_settles_by_id(store: &Arc<dyn Store>) {
    let ids = tasks(store, &[json!(1), json!(2), json!(3), json!(4), json!(5)]).await;
    let consumer = consumer("worker-1", 3001, "tasks").create(store).await.unwrap();
    let messages = dequeue().worker(&*consumer).batch(10).fetch_all(store).await.unwrap();
    assert_eq!(messages.iter().map(|m| m.id).collect::<Vec<_>>(), ids);
    assert!(messages.iter().all(|m| m.worker == Some(consumer.id())));
    consumer.archive(ids[0]).await.unwrap();
    consumer.delete(ids[1]).await.unwrap();
    consumer.extend_visibility(ids[2], 30).await.unwrap();
    consumer.release(ids[3]).await.unwrap();
    let failed = consumer.fail(ids[4], "broken", RetryDecision::Dead).await.unwrap();
    assert_eq!(failed, Settled::Dead);
    let left: Vec<_> = live(store).await.into_iter().map(|m| (m.id, m.state)).collect();
    assert_eq!(left, [(ids[2], MessageState::Leased), (ids[3], MessageState::Ready)]);
    consumer.shutdown().await.unwrap();
}

/// An id that the handle does not hold, or holds no longer, is `LeaseLost`.
pub async fn an_id_the_handle_does_not_hold_is_lease_lost(store: &Arc<dyn Store>) {
    let ids = tasks(store, &[json!(1)]).await;
    let first = consumer("worker-1", 1, "tasks").create(store).await.unwrap();
    let second = consumer("worker-2", 2, "tasks").create(store).await.unwrap();
    dequeue().worker(&*first).fetch_all(store).await.unwrap();
    assert_matches!(second.archive(ids[0]).await, Err(Error::LeaseLost { id }) if id == ids[0]);
    first.release(ids[0]).await.unwrap();
    assert_matches!(first.archive(ids[0]).await, Err(Error::LeaseLost { .. }));
}

/// An archive by id may be repeated (S3).
pub async fn an_archive_by_id_may_be_repeated(store: &Arc<dyn Store>) {
    let ids = tasks(store, &[json!(1)]).await;
    let consumer = consumer("worker-1", 1, "tasks").create(store).await.unwrap();
    dequeue().worker(&*consumer).fetch_all(store).await.unwrap();
    consumer.archive(ids[0]).await.unwrap();
    consumer.archive(ids[0]).await.unwrap();
    assert_matches!(consumer.delete(ids[0]).await, Err(Error::LeaseLost { .. }));
}

/// Many ids are settled by one call, with an outcome each, in input order.
pub async fn many_ids_are_settled_with_an_outcome_each(store: &Arc<dyn Store>) {
    let ids = tasks(store, &[json!(1), json!(2), json!(3)]).await;
    let consumer = consumer("worker-1", 1, "tasks").create(store).await.unwrap();
    dequeue().worker(&*consumer).batch(2).fetch_all(store).await.unwrap();
    let outcomes = consumer.archive_many(&[ids[0], ids[2]]).await.unwrap();
    assert_eq!(outcomes, [Ok(()), Err(LeaseLost)]);
    assert_eq!(consumer.delete_many(&[ids[1]]).await.unwrap(), [Ok(())]);
}

/// Heartbeat, suspend, resume, shutdown; a worker that is not ready fetches nothing.
pub async fn a_suspended_or_stopped_consumer_fetches_nothing(store: &Arc<dyn Store>) {
    tasks(store, &[json!(1)]).await;
    let consumer = consumer("worker-1", 3001, "tasks").create(store).await.unwrap();
    consumer.heartbeat().await.unwrap();
    consumer.suspend().await.unwrap();
    let fetched = dequeue().worker(&*consumer).fetch_all(store).await;
    assert_matches!(fetched, Err(Error::WorkerNotReady { state: WorkerState::Suspended, .. }));
    consumer.resume().await.unwrap();
    assert_eq!(dequeue().worker(&*consumer).fetch_all(store).await.unwrap().len(), 1);
    consumer.shutdown().await.unwrap();
    let fetched = dequeue().worker(&*consumer).fetch_all(store).await;
    assert_matches!(fetched, Err(Error::WorkerNotReady { state: WorkerState::Stopped, .. }));
    assert_eq!(live(store).await[0].attempts, 0, "shutdown gives the attempt back");
    assert_eq!(consumer.status().await.unwrap().state, WorkerState::Stopped);
}

/// `vt_offset` (seconds), `with_vt`, or the queue's setting decide how long a lease lasts.
pub async fn the_lease_lasts_as_long_as_asked(store: &Arc<dyn Store>) {
    tasks(store, &[json!(1), json!(2), json!(3)]).await;
    let lease = |m: Message| (m.visible_at - m.claimed_at).to_std().unwrap();
    let first = dequeue().from("tasks").vt_offset(60).fetch_one(store).await.unwrap().unwrap();
    assert_eq!(lease(first), Duration::from_secs(60));
    let second = dequeue().from("tasks").with_vt(Duration::from_micros(1500));
    assert_eq!(lease(second.fetch_one(store).await.unwrap().unwrap()), Duration::from_micros(1500));
    let third = dequeue().from("tasks").batch(10).fetch_all(store).await.unwrap().pop().unwrap();
    assert!([30_000_000, 1500].contains(&lease(third).as_micros()));
}

/// `fetch_one` is `None` when nothing is ready.
pub async fn fetch_one_is_none_when_nothing_is_ready(store: &Arc<dyn Store>) {
    tasks(store, &[]).await;
    assert_eq!(dequeue().from("tasks").fetch_one(store).await.unwrap(), None);
}

/// A fetch that is dropped on its way gives back what it brings, attempts included.
pub async fn a_dropped_fetch_gives_back_what_it_brings(store: &Arc<dyn Store>) {
    tasks(store, &[json!(1), json!(2), json!(3)]).await;
    for patience in 0..200 {
        let fetch = dequeue().from("tasks").batch(2).with_vt(HOUR).fetch_all(store);
        let fetched = tokio::select! {
            biased;
            fetched = fetch => fetched.unwrap(),
            () = yields(patience) => continue,
        };
        let release = |message: Message| Settlement {
            receipt: message.receipt,
            action: Action::Release(Delay::ZERO),
        };
        let settlements = fetched.into_iter().map(release).collect();
        store.settle(Settle { settlements, now: None }).await.unwrap();
    }
    let untouched = |message: &LiveMessage| message.receipt.is_none() && message.attempts == 0;
    let all_back = async {
        while !live(store).await.iter().all(untouched) {
            yields(1).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all_back).await.unwrap();
    assert_eq!(live(store).await.len(), 3);
}

/// The enqueue builder: options reach the message, ids come back in input order.
pub async fn enqueue_options_reach_the_message(store: &Arc<dyn Store>) {
    tasks(store, &[]).await;
    let ids = enqueue()
        .messages(["a", "b"])
        .to("tasks")
        .delay(3600)
        .priority(9)
        .headers(&json!({"traceparent": "00-ab-cd-01"}))
        .max_attempts(2)
        .execute(store)
        .await
        .unwrap();
    let messages = live(store).await;
    assert_eq!(messages.iter().map(|m| m.id).collect::<Vec<_>>(), ids);
    for message in messages {
        assert_eq!(message.state, MessageState::Delayed);
        assert_eq!(message.priority, Priority::HIGHEST);
        assert_eq!(message.max_attempts, 2);
        assert_eq!(message.headers.unwrap().as_str(), r#"{"traceparent":"00-ab-cd-01"}"#);
    }
}

/// A registered producer enqueues to its queue, unless it is suspended.
pub async fn a_suspended_producer_enqueues_nothing(store: &Arc<dyn Store>) {
    tasks(store, &[]).await;
    let producer = producer("web-1", 0, "tasks").create(store).await.unwrap();
    enqueue().message("one").worker(&*producer).execute(store).await.unwrap();
    producer.suspend().await.unwrap();
    let refused = enqueue().message("two").worker(&*producer).execute(store).await;
    assert_matches!(refused, Err(Error::WorkerNotReady { state: WorkerState::Suspended, .. }));
    assert_eq!(live(store).await.len(), 1);
}

/// What a builder is given wrongly is a typed error of its last call, and nothing happens.
pub async fn wrong_arguments_are_typed_errors(store: &Arc<dyn Store>) {
    tasks(store, &[json!(1)]).await;
    let name = dequeue().from("no such/name").fetch_all(store).await;
    assert_matches!(name, Err(Error::InvalidQueueName { .. }));
    let batch = dequeue().from("tasks").batch(0).fetch_all(store).await;
    assert_matches!(batch, Err(Error::OutOfRange { what: "batch size", .. }));
    let timeout = dequeue().from("tasks").vt_offset(0).fetch_all(store).await;
    assert_matches!(timeout, Err(Error::OutOfRange { what: "visibility timeout", .. }));
    assert_matches!(dequeue().fetch_all(store).await, Err(Error::QueueMissing { .. }));
    let priority = enqueue().message("x").to("tasks").priority(10).execute(store).await;
    assert_matches!(priority, Err(Error::OutOfRange { what: "priority", .. }));
    let headers = enqueue().message("x").to("tasks").headers(&[1]).execute(store).await;
    assert_matches!(headers, Err(Error::NotJson { .. }));
    let elsewhere = enqueue().message("x").to("nowhere").execute(store).await;
    assert_matches!(elsewhere, Err(Error::QueueNotFound { queue }) if queue.as_str() == "nowhere");
    assert_eq!(live(store).await[0].attempts, 0);
}

async fn tasks(store: &Arc<dyn Store>, payloads: &[Value]) -> Vec<MessageId> {
    admin(store).create_queue("tasks").await.unwrap();
    match payloads {
        [] => Vec::new(),
        some => enqueue().messages(some).to("tasks").execute(store).await.unwrap(),
    }
}

/// Lets others run so many times.
async fn yields(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

async fn live(store: &Arc<dyn Store>) -> Vec<LiveMessage> {
    admin(store).messages(MessageFilter::default()).await.unwrap()
}

async fn outcomes(store: &Arc<dyn Store>) -> Vec<(Outcome, Option<String>)> {
    let archive = admin(store).archive(ArchiveFilter::default()).await.unwrap();
    archive.into_iter().map(|message| (message.outcome, message.last_error)).collect()
}
