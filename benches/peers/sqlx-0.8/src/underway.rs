//! underway: its queue and workers, one step each.

use ::underway::{Queue, Task, Worker, task};
use kit::{CONNECTIONS, HANDLERS, Message, Peer, QUEUE, Result, Tally};
use sqlx::{PgPool, Postgres, Transaction, postgres::PgPoolOptions};
use tokio::{
    runtime::Handle,
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

/// Its documentation scales by more workers; each has a connection of its own beside the pool's use.
const WORKERS: usize = 8;

pub(crate) struct Underway {
    pool: PgPool,
    queue: Queue<Handler>,
}

#[derive(Clone)]
struct Handler(Tally);

impl Task for Handler {
    type Input = Message;
    type Output = ();

    async fn execute(&self, _: Transaction<'_, Postgres>, message: Message) -> task::Result<()> {
        self.0.note(&message);
        Ok(())
    }
}

impl Peer for Underway {
    async fn install(url: &str) -> Result {
        let pool = connect(url).await?;
        // Its future is not `Send`.
        let handle = Handle::current();
        let migrate = move || handle.block_on(::underway::run_migrations(&pool));
        spawn_blocking(migrate).await??;
        Self::open(url).await.map(drop)
    }

    async fn open(url: &str) -> Result<Self> {
        let pool = connect(url).await?;
        let queue = Queue::builder().name(QUEUE).pool(pool.clone()).build().await?;
        Ok(Self { pool, queue })
    }

    async fn enqueue(&self, message: Message) -> Result {
        self.queue.enqueue(&self.pool, &idle(), &message).await?;
        Ok(())
    }

    async fn enqueue_batch(&self, messages: Vec<Message>) -> Result {
        self.queue.enqueue_multi(&self.pool, &idle(), &messages).await?;
        Ok(())
    }

    async fn work(&self, tally: &Tally) -> Result {
        let stop = CancellationToken::new();
        let mut worker = Worker::new(self.queue.clone().into(), Handler(tally.clone()));
        worker.set_concurrency_limit(HANDLERS / WORKERS);
        worker.set_shutdown_token(stop.clone());
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let worker = worker.clone();
            workers.spawn(async move { worker.run().await });
        }
        tally.done().await;
        stop.cancel();
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        Ok(())
    }

    async fn unfinished(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM underway.task WHERE state IN ('pending', 'in_progress')";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await?;
        Ok(count.try_into()?)
    }
}

/// A task is asked for its settings when it is enqueued.
fn idle() -> Handler {
    Handler(Tally::new(0))
}

async fn connect(url: &str) -> Result<PgPool> {
    let connections = CONNECTIONS + u32::try_from(WORKERS)?;
    Ok(PgPoolOptions::new().max_connections(connections).connect(url).await?)
}
