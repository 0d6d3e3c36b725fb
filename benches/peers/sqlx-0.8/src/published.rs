//! The pgqrs that was published before ours, on both databases.

use std::{process, time::Duration};

use ::published::{
    Config, Consumer, Producer, QueueMessage, consumer, producer, store::any::AnyStore,
};
use kit::{CONNECTIONS, Message, Peer, QUEUE, Result, Tally};
use serde_json::Value;
use tokio::task::JoinSet;

pub(crate) struct Published {
    store: AnyStore,
    producer: Producer,
}

impl Peer for Published {
    async fn install(url: &str) -> Result {
        let store = connect(url).await?;
        ::published::admin(&store).install().await?;
        ::published::admin(&store).create_queue(QUEUE).await?;
        Ok(())
    }

    async fn open(url: &str) -> Result<Self> {
        let store = connect(url).await?;
        let producer = producer(&worker("producer"), QUEUE).create(&store).await?;
        Ok(Self { store, producer })
    }

    async fn enqueue(&self, message: Message) -> Result {
        self.producer.enqueue(&serde_json::to_value(message)?).await?;
        Ok(())
    }

    async fn enqueue_batch(&self, messages: Vec<Message>) -> Result {
        let payloads = messages.iter().map(serde_json::to_value);
        let payloads: Vec<Value> = payloads.collect::<Result<_, _>>()?;
        self.producer.batch_enqueue(&payloads).await?;
        Ok(())
    }

    async fn work(&self, tally: &Tally) -> Result {
        let consumer = consumer(&worker("waiting"), QUEUE).create(&self.store).await?;
        while !tally.is_done() {
            let waiting = ::published::dequeue().worker(&consumer).batch(100);
            let messages = waiting.until(Duration::from_secs(1)).poll(&self.store).await?;
            handle(messages, &consumer, tally).await?;
        }
        Ok(())
    }

    async fn consume(&self, batch: usize, consumers: usize, tally: &Tally) -> Result {
        let mut running: JoinSet<Result> = JoinSet::new();
        for number in 0..consumers {
            let name = worker(&format!("consumer-{number}"));
            let consumer = consumer(&name, QUEUE).create(&self.store).await?;
            let tally = tally.clone();
            running.spawn(async move {
                while !tally.is_done() {
                    let messages = consumer.dequeue_many(batch).await?;
                    if messages.is_empty() {
                        break;
                    }
                    handle(messages, &consumer, &tally).await?;
                }
                Ok(())
            });
        }
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn unfinished(&self) -> Result<u64> {
        let metrics = ::published::admin(&self.store).queue_metrics(QUEUE).await?;
        Ok((metrics.total_messages - metrics.archived_messages).try_into()?)
    }
}

async fn handle(messages: Vec<QueueMessage>, consumer: &Consumer, tally: &Tally) -> Result {
    let mut ids = Vec::with_capacity(messages.len());
    for message in messages {
        tally.note(&serde_json::from_value(message.payload)?);
        ids.push(message.id);
    }
    if consumer.archive_many(ids).await?.contains(&false) {
        return Err("a message was not archived".into());
    }
    Ok(())
}

/// A URL of Postgres, or the path of a SQLite file.
async fn connect(url: &str) -> Result<AnyStore> {
    let url =
        if url.starts_with('/') { format!("sqlite://{url}?mode=rwc") } else { url.to_owned() };
    let mut config = Config::from_dsn(url).with_max_connections(CONNECTIONS);
    config.validation_config.max_enqueue_per_second = None;
    Ok(::published::connect_with_config(&config).await?)
}

/// A name of this process's own.
fn worker(name: &str) -> String {
    format!("{name}-{}", process::id())
}
