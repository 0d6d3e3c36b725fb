//! Adding messages.

use std::{ops::Range, sync::Arc};

use pgqrs::{Delay, Enqueue, Error, Json, MessageId, NewMessage, Result};

use crate::{
    connection::Connection, error::column, group::Call, known, listen, pool::params,
    queues::not_found, store::Inner,
};

/// Messages in a run at most. A claim of few messages writes down again what it leaves of a run.
pub(crate) const RUN: usize = 20;

/// Adds messages, which have been checked but for their sizes, and wakes whoever waits for them.
pub(crate) async fn enqueue(store: &Arc<Inner>, enqueue: &Enqueue) -> Result<Vec<MessageId>> {
    let mut session = store.pool.session().await?;
    let notice = listen::notice(store, &enqueue.queue);
    let is_told = notice.is_some();
    session.send_behind(notice.map(|channel| (store.sql.notify.as_str(), channel)));
    let ids = enqueue_with(store, &mut session, enqueue).await;
    session.finish();
    let delays = enqueue.messages.iter().map(|message| message.delay);
    if let Some(delay) = delays.filter(|delay| *delay > Delay::ZERO).min() {
        known::due_in(store, delay.duration());
    }
    match is_told {
        true => listen::wake(store, &enqueue.queue),
        false if ids.is_ok() => listen::notify(store, &enqueue.queue),
        false => {}
    }
    ids
}

/// The same on a given connection.
pub(crate) async fn enqueue_with(
    store: &Inner,
    connection: &mut impl Connection,
    enqueue: &Enqueue,
) -> Result<Vec<MessageId>> {
    let messages = enqueue.messages.as_slice();
    let rows = match messages {
        [message] if message.delay == Delay::ZERO => {
            let parameters = params![
                enqueue.queue.as_str(),
                message.payload.as_str(),
                message.headers.as_ref().map(Json::as_str),
                i16::from(message.priority.level()),
                max_attempts(message),
                size(message) as i64,
                enqueue.now,
            ];
            connection.query(&store.sql.enqueue_one, parameters).await?
        }
        _ => {
            let has_headers = messages.iter().any(|message| message.headers.is_some());
            // Without any, the server fills in nulls.
            let with_headers = if has_headers { messages } else { &[] };
            let headers = with_headers.iter().map(|message| message.headers.as_ref());
            let runs = runs(messages);
            let parameters = params![
                enqueue.queue.as_str(),
                messages.iter().map(|message| message.payload.as_str()).collect::<Vec<_>>(),
                headers.map(|headers| headers.map(Json::as_str)).collect::<Vec<_>>(),
                messages
                    .iter()
                    .map(|message| message.priority.level().into())
                    .collect::<Vec<i16>>(),
                messages.iter().map(max_attempts).collect::<Vec<_>>(),
                messages.iter().map(size).max().unwrap_or_default() as i64,
                enqueue.now,
                runs.iter().map(|run| run.start as i32 + 1).collect::<Vec<_>>(),
                runs.iter().map(|run| run.end as i32).collect::<Vec<_>>(),
                of_each(&runs, |first| i16::from(messages[first].priority.level())),
                of_each(&runs, |first| messages[first].delay.micros()),
                of_each(&runs, |first| max_attempts(&messages[first])),
            ];
            connection.query(&store.sql.enqueue, parameters).await?
        }
    };
    let Some(row) = rows.first() else {
        return Err(not_found(&enqueue.queue));
    };
    if !column::<bool>(row, "fits")? {
        let limit = column::<i64>(row, "payload_limit")? as usize;
        let sizes = messages.iter().map(size).enumerate();
        let too_large = sizes.into_iter().find(|(_, size)| *size > limit);
        let (index, size) = too_large.unwrap_or_default();
        return Err(Error::PayloadTooLarge { index, size, limit });
    }
    let ids: Option<Vec<i64>> = column(row, "ids")?;
    Ok(ids.unwrap_or_default().into_iter().map(MessageId).collect())
}

/// The messages that go together: neighbours that are alike.
fn runs(messages: &[NewMessage]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::with_capacity(messages.len().div_ceil(RUN));
    let kind = |message: &NewMessage| (message.priority, message.delay, message.max_attempts);
    for (nth, message) in messages.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if run.len() < RUN && kind(&messages[run.start]) == kind(message) => {
                run.end += 1;
            }
            _ => runs.push(nth..nth + 1),
        }
    }
    runs
}

fn of_each<T>(runs: &[Range<usize>], value: impl Fn(usize) -> T) -> Vec<T> {
    runs.iter().map(|run| value(run.start)).collect()
}

fn max_attempts(message: &NewMessage) -> Option<i16> {
    message.max_attempts.map(|max| max as i16)
}

/// The larger of payload and headers, in bytes.
fn size(message: &NewMessage) -> usize {
    message.payload.size().max(message.headers.as_ref().map_or(0, Json::size))
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
