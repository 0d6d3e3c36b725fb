//! What becomes of a message after its handler, in a paused runtime: time passes only when nothing
//! runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

#[allow(dead_code, reason = "other tests use other parts of the scene")]
mod scene;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::DateTime;
use pgqrs::*;
use scene::{HOUR, SECOND, add, live, start, tasks};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn a_released_message_comes_back_after_the_delay_with_its_attempt() {
    let store = tasks(1).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let handle = dequeue().from("tasks").handle_with(move |_, context: Context| {
        let earlier = counted.fetch_add(1, Ordering::SeqCst);
        assert_eq!(context.attempt(), 1);
        async move { if earlier < 9 { Err(Retry::release(60 * SECOND).into()) } else { Ok(()) } }
    });
    let running = start(&store, handle);
    sleep(510 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 9);
    let waiting = live(&store).await.remove(0);
    assert_eq!((waiting.state, waiting.attempts), (MessageState::Delayed, 0));
    assert_eq!(waiting.last_error, None);
    sleep(60 * SECOND).await;
    let report = running.stop().await;
    assert_eq!((report.handled, report.released, report.failed), (1, 9, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_released_comes_back_whole() {
    let store = tasks(3).await;
    let handle = dequeue().from("tasks").batch(3);
    let archived = handle
        .handle_batch(|_| async { Err(Retry::release(HOUR).because("not yet").into()) })
        .execute(&store)
        .await;
    assert_eq!(archived.unwrap(), 0);
    let live = live(&store).await;
    let waits = |m: &LiveMessage| m.state == MessageState::Delayed && m.attempts == 0;
    assert!(live.len() == 3 && live.iter().all(waits), "{live:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_fails_all_of_it() {
    let store = tasks(6).await;
    let handle =
        dequeue().from("tasks").batch(3).handle_batch(|messages: Vec<Message>| async move {
            let first = messages[0].payload.as_i64();
            if first == Some(0) { Err(Retry::after(HOUR).because("broken").into()) } else { Ok(()) }
        });
    let running = start(&store, handle);
    sleep(SECOND).await;
    let report = running.stop().await;
    assert_eq!((report.failed, report.handled), (3, 3), "{report}");
    let failed = live(&store).await;
    assert!(failed.iter().all(|m| m.last_error.as_deref() == Some("broken")), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_loops_own_backoff_replaces_the_queues() {
    let store = tasks(1).await;
    let handle = dequeue().from("tasks").handle(|_| async { Err("broken".into()) });
    let handle = handle.backoff(|attempts| 10 * SECOND * attempts * attempts);
    let running = start(&store, handle);
    // Attempts at 0, 10, 50, 140 and 300 s.
    sleep(299 * SECOND).await;
    let waiting = live(&store).await.remove(0);
    assert_eq!((waiting.attempts, waiting.state), (4, MessageState::Delayed));
    let due = waiting.visible_at - DateTime::UNIX_EPOCH;
    assert!((300..302).contains(&due.num_seconds()), "{due}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_own_backoff_serves_a_single_batch_too() {
    let store = tasks(1).await;
    let handle = dequeue().from("tasks").handle(|_| async { Err("broken".into()) });
    handle.backoff(|_| Duration::MAX).execute(&store).await.unwrap();
    let waits = live(&store).await[0].visible_at - DateTime::UNIX_EPOCH;
    assert_eq!(waits.to_std().unwrap(), Delay::MAX.duration());
}

#[tokio::test(start_paused = true)]
async fn queues_with_fixed_and_linear_backoff_are_heeded() {
    let linear = Backoff::Linear { step: 20 * SECOND, max: 50 * SECOND };
    for (retry, attempts) in [(Backoff::Fixed(30 * SECOND), 5), (linear, 4)] {
        let store = tasks(0).await;
        let changes = QueueChanges { retry: Some(retry), max_attempts: Some(99), ..changes() };
        admin(&store).update_queue("tasks", changes).await.unwrap();
        add(&store, 1).await;
        let handle = dequeue().from("tasks").handle(|_| async { Err("broken".into()) });
        let running = start(&store, handle);
        // Fixed: 0, 30, 60, 90, 120. Linear: 0, 20, 60, 110.
        sleep(129 * SECOND).await;
        assert_eq!(live(&store).await[0].attempts, attempts);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_settle_its_message_by_the_consumer() {
    let store = tasks(4).await;
    let handle =
        dequeue().from("tasks").vt_offset(30).handle_with(|message, context: Context| async move {
            let (consumer, id) = (context.consumer().ok_or("no consumer")?, message.id);
            match message.payload.as_i64() {
                Some(0) => consumer.archive(id).await?,
                Some(1) => consumer.delete(id).await?,
                Some(2) => consumer.release_after(id, HOUR).await?,
                _ => consumer.fail(id, "broken", RetryDecision::Dead).await.map(drop)?,
            }
            // Longer than the lease would have lasted: nobody takes it for lost.
            sleep(60 * SECOND).await;
            Err("what it returns counts no more".into())
        });
    let running = start(&store, handle.concurrency(4));
    sleep(100 * SECOND).await;
    let report = running.stop().await;
    let Report { handled, failed, dead, released, settled, lost, unsettled, .. } = report;
    assert_eq!([handled, failed, dead, released, settled, lost, unsettled], [0, 0, 0, 0, 4, 0, 0]);
    let live = live(&store).await;
    assert_eq!((live.len(), live[0].state, live[0].attempts), (1, MessageState::Delayed, 0));
    let archive = admin(&store).archive(ArchiveFilter::default()).await.unwrap();
    let ends: Vec<_> = archive.iter().map(|message| message.outcome).collect();
    assert_eq!(ends, [Outcome::Done, Outcome::Dead]);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_settles_nothing_changes_nothing() {
    let store = tasks(2).await;
    let until = CancellationToken::new();
    let worker = consumer("worker-1", 7, "tasks").create(&store).await.unwrap();
    let (looped, stop, id) = (store.clone(), until.clone(), worker.id());
    let running = tokio::spawn(async move {
        let handle =
            dequeue().worker(&*worker).handle_with(move |message, context: Context| async move {
                let consumer = context.consumer().ok_or("no consumer")?;
                assert_eq!((consumer.id(), message.worker), (id, Some(id)));
                consumer.heartbeat().await?;
                if message.payload == 0 { Err(Retry::never().into()) } else { Ok(()) }
            });
        handle.until(stop).poll(&looped).await.unwrap()
    });
    sleep(SECOND).await;
    until.cancel();
    let report = running.await.unwrap();
    assert_eq!((report.handled, report.dead, report.settled), (1, 1, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_single_batch_has_its_workers_consumer_or_none() {
    let store = tasks(2).await;
    let ephemeral = |_, context: Context| async move {
        assert!(context.consumer().is_none());
        Ok(())
    };
    let archived = dequeue().from("tasks").handle_with(ephemeral).execute(&store).await.unwrap();
    let worker = consumer("worker-1", 7, "tasks").create(&store).await.unwrap();
    let deleting = |message: Message, context: Context| async move {
        Ok(context.consumer().ok_or("no consumer")?.delete(message.id).await?)
    };
    let later = dequeue().worker(&*worker).handle_with(deleting).execute(&store).await.unwrap();
    assert_eq!((archived, later), (1, 0));
    assert_eq!(live(&store).await.len(), 0);
}

/// The one test here in real time: it needs threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handlers_that_keep_their_threads_busy_run_side_by_side() {
    let store = MemoryStore::new();
    admin(&store).create_queue("tasks").await.unwrap();
    add(&store, 2).await;
    let (until, meeting) = (CancellationToken::new(), Arc::new(std::sync::Barrier::new(2)));
    let stop = until.clone();
    let handle = dequeue().from("tasks").handle(move |_| {
        // Blocks: without a second thread at work it never ends.
        if meeting.wait().is_leader() {
            stop.cancel();
        }
        async { Ok(()) }
    });
    let report = handle.concurrency(2).until(until).poll(&store).await.unwrap();
    assert_eq!(report.handled, 2);
}

#[tokio::test(start_paused = true)]
async fn options_out_of_range_are_refused_by_name() {
    let store = tasks(0).await;
    let handle = || dequeue().from("tasks").handle(|_| async { Ok(()) });
    for (handle, named) in [
        (handle().concurrency(0), "concurrency"),
        (handle().concurrency(10_001), "concurrency"),
        (handle().prefetch(10_001), "prefetch"),
    ] {
        match handle.poll(&store).await {
            Err(Error::OutOfRange { what, .. }) => assert_eq!(what, named),
            other => panic!("{other:?}"),
        }
    }
    let at = dequeue().from("tasks").at(DateTime::UNIX_EPOCH).handle(|_| async { Ok(()) });
    assert!(matches!(at.poll(&store).await, Err(Error::Unsupported { .. })));
}

fn changes() -> QueueChanges {
    QueueChanges::default()
}
