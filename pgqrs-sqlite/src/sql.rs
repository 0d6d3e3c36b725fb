//! Every statement of the backend, in the order of the contract. Times are microseconds since the
//! epoch; `rank` is 9 - priority; `outcome` is 0 for done, 1 for dead.
//!
//! INSERT ... SELECT on the hot path says OR FAIL: a failure undoes the whole request anyway, and to
//! be able to undo the statement alone, SQLite would copy every page that it writes.

// Transactions

pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";
pub(crate) const COMMIT: &str = "COMMIT";
pub(crate) const ROLLBACK: &str = "ROLLBACK";
pub(crate) const SAVEPOINT: &str = "SAVEPOINT request";
pub(crate) const RELEASE_SAVEPOINT: &str = "RELEASE request";
pub(crate) const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO request";

/// Changes whenever another connection has committed.
pub(crate) const DATA_VERSION: &str = "PRAGMA data_version";

// The state of the file

pub(crate) const PAGES: &str = "
SELECT page_count, freelist_count, page_size
FROM pragma_page_count, pragma_freelist_count, pragma_page_size";

/// Busy or not, pages of the log, and how many of them are in the file too.
pub(crate) const LOG: &str = "PRAGMA wal_checkpoint(NOOP)";

pub(crate) const CHECKPOINT: &str = "PRAGMA wal_checkpoint(PASSIVE)";

// Settings

pub(crate) const SETTINGS: &str = "
SELECT payload_limit, sequence
FROM pgqrs_settings";

pub(crate) const UPDATE_SETTINGS: &str = "
UPDATE pgqrs_settings
SET payload_limit = ?1, sequence = ?2";

// Queues

pub(crate) const QUEUE: &str = "
SELECT id, paused, visibility_timeout_us, max_attempts, retention_us
FROM pgqrs_queues
WHERE name = ?1";

