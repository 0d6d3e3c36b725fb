//! graphile_worker, tuned as its guides advise for bursts of jobs: a local queue, and completions in batches.

use std::{sync::Arc, time::Duration};

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions,
    WorkerUtils,
};
use kit::{CONNECTIONS, HANDLERS, Message, Peer, Result, Tally};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};

const SCHEMA: &str = "graphile_worker";

pub(crate) struct Graphile {
    pool: PgPool,
    utils: WorkerUtils,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Job(Message);

impl TaskHandler for Job {
    const IDENTIFIER: &'static str = "bench";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let tally = context.get_ext::<Tally>().ok_or("no tally")?;
        tally.note(&self.0);
        Ok::<(), &str>(())
    }
}

impl Peer for Graphile {
    async fn install(url: &str) -> Result {
        Self::open(url).await?.utils.migrate().await?;
        Ok(())
    }

    async fn open(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?;
        Ok(Self { utils: WorkerUtils::new(pool.clone(), SCHEMA), pool })
    }

    async fn enqueue(&self, message: Message) -> Result {
        self.utils.add_job(Job(message), JobSpec::default()).await?;
        Ok(())
    }

    async fn enqueue_batch(&self, messages: Vec<Message>) -> Result {
        let spec = JobSpec::default();
        let jobs: Vec<(Job, &JobSpec)> = messages.into_iter().map(|m| (Job(m), &spec)).collect();
        self.utils.add_jobs::<Job>(&jobs).await?;
        Ok(())
    }

    async fn work(&self, tally: &Tally) -> Result {
        let worker = WorkerOptions::default()
            .schema(SCHEMA)
            .concurrency(HANDLERS)
            .poll_interval(Duration::from_millis(500))
            .local_queue(LocalQueueConfig::default().with_size(500))
            .complete_job_batch_delay(Duration::from_millis(5))
            .fail_job_batch_delay(Duration::from_millis(5))
            .listen_os_shutdown_signals(false)
            .add_extension(tally.clone())
            .define_job::<Job>()
            .pg_pool(self.pool.clone())
            .init()
            .await?;
        let worker = Arc::new(worker);
        let running = tokio::spawn({
            let worker = worker.clone();
            async move { worker.run().await }
        });
        tally.done().await;
        worker.request_shutdown();
        running.await??;
        Ok(())
    }

    async fn unfinished(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM graphile_worker._private_jobs";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await?;
        Ok(count.try_into()?)
    }
}
