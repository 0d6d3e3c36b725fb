//! How long an enqueued message waits for its handler when nothing else is going on.

use std::{
    env,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::{
    Result,
    contest::Sample,
    ours::{Ours, QUEUE},
};

/// Time between two messages: long enough for everything to be idle again.
const PAUSE: Duration = Duration::from_millis(25);
/// So many messages come first and do not count: connections are made, wake-ups set up.
pub(crate) const WARM_UP: usize = 20;

/// The latencies of those that count.
pub(crate) fn after_warm_up(mut ages: Vec<Duration>) -> Sample {
    Sample::latencies(ages.split_off(WARM_UP.min(ages.len())))
}

/// Who enqueues the messages that are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Producer<'a> {
    /// Another process, on the store of this URL.
    Process(&'a str),
    /// This process, on the consumer's own store.
    Own,
}

/// Handles `messages` in a run loop as they come, one at a time, and returns how old they were.
pub(crate) async fn pick_up<S: Ours>(
    store: &S,
    producer: Producer<'_>,
    messages: usize,
) -> Result<Vec<Duration>> {
    let (ages, stop) =
        (Arc::new(Mutex::new(Vec::with_capacity(messages))), CancellationToken::new());
    let handle = {
        let (ages, stop) = (ages.clone(), stop.clone());
        move |message: pgqrs::Message| {
            let age = age(&message.payload);
            let mut ages = ages.lock().unwrap_or_else(PoisonError::into_inner);
            ages.extend(age);
            if ages.len() == messages {
                stop.cancel();
            }
            async { Ok(()) }
        }
    };
    let polling = pgqrs::dequeue().from(QUEUE).handle(handle).concurrency(64).until(stop);
    let producing = async {
        match producer {
            Producer::Process(url) => ended(offer_from_child(url, Kind::Ours, messages)?).await,
            Producer::Own => offer(store, messages).await,
        }
    };
    let polling = async { polling.poll(store).await.map_err(Into::into) };
    futures::try_join!(polling, producing)?;
    let ages = ages.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(ages.clone())
}

/// What a child process produces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Ours,
    Bare,
}

/// Starts a process that offers messages on the URL.
pub(crate) fn offer_from_child(url: &str, kind: Kind, messages: usize) -> Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--offer", &messages.to_string(), "--url", url]);
    if kind == Kind::Bare {
        command.arg("--bare");
    }
    Ok(command.stdin(Stdio::null()).kill_on_drop(true).spawn()?)
}

/// Waits for a child's good end.
pub(crate) async fn ended(mut child: Child) -> Result<()> {
    let status = child.wait().await?;
    if status.success() { Ok(()) } else { Err(format!("the producer ended with {status}").into()) }
}

/// Enqueues messages, one at a time, with pauses. The last one too: a process that ends at once may
/// take its notification with it, and this is to measure notifications.
pub(crate) async fn offer<S: Ours>(store: &S, messages: usize) -> Result<()> {
    for _ in 0..messages {
        tokio::time::sleep(PAUSE).await;
        pgqrs::enqueue().message(&stamped(Duration::ZERO)).to(QUEUE).execute(store).await?;
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

/// Does `once` with pauses in between.
pub(crate) async fn paced(
    messages: usize,
    mut once: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    for _ in 0..messages {
        tokio::time::sleep(PAUSE).await;
        once().await?;
    }
    Ok(())
}

/// A payload of 200 bytes or so that says when it will be due.
pub(crate) fn stamped(delay: Duration) -> Value {
    json!({ "at": micros(SystemTime::now() + delay), "filler": "x".repeat(163) })
}

/// How long ago the message of this payload was due.
pub(crate) fn age(payload: &Value) -> Option<Duration> {
    let at = payload.get("at")?.as_u64()?;
    Some(Duration::from_micros(micros(SystemTime::now()).saturating_sub(at)))
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}
