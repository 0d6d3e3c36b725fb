//! pgqrs, on both databases.

use std::{marker::PhantomData, sync::Arc};

use futures::future::try_join_all;
use kit::{HANDLERS, Message, Peer, QUEUE, Result, Tally};
use pgqrs::{Backends, Store, admin};
use tokio_util::sync::CancellationToken;

/// How many messages wait in memory for a free handler.
pub(crate) trait Prefetch: Send + Sync + 'static {
    const MESSAGES: usize;
}

/// As many as there are handlers, as it comes.
pub(crate) struct AsItComes;

/// As many as graphile_worker's local queue has.
pub(crate) struct FiveHundred;

pub(crate) struct Ours<P> {
    store: Arc<dyn Store>,
    _prefetch: PhantomData<P>,
}

impl Prefetch for AsItComes {
    const MESSAGES: usize = HANDLERS;
}

impl Prefetch for FiveHundred {
    const MESSAGES: usize = 500;
}

impl<P> Ours<P> {
    async fn drain(&self, batch: usize, tally: &Tally) -> Result {
        let consumer = pgqrs::consumer("bench", 0, QUEUE).create(&self.store).await?;
        while !tally.is_done() {
            let dequeue = pgqrs::dequeue().worker(&*consumer).batch(batch);
            let claimed = dequeue.fetch_all(&self.store).await?;
            if claimed.is_empty() {
                break;
            }
            let mut ids = Vec::with_capacity(claimed.len());
            for message in claimed {
                tally.note(&serde_json::from_value(message.payload)?);
                ids.push(message.id);
            }
            if consumer.archive_many(&ids).await?.iter().any(std::result::Result::is_err) {
                return Err("a lease was lost".into());
            }
        }
        Ok(())
    }
}

impl<P: Prefetch> Peer for Ours<P> {
    async fn install(url: &str) -> Result {
        let store = connect(url).await?;
        admin(&store).install().await?;
        admin(&store).create_queue(QUEUE).await?;
        Ok(())
    }

    async fn open(url: &str) -> Result<Self> {
        Ok(Self { store: connect(url).await?, _prefetch: PhantomData })
    }

    async fn enqueue(&self, message: Message) -> Result {
        pgqrs::enqueue().message(&message).to(QUEUE).execute(&self.store).await?;
        Ok(())
    }

    async fn enqueue_batch(&self, messages: Vec<Message>) -> Result {
        pgqrs::enqueue().messages(&messages).to(QUEUE).execute(&self.store).await?;
        Ok(())
    }

    async fn work(&self, tally: &Tally) -> Result {
        let stop = CancellationToken::new();
        let (handlers, stopping) = (tally.clone(), stop.clone());
        let polling = pgqrs::dequeue()
            .from(QUEUE)
            .handle_json(move |message: Message| {
                handlers.note(&message);
                async { Ok(()) }
            })
            .concurrency(HANDLERS)
            .prefetch(P::MESSAGES)
            .until(stopping)
            .poll(&self.store);
        let stopping = async {
            tally.done().await;
            stop.cancel();
        };
        let (report, ()) = tokio::join!(polling, stopping);
        report?;
        Ok(())
    }

    async fn consume(&self, batch: usize, consumers: usize, tally: &Tally) -> Result {
        let consumers = (0..consumers).map(|_| self.drain(batch, tally));
        try_join_all(consumers).await.map(drop)
    }

    async fn unfinished(&self) -> Result<u64> {
        let metrics = admin(&self.store).queue_metrics(QUEUE).await?;
        Ok(metrics.ready + metrics.delayed + metrics.leased)
    }
}

/// A URL of Postgres, or the path of a SQLite file.
async fn connect(url: &str) -> Result<Arc<dyn Store>> {
    let backends = Backends::new(&[&pgqrs_postgres::Postgres, &pgqrs_sqlite::Sqlite]);
    if url.starts_with('/') {
        return Ok(backends.connect(&format!("sqlite:///{url}?synchronous=normal")).await?);
    }
    Ok(backends.connect(url).await?)
}
