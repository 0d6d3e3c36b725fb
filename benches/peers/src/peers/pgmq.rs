//! pgmq: its SQL, installed from the crate, and the crate's client.

use std::{marker::PhantomData, time::Duration};

use futures::future::try_join_all;
use kit::{CONNECTIONS, Message, Peer, QUEUE, Result, Tally};
use pgmq::{PGMQueueExt, types::Message as Read};
use serde_json::Value;
use sqlx::postgres::PgPoolOptions;

/// How long a message is invisible after it was read.
const VISIBILITY: i32 = 60;

/// What becomes of finished messages.
pub(crate) trait Finish: Send + Sync + 'static {
    fn finish(queue: &PGMQueueExt, ids: &[i64]) -> impl Future<Output = Result> + Send;
}

/// They are deleted.
pub(crate) struct Delete;

/// They are moved to the archive, as ours are.
pub(crate) struct Archive;

pub(crate) struct Pgmq<F> {
    queue: PGMQueueExt,
    _finish: PhantomData<F>,
}

impl Finish for Delete {
    async fn finish(queue: &PGMQueueExt, ids: &[i64]) -> Result {
        queue.delete_batch(QUEUE, ids).await?;
        Ok(())
    }
}

impl Finish for Archive {
    async fn finish(queue: &PGMQueueExt, ids: &[i64]) -> Result {
        queue.archive_batch(QUEUE, ids).await?;
        Ok(())
    }
}

impl<F: Finish> Pgmq<F> {
    async fn drain(&self, batch: i32, tally: &Tally) -> Result {
        while !tally.is_done() {
            let read = self.queue.read_batch(QUEUE, VISIBILITY, batch).await?;
            if read.is_empty() {
                break;
            }
            self.handle(read, tally).await?;
        }
        Ok(())
    }

    async fn handle(&self, read: Vec<Read<Message, Value>>, tally: &Tally) -> Result {
        if read.is_empty() {
            return Ok(());
        }
        let mut ids = Vec::with_capacity(read.len());
        for message in read {
            tally.note(&message.message);
            ids.push(message.msg_id);
        }
        F::finish(&self.queue, &ids).await
    }
}

impl<F: Finish> Peer for Pgmq<F> {
    async fn install(url: &str) -> Result {
        let queue = connect(url).await?;
        queue.install_sql_from_embedded().await?;
        queue.create(QUEUE).await?;
        Ok(())
    }

    async fn open(url: &str) -> Result<Self> {
        let queue = connect(url).await?;
        Ok(Self { queue, _finish: PhantomData })
    }

    async fn enqueue(&self, message: Message) -> Result {
        self.queue.send(QUEUE, &message).await?;
        Ok(())
    }

    async fn enqueue_batch(&self, messages: Vec<Message>) -> Result {
        self.queue.send_batch(QUEUE, &messages).await?;
        Ok(())
    }

    /// No worker comes with it, but a read that waits in the server.
    async fn work(&self, tally: &Tally) -> Result {
        while !tally.is_done() {
            let wait = Some(Duration::from_secs(1));
            let read = self.queue.read_batch_with_poll(QUEUE, VISIBILITY, 100, wait, None).await?;
            self.handle(read, tally).await?;
        }
        Ok(())
    }

    async fn consume(&self, batch: usize, consumers: usize, tally: &Tally) -> Result {
        let batch = i32::try_from(batch)?;
        let consumers = (0..consumers).map(|_| self.drain(batch, tally));
        try_join_all(consumers).await.map(drop)
    }

    async fn unfinished(&self) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM pgmq.q_{QUEUE}");
        let sql = sqlx::AssertSqlSafe(sql);
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&self.queue.connection).await?;
        Ok(count.try_into()?)
    }
}

/// With a pool of our own, for its own way to connect insists on a password in the URL.
async fn connect(url: &str) -> Result<PGMQueueExt> {
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?;
    Ok(PGMQueueExt::new_with_pool(pool).await)
}
