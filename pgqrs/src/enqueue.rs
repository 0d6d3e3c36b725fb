//! The builder that enqueues.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    Delay, Enqueue, Error, Json, MessageId, NewMessage, Priority, Producer, QueueName, Result,
    Store, truncate_to_micros,
};

/// Starts an enqueue.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let store = pgqrs::MemoryStore::new();
/// # pgqrs::admin(&store).create_queue("tasks").await?;
/// let m = serde_json::json!({"to": "ada@example.org"});
/// let ids = pgqrs::enqueue().message(&m).to("tasks").execute(&store).await?;
/// assert_eq!(ids.len(), 1);
///
/// let ms = vec!["a", "b", "c"];
/// pgqrs::enqueue().messages(&ms).to("tasks").delay(30).priority(9).execute(&store).await?;
/// # Ok::<_, pgqrs::Error>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub fn enqueue<'a>() -> EnqueueBuilder<'a> {
    EnqueueBuilder {
        payloads: Ok(Vec::new()),
        queue: None,
        producer: None,
        headers: Ok(None),
        delay: Ok(Delay::ZERO),
        priority: Ok(Priority::default()),
        max_attempts: None,
        now: None,
    }
}

/// Messages about to be enqueued, all or none, with the same options.
#[derive(Debug)]
#[must_use = "nothing is enqueued before execute(&store)"]
pub struct EnqueueBuilder<'a> {
    payloads: Result<Vec<Json>>,
    queue: Option<Result<QueueName>>,
    producer: Option<&'a dyn Producer>,
    headers: Result<Option<Json>>,
    delay: Result<Delay>,
    priority: Result<Priority>,
    max_attempts: Option<u32>,
    now: Option<DateTime<Utc>>,
}

impl<'a> EnqueueBuilder<'a> {
    /// Adds one message: anything that serialises to JSON.
    pub fn message<T: Serialize + ?Sized>(self, message: &T) -> Self {
        self.messages([message])
    }

    /// Adds messages, in order.
    pub fn messages<T: Serialize>(mut self, messages: impl IntoIterator<Item = T>) -> Self {
        if let Ok(payloads) = &mut self.payloads {
            for message in messages {
                match Json::new(&message) {
                    Ok(payload) => payloads.push(payload),
                    Err(error) => {
                        self.payloads = Err(error);
                        break;
                    }
                }
            }
        }
        self
    }

    /// The queue to add them to.
    pub fn to<Q>(mut self, queue: Q) -> Self
    where
        Q: TryInto<QueueName>,
        Q::Error: Into<Error>,
    {
        self.queue = Some(queue.try_into().map_err(Into::into));
        self
    }

    /// Enqueues as this producer, to its queue; refused unless it is ready.
    pub fn worker(mut self, producer: &'a dyn Producer) -> Self {
        self.producer = Some(producer);
        self
    }

    /// Headers of every message: anything that serialises to a JSON object. With the feature `otel`
    /// the current trace context is added, unless they have a [`TRACEPARENT`](crate::TRACEPARENT).
    pub fn headers<T: Serialize + ?Sized>(mut self, headers: &T) -> Self {
        self.headers = object(headers).map(Some);
        self
    }

    /// Not claimable before this many seconds have passed, at most 10 years.
    pub fn delay(self, seconds: u64) -> Self {
        self.with_delay(Duration::from_secs(seconds))
    }

    /// Not claimable before this delay has passed, at most 10 years.
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = Delay::new(delay);
        self
    }

    /// 0 to 9, 4 by default; higher first.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Priority::new(priority);
        self
    }

    /// Attempts after which a message becomes a dead letter; by default the queue's setting.
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.max_attempts = Some(max_attempts);
        self
    }

    /// Enqueues at an instant of the caller's, for tests.
    pub fn at(mut self, now: DateTime<Utc>) -> Self {
        self.now = Some(truncate_to_micros(now));
        self
    }

    /// Enqueues them, all or none; ids come back in input order.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::PayloadTooLarge`], [`Error::OutOfRange`] (delay, priority,
    /// 1 to 10,000 messages), [`Error::NotJson`], [`Error::QueueMissing`]; nothing is enqueued.
    /// After [`Error::Unavailable`] they may have been.
    pub async fn execute<S: Store + ?Sized>(self, store: &S) -> Result<Vec<MessageId>> {
        let producer = self.producer;
        let command = self.command()?;
        if let Some(producer) = producer {
            producer.ensure_ready().await?;
        }
        store.enqueue(command).await
    }

    /// The command, for a backend that enqueues in a transaction of the caller's. A producer's
    /// state is not looked at.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), but for what only the store knows.
    pub fn command(self) -> Result<Enqueue> {
        let (headers, delay, priority) = (self.headers?, self.delay?, self.priority?);
        #[cfg(feature = "otel")]
        let headers = crate::trace::carried(headers)?;
        let message = |payload| NewMessage {
            payload,
            headers: headers.clone(),
            priority,
            delay,
            max_attempts: self.max_attempts,
        };
        let messages = self.payloads?.into_iter().map(message).collect();
        let queue = match (self.queue.transpose()?, self.producer) {
            (Some(asked), Some(producer)) if asked != *producer.queue() => {
                let (worker, serves) = (producer.id(), producer.queue().clone());
                return Err(Error::WrongQueue { worker, serves, asked });
            }
            (_, Some(producer)) => producer.queue().clone(),
            (Some(queue), None) => queue,
            (None, None) => return Err(Error::QueueMissing { remedy: ".to(queue)" }),
        };
        Ok(Enqueue { queue, messages, now: self.now })
    }
}

fn object<T: Serialize + ?Sized>(headers: &T) -> Result<Json> {
    let headers = Json::new(headers)?;
    headers.parse::<serde_json::Map<String, serde_json::Value>>()?;
    Ok(headers)
}
