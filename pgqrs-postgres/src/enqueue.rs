//! Adding messages.

use pgqrs::{BatchSize, Enqueue, Error, Json, MessageId, Result};

use crate::{
    error::column,
    pool::params,
    queues::{checked_attempts, not_found},
    store::Inner,
};

pub(crate) async fn enqueue(store: &Inner, enqueue: &Enqueue) -> Result<Vec<MessageId>> {
    let messages = &enqueue.messages;
    BatchSize::new(messages.len())?;
    let max_attempts = messages
        .iter()
        .map(|message| message.max_attempts.map(checked_attempts).transpose())
        .collect::<Result<Vec<_>>>()?;
    let headers = messages.iter().map(|message| message.headers.as_ref().map(Json::as_str));
    let parameters = params![
        enqueue.queue.as_str(),
        messages.iter().map(|message| message.payload.as_str()).collect::<Vec<_>>(),
        headers.collect::<Vec<_>>(),
        messages.iter().map(|message| message.priority.level().into()).collect::<Vec<i16>>(),
        messages.iter().map(|message| message.delay.micros()).collect::<Vec<_>>(),
        max_attempts,
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
