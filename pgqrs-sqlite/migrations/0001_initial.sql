-- Times are microseconds since the epoch. Names carry the prefix pgqrs_ because the file may be the
-- application's own.

-- One row. `sequence` is the last number given out: message ids, claim tokens, worker ids and
-- positions all come from it, so that none is ever used again.
CREATE TABLE pgqrs_settings (
    only_row      INTEGER PRIMARY KEY CHECK (only_row = 1),
    payload_limit INTEGER NOT NULL,
    sequence      INTEGER NOT NULL
) STRICT;

INSERT INTO pgqrs_settings VALUES (1, 1048576, 0);

CREATE TABLE pgqrs_queues (
    id                    INTEGER PRIMARY KEY,
    name                  TEXT NOT NULL UNIQUE,
    paused                INTEGER NOT NULL,
    visibility_timeout_us INTEGER NOT NULL,
    max_attempts          INTEGER NOT NULL,
    retry                 TEXT NOT NULL,
    retention_us          INTEGER,
    created_at            INTEGER NOT NULL
) STRICT;

-- What never changes of a message, written once and left in place when it is archived. The payload
-- comes last: what stands behind a large value is slow to reach.
CREATE TABLE pgqrs_messages (
    id           INTEGER PRIMARY KEY,
    queue_id     INTEGER NOT NULL,
    priority     INTEGER NOT NULL,
    enqueued_at  INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    unique_key   TEXT,
    ordering_key TEXT,
    headers      TEXT,
    payload      TEXT NOT NULL
) STRICT;

-- A live message stands in exactly one of `ready`, `leases` and `delayed`.

-- Claimable messages, clustered in claim order: a claim takes a prefix of its queue. rank is
-- 9 - priority. token, worker_id and claimed_at are those of an expired lease whose receipt is
-- still current.
CREATE TABLE pgqrs_ready (
    queue_id     INTEGER NOT NULL,
    rank         INTEGER NOT NULL,
    pos          INTEGER NOT NULL,
    id           INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    visible_at   INTEGER NOT NULL,
    token        INTEGER,
    worker_id    INTEGER,
    claimed_at   INTEGER,
    last_error   TEXT,
    PRIMARY KEY (queue_id, rank, pos)
) STRICT, WITHOUT ROWID;

-- Finds by id what does not stand at its id: nothing that was never leased, so it costs no enqueue.
CREATE INDEX pgqrs_ready_moved ON pgqrs_ready (id) WHERE pos <> id;

-- Without rowid, as the archive is, because INSERT ... SELECT into a table with one copies every page
-- that it writes, so that it can be undone by itself.
--
-- Leases that one claim took, with ids that follow one another as their tokens do, are a run. first_id is
-- that of its first, in its last one, and NULL in the others.
CREATE TABLE pgqrs_leases (
    id           INTEGER PRIMARY KEY,
    first_id     INTEGER,
    queue_id     INTEGER NOT NULL,
    rank         INTEGER NOT NULL,
    token        INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    visible_at   INTEGER NOT NULL,
    claimed_at   INTEGER NOT NULL,
    worker_id    INTEGER,
    last_error   TEXT
) STRICT, WITHOUT ROWID;

-- A lease expires into `ready`, where the last of a run stands for all, since they expire together; or, on
-- its last attempt, into the archive. All of a run are on their last attempt, or none is.
CREATE INDEX pgqrs_leases_due ON pgqrs_leases (queue_id, visible_at)
    WHERE first_id IS NOT NULL AND attempts < max_attempts;
CREATE INDEX pgqrs_leases_spent ON pgqrs_leases (queue_id, visible_at)
    WHERE attempts >= max_attempts;

-- What expires into `ready`: all of a run beside its last lease, which says where and when.
CREATE VIEW pgqrs_expiring AS
SELECT z.queue_id, z.visible_at, z.id AS last_id, l.id, l.rank, l.token, l.attempts, l.max_attempts,
       l.claimed_at, l.worker_id, l.last_error
FROM pgqrs_leases z
CROSS JOIN pgqrs_leases l ON l.id BETWEEN z.first_id AND z.id
WHERE z.first_id IS NOT NULL AND z.attempts < z.max_attempts
  AND l.token - l.id = z.token - z.id AND (l.first_id IS NULL OR l.id = z.id);

CREATE TABLE pgqrs_delayed (
    id           INTEGER PRIMARY KEY,
    queue_id     INTEGER NOT NULL,
    rank         INTEGER NOT NULL,
    pos          INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    visible_at   INTEGER NOT NULL,
    last_error   TEXT
) STRICT;

CREATE INDEX pgqrs_delayed_due ON pgqrs_delayed (queue_id, visible_at);

-- outcome: 0 done, 1 dead.
CREATE TABLE pgqrs_archive (
    id          INTEGER PRIMARY KEY,
    queue_id    INTEGER NOT NULL,
    outcome     INTEGER NOT NULL,
    token       INTEGER,
    attempts    INTEGER NOT NULL,
    worker_id   INTEGER,
    claimed_at  INTEGER,
    archived_at INTEGER NOT NULL,
    last_error  TEXT
) STRICT, WITHOUT ROWID;

-- Retention, purge and the counts of the metrics.
CREATE INDEX pgqrs_archive_age ON pgqrs_archive (queue_id, outcome, archived_at);
-- Dead letters by id, among any number of messages that are done.
CREATE INDEX pgqrs_archive_dead ON pgqrs_archive (queue_id, id) WHERE outcome = 1;

CREATE TABLE pgqrs_workers (
    id                   INTEGER PRIMARY KEY,
    kind                 TEXT NOT NULL,
    host                 TEXT NOT NULL,
    port                 INTEGER NOT NULL,
    queue_id             INTEGER NOT NULL,
    state                TEXT NOT NULL,
    heartbeat_timeout_us INTEGER,
    registered_at        INTEGER NOT NULL,
    heartbeat_at         INTEGER NOT NULL,
    stopped_at           INTEGER,
    replaced_by          INTEGER
) STRICT;

-- One live registration per fixed identity.
CREATE UNIQUE INDEX pgqrs_workers_identity ON pgqrs_workers (queue_id, kind, host, port)
    WHERE port <> 0 AND state <> 'stopped';
