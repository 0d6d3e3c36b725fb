//! apalis-postgres, woken by NOTIFY and, as its documentation advises, by polling beneath that.

use std::time::Duration;

use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage};
use futures::FutureExt;
use kit::{CONNECTIONS, HANDLERS, Message, Peer, QUEUE, Result, Tally};
use sqlx::{PgPool, postgres::PgPoolOptions};

const POLL: Duration = Duration::from_millis(100);

pub(crate) struct ApalisPostgres {
    pool: PgPool,
    storage: PostgresStorage<Message>,
}

impl Peer for ApalisPostgres {
    async fn install(url: &str) -> Result {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?;
        PostgresStorage::setup(&pool).await?;
        Ok(())
    }

    async fn open(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?;
        let config = Config::default().queue(QUEUE).batch_size(100);
        Ok(Self { storage: PostgresStorage::new(&pool).with_config(config), pool })
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
        let strategy = Strategy::new().interval(POLL);
        let handlers = tally.clone();
        let worker = WorkerBuilder::new("bench")
            .backend(self.storage.clone().with_pubsub().poll_with_strategy(strategy))
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
        let sql = "SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await?;
        Ok(count.try_into()?)
    }
}