pub(crate) const CREATE_QUEUE: &str = "
INSERT INTO pgqrs_queues
    (name, paused, visibility_timeout_us, max_attempts, retry, retention_us, created_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT (name) DO NOTHING";

pub(crate) const UPDATE_QUEUE: &str = "
UPDATE pgqrs_queues
SET paused = ?2, visibility_timeout_us = ?3, max_attempts = ?4, retry = ?5, retention_us = ?6
WHERE name = ?1";

pub(crate) const COUNT_LIVE: &str = "
SELECT (SELECT count(*) FROM pgqrs_ready WHERE queue_id = ?1)
     + (SELECT count(*) FROM pgqrs_leases WHERE queue_id = ?1)
     + (SELECT count(*) FROM pgqrs_delayed WHERE queue_id = ?1)";

pub(crate) const DELETE_QUEUE_WORKERS: &str = "
DELETE FROM pgqrs_workers
WHERE queue_id = ?1";

pub(crate) const DELETE_QUEUE: &str = "
DELETE FROM pgqrs_queues
WHERE id = ?1";

pub(crate) const QUEUES: &str = "
SELECT name, paused, visibility_timeout_us, max_attempts, retry, retention_us, created_at
FROM pgqrs_queues
WHERE ?1 IS NULL OR name = ?1
ORDER BY name";

/// One statement, hence one snapshot. ?1 queue or NULL, ?2 now.
pub(crate) const METRICS: &str = "
SELECT
    q.name,
    (SELECT count(*) FROM pgqrs_ready r WHERE r.queue_id = q.id)
        + (SELECT count(*) FROM pgqrs_delayed d WHERE d.queue_id = q.id AND d.visible_at <= ?2)
        + (SELECT count(*) FROM pgqrs_expiring e
           WHERE e.queue_id = q.id AND e.visible_at <= ?2),
    (SELECT count(*) FROM pgqrs_delayed d WHERE d.queue_id = q.id AND d.visible_at > ?2),
    (SELECT count(*) FROM pgqrs_expiring e WHERE e.queue_id = q.id AND e.visible_at > ?2)
        + (SELECT count(*) FROM pgqrs_leases l
           WHERE l.queue_id = q.id AND l.attempts >= l.max_attempts),
    (SELECT count(*) FROM pgqrs_archive a
     WHERE a.queue_id = q.id AND a.outcome = 0
       AND a.archived_at > coalesce(?2 - q.retention_us, -1)),
    (SELECT count(*) FROM pgqrs_archive a
     WHERE a.queue_id = q.id AND a.outcome = 1
       AND a.archived_at > coalesce(?2 - q.retention_us, -1)),
    (SELECT min(visible_at) FROM (
        SELECT min(r.visible_at) AS visible_at FROM pgqrs_ready r WHERE r.queue_id = q.id
        UNION ALL
        SELECT min(d.visible_at) FROM pgqrs_delayed d
        WHERE d.queue_id = q.id AND d.visible_at <= ?2
        UNION ALL
        SELECT min(e.visible_at) FROM pgqrs_expiring e
        WHERE e.queue_id = q.id AND e.visible_at <= ?2)),
    (SELECT count(*) FROM pgqrs_workers w WHERE w.queue_id = q.id AND w.state = 'ready'),
    (SELECT count(*) FROM pgqrs_workers w WHERE w.queue_id = q.id AND w.state = 'suspended'),
    (SELECT count(*) FROM pgqrs_workers w WHERE w.queue_id = q.id AND w.state = 'stopped')
FROM pgqrs_queues q
WHERE ?1 IS NULL OR q.name = ?1
ORDER BY q.name";

// Enqueue

pub(crate) const ENQUEUE_MESSAGE: &str = "
INSERT INTO pgqrs_messages
    (id, queue_id, priority, enqueued_at, max_attempts, headers, payload)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

// What was just written becomes claimable. ?1 first id, ?2 last id, ?3 visible_at. One statement for
// many rows stays at the end of each tree, where one per row would go down it again.

pub(crate) const ENQUEUE_READY: &str = "
INSERT OR FAIL INTO pgqrs_ready (queue_id, rank, pos, id, attempts, max_attempts, visible_at)
SELECT queue_id, 9 - priority, id, id, 0, max_attempts, ?3
FROM pgqrs_messages
WHERE id BETWEEN ?1 AND ?2";

pub(crate) const ENQUEUE_DELAYED: &str = "
INSERT INTO pgqrs_delayed (queue_id, rank, pos, id, attempts, max_attempts, visible_at)
SELECT queue_id, 9 - priority, id, id, 0, max_attempts, ?3
FROM pgqrs_messages
WHERE id BETWEEN ?1 AND ?2";

// What comes back becomes claimable again.

pub(crate) const READY: &str = "
INSERT INTO pgqrs_ready
    (queue_id, rank, pos, id, attempts, max_attempts, visible_at, last_error)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

pub(crate) const DELAY: &str = "
INSERT INTO pgqrs_delayed
    (queue_id, rank, pos, id, attempts, max_attempts, visible_at, last_error)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

// Promotion of what is due. ?1 queue, ?2 now, ?3 limit.

/// The earliest end of a delay, of a lease, and of a lease on its last attempt.
pub(crate) const NEXT_DUE: &str = "
SELECT
    (SELECT visible_at FROM pgqrs_delayed
     WHERE queue_id = ?1
     ORDER BY visible_at LIMIT 1),
    (SELECT visible_at FROM pgqrs_leases
     WHERE queue_id = ?1 AND first_id IS NOT NULL AND attempts < max_attempts
     ORDER BY visible_at LIMIT 1),
    (SELECT visible_at FROM pgqrs_leases
     WHERE queue_id = ?1 AND attempts >= max_attempts
     ORDER BY visible_at LIMIT 1)";

pub(crate) const PROMOTE_DELAYED: &str = "
INSERT OR FAIL INTO pgqrs_ready
    (queue_id, rank, pos, id, attempts, max_attempts, visible_at, last_error)
SELECT queue_id, rank, pos, id, attempts, max_attempts, visible_at, last_error
FROM pgqrs_delayed
WHERE queue_id = ?1 AND visible_at <= ?2
ORDER BY visible_at, id
LIMIT ?3";

pub(crate) const DELETE_PROMOTED_DELAYED: &str = "
DELETE FROM pgqrs_delayed
WHERE id IN (
    SELECT id
    FROM pgqrs_delayed
    WHERE queue_id = ?1 AND visible_at <= ?2
    ORDER BY visible_at, id
    LIMIT ?3)";

/// The receipt of an expired lease stays current until its message is taken. A run that the limit cuts
/// keeps its last lease, which stands for what is left.
pub(crate) const PROMOTE_LEASES: &str = "
INSERT OR FAIL INTO pgqrs_ready
    (queue_id, rank, pos, id, attempts, max_attempts, visible_at, token, worker_id, claimed_at,
     last_error)
SELECT queue_id, rank, token, id, attempts, max_attempts, visible_at, token, worker_id, claimed_at,
       last_error
FROM pgqrs_expiring
WHERE queue_id = ?1 AND visible_at <= ?2
ORDER BY visible_at, last_id
LIMIT ?3";

pub(crate) const DELETE_PROMOTED_LEASES: &str = "
DELETE FROM pgqrs_leases
WHERE id IN (
    SELECT id
    FROM pgqrs_expiring
    WHERE queue_id = ?1 AND visible_at <= ?2
    ORDER BY visible_at, last_id
    LIMIT ?3)";

pub(crate) const TAKE_SPENT: &str = "
DELETE FROM pgqrs_leases
WHERE id IN (
    SELECT id
    FROM pgqrs_leases
    WHERE queue_id = ?1 AND visible_at <= ?2 AND attempts >= max_attempts
    ORDER BY visible_at, id
    LIMIT ?3)
RETURNING id, queue_id, rank, token, attempts, max_attempts, worker_id, claimed_at, last_error";

// Claim

/// ?1 queue, ?2 limit. The cross join fixes the order: ready first, then its payloads.
pub(crate) const CLAIM: &str = "
SELECT r.id, r.rank, r.pos, r.attempts, r.max_attempts, r.last_error,
       m.enqueued_at, m.headers, m.payload
FROM pgqrs_ready r
CROSS JOIN pgqrs_messages m ON m.id = r.id
WHERE r.queue_id = ?1
ORDER BY r.rank, r.pos
LIMIT ?2";

/// Also holds a lease for longer: it is taken and put back.
pub(crate) const LEASE: &str = "
INSERT INTO pgqrs_leases
    (id, first_id, queue_id, rank, token, attempts, max_attempts, visible_at, claimed_at,
     worker_id, last_error)
VALUES (?1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// The same for all that a claim takes, where they are a run. ?1 queue, ?2 rank and ?3 pos of the
/// last, ?4 token - id, ?5 visible_at, ?6 now, ?7 worker, ?8 first id.
pub(crate) const LEASE_RUN: &str = "
INSERT OR FAIL INTO pgqrs_leases
    (id, first_id, queue_id, rank, token, attempts, max_attempts, visible_at, claimed_at,
     worker_id, last_error)
SELECT id, iif(pos = ?3, ?8, NULL), queue_id, rank, id + ?4, attempts + 1,
       max_attempts, ?5, ?6, ?7, last_error
FROM pgqrs_ready
WHERE queue_id = ?1 AND (rank, pos) <= (?2, ?3)";

/// What a claim took is all that stands up to its last row.
pub(crate) const DELETE_CLAIMED: &str = "
DELETE FROM pgqrs_ready
WHERE queue_id = ?1 AND (rank, pos) <= (?2, ?3)";

// Settling

// To read and then delete is faster than RETURNING, which opens a temporary table.

pub(crate) const CURRENT_LEASE: &str = "
SELECT id, queue_id, rank, token, attempts, max_attempts, worker_id, claimed_at, last_error,
       first_id
FROM pgqrs_leases
WHERE id = ?1 AND token = ?2";

pub(crate) const DELETE_LEASE: &str = "
DELETE FROM pgqrs_leases
WHERE id = ?1";

/// ?1 first id, ?2 the highest that may be left, ?3 token - id.
pub(crate) const SHORTEN_RUN: &str = "
UPDATE pgqrs_leases
SET first_id = ?1
WHERE id = (
    SELECT id
    FROM pgqrs_leases
    WHERE id BETWEEN ?1 AND ?2 AND token - id = ?3 AND first_id IS NULL
    ORDER BY id DESC
    LIMIT 1)";

/// Archives a lease as done where its receipt is current, unless a run would be left without its last
/// one, and leaves its deletion to DELETE_LEASE.
pub(crate) const ARCHIVE_LEASE: &str = "
INSERT OR FAIL INTO pgqrs_archive
    (id, queue_id, outcome, token, attempts, worker_id, claimed_at, archived_at, last_error)
SELECT id, queue_id, 0, token, attempts, worker_id, claimed_at, ?3, last_error
FROM pgqrs_leases
WHERE id = ?1 AND token = ?2 AND coalesce(first_id, id) = id";

// The same for receipts that follow one another. ?1 first id, ?2 last id

/// How many there are, and the first id of the run whose last one is among them. ?3 token - id.
pub(crate) const CURRENT_LEASES: &str = "
SELECT count(*), min(first_id)
FROM pgqrs_leases
WHERE id BETWEEN ?1 AND ?2 AND token - id = ?3";

/// ?3 now.
pub(crate) const ARCHIVE_LEASES: &str = "
INSERT OR FAIL INTO pgqrs_archive
    (id, queue_id, outcome, token, attempts, worker_id, claimed_at, archived_at, last_error)
SELECT id, queue_id, 0, token, attempts, worker_id, claimed_at, ?3, last_error
FROM pgqrs_leases
WHERE id BETWEEN ?1 AND ?2";

pub(crate) const DELETE_LEASES: &str = "
DELETE FROM pgqrs_leases
WHERE id BETWEEN ?1 AND ?2";

pub(crate) const TAKE_EXPIRED: &str = "
DELETE FROM pgqrs_ready
WHERE id = ?1 AND token = ?2 AND pos <> id
RETURNING id, queue_id, rank, token, attempts, max_attempts, worker_id, claimed_at, last_error";

pub(crate) const ARCHIVE: &str = "
INSERT INTO pgqrs_archive
    (id, queue_id, outcome, token, attempts, worker_id, claimed_at, archived_at, last_error)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// Whether an archive has happened already. ?1 id, ?2 token, ?3 now.
pub(crate) const ARCHIVED: &str = "
SELECT 1
FROM pgqrs_archive a
JOIN pgqrs_queues q ON q.id = a.queue_id
WHERE a.id = ?1 AND a.token = ?2 AND a.outcome = 0
  AND a.archived_at > coalesce(?3 - q.retention_us, -1)";

pub(crate) const DELETE_MESSAGE: &str = "
DELETE FROM pgqrs_messages
WHERE id = ?1";

// Reads. ?1 queue or NULL, ?2 first id, ?3 last id, ?4 limit, ?5 now

/// ?6 state or NULL, ?7 worker or NULL. Ready messages are clustered in claim order, so a page of
/// them is a top-n sort; messages named by id are found by seeks.
pub(crate) const MESSAGES: &str = "
WITH queues AS (
    SELECT id, name FROM pgqrs_queues WHERE ?1 IS NULL OR name = ?1
), ranks (rank) AS (
    VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)
), live AS (
    SELECT r.id, r.queue_id, 'ready' AS state, r.attempts, r.visible_at, r.token, r.worker_id,
           r.last_error
    FROM queues q CROSS JOIN ranks k
    CROSS JOIN pgqrs_ready r ON r.queue_id = q.id AND r.rank = k.rank
    WHERE r.pos = r.id AND r.pos BETWEEN ?2 AND ?3
    UNION ALL
    SELECT id, queue_id, 'ready', attempts, visible_at, token, worker_id, last_error
    FROM pgqrs_ready
    WHERE pos <> id AND id BETWEEN ?2 AND ?3
    UNION ALL
    SELECT id, queue_id, iif(visible_at <= ?5 AND attempts < max_attempts, 'ready', 'leased'),
           attempts, visible_at, token, worker_id, last_error
    FROM pgqrs_leases
    WHERE id BETWEEN ?2 AND ?3
    UNION ALL
    SELECT id, queue_id, iif(visible_at <= ?5, 'ready', 'delayed'),
           attempts, visible_at, NULL, NULL, last_error
    FROM pgqrs_delayed
    WHERE id BETWEEN ?2 AND ?3
), page AS (
    SELECT l.*, q.name
    FROM live l
    JOIN queues q ON q.id = l.queue_id
    WHERE (?6 IS NULL OR l.state = ?6) AND (?7 IS NULL OR l.worker_id = ?7)
    ORDER BY l.id
    LIMIT ?4
)
SELECT p.id, p.name, p.state, m.payload, m.headers, m.priority, m.enqueued_at, p.visible_at,
       p.attempts, m.max_attempts, p.worker_id, p.last_error, p.token
FROM page p
CROSS JOIN pgqrs_messages m ON m.id = p.id
ORDER BY p.id";

/// ?6 outcome or NULL.
pub(crate) const ARCHIVE_PAGE: &str = "
SELECT a.id, q.name, a.outcome, m.payload, m.headers, m.priority, m.enqueued_at, a.claimed_at,
       a.archived_at, a.attempts, m.max_attempts, a.worker_id, a.last_error, a.token
FROM pgqrs_archive a
CROSS JOIN pgqrs_queues q ON q.id = a.queue_id
CROSS JOIN pgqrs_messages m ON m.id = a.id
WHERE a.id BETWEEN ?2 AND ?3
  AND (?1 IS NULL OR q.name = ?1)
  AND (?6 IS NULL OR a.outcome = ?6)
  AND a.archived_at > coalesce(?5 - q.retention_us, -1)
ORDER BY a.id
LIMIT ?4";

/// The same for the dead letters of one queue.
pub(crate) const DEAD_LETTERS_PAGE: &str = "
SELECT a.id, q.name, a.outcome, m.payload, m.headers, m.priority, m.enqueued_at, a.claimed_at,
       a.archived_at, a.attempts, m.max_attempts, a.worker_id, a.last_error, a.token
FROM pgqrs_archive a
CROSS JOIN pgqrs_queues q ON q.id = a.queue_id
CROSS JOIN pgqrs_messages m ON m.id = a.id
WHERE a.queue_id = (SELECT id FROM pgqrs_queues WHERE name = ?1)
  AND a.outcome = 1
  AND a.id BETWEEN ?2 AND ?3
  AND +a.archived_at > coalesce(?5 - q.retention_us, -1)
ORDER BY a.id
LIMIT ?4";

// Redrive. ?1 queue, ?2 the archive shows what is younger than this

/// The + keeps the planner from the index on archived_at, which would have to be sorted by id.
pub(crate) const OLDEST_DEAD_LETTERS: &str = "
SELECT id
FROM pgqrs_archive
WHERE queue_id = ?1 AND outcome = 1 AND +archived_at > ?2
ORDER BY id
LIMIT ?3";

/// Then ?3 id.
pub(crate) const TAKE_DEAD_LETTER: &str = "
DELETE FROM pgqrs_archive
WHERE id = ?3 AND queue_id = ?1 AND outcome = 1 AND archived_at > ?2
RETURNING last_error";

pub(crate) const REDRIVEN: &str = "
SELECT 9 - priority, max_attempts
FROM pgqrs_messages
WHERE id = ?1";

// Purge. ?1 queue

pub(crate) const DELETE_LIVE_MESSAGES: &str = "
DELETE FROM pgqrs_messages
WHERE id IN (
    SELECT id FROM pgqrs_ready WHERE queue_id = ?1
    UNION ALL
    SELECT id FROM pgqrs_leases WHERE queue_id = ?1
    UNION ALL
    SELECT id FROM pgqrs_delayed WHERE queue_id = ?1)";

pub(crate) const PURGE_READY: &str = "
DELETE FROM pgqrs_ready
WHERE queue_id = ?1";

pub(crate) const PURGE_LEASES: &str = "
DELETE FROM pgqrs_leases
WHERE queue_id = ?1";

pub(crate) const PURGE_DELAYED: &str = "
DELETE FROM pgqrs_delayed
WHERE queue_id = ?1";

/// Then ?2 outcome.
pub(crate) const DELETE_ARCHIVED_MESSAGES: &str = "
DELETE FROM pgqrs_messages
WHERE id IN (SELECT id FROM pgqrs_archive WHERE queue_id = ?1 AND outcome = ?2)";

pub(crate) const PURGE_ARCHIVE: &str = "
DELETE FROM pgqrs_archive
WHERE queue_id = ?1 AND outcome = ?2";

// Workers

pub(crate) const REGISTER: &str = "
INSERT INTO pgqrs_workers
    (id, kind, host, port, queue_id, state, heartbeat_timeout_us, registered_at, heartbeat_at)
VALUES (?1, ?2, ?3, ?4, ?5, 'ready', ?6, ?7, ?7)";

pub(crate) const PREDECESSOR: &str = "
SELECT id
FROM pgqrs_workers
WHERE queue_id = ?1 AND kind = ?2 AND host = ?3 AND port = ?4
  AND port <> 0 AND state <> 'stopped'";

pub(crate) const HEARTBEAT: &str = "
UPDATE pgqrs_workers
SET heartbeat_at = ?2
WHERE id = ?1";

pub(crate) const SET_WORKER_STATE: &str = "
UPDATE pgqrs_workers
SET state = ?2
WHERE id = ?1";

pub(crate) const STOP_WORKER: &str = "
UPDATE pgqrs_workers
SET state = 'stopped', stopped_at = ?2, replaced_by = ?3
WHERE id = ?1";

/// Leases are not indexed by worker: every claim and every settle would pay for what happens when
/// a worker ends, and a store has no more leases than its consumers hold at once.
pub(crate) const TAKE_WORKERS_LEASES: &str = "
DELETE FROM pgqrs_leases
WHERE worker_id = ?1
RETURNING id, queue_id, rank, token, attempts, max_attempts, worker_id, claimed_at, last_error";

pub(crate) const TAKE_WORKERS_EXPIRED: &str = "
DELETE FROM pgqrs_ready
WHERE worker_id = ?1 AND pos <> id
RETURNING id, queue_id, rank, token, attempts, max_attempts, worker_id, claimed_at, last_error";

pub(crate) const IS_READY: &str = "
SELECT state = 'ready'
FROM pgqrs_workers
WHERE id = ?1 AND queue_id = ?2";

pub(crate) const WORKER: &str = "
SELECT w.id, w.kind, w.host, w.port, q.name, w.state, w.heartbeat_timeout_us, w.registered_at,
       w.heartbeat_at, w.stopped_at, w.replaced_by
FROM pgqrs_workers w
JOIN pgqrs_queues q ON q.id = w.queue_id
WHERE w.id = ?1 AND w.queue_id = ?2";

/// ?1 queue or NULL, ?2 first id, ?3 last id, ?4 limit, ?5 state or NULL.
pub(crate) const WORKERS: &str = "
SELECT w.id, w.kind, w.host, w.port, q.name, w.state, w.heartbeat_timeout_us, w.registered_at,
       w.heartbeat_at, w.stopped_at, w.replaced_by
FROM pgqrs_workers w
CROSS JOIN pgqrs_queues q ON q.id = w.queue_id
WHERE w.id BETWEEN ?2 AND ?3
  AND (?1 IS NULL OR q.name = ?1)
  AND (?5 IS NULL OR w.state = ?5)
ORDER BY w.id
LIMIT ?4";

// Sweep

pub(crate) const QUEUE_IDS: &str = "
SELECT id, retention_us
FROM pgqrs_queues";

pub(crate) const DEAD_WORKERS: &str = "
SELECT id
FROM pgqrs_workers
WHERE state <> 'stopped' AND heartbeat_at + heartbeat_timeout_us < ?1
ORDER BY id
LIMIT ?2";

/// ?1 stopped at the latest, ?2 limit.
pub(crate) const REMOVE_WORKERS: &str = "
DELETE FROM pgqrs_workers
WHERE id IN (
    SELECT id
    FROM pgqrs_workers
    WHERE state = 'stopped' AND stopped_at <= ?1
    LIMIT ?2)";

/// ?1 queue, ?2 outcome, ?3 archived at the latest, ?4 limit.
pub(crate) const REMOVE_ARCHIVED: &str = "
DELETE FROM pgqrs_archive
WHERE id IN (
    SELECT id
    FROM pgqrs_archive
    WHERE queue_id = ?1 AND outcome = ?2 AND archived_at <= ?3
    ORDER BY archived_at
    LIMIT ?4)
RETURNING id";
