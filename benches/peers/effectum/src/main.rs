//! effectum. Its queue belongs to one process: a second one that opens the file takes the running jobs for lost.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use effectum::{Error, Job, JobRunner, Queue, RunningJob, Worker};
use kit::{Call, HANDLERS, Message, Peer, QUEUE, Result, Tally, serve};

struct Effectum {
    queue: Queue,
}

impl Peer for Effectum {
    async fn install(path: &str) -> Result {
        let peer = Self::open(path).await?;
        peer.queue.close(Duration::from_secs(5)).await?;
        Ok(())
    }

    async fn open(path: &str) -> Result<Self> {
        Ok(Self { queue: Queue::new(Path::new(path)).await? })
    }

    async fn enqueue(&self, message: Message) -> Result {
        self.queue.add_job(job(&message)?).await?;
        Ok(())
    }

    async fn enqueue_batch(&self, messages: Vec<Message>) -> Result {
        let jobs: Vec<Job> = messages.iter().map(job).collect::<Result<_>>()?;
        self.queue.add_jobs(jobs).await?;
        Ok(())
    }

    async fn work(&self, tally: &Tally) -> Result {
        let handlers = u16::try_from(HANDLERS)?;
        let worker = Worker::builder(&self.queue, Arc::new(tally.clone()))
            .jobs([JobRunner::builder(QUEUE, handle).build()])
            .min_concurrency(handlers / 2)
            .max_concurrency(handlers)
            .build()
            .await?;
        tally.done().await;
        worker.unregister(Some(Duration::from_secs(5))).await?;
        Ok(())
    }

    async fn unfinished(&self) -> Result<u64> {
        let active = self.queue.num_active_jobs().await?;
        Ok(active.pending + active.running)
    }
}

async fn handle(job: RunningJob, tally: Arc<Tally>) -> Result<(), Error> {
    let message: Message = job.json_payload()?;
    tally.note(&message);
    Ok(())
}

fn job(message: &Message) -> Result<Job> {
    Ok(Job::builder(QUEUE).json_payload(message)?.build())
}

#[tokio::main]
async fn main() -> ExitCode {
    let call = Call::parse();
    kit::exit(match call.library.as_str() {
        "effectum" => serve::<Effectum>(&call.url, call.task).await,
        other => Err(kit::unknown(other)),
    })
}
