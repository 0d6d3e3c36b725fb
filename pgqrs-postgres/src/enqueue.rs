//! Adding messages.

use pgqrs::{Enqueue, Error, Json, MessageId, NewMessage, Result};

use crate::{error::column, group::Call, pool::params, queues::not_found, store::Inner};

/// Adds messages, which have been checked but for their sizes.
pub(crate) async fn enqueue(store: &Inner, enqueue: &Enqueue) -> Result<Vec<MessageId>> {
    let messages = &enqueue.messages;
    let max_attempts = messages.iter().map(|message| message.max_attempts.map(|max| max as i16));
    let headers = messages.iter().map(|message| message.headers.as_ref().map(Json::as_str));
    let parameters = params![
        enqueue.queue.as_str(),
        messages.iter().map(|message| message.payload.as_str()).collect::<Vec<_>>(),
        headers.collect::<Vec<_>>(),
        messages.iter().map(|message| message.priority.level().into()).collect::<Vec<i16>>(),
        messages.iter().map(|message| message.delay.micros()).collect::<Vec<_>>(),
        max_attempts.collect::<Vec<_>>(),
        enqueue.now,
    ];
    let row = store.pool.query_one(&store.sql.enqueue, parameters).await?;
    if !column::<bool>(&row, "found")? {
        return Err(not_found(&enqueue.queue));
    }
    if let Some(nth) = column::<Option<i64>>(&row, "nth")? {
        let size: i32 = column(&row, "size")?;
        let limit: i64 = column(&row, "payload_limit")?;
        return Err(Error::PayloadTooLarge {
            index: nth as usize - 1,
            size: size as usize,
            limit: limit as usize,
        });
    }
    let ids: Option<Vec<i64>> = column(&row, "ids")?;
    Ok(ids.unwrap_or_default().into_iter().map(MessageId).collect())
}

impl Call for Enqueue {
    type Answer = Vec<MessageId>;

    fn rows(&self) -> usize {
        self.messages.len()
    }

    fn bytes(&self) -> usize {
        let headers = |message: &NewMessage| message.headers.as_ref().map_or(0, Json::size);
        self.messages.iter().map(|message| message.payload.size() + headers(message)).sum()
    }

    fn shares_with(&self, first: &Self) -> bool {
        self.queue == first.queue
    }

    fn joined_by(&self, others: &[Self]) -> Self {
        let messages = others.iter().flat_map(|call| call.messages.iter().cloned());
        Self { messages: self.messages.iter().cloned().chain(messages).collect(), ..self.clone() }
    }

    fn split(calls: &[Self], answer: Vec<MessageId>) -> Vec<Vec<MessageId>> {
        let mut ids = answer.into_iter();
        calls.iter().map(|call| ids.by_ref().take(call.messages.len()).collect()).collect()
    }
}
