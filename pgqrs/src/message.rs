//! Messages: what a producer sends, what a consumer holds, what reads show, what history keeps.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Delay, Error, Priority, QueueName, Result, VisibilityTimeout, WorkerId};

/// The number of a message: unique in its store, never reused, growing in enqueue order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub i64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<i64> for MessageId {
    fn from(id: i64) -> Self {
        Self(id)
    }
}

/// Proof of one lease: the message and the claim token it was leased under.
///
/// The token grows on every claim of a message and never repeats, so a receipt of an earlier
/// lease can never act on a later one (a *fencing token*: M. Kleppmann, "How to do distributed
/// locking", 2016).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Receipt {
    /// The message.
    pub id: MessageId,
    /// The claim token of the lease.
    pub token: i64,
}

/// JSON text: compact when made by [`Json::new`], as it stands in the database when read.
///
/// Text keeps what a parsed value loses: the order of keys, `\u0000`, numbers of any size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Json(String);

impl Json {
    /// Serialises `value` to compact JSON.
    ///
    /// # Errors
    /// [`Error::NotJson`] if it does not serialise, for instance a map whose keys are not strings.
    pub fn new<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        serde_json::to_string(value).map(Self).map_err(|source| Error::NotJson { source })
    }

    /// Text read from a store. It is not checked: what other programs wrote may not parse.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The size in bytes of UTF-8: what the payload limit counts.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Parses the text.
    ///
    /// # Errors
    /// [`Error::NotJson`] if it does not parse.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_str(&self.0).map_err(|source| Error::NotJson { source })
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Parses a stored payload and stored headers for a claim (E5).
///
/// # Errors
/// What becomes the dead letter's last error: "payload does not parse: …" or "headers do not
/// parse: …".
pub fn parse_stored(
    payload: &str,
    headers: Option<&str>,
) -> Result<(Value, Map<String, Value>), String> {
    let payload = serde_json::from_str(payload)
        .map_err(|error| format!("payload does not parse: {error}"))?;
    let headers = headers
        .map_or(Ok(Map::new()), serde_json::from_str)
        .map_err(|error| format!("headers do not parse: {error}"))?;
    Ok((payload, headers))
}

/// A message to enqueue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The payload.
    pub payload: Json,
    /// Headers: a JSON object, for instance a trace context. `None` reads back as `{}`.
    pub headers: Option<Json>,
    /// Priority; higher first.
    pub priority: Priority,
    /// The message is not claimable before `now + delay`.
    pub delay: Delay,
    /// Attempts after which it becomes a dead letter; `None`: the queue's setting at this moment.
    pub max_attempts: Option<u32>,
}

impl NewMessage {
    /// A message with `payload`, default priority, no headers and no delay.
    pub fn new(payload: Json) -> Self {
        Self {
            payload,
            headers: None,
            priority: Priority::default(),
            delay: Delay::ZERO,
            max_attempts: None,
        }
    }
}

/// A message that a claim has leased: the consumer's view, payload parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The message's number.
    pub id: MessageId,
    /// The queue it came from.
    pub queue: QueueName,
    /// The payload.
    pub payload: Value,
    /// The headers; empty if it has none.
    pub headers: Map<String, Value>,
    /// Priority; higher first.
    pub priority: Priority,
    /// When it was enqueued.
    pub enqueued_at: DateTime<Utc>,
    /// When this lease was taken.
    pub claimed_at: DateTime<Utc>,
    /// When this lease ends unless it is extended.
    pub visible_at: DateTime<Utc>,
    /// Attempts so far, this one included: 1 on the first delivery.
    pub attempts: u32,
    /// Attempts after which it becomes a dead letter.
    pub max_attempts: u32,
    /// The worker that holds it; `None` for an ephemeral consumer.
    pub worker: Option<WorkerId>,
    /// Why the last failed attempt failed.
    pub last_error: Option<String>,
    /// Proof of this lease; settling takes it.
    pub receipt: Receipt,
}

impl Message {
    /// How long the claim leased it.
    pub(crate) fn lease(&self) -> VisibilityTimeout {
        let lease = (self.visible_at - self.claimed_at).to_std().unwrap_or_default();
        VisibilityTimeout::new(lease).unwrap_or(VisibilityTimeout::MIN)
    }
}

/// Where a live message stands at the moment of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// `visible_at` lies in the future and no consumer holds it.
    Delayed,
    /// Claimable now; an expired lease with attempts left counts as ready.
    Ready,
    /// A consumer holds it, or held it on its last attempt and no claim or sweep has buried it yet.
    Leased,
}

/// A live message as reads show it, payload unparsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveMessage {
    /// The message's number.
    pub id: MessageId,
    /// Its queue.
    pub queue: QueueName,
    /// Where it stands.
    pub state: MessageState,
    /// The payload, as stored.
    pub payload: Json,
    /// The headers, as stored.
    pub headers: Option<Json>,
    /// Priority; higher first.
    pub priority: Priority,
    /// When it was enqueued.
    pub enqueued_at: DateTime<Utc>,
    /// When it is or was to become claimable: end of the delay, end of the lease, or the moment it
    /// became ready.
    pub visible_at: DateTime<Utc>,
    /// Attempts so far.
    pub attempts: u32,
    /// Attempts after which it becomes a dead letter.
    pub max_attempts: u32,
    /// The worker that holds it, if a managed one does.
    pub worker: Option<WorkerId>,
    /// Why the last failed attempt failed.
    pub last_error: Option<String>,
    /// The current receipt, while one is current.
    pub receipt: Option<Receipt>,
}

impl LiveMessage {
    /// The message as the archive keeps it: ended with `outcome` at `archived_at`, its last lease,
    /// if it had one, taken at `claimed_at`.
    pub fn into_archived(
        self,
        outcome: Outcome,
        claimed_at: Option<DateTime<Utc>>,
        archived_at: DateTime<Utc>,
    ) -> ArchivedMessage {
        ArchivedMessage {
            id: self.id,
            queue: self.queue,
            outcome,
            payload: self.payload,
            headers: self.headers,
            priority: self.priority,
            enqueued_at: self.enqueued_at,
            claimed_at,
            archived_at,
            attempts: self.attempts,
            max_attempts: self.max_attempts,
            worker: self.worker,
            last_error: self.last_error,
            receipt: self.receipt,
        }
    }
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A consumer archived it.
    Done,
    /// It ran out of attempts or was declared dead: a dead letter.
    Dead,
}

/// A message in the archive: history as it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedMessage {
    /// The message's number, the same as while it was live.
    pub id: MessageId,
    /// Its queue.
    pub queue: QueueName,
    /// How it ended.
    pub outcome: Outcome,
    /// The payload, as stored.
    pub payload: Json,
    /// The headers, as stored.
    pub headers: Option<Json>,
    /// Priority.
    pub priority: Priority,
    /// When it was enqueued.
    pub enqueued_at: DateTime<Utc>,
    /// When its last lease was taken; `None` if it was never claimed.
    pub claimed_at: Option<DateTime<Utc>>,
    /// When it was archived.
    pub archived_at: DateTime<Utc>,
    /// Attempts it took.
    pub attempts: u32,
    /// Attempts it was allowed.
    pub max_attempts: u32,
    /// The worker of its last lease, if a managed one.
    pub worker: Option<WorkerId>,
    /// Why its last failed attempt failed.
    pub last_error: Option<String>,
    /// The receipt of its last lease; `None` if it was never claimed.
    pub receipt: Option<Receipt>,
}
