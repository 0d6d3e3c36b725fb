//! The floors: the best bare statements known for the same work, in plain loops.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tokio_postgres::{Client, Statement};

use crate::{
    Result, join,
    ours::{payload, put_back, shares, take},
};

/// A table layout with its statements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floor {
    schema: &'static str,
    /// $1 payloads.
    enqueue: &'static str,
    /// $1 payload.
    enqueue_one: &'static str,
    /// $1 limit; answers with ids and payloads.
    claim: &'static str,
    /// $1 ids.
    finish: &'static str,
    /// $1 id.
    finish_one: &'static str,
    /// $1 how many messages.
    fill: &'static str,
}

/// One table: claim and archive are updates in place, found by a partial index.
pub(crate) const IN_PLACE: Floor = Floor {
    schema: "
CREATE SEQUENCE tokens;
CREATE TABLE messages (
    id bigserial PRIMARY KEY, queue_id int NOT NULL, payload text NOT NULL,
    enqueued_at timestamptz NOT NULL DEFAULT now(), visible_at timestamptz NOT NULL DEFAULT now(),
    token bigint, attempts smallint NOT NULL DEFAULT 0, claimed_at timestamptz,
    archived_at timestamptz);
CREATE INDEX messages_ready ON messages (queue_id, visible_at, id) WHERE archived_at IS NULL;",
    enqueue: "
INSERT INTO messages (queue_id, payload) SELECT 1, p FROM unnest($1::text[]) AS p RETURNING id",
    enqueue_one: "INSERT INTO messages (queue_id, payload) VALUES (1, $1) RETURNING id",
    claim: "
UPDATE messages
SET visible_at = now() + interval '30 s', token = nextval('tokens'), attempts = attempts + 1,
    claimed_at = now()
WHERE id = ANY (ARRAY (
    SELECT id FROM messages
    WHERE queue_id = 1 AND visible_at <= now() AND archived_at IS NULL
    ORDER BY visible_at, id LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING id, payload, token, attempts, enqueued_at",
    finish: "UPDATE messages SET archived_at = now() WHERE id = ANY ($1::bigint[])",
    finish_one: "UPDATE messages SET archived_at = now() WHERE id = $1",
    fill: "
INSERT INTO messages (queue_id, payload)
SELECT 1, '\"' || repeat('x', 198) || '\"' FROM generate_series(1, $1::bigint)",
};

/// Narrow tables of rows that are inserted and deleted, never updated, beside the payloads. It keeps
/// no archive.
pub(crate) const RELAY: Floor = Floor {
    schema: "
CREATE SEQUENCE tokens;
CREATE TABLE messages (
    id bigserial PRIMARY KEY, payload text NOT NULL, enqueued_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE ready (queue_id int NOT NULL, id bigint NOT NULL);
CREATE INDEX ready_order ON ready (queue_id, id);
CREATE TABLE leases (
    id bigint PRIMARY KEY, token bigint NOT NULL, attempts smallint NOT NULL,
    visible_at timestamptz NOT NULL);",
    enqueue: "
WITH m AS (
    INSERT INTO messages (payload) SELECT p FROM unnest($1::text[]) AS p RETURNING id
)
INSERT INTO ready SELECT 1, id FROM m RETURNING id",
    enqueue_one: "
WITH m AS (INSERT INTO messages (payload) VALUES ($1) RETURNING id)
INSERT INTO ready SELECT 1, id FROM m RETURNING id",
    claim: "
WITH taken AS (
    DELETE FROM ready WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM ready WHERE queue_id = 1 ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING id
), leased AS (
    INSERT INTO leases SELECT id, nextval('tokens'), 1, now() + interval '30 s' FROM taken
    RETURNING id, token, attempts
)
SELECT id, (SELECT payload FROM messages m WHERE m.id = l.id), token, attempts FROM leased l",
    finish: "DELETE FROM leases WHERE id = ANY ($1::bigint[])",
    finish_one: "DELETE FROM leases WHERE id = $1",
    fill: "
WITH m AS (
    INSERT INTO messages (payload)
    SELECT '\"' || repeat('x', 198) || '\"' FROM generate_series(1, $1::bigint) RETURNING id
)
INSERT INTO ready SELECT 1, id FROM m",
};

impl Floor {
    /// Leases up to $1 messages; answers with ids and payloads.
    pub(crate) fn claim_sql(&self) -> &'static str {
        self.claim
    }

    pub(crate) async fn create(&self, client: &Client) -> Result<()> {
        Ok(client.batch_execute(self.schema).await?)
    }

    pub(crate) async fn fill(&self, client: &Client, messages: usize) -> Result<()> {
        client.execute(self.fill, &[&(messages as i64)]).await?;
        Ok(())
    }

    /// Enqueues in batches, one caller per connection.
    pub(crate) async fn enqueue_batches(
        &self,
        clients: Vec<Client>,
        messages: usize,
        batch: usize,
    ) -> Result<Duration> {
        let loops = prepared(clients, &[self.enqueue]).await?;
        let callers = loops.len();
        timed(loops.into_iter().zip(shares(messages, callers)).map(|(session, share)| async move {
            let payloads = vec![format!("\"{}\"", payload()); batch];
            let mut left = share;
            while left > 0 {
                let size = left.min(batch);
                let payloads = &payloads[..size];
                let rows = session.client.query(&session.statements[0], &[&payloads]).await?;
                assert_count(rows.len(), size)?;
                left -= size;
            }
            Ok(())
        }))
        .await
    }

    /// Enqueues one message per statement, one caller per connection.
    pub(crate) async fn enqueue_singly(
        &self,
        clients: Vec<Client>,
        messages: usize,
    ) -> Result<Duration> {
        let loops = prepared(clients, &[self.enqueue_one]).await?;
        let callers = loops.len();
        timed(loops.into_iter().zip(shares(messages, callers)).map(|(session, share)| async move {
            let payload = format!("\"{}\"", payload());
            for _ in 0..share {
                session.client.query_one(&session.statements[0], &[&payload]).await?;
            }
            Ok(())
        }))
        .await
    }

    /// Claims and finishes in batches, one consumer per connection.
    pub(crate) async fn drain(
        &self,
        clients: Vec<Client>,
        messages: usize,
        batch: usize,
    ) -> Result<Duration> {
        let loops = prepared(clients, &[self.claim, self.finish]).await?;
        let left = Arc::new(AtomicUsize::new(messages));
        timed(loops.into_iter().map(|session| {
            let left = left.clone();
            async move {
                while let Some(size) = take(&left, batch) {
                    let ids = session.claim(size).await?;
                    if ids.is_empty() {
                        return Err("the queue is empty too early".into());
                    }
                    put_back(&left, size - ids.len());
                    let done = session.client.execute(&session.statements[1], &[&ids]).await?;
                    assert_count(done as usize, ids.len())?;
                }
                Ok(())
            }
        }))
        .await
    }

    /// Finishes one message per statement, one caller per connection, what was claimed before.
    pub(crate) async fn finish_singly(
        &self,
        clients: Vec<Client>,
        messages: usize,
    ) -> Result<Duration> {
        let loops = prepared(clients, &[self.claim, self.finish_one]).await?;
        let (mut held, callers) = (Vec::new(), loops.len());
        for (session, share) in loops.iter().zip(shares(messages, callers)) {
            held.push(session.claim(share).await?);
        }
        timed(loops.into_iter().zip(held).map(|(session, ids)| async move {
            for id in ids {
                let done = session.client.execute(&session.statements[1], &[&id]).await?;
                assert_count(done as usize, 1)?;
            }
            Ok(())
        }))
        .await
    }

    /// Claims, finishes, and enqueues as much again, until told to stop; counts what it finished.
    pub(crate) async fn churn(
        &self,
        client: Client,
        batch: usize,
        finished: &AtomicUsize,
    ) -> Result<()> {
        let mut sessions = prepared(vec![client], &[self.claim, self.finish, self.enqueue]).await?;
        let session = sessions.pop().ok_or("no session")?;
        let payloads = vec![format!("\"{}\"", payload()); batch];
        loop {
            let ids = session.claim(batch).await?;
            session.client.execute(&session.statements[1], &[&ids]).await?;
            session.client.query(&session.statements[2], &[&&payloads[..ids.len()]]).await?;
            finished.fetch_add(ids.len(), std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// A connection and its statements.
struct Session {
    client: Client,
    statements: Vec<Statement>,
}

impl Session {
    /// By the first statement.
    async fn claim(&self, limit: usize) -> Result<Vec<i64>> {
        let rows = self.client.query(&self.statements[0], &[&(limit as i64)]).await?;
        rows.iter()
            .map(|row| {
                let _payload: &str = row.try_get(1)?;
                Ok(row.try_get(0)?)
            })
            .collect()
    }
}

async fn prepared(clients: Vec<Client>, sql: &[&str]) -> Result<Vec<Session>> {
    let mut sessions = Vec::with_capacity(clients.len());
    for client in clients {
        let mut statements = Vec::with_capacity(sql.len());
        for sql in sql {
            statements.push(client.prepare(sql).await?);
        }
        sessions.push(Session { client, statements });
    }
    Ok(sessions)
}

/// Runs the loops at once.
async fn timed<F>(loops: impl Iterator<Item = F>) -> Result<Duration>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for one in loops {
        tasks.spawn(one);
    }
    join(tasks).await?;
    Ok(started.elapsed())
}

fn assert_count(found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(format!("{found} rows, not {expected}").into()) }
}
