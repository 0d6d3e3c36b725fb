//! honker. Its calls block, so its consumers are threads.

use std::{process::ExitCode, thread};

use clap::Parser;
use honker::{Database, EnqueueOpts, Job, Queue, QueueOpts};
use kit::{Call, Message, Peer, QUEUE, Result, Tally, serve};
use tokio::task::JoinSet;

struct Honker {
    database: Database,
    queue: Queue,
}

impl Peer for Honker {
    async fn install(path: &str) -> Result {
        Self::open(path).await.map(drop)
    }

    async fn open(path: &str) -> Result<Self> {
        let database = Database::open(path)?;
        Ok(Self { queue: database.queue(QUEUE, QueueOpts::default()), database })
    }

    async fn enqueue(&self, message: Message) -> Result {
        self.queue.enqueue(&message, EnqueueOpts::default())?;
        Ok(())
    }

    /// It has no call for many; its transactions are meant for that.
    async fn enqueue_batch(&self, messages: Vec<Message>) -> Result {
        let transaction = self.database.transaction()?;
        for message in &messages {
            self.queue.enqueue_tx(&transaction, message, EnqueueOpts::default())?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// No worker comes with it, but a claim that waits for commits.
    async fn work(&self, tally: &Tally) -> Result {
        let (queue, handlers) = (self.queue.clone(), tally.clone());
        let (failed, failure) = tokio::sync::oneshot::channel();
        // Nothing ends a waiting claim but a message: the thread ends with the process.
        thread::spawn(move || {
            let waker = queue.claim_waker();
            let one = || -> Result {
                let job = waker.next("bench")?.ok_or("the watcher has ended")?;
                handlers.note(&job.payload_as()?);
                finished(1, i64::from(job.ack()?))
            };
            while !handlers.is_done() {
                if let Err(error) = one() {
                    let _ = failed.send(error);
                    return;
                }
            }
        });
        tokio::select! {
            () = tally.done() => Ok(()),
            Ok(error) = failure => Err(error),
        }
    }

    async fn consume(&self, batch: usize, consumers: usize, tally: &Tally) -> Result {
        let mut threads = JoinSet::new();
        for consumer in 0..consumers {
            let (queue, tally) = (self.queue.clone(), tally.clone());
            threads.spawn_blocking(move || drain(&queue, &consumer.to_string(), batch, &tally));
        }
        while let Some(thread) = threads.join_next().await {
            thread??;
        }
        Ok(())
    }

    async fn unfinished(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM _honker_live";
        let count: i64 = self.database.with_conn(|c| c.query_row(sql, [], |row| row.get(0)))?;
        Ok(count.try_into()?)
    }
}

fn drain(queue: &Queue, worker: &str, batch: usize, tally: &Tally) -> Result {
    let size = i64::try_from(batch)?;
    while !tally.is_done() {
        let jobs = queue.claim_batch(worker, size)?;
        if jobs.is_empty() {
            break;
        }
        for job in &jobs {
            tally.note(&job.payload_as()?);
        }
        let ids: Vec<i64> = jobs.iter().map(|job: &Job| job.id).collect();
        finished(ids.len(), queue.ack_batch(&ids, worker)?)?;
    }
    Ok(())
}

fn finished(claimed: usize, acknowledged: i64) -> Result {
    if usize::try_from(acknowledged)? == claimed {
        return Ok(());
    }
    Err(format!("{acknowledged} of {claimed} claimed jobs were acknowledged").into())
}

#[tokio::main]
async fn main() -> ExitCode {
    let call = Call::parse();
    kit::exit(match call.library.as_str() {
        "honker" => serve::<Honker>(&call.url, call.task).await,
        other => Err(kit::unknown(other)),
    })
}
