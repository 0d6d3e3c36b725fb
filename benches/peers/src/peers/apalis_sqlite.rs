//! apalis-sqlite, woken by SQLite's update hook, which sees its own process only, and by polling.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteStorage, callback::HookCallbackListener};
use futures::FutureExt;
use kit::{HANDLERS, Message, Peer, QUEUE, Result, Tally};
use sqlx::SqlitePool;

const POLL: Duration = Duration::from_millis(100);

pub(crate) struct ApalisSqlite {
    pool: SqlitePool,
    storage: SqliteStorage<Message>,
    /// Until a worker takes it.
    listener: Mutex<Option<HookCallbackListener>>,
}

impl Peer for ApalisSqlite {
    async fn install(path: &str) -> Result {
        Self::open(path).await?.pool.close().await;
        Ok(())
    }

    async fn open(path: &str) -> Result<Self> {
        let url = format!("sqlite://{path}?mode=rwc");
        let (pool, listener) = SqliteStorage::connect_with_callback(&url)?;
        SqliteStorage::setup(&pool).await?;
        let config = Config::default().queue(QUEUE).batch_size(100);
        let storage = SqliteStorage::new(&pool).with_config(config);
        Ok(Self { pool, storage, listener: Mutex::new(Some(listener)) })
    }

    async fn enqueue(&self, message: Message) -> Result {
        self.storage.clone().push(message).await?;
        Ok(())
    }

    async fn enqueue_batch(&self, messages: Vec<Message>) -> Result {
        self.storage.clone().push_bulk(messages).await?;
        Ok(())
    }

    async fn work(&self, tally: &Tally) -> Result {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let strategy = Strategy::new().stream(listener.ok_or("one worker only")?).interval(POLL);
        let handlers = tally.clone();
        let worker = WorkerBuilder::new("bench")
            .backend(self.storage.clone().poll_with_strategy(strategy))
            .concurrency(HANDLERS)
            .parallelize(tokio::spawn)
            .build(move |message: Message| {
                handlers.note(&message);
                async { Ok::<(), BoxDynError>(()) }
            });
        let done = tally.clone();
        let signal = async move {
            done.done().await;
            Ok::<(), std::io::Error>(())
        };
        Ok(worker.run_until(signal).boxed().await?)
    }

    async fn unfinished(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM Jobs WHERE status <> 'Done'";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await?;
        Ok(count.try_into()?)
    }
}
