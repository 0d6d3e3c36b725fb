//! The run loop on the in-memory store, in a paused runtime: time passes only when nothing runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

#[allow(dead_code, reason = "other tests use other parts of the scene")]
mod scene;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use pgqrs::*;
use scene::{HOUR, SECOND, add, live, nap, tasks};
use serde_json::json;
use tokio::{sync::Barrier, time::Instant};
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn a_message_is_picked_up_without_waiting_for_the_next_look() {
    let (store, start) = (tasks(0).await, Instant::now());
    let (looped, stop) = (store.clone(), CancellationToken::new());
    let until = stop.clone();
    let running = tokio::spawn(async move {
        let stop = until.clone();
        let handler = move |_| {
            stop.cancel();
            async { Ok(()) }
        };
        dequeue().from("tasks").handle(handler).until(until).poll(&looped).await
    });
    tokio::time::sleep(100 * SECOND).await;
    add(&store, 1).await;
    let report = running.await.unwrap().unwrap();
    assert_eq!(report.handled, 1);
    assert!(start.elapsed() < 100 * SECOND + Duration::from_millis(5), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn as_many_handlers_run_at_once_as_asked() {
    let store = tasks(16).await;
    let (stop, barrier) = (CancellationToken::new(), Arc::new(Barrier::new(8)));
    let (until, left) = (stop.clone(), AtomicUsize::new(16));
    let left = Arc::new(left);
    let handler = move |_| {
        let (barrier, left, stop) = (barrier.clone(), left.clone(), stop.clone());
        async move {
            barrier.wait().await;
            if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                stop.cancel();
            }
            Ok(())
        }
    };
    let looped = dequeue().from("tasks").handle(handler).concurrency(8).until(until);
    assert_eq!(looped.poll(&store).await.unwrap().handled, 16);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_is_handled_when_it_is_due() {
    let (store, start) = (tasks(0).await, Instant::now());
    enqueue().message("x").to("tasks").with_delay(SECOND / 3).execute(&store).await.unwrap();
    let report = handle_until(&store, 1, |_| async { Ok(()) }).await;
    assert_eq!(report.handled, 1);
    let took = start.elapsed();
    assert!(took >= SECOND / 3 && took < SECOND / 3 + Duration::from_millis(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_longer_than_its_lease_keeps_it() {
    let store = tasks(1).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let report = handle_until(&store, 1, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        nap(HOUR)
    })
    .await;
    assert_eq!((report.handled, report.lost), (1, 0));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn errors_panics_and_timeouts_fail_the_message_with_their_text() {
    let store = tasks(3).await;
    let stop = CancellationToken::new();
    let (until, hook) = (stop.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(|_| {}));
    let report = dequeue()
        .from("tasks")
        .handle(move |msg| {
            let stop = stop.clone();
            async move {
                match msg.payload.as_i64() {
                    Some(0) => Err("an error".into()),
                    Some(1) => panic!("a panic"),
                    _ => {
                        stop.cancel();
                        tokio::time::sleep(3600 * SECOND).await;
                        Ok(())
                    }
                }
            }
        })
        .timeout(5 * SECOND)
        .until(until)
        .poll(&store)
        .await;
    std::panic::set_hook(hook);
    assert_eq!(report.unwrap().failed, 3);
    let errors: Vec<_> = live(&store).await.into_iter().map(|m| m.last_error.unwrap()).collect();
    assert_eq!(errors, ["an error", "handler panicked: a panic", "handler timed out after 5s"]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_message_is_retried_until_it_is_a_dead_letter() {
    let store = tasks(1).await;
    let report = handle_until(&store, 5, |_| async { Err("broken".into()) }).await;
    assert_eq!((report.failed, report.dead), (4, 1));
    let letters = admin(&store).dead_letters("tasks", Page::default()).await.unwrap();
    assert_eq!(letters[0].last_error.as_deref(), Some("broken"));
}

#[tokio::test(start_paused = true)]
async fn when_the_grace_is_over_handlers_are_cancelled_and_their_messages_given_back() {
    let (store, start) = (tasks(2).await, Instant::now());
    let (stop, cancelled) = (CancellationToken::new(), Arc::new(Mutex::new(None)));
    let (until, token) = (stop.clone(), cancelled.clone());
    let report = dequeue()
        .from("tasks")
        .handle_with(move |_, context: Context| {
            *token.lock().unwrap() = Some(context.cancelled().clone());
            stop.cancel();
            nap(HOUR)
        })
        .until(until)
        .grace(7 * SECOND)
        .poll(&store)
        .await
        .unwrap();
    assert_eq!((report.handled, report.released), (0, 2));
    assert_eq!(start.elapsed().as_secs(), 7);
    assert!(cancelled.lock().unwrap().as_ref().unwrap().is_cancelled());
    let live = live(&store).await;
    assert!(live.iter().all(|m| m.state == MessageState::Ready && m.attempts == 0), "{live:?}");
    let workers = admin(&store).workers(WorkerFilter::default()).await.unwrap();
    assert_eq!(workers[0].state, WorkerState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_loop_taken_for_dead_registers_anew_and_goes_on() {
    let store = tasks(1).await;
    let stopped = store.clone();
    let report = handle_until(&store, 3, move |_| {
        let store = stopped.clone();
        async move {
            let ready = WorkerFilter { state: Some(WorkerState::Ready), ..WorkerFilter::default() };
            let worker = admin(&store).workers(ready).await?.remove(0);
            if worker.id.0 < 3 {
                admin(&store).transition(worker.id, WorkerChange::Stop).await?;
                add(&store, 1).await;
            }
            Ok(())
        }
    })
    .await;
    // What the stopped worker held was given back and handled again.
    assert_eq!((report.handled, report.lost), (2, 1), "{report}");
    let workers = admin(&store).workers(WorkerFilter::default()).await.unwrap();
    assert_eq!(workers.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_worker_ends_its_loop_with_the_reason() {
    let store = tasks(0).await;
    let worker = consumer("worker-1", 7, "tasks").create(&store).await.unwrap();
    let (looped, zombie) = (store.clone(), worker.clone());
    let running = tokio::spawn(async move {
        dequeue().worker(&*zombie).handle(|_| async { Ok(()) }).poll(&looped).await
    });
    tokio::time::sleep(SECOND).await;
    let successor = consumer("worker-1", 7, "tasks").create(&store).await.unwrap();
    match running.await.unwrap() {
        Err(Error::WorkerNotReady { worker: id, state: WorkerState::Stopped, replaced_by }) => {
            assert_eq!((id, replaced_by), (worker.id(), Some(successor.id())));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspended_worker_waits_and_goes_on_when_resumed() {
    let (store, start) = (tasks(1).await, Instant::now());
    let worker = consumer("worker-1", 7, "tasks").create(&store).await.unwrap();
    worker.suspend().await.unwrap();
    let (stop, resumed) = (CancellationToken::new(), worker.clone());
    let until = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(10 * SECOND).await;
        resumed.resume().await.unwrap();
    });
    let handler = move |_| {
        stop.cancel();
        async { Ok(()) }
    };
    let looped = dequeue().worker(&*worker).handle(handler).until(until);
    assert_eq!(looped.poll(&store).await.unwrap().handled, 1);
    assert!((10..13).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_its_queue_ends_the_loop() {
    let store = tasks(0).await;
    let looped = store.clone();
    let running = tokio::spawn(async move {
        dequeue().from("tasks").handle(|_| async { Ok(()) }).poll(&looped).await
    });
    tokio::time::sleep(SECOND).await;
    admin(&store).delete_queue("tasks", LiveMessages::Keep).await.unwrap();
    assert!(matches!(running.await.unwrap(), Err(Error::QueueNotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_batch_handler_gets_at_most_a_batch() {
    let store = tasks(10).await;
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let (stop, seen) = (CancellationToken::new(), sizes.clone());
    let until = stop.clone();
    let handler = move |messages: Vec<Message>| {
        let mut seen = seen.lock().unwrap();
        seen.push(messages.len());
        if seen.iter().sum::<usize>() == 10 {
            stop.cancel();
        }
        async { Ok(()) }
    };
    let looped = dequeue().from("tasks").batch(4).handle_batch(handler).until(until);
    assert_eq!(looped.poll(&store).await.unwrap().handled, 10);
    assert!(sizes.lock().unwrap().iter().all(|size| *size <= 4), "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_payload_of_the_wrong_type_fails_with_its_path() {
    #[derive(serde::Deserialize)]
    struct Email {
        to: Vec<String>,
    }
    let store = tasks(0).await;
    enqueue().message(&json!({"to": ["ada", 7]})).to("tasks").execute(&store).await.unwrap();
    let handler = |email: Email| async move { Err(format!("{} parsed", email.to.len()).into()) };
    dequeue().from("tasks").handle_json(handler).execute(&store).await.unwrap();
    let error = live(&store).await.remove(0).last_error.unwrap();
    assert!(error.starts_with("payload at to[1]: invalid type: integer `7`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_delivers_settles_and_gives_back_what_is_dropped() {
    let store = tasks(3).await;
    let mut messages = dequeue().from("tasks").batch(3).stream(&store);
    let first = messages.next().await.unwrap().unwrap();
    let second = messages.next().await.unwrap().unwrap();
    assert_eq!((first.payload.clone(), second.payload.clone()), (json!(0), json!(1)));
    tokio::time::sleep(3600 * SECOND).await;
    first.archive().await.unwrap();
    drop(second);
    drop(messages);
    while live(&store).await.iter().any(|message| message.receipt.is_some()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(live(&store).await.len(), 2);
}

/// Runs a loop until the handler has been called `calls` times.
async fn handle_until<F, Fut>(store: &MemoryStore, calls: usize, handler: F) -> Report
where
    F: Fn(Message) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let (stop, left) = (CancellationToken::new(), Arc::new(AtomicUsize::new(calls)));
    let until = stop.clone();
    let handler = Arc::new(handler);
    let counting = move |message| {
        let (handler, left, stop) = (handler.clone(), left.clone(), stop.clone());
        async move {
            let outcome = handler(message).await;
            if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                stop.cancel();
            }
            outcome
        }
    };
    dequeue().from("tasks").handle(counting).until(until).poll(store).await.unwrap()
}
