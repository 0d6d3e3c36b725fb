//! The floor for many callers: one thread that writes what they ask for, many requests per commit.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::floor::Floor;
use crate::{
    Result, join,
    ours::{payload, shares, take},
};

/// What a caller asks the writer.
#[derive(Debug, Clone)]
enum Request {
    Enqueue(String),
    Claim,
    Archive(i64),
}

/// The id of the message in question, if there is one.
type Answer = oneshot::Sender<Result<Option<i64>>>;

/// Callers' side of the writer's thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Group {
    requests: mpsc::Sender<(Request, Answer)>,
}

impl Group {
    const PER_COMMIT: usize = 1_024;

    pub(super) fn start(mut floor: Floor) -> Self {
        let (requests, mut waiting) = mpsc::channel::<(Request, Answer)>(Self::PER_COMMIT);
        thread::spawn(move || {
            let mut requests = Vec::new();
            while waiting.blocking_recv_many(&mut requests, Self::PER_COMMIT) > 0 {
                let committed = floor.transaction(|floor| {
                    let mut answers = Vec::with_capacity(requests.len());
                    let mut rest: Vec<_> = std::mem::take(&mut requests);
                    while !rest.is_empty() {
                        for (request, answer) in rest.drain(..) {
                            answers.push((answer, perform(floor, request)?));
                        }
                        while answers.len() + rest.len() < Self::PER_COMMIT
                            && let Ok(request) = waiting.try_recv()
                        {
                            rest.push(request);
                        }
                    }
                    Ok(answers)
                });
                // After a failure the callers find their answers gone.
                for (answer, outcome) in committed.into_iter().flatten() {
                    let _ = answer.send(Ok(outcome));
                }
            }
        });
        Self { requests }
    }

    /// Enqueues one message per request, each task awaiting its own.
    pub(super) async fn enqueue_singly(&self, messages: usize, tasks: usize) -> Result<Duration> {
        let started = Instant::now();
        let mut running = JoinSet::new();
        for share in shares(messages, tasks) {
            let group = self.clone();
            running.spawn(async move {
                let payload = format!("\"{}\"", payload());
                for _ in 0..share {
                    group.ask(Request::Enqueue(payload.clone())).await?;
                }
                Ok(())
            });
        }
        join(running).await?;
        Ok(started.elapsed())
    }

    /// Claims and archives message by message, as two requests.
    pub(super) async fn drain_singly(&self, messages: usize, tasks: usize) -> Result<Duration> {
        let left = Arc::new(AtomicUsize::new(messages));
        let started = Instant::now();
        let mut running = JoinSet::new();
        for _ in 0..tasks {
            let (group, left) = (self.clone(), left.clone());
            running.spawn(async move {
                while take(&left, 1).is_some() {
                    let id = group.ask(Request::Claim).await?.ok_or("empty too early")?;
                    group.ask(Request::Archive(id)).await?;
                }
                Ok(())
            });
        }
        join(running).await?;
        Ok(started.elapsed())
    }

    async fn ask(&self, request: Request) -> Result<Option<i64>> {
        let (answer, answered) = oneshot::channel();
        self.requests.send((request, answer)).await.map_err(|_| "the writer has ended")?;
        answered.await?
    }
}

fn perform(floor: &mut Floor, request: Request) -> Result<Option<i64>> {
    match request {
        Request::Enqueue(payload) => floor.enqueue(&payload).map(Some),
        Request::Claim => Ok(floor.claim(1)?.pop().map(|(id, _)| id)),
        Request::Archive(id) => floor.archive(id).map(|()| Some(id)),
    }
}
