//! Reads of messages and the archive, and the way back from there.

use pgqrs::{
    ArchiveFilter, ArchivedMessage, DeadLetters, Json, LiveMessage, MessageFilter, MessageId,
    MessageState, Outcome, QueueName, Receipt, Redrive, Result, WorkerId,
};
use tokio_postgres::Row;

use crate::{
    claim::{attempts, priority},
    error::column,
    pool::params,
    queues::{name, not_found, outcome_name},
    store::Inner,
};

pub(crate) async fn messages(store: &Inner, filter: &MessageFilter) -> Result<Vec<LiveMessage>> {
    let state = filter.state.map(|state| match state {
        MessageState::Delayed => "delayed",
        MessageState::Ready => "ready",
        MessageState::Leased => "leased",
    });
    let parameters = params![
        filter.queue.as_ref().map(QueueName::as_str),
        state,
        filter.id.map(|id| id.0),
        filter.worker.map(|worker| worker.0),
        filter.page.after.map(|id| id.0),
        filter.page.limit.count() as i64,
        filter.now,
    ];
    store.pool.query(&store.sql.messages, parameters).await?.iter().map(live_message).collect()
}

pub(crate) async fn archive(store: &Inner, filter: &ArchiveFilter) -> Result<Vec<ArchivedMessage>> {
    let parameters = params![
        filter.queue.as_ref().map(QueueName::as_str),
        filter.outcome.map(outcome_name),
        filter.id.map(|id| id.0),
        filter.page.after.map(|id| id.0),
        filter.page.limit.count() as i64,
        filter.now,
    ];
    let statement = match filter.id {
        Some(_) => &store.sql.archived_message,
        None => &store.sql.archive_page,
    };
    let rows = store.pool.query(statement, parameters).await?;
    rows.iter().map(archived_message).collect()
}

pub(crate) async fn redrive(store: &Inner, redrive: &Redrive) -> Result<Vec<MessageId>> {
    let (ids, limit) = match &redrive.letters {
        DeadLetters::Oldest(limit) => (None, limit.count() as i64),
        DeadLetters::Ids(ids) => (Some(ids.iter().map(|id| id.0).collect::<Vec<_>>()), i64::MAX),
    };
    let parameters = params![redrive.queue.as_str(), ids, limit, redrive.now];
    let row = store.pool.query_one(&store.sql.redrive, parameters).await?;
    if !column::<bool>(&row, "found")? {
        return Err(not_found(&redrive.queue));
    }
    let ids: Option<Vec<i64>> = column(&row, "ids")?;
    Ok(ids.unwrap_or_default().into_iter().map(MessageId).collect())
}

fn live_message(row: &Row) -> Result<LiveMessage> {
    Ok(LiveMessage {
        id: MessageId(column(row, "id")?),
        queue: name(row)?,
        state: match column::<String>(row, "state")?.as_str() {
            "delayed" => MessageState::Delayed,
            "ready" => MessageState::Ready,
            _ => MessageState::Leased,
        },
        payload: Json::from_stored(column::<String>(row, "payload")?),
        headers: column::<Option<String>>(row, "headers")?.map(Json::from_stored),
        priority: priority(row)?,
        enqueued_at: column(row, "enqueued_at")?,
        visible_at: column(row, "visible_at")?,
        attempts: attempts(row, "attempts")?,
        max_attempts: attempts(row, "max_attempts")?,
        worker: column::<Option<i64>>(row, "worker_id")?.map(WorkerId),
        last_error: column(row, "last_error")?,
        receipt: receipt(row)?,
    })
}

fn archived_message(row: &Row) -> Result<ArchivedMessage> {
    Ok(ArchivedMessage {
        id: MessageId(column(row, "id")?),
        queue: name(row)?,
        outcome: match column::<String>(row, "outcome")?.as_str() {
            "done" => Outcome::Done,
            _ => Outcome::Dead,
        },
        payload: Json::from_stored(column::<String>(row, "payload")?),
        headers: column::<Option<String>>(row, "headers")?.map(Json::from_stored),
        priority: priority(row)?,
        enqueued_at: column(row, "enqueued_at")?,
        claimed_at: column(row, "claimed_at")?,
        archived_at: column(row, "archived_at")?,
        attempts: attempts(row, "attempts")?,
        max_attempts: attempts(row, "max_attempts")?,
        worker: column::<Option<i64>>(row, "worker_id")?.map(WorkerId),
        last_error: column(row, "last_error")?,
        receipt: receipt(row)?,
    })
}

/// The receipt in a row, if it has one.
fn receipt(row: &Row) -> Result<Option<Receipt>> {
    let (id, token) = (MessageId(column(row, "id")?), column::<Option<i64>>(row, "token")?);
    Ok(token.map(|token| Receipt { id, token }))
}
