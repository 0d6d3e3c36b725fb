-- A live message is in exactly one row of ready, leases and delayed; it is archived if and only if
-- it is in archive. What never changes stands in messages, written once. What changes stands in
-- narrow rows that move, a row for each run of messages that are alike: enqueued together, or
-- claimed together. No foreign keys: the statements keep the tables together, and a check per row
-- would cost every claim.

CREATE TABLE {schema}.schema_migrations (
    version    bigint      PRIMARY KEY,
    name       text        NOT NULL,
    checksum   bigint      NOT NULL,
    applied_at timestamptz NOT NULL
);

-- Message ids, claim tokens and worker ids. CACHE 1: numbers of one session must not lag behind
-- those of another, since positions in a queue come from here.
CREATE SEQUENCE {schema}.sequence AS bigint CACHE 1;

CREATE TABLE {schema}.settings (
    singleton     boolean PRIMARY KEY CHECK (singleton),
    payload_limit bigint  NOT NULL
);
INSERT INTO {schema}.settings (singleton, payload_limit) VALUES (true, 1048576);

CREATE TABLE {schema}.queues (
    id                    integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name                  text        NOT NULL,
    paused                boolean     NOT NULL,
    visibility_timeout_us bigint      NOT NULL,
    max_attempts          smallint    NOT NULL,
    retry                 text        NOT NULL,
    retention_us          bigint,
    created_at            timestamptz NOT NULL
);
CREATE UNIQUE INDEX queues_name ON {schema}.queues (name);

-- Payload and headers are text: json would be checked twice, jsonb refuses \u0000 and reorders
-- keys. Rows are never updated: no room is left in the pages.
CREATE TABLE {schema}.messages (
    id           bigint      PRIMARY KEY,
    enqueued_at  timestamptz NOT NULL,
    queue_id     integer     NOT NULL,
    priority     smallint    NOT NULL,
    max_attempts smallint    NOT NULL,
    payload      text        NOT NULL,
    headers      text
);

-- Claimable messages, in runs. Rows are inserted and deleted, never updated. rank = 9 - priority,
-- so that the index below is the claim's WHERE and ORDER BY. token, worker_id and claimed_at are
-- set while the row is an expired lease that nobody has taken: its receipts are still current.
CREATE TABLE {schema}.ready (
    pos          bigint      NOT NULL,
    visible_at   timestamptz NOT NULL,
    token        bigint,
    worker_id    bigint,
    claimed_at   timestamptz,
    queue_id     integer     NOT NULL,
    rank         smallint    NOT NULL,
    attempts     smallint    NOT NULL,
    max_attempts smallint    NOT NULL,
    ids          bigint[]    NOT NULL,
    last_error   text
);
-- Not unique: what is left of a run keeps its place.
CREATE INDEX ready_order ON {schema}.ready (queue_id, rank, pos);
-- Late settlements of expired leases, and what a worker that stops still holds here: next to nothing.
CREATE INDEX ready_token ON {schema}.ready (token) WHERE token IS NOT NULL;
CREATE INDEX ready_worker ON {schema}.ready (worker_id) WHERE worker_id IS NOT NULL;

-- What claims handed out: a run, or what was wanted of it, under one token. Rows are inserted and
-- deleted, never updated.
CREATE TABLE {schema}.leases (
    token        bigint      NOT NULL,
    visible_at   timestamptz NOT NULL,
    claimed_at   timestamptz NOT NULL,
    worker_id    bigint,
    queue_id     integer     NOT NULL,
    rank         smallint    NOT NULL,
    attempts     smallint    NOT NULL,
    max_attempts smallint    NOT NULL,
    last_attempt boolean     NOT NULL GENERATED ALWAYS AS (attempts >= max_attempts) STORED,
    ids          bigint[]    NOT NULL,
    last_error   text
);
-- Not unique: a message whose lease is prolonged apart leaves its run, under the same token.
CREATE INDEX leases_token ON {schema}.leases (token);
-- Expired leases, earliest first; those to bury apart from those to hand out again, so that neither
-- walks over the other.
CREATE INDEX leases_due ON {schema}.leases (queue_id, last_attempt, visible_at);

-- Messages that wait, enqueued, released or failed with a delay; never leased since.
CREATE TABLE {schema}.delayed (
    pos          bigint      NOT NULL,
    visible_at   timestamptz NOT NULL,
    queue_id     integer     NOT NULL,
    rank         smallint    NOT NULL,
    attempts     smallint    NOT NULL,
    max_attempts smallint    NOT NULL,
    ids          bigint[]    NOT NULL,
    last_error   text
);
CREATE INDEX delayed_due ON {schema}.delayed (queue_id, visible_at);

-- In ranges of ids, which grow with time: the sweep makes them ahead and drops them whole, once
-- everything in them is past its queue's retention. What belongs to none goes to the default: all of
-- it where nobody sweeps, or may not make tables.
CREATE TABLE {schema}.archive (
    id          bigint      PRIMARY KEY,
    token       bigint,
    worker_id   bigint,
    claimed_at  timestamptz,
    archived_at timestamptz NOT NULL,
    queue_id    integer     NOT NULL,
    attempts    smallint    NOT NULL,
    outcome     text        NOT NULL,
    last_error  text
) PARTITION BY RANGE (id);
-- Retention. Rows come in the order of time, so that a summary of pages does, at a hundredth of what
-- a b-tree would cost each message.
CREATE INDEX archive_age ON {schema}.archive USING brin (archived_at, queue_id)
    WITH (pages_per_range = 32, autosummarize = on);
-- Redrive, and reads of dead letters, which are few among many.
CREATE INDEX archive_dead ON {schema}.archive (queue_id, id) WHERE outcome = 'dead';
CREATE TABLE {schema}.archive_default PARTITION OF {schema}.archive DEFAULT;

-- Partitions taken off the archive, each dropped when the messages of all its ids are removed.
CREATE TABLE {schema}.retired (
    name text   PRIMARY KEY,
    upto bigint NOT NULL -- removed are those up to this id
);

CREATE TABLE {schema}.workers (
    id                   bigint      PRIMARY KEY,
    kind                 text        NOT NULL,
    host                 text        NOT NULL,
    port                 integer     NOT NULL,
    queue_id             integer     NOT NULL,
    state                text        NOT NULL,
    heartbeat_timeout_us bigint,
    registered_at        timestamptz NOT NULL,
    heartbeat_at         timestamptz NOT NULL,
    stopped_at           timestamptz,
    replaced_by          bigint
) WITH (fillfactor = 70); -- heartbeats are HOT updates
-- One live registration per identity; port 0 is none.
CREATE UNIQUE INDEX workers_identity ON {schema}.workers (kind, host, port, queue_id)
    WHERE port <> 0 AND state <> 'stopped';

-- Every row of these tables is dead soon after it is written: vacuum by count, not by share of a
-- table whose size means nothing, and without pauses, so that claims do not walk over the dead.
-- Index cleanup is never skipped for the same reason.
ALTER TABLE {schema}.ready SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0, vacuum_index_cleanup = on);
ALTER TABLE {schema}.leases SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0, vacuum_index_cleanup = on);
ALTER TABLE {schema}.delayed SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0, vacuum_index_cleanup = on);
