//! Every statement of this backend, in the order of the `Store` trait.
//!
//! Conventions: every time is `coalesce($n, now())`; a common table expression that must run once,
//! or that locks, is `MATERIALIZED`; rows to take are picked by an index walk and deleted by
//! `ctid = ANY (ARRAY (…))`, a plan that depends on no statistics. Everything in one statement sees
//! one snapshot, from before its own writes.

use crate::statements::statements;

/// Parts of several statements, written `{name}` in them.
const PARTS: &[(&str, &str)] = &[
    (
        "{into_ready}",
        "INSERT INTO {schema}.ready
        (id, queue_id, pos, visible_at, rank, attempts, max_attempts, last_error)",
    ),
    (
        "{into_delayed}",
        "INSERT INTO {schema}.delayed
        (id, queue_id, pos, visible_at, rank, attempts, max_attempts, last_error)",
    ),
    (
        "{into_leases}",
        "INSERT INTO {schema}.leases (id, token, queue_id, rank, attempts, max_attempts, visible_at,
        claimed_at, worker_id, last_error)",
    ),
    (
        "{into_archive}",
        "INSERT INTO {schema}.archive (id, queue_id, attempts, token, worker_id, claimed_at,
        archived_at, outcome, last_error)",
    ),
    // A hundred years are for ever: more would overflow.
    ("{retention}", "least(q.retention_us, 3155760000000000) * interval '1 microsecond'"),
    (
        "{is_dead}",
        "state <> 'stopped' AND heartbeat_at
          + least(heartbeat_timeout_us, 3155760000000000) * interval '1 microsecond'
          < coalesce($1, now())",
    ),
    (
        "{settled}",
        "{schema}.leases l USING unnest($1, $2) AS r (id, token)
    WHERE l.id = r.id AND l.token = r.token",
    ),
    (
        "{live}",
        "(SELECT count(*) FROM {schema}.ready WHERE queue_id = $1)
     + (SELECT count(*) FROM {schema}.leases WHERE queue_id = $1)
     + (SELECT count(*) FROM {schema}.delayed WHERE queue_id = $1)",
    ),
    ("{queue}", "name, paused, visibility_timeout_us, max_attempts, retry, retention_us, created_at"),
    (
        "{workers}",
        "SELECT w.id, w.kind, w.host, w.port, q.name, w.queue_id, w.state, w.heartbeat_timeout_us,
       w.registered_at, w.heartbeat_at, w.stopped_at, w.replaced_by
FROM {schema}.workers w JOIN {schema}.queues q ON q.id = w.queue_id",
    ),
];

statements! {
    /// $1: the schema's name.
    installed = "
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1) AS schema_exists,
       EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
                 ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'schema_migrations') AS installed";

    create_schema = "CREATE SCHEMA {schema}";

    migrations = "SELECT version, checksum FROM {schema}.schema_migrations ORDER BY version";

    record_migration = "
INSERT INTO {schema}.schema_migrations (version, name, checksum, applied_at)
VALUES ($1, $2, $3, now())";

    /// Names of tables and valid indexes, and `table.column`.
    objects = "
WITH c AS (
    SELECT c.oid, c.relname::text, c.relkind FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
    WHERE n.nspname = $1 AND i.indisvalid IS NOT FALSE
)
SELECT relname AS name FROM c
UNION ALL
SELECT relname || '.' || attname FROM c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
WHERE relkind = 'r' AND attnum > 0 AND NOT attisdropped";

    configure = "
WITH changed AS (
    UPDATE {schema}.settings SET payload_limit = $1 WHERE $1 IS NOT NULL RETURNING payload_limit
)
SELECT coalesce((SELECT payload_limit FROM changed), payload_limit) AS payload_limit
FROM {schema}.settings";

    create_queue = "
INSERT INTO {schema}.queues ({queue})
VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, now()))
ON CONFLICT (name) DO NOTHING";

    update_queue = "
UPDATE {schema}.queues
SET paused = coalesce($2, paused), visibility_timeout_us = coalesce($3, visibility_timeout_us),
    max_attempts = coalesce($4, max_attempts), retry = coalesce($5, retry),
    retention_us = CASE WHEN $6 THEN $7 ELSE retention_us END
WHERE name = $1
RETURNING {queue}";

    /// $1: the channel.
    notify = "SELECT pg_notify($1, '')::text";

    /// Enqueue, redrive and register hold the row FOR KEY SHARE: none is in flight after this.
    lock_queue = "SELECT id FROM {schema}.queues WHERE name = $1 FOR UPDATE";

    count_live = "SELECT {live} AS live";

    /// Repeated until `seen` is 0: a message that another session is moving from one table to
    /// another is seen where it comes from until that session commits, and then where it went.
    delete_live = "
WITH gone AS (
    DELETE FROM {schema}.ready WHERE queue_id = $1 RETURNING id
), gone_leases AS (
    DELETE FROM {schema}.leases WHERE queue_id = $1 RETURNING id
), gone_delayed AS (
    DELETE FROM {schema}.delayed WHERE queue_id = $1 RETURNING id
), gone_messages AS (
    DELETE FROM {schema}.messages WHERE id = ANY (ARRAY (
        SELECT id FROM gone
        UNION ALL SELECT id FROM gone_leases UNION ALL SELECT id FROM gone_delayed))
    RETURNING id
)
SELECT {live} AS seen, (SELECT count(*) FROM gone_messages) AS deleted";

    delete_workers = "DELETE FROM {schema}.workers WHERE queue_id = $1";

    delete_queue = "DELETE FROM {schema}.queues WHERE id = $1";

    queues = "
SELECT {queue} FROM {schema}.queues
WHERE $1 IS NULL OR name = $1 ORDER BY name COLLATE \"C\"";

    /// One walk over each table per queue; archived messages past retention do not count.
    metrics = "
SELECT q.name, t.now, r.n + d.due + l.expired AS ready, d.n - d.due AS delayed,
       l.n - l.expired AS leased, a.n - a.dead AS archived, a.dead,
       least(r.oldest, d.oldest, l.oldest) AS oldest_ready_at,
       w.ready AS workers_ready, w.suspended AS workers_suspended, w.stopped AS workers_stopped
FROM {schema}.queues q
CROSS JOIN (SELECT coalesce($2, now()) AS now) t
CROSS JOIN LATERAL (
    SELECT count(*) AS n, min(visible_at) AS oldest FROM {schema}.ready WHERE queue_id = q.id
) r
CROSS JOIN LATERAL (
    SELECT count(*) AS n, count(*) FILTER (WHERE visible_at <= t.now) AS due,
           min(visible_at) FILTER (WHERE visible_at <= t.now) AS oldest
    FROM {schema}.delayed WHERE queue_id = q.id
) d
CROSS JOIN LATERAL (
    SELECT count(*) AS n,
           count(*) FILTER (WHERE visible_at <= t.now AND NOT last_attempt) AS expired,
           min(visible_at) FILTER (WHERE visible_at <= t.now AND NOT last_attempt) AS oldest
    FROM {schema}.leases WHERE queue_id = q.id
) l
CROSS JOIN LATERAL (
    SELECT count(*) AS n, count(*) FILTER (WHERE outcome = 'dead') AS dead
    FROM {schema}.archive WHERE queue_id = q.id
      AND (q.retention_us IS NULL OR archived_at > t.now - {retention})
) a
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE state = 'ready') AS ready,
           count(*) FILTER (WHERE state = 'suspended') AS suspended,
           count(*) FILTER (WHERE state = 'stopped') AS stopped
    FROM {schema}.workers WHERE queue_id = q.id
) w
WHERE $1 IS NULL OR q.name = $1 ORDER BY q.name COLLATE \"C\"";

    /// Ids are drawn in input order. Nothing is written if the queue is missing or a message is
    /// too large; the first such message is reported.
    enqueue = "
WITH q AS MATERIALIZED (
    SELECT id, max_attempts FROM {schema}.queues WHERE name = $1 FOR KEY SHARE
), input AS MATERIALIZED (
    SELECT * FROM unnest($2, $3, $4, $5, $6) WITH ORDINALITY
        AS i (payload, headers, priority, delay_us, max_attempts, n)
), too_large AS MATERIALIZED (
    SELECT n AS nth, CASE WHEN octet_length(payload) > payload_limit
                   THEN octet_length(payload) ELSE octet_length(headers) END AS size, payload_limit
    FROM input, {schema}.settings
    WHERE octet_length(payload) > payload_limit OR octet_length(headers) > payload_limit
    ORDER BY n LIMIT 1
), numbered AS MATERIALIZED (
    SELECT nextval('{schema}.sequence') AS id, i.* FROM (
        SELECT q.id AS queue_id, payload, headers, priority, delay_us, n,
               coalesce(input.max_attempts, q.max_attempts) AS max_attempts
        FROM q, input WHERE NOT EXISTS (SELECT FROM too_large) ORDER BY n
    ) i
), message AS (
    INSERT INTO {schema}.messages
        (id, queue_id, priority, max_attempts, enqueued_at, payload, headers)
    SELECT id, queue_id, priority, max_attempts, coalesce($7, now()), payload, headers
    FROM numbered
), ready AS (
    {into_ready}
    SELECT id, queue_id, id, coalesce($7, now()), 9 - priority, 0, max_attempts, NULL
    FROM numbered WHERE delay_us = 0
), delayed AS (
    {into_delayed}
    SELECT id, queue_id, id, coalesce($7, now()) + delay_us * interval '1 microsecond',
           9 - priority, 0, max_attempts, NULL
    FROM numbered WHERE delay_us > 0
)
SELECT EXISTS (SELECT FROM q) AS found, too_large.*,
       (SELECT array_agg(id ORDER BY n) FROM numbered) AS ids
FROM (SELECT) one LEFT JOIN too_large ON true";

    /// Takes into ready what has become due, earliest first, $3 delayed messages and $3 expired
    /// leases at most, and buries up to $4 leases that expired on their last attempt. Nothing for a
    /// worker that may not claim: a refused claim changes nothing.
    promote_due = "
WITH q AS MATERIALIZED (
    SELECT id FROM {schema}.queues q WHERE name = $1 AND ($6 IS NULL OR EXISTS (
        SELECT FROM {schema}.workers WHERE id = $6 AND queue_id = q.id AND state = 'ready'))
), due AS MATERIALIZED (
    SELECT ctid FROM {schema}.delayed
    WHERE queue_id = (SELECT id FROM q) AND visible_at <= coalesce($2, now())
    ORDER BY visible_at LIMIT $3 FOR UPDATE SKIP LOCKED
), woken AS (
    DELETE FROM {schema}.delayed WHERE ctid = ANY (ARRAY (SELECT ctid FROM due))
    RETURNING id, queue_id, pos, visible_at, rank, attempts, max_attempts, last_error
), expired AS MATERIALIZED (
    SELECT ctid FROM {schema}.leases
    WHERE queue_id = (SELECT id FROM q) AND NOT last_attempt AND visible_at <= coalesce($2, now())
    ORDER BY visible_at LIMIT $3 FOR UPDATE SKIP LOCKED
), lapsed AS (
    DELETE FROM {schema}.leases WHERE ctid = ANY (ARRAY (SELECT ctid FROM expired))
    RETURNING id, queue_id, visible_at, rank, attempts, max_attempts, token, worker_id, claimed_at,
        last_error
), promoted AS (
    INSERT INTO {schema}.ready
        (id, queue_id, pos, visible_at, rank, attempts, max_attempts, token, worker_id, claimed_at,
         last_error)
    SELECT id, queue_id, pos, visible_at, rank, attempts, max_attempts, NULL, NULL, NULL, last_error
    FROM woken
    UNION ALL
    SELECT id, queue_id, token, visible_at, rank, attempts, max_attempts, token, worker_id,
           claimed_at, last_error
    FROM lapsed
    RETURNING id
), spent AS MATERIALIZED (
    SELECT ctid FROM {schema}.leases
    WHERE queue_id = (SELECT id FROM q) AND last_attempt AND visible_at <= coalesce($2, now())
    ORDER BY visible_at LIMIT $4 FOR UPDATE SKIP LOCKED
), ended AS (
    DELETE FROM {schema}.leases WHERE ctid = ANY (ARRAY (SELECT ctid FROM spent))
    RETURNING id, queue_id, attempts, token, worker_id, claimed_at
), buried AS (
    {into_archive}
    SELECT id, queue_id, attempts, token, worker_id, claimed_at, coalesce($2, now()), 'dead', $5
    FROM ended
)
SELECT count(*) AS promoted FROM promoted";

    /// Answers with at least one row, which says why nothing was claimed; asked to look ($6), and
    /// short, also when the next message becomes ready by itself, which may be past. A lease begins
    /// no earlier than its message became ready: now() is when this statement began, and another
    /// claim may have promoted since what expired since. The worker's row is locked: its stop,
    /// suspension and replacement wait for the claim, or are seen by it.
    claim = "
WITH q AS MATERIALIZED (
    SELECT id, paused, visibility_timeout_us FROM {schema}.queues WHERE name = $1
), w AS MATERIALIZED (
    SELECT state, replaced_by FROM {schema}.workers
    WHERE id = $2 AND queue_id = (SELECT id FROM q) FOR SHARE
), open AS MATERIALIZED (
    SELECT id, coalesce($4, visibility_timeout_us) * interval '1 microsecond' AS timeout
    FROM q WHERE NOT paused AND ($2 IS NULL OR (SELECT state FROM w) = 'ready')
), picked AS MATERIALIZED (
    SELECT ctid FROM {schema}.ready
    WHERE queue_id = (SELECT id FROM open)
    ORDER BY rank, pos LIMIT $3 FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM {schema}.ready WHERE ctid = ANY (ARRAY (SELECT ctid FROM picked))
    RETURNING id, queue_id, rank, pos, attempts, max_attempts, visible_at, last_error
), leased AS (
    {into_leases}
    SELECT id, nextval('{schema}.sequence'), queue_id, rank, attempts + 1, max_attempts,
           since + (SELECT timeout FROM open), since, $2, last_error
    FROM (SELECT *, greatest(coalesce($5, now()), visible_at) AS since
          FROM taken ORDER BY rank, pos) ordered
    RETURNING id, token, rank, attempts, max_attempts, visible_at, claimed_at, last_error
), look AS MATERIALIZED (
    SELECT $6 AND (SELECT count(*) FROM leased) < $3 AS short
)
SELECT q.id IS NOT NULL AS found, w.state AS worker_state, w.replaced_by,
       CASE WHEN (SELECT short FROM look) THEN (1000000 * extract(epoch FROM least(
           (SELECT visible_at FROM {schema}.delayed
            WHERE queue_id = (SELECT id FROM open) ORDER BY visible_at LIMIT 1),
           (SELECT visible_at FROM {schema}.leases
            WHERE queue_id = (SELECT id FROM open) AND NOT last_attempt
            ORDER BY visible_at LIMIT 1)) - coalesce($5, now())))::bigint END AS due_in_us,
       CASE WHEN (SELECT short FROM look) THEN coalesce((
           SELECT visible_at FROM {schema}.leases
           WHERE queue_id = (SELECT id FROM open) AND last_attempt
           ORDER BY visible_at LIMIT 1) <= coalesce($5, now()), false) END AS spent,
       l.id, l.token, l.attempts, l.max_attempts, l.visible_at, l.claimed_at, l.last_error,
       m.priority, m.enqueued_at, m.payload, m.headers
FROM (SELECT) one
LEFT JOIN q ON true
LEFT JOIN w ON true
LEFT JOIN (leased l JOIN {schema}.messages m ON m.id = l.id) ON true
-- Positions are gone by now; tokens were drawn in their order.
ORDER BY l.token";

    /// Settlements come in id order, and rows are met in that order: two batches do not deadlock.
    archive = "
WITH held AS (DELETE FROM {settled} RETURNING l.*)
{into_archive}
SELECT id, queue_id, attempts, token, worker_id, claimed_at, coalesce($3, now()), 'done', last_error
FROM held
RETURNING id, token";

    delete = "
WITH held AS (
    DELETE FROM {settled} RETURNING l.id, l.token
), gone AS (
    DELETE FROM {schema}.messages WHERE id = ANY (ARRAY (SELECT id FROM held))
)
SELECT id, token FROM held";

    /// Release and failure. A delay that is null: dead at once. A release gives an attempt back, is
    /// never dead, and has no error of its own.
    give_back = "
WITH held AS (
    DELETE FROM {schema}.leases l
    USING unnest($1, $2, $4, $5, $6) AS r (id, token, delay_us, error, returned)
    WHERE l.id = r.id AND l.token = r.token
    RETURNING l.id, l.token, queue_id, rank, attempts - returned AS attempts, max_attempts,
        worker_id, claimed_at, coalesce(error, last_error) AS error, delay_us,
        delay_us IS NULL OR last_attempt AND returned = 0 AS dead
), ready AS (
    {into_ready}
    SELECT id, queue_id, nextval('{schema}.sequence'), coalesce($3, now()), rank, attempts,
           max_attempts, error
    FROM held WHERE NOT dead AND delay_us = 0
), delayed AS (
    {into_delayed}
    SELECT id, queue_id, nextval('{schema}.sequence'),
           coalesce($3, now()) + delay_us * interval '1 microsecond', rank, attempts, max_attempts,
           error
    FROM held WHERE NOT dead AND delay_us > 0
), buried AS (
    {into_archive}
    SELECT id, queue_id, attempts, token, worker_id, claimed_at, coalesce($3, now()), 'dead', error
    FROM held WHERE dead
)
SELECT id, token, dead FROM held";

    extend = "
UPDATE {schema}.leases l
SET visible_at = coalesce($3, now()) + r.timeout_us * interval '1 microsecond'
FROM unnest($1, $2, $4) AS r (id, token, timeout_us) WHERE l.id = r.id AND l.token = r.token
RETURNING l.id, l.token, l.visible_at";

    /// An expired lease that a claim's promotion has moved to ready, and nobody has taken, goes
    /// back to leases, for its holder to settle it.
    retake = "
WITH r AS MATERIALIZED (
    SELECT r.id, r.token, m.queue_id, 9 - m.priority AS rank
    FROM unnest($1, $2) AS r (id, token) JOIN {schema}.messages m ON m.id = r.id
), found AS MATERIALIZED (
    SELECT d.row FROM r CROSS JOIN LATERAL (
        SELECT ctid AS row FROM {schema}.ready
        WHERE queue_id = r.queue_id AND rank = r.rank AND pos = r.token
          AND id = r.id AND token = r.token
        LIMIT 1
    ) d
), lapsed AS (
    DELETE FROM {schema}.ready WHERE ctid = ANY (ARRAY (SELECT row FROM found)) RETURNING *
)
{into_leases}
SELECT id, token, queue_id, rank, attempts, max_attempts, visible_at, claimed_at, worker_id,
       last_error
FROM lapsed
RETURNING id, token";

    /// Which receipts the archive holds as done, within retention.
    archived = "
SELECT a.id, a.token FROM unnest($1, $2) AS r (id, token)
JOIN {schema}.archive a ON a.id = r.id AND a.token = r.token
JOIN {schema}.queues q ON q.id = a.queue_id
WHERE a.outcome = 'done'
  AND (q.retention_us IS NULL OR a.archived_at > coalesce($3, now()) - {retention})";

    /// The three tables are read in one snapshot: every live message is seen in one place.
    messages = "
WITH t AS MATERIALIZED (
    SELECT coalesce($7, now()) AS now
), live AS (
    SELECT id, queue_id, 'ready' AS state, visible_at, attempts, max_attempts, token, worker_id,
           last_error
    FROM {schema}.ready
    UNION ALL
    SELECT id, queue_id, CASE WHEN visible_at <= t.now THEN 'ready' ELSE 'delayed' END, visible_at,
           attempts, max_attempts, NULL, NULL, last_error
    FROM {schema}.delayed, t
    UNION ALL
    SELECT id, queue_id,
           CASE WHEN visible_at <= t.now AND NOT last_attempt THEN 'ready' ELSE 'leased' END,
           visible_at, attempts, max_attempts, token, worker_id, last_error
    FROM {schema}.leases, t
), page AS MATERIALIZED (
    SELECT q.name, live.* FROM live JOIN {schema}.queues q ON q.id = live.queue_id
    WHERE ($1 IS NULL OR q.name = $1) AND ($2 IS NULL OR state = $2)
      AND ($3 IS NULL OR live.id = $3) AND ($4 IS NULL OR worker_id = $4)
      AND ($5 IS NULL OR live.id > $5)
    ORDER BY live.id LIMIT $6
)
SELECT page.*, m.priority, m.enqueued_at, m.payload, m.headers
FROM page JOIN {schema}.messages m ON m.id = page.id ORDER BY page.id";

    archive_page = "
SELECT q.name, a.*, m.priority, m.max_attempts, m.enqueued_at, m.payload, m.headers
FROM {schema}.archive a
JOIN {schema}.queues q ON q.id = a.queue_id JOIN {schema}.messages m ON m.id = a.id
WHERE ($1 IS NULL OR q.name = $1) AND ($2 IS NULL OR a.outcome = $2)
  AND ($3 IS NULL OR a.id = $3) AND ($4 IS NULL OR a.id > $4)
  AND (q.retention_us IS NULL OR a.archived_at > coalesce($6, now()) - {retention})
ORDER BY a.id LIMIT $5";

    redrive = "
WITH q AS MATERIALIZED (
    SELECT id, retention_us FROM {schema}.queues WHERE name = $1 FOR KEY SHARE
), letters AS MATERIALIZED (
    SELECT a.id FROM {schema}.archive a, q
    WHERE a.queue_id = q.id AND a.outcome = 'dead' AND ($2 IS NULL OR a.id = ANY ($2))
      AND (q.retention_us IS NULL OR a.archived_at > coalesce($4, now()) - {retention})
    ORDER BY a.id LIMIT $3 FOR UPDATE OF a SKIP LOCKED
), raised AS (
    DELETE FROM {schema}.archive WHERE id = ANY (ARRAY (SELECT id FROM letters))
    RETURNING id, last_error
), redriven AS (
    {into_ready}
    SELECT id, queue_id, nextval('{schema}.sequence'), coalesce($4, now()), 9 - priority, 0,
           max_attempts, last_error
    FROM (SELECT m.*, raised.last_error
          FROM raised JOIN {schema}.messages m USING (id) ORDER BY id) ordered
    RETURNING id
)
SELECT EXISTS (SELECT FROM q) AS found, (SELECT array_agg(id ORDER BY id) FROM redriven) AS ids";

    /// $2: only this outcome.
    purge_archive = "
WITH gone AS (
    DELETE FROM {schema}.archive WHERE queue_id = $1 AND ($2 IS NULL OR outcome = $2) RETURNING id
), gone_messages AS (
    DELETE FROM {schema}.messages WHERE id = ANY (ARRAY (SELECT id FROM gone))
)
SELECT count(*) AS deleted FROM gone";

    /// Registrations of one identity go one after the other; $1 is its hash.
    lock_identity = "SELECT pg_advisory_xact_lock($1)::text";

    /// A new id, and the earlier registration of the identity, locked.
    predecessor = "
WITH q AS MATERIALIZED (
    SELECT id FROM {schema}.queues WHERE name = $1 FOR KEY SHARE
), earlier AS MATERIALIZED (
    SELECT id FROM {schema}.workers
    WHERE queue_id = (SELECT id FROM q) AND kind = $2 AND host = $3 AND port = $4 AND port <> 0
      AND state <> 'stopped'
    FOR UPDATE
)
SELECT id AS queue_id, nextval('{schema}.sequence') AS id, (SELECT id FROM earlier) AS earlier
FROM q";

    register = "
INSERT INTO {schema}.workers
    (id, kind, host, port, queue_id, state, heartbeat_timeout_us, registered_at, heartbeat_at)
VALUES ($1, $2, $3, $4, $5, 'ready', $6, coalesce($7, now()), coalesce($7, now()))
RETURNING registered_at";

    /// Claims of the worker hold the row FOR SHARE: none is in flight after this.
    lock_worker = "{workers} WHERE w.id = $1 AND q.name = $2 FOR UPDATE OF w";

    move_worker = "
UPDATE {schema}.workers
SET state = $2, stopped_at = CASE WHEN $2 = 'stopped' THEN coalesce($3, now()) END
WHERE id = $1
RETURNING stopped_at";

    heartbeat = "
UPDATE {schema}.workers w SET heartbeat_at = coalesce($3, now())
FROM {schema}.queues q
WHERE w.id = $1 AND q.id = w.queue_id AND q.name = $2 AND w.state <> 'stopped'
RETURNING w.id, w.kind, w.host, w.port, q.name, w.queue_id, w.state, w.heartbeat_timeout_us,
          w.registered_at, w.heartbeat_at, w.stopped_at, w.replaced_by";

    stop_worker = "
UPDATE {schema}.workers SET state = 'stopped', stopped_at = coalesce($2, now()), replaced_by = $3
WHERE id = $1";

    /// Releases what a stopped worker held: $4 attempts are given back per message, and what then
    /// is at its maximum is buried with the error $5. Repeated until `seen` is 0, for the reason
    /// given at delete_live.
    free_held = "
WITH held AS (
    DELETE FROM {schema}.leases WHERE queue_id = $1 AND worker_id = $2 RETURNING *
), lapsed AS (
    DELETE FROM {schema}.ready WHERE worker_id = $2 RETURNING *
), freed AS (
    SELECT id, queue_id, rank, attempts - $4 AS attempts, max_attempts, token, claimed_at,
           last_error
    FROM held
    UNION ALL
    SELECT id, queue_id, rank, attempts - $4, max_attempts, token, claimed_at, last_error
    FROM lapsed
), released AS (
    {into_ready}
    SELECT id, queue_id, nextval('{schema}.sequence'), coalesce($3, now()), rank, attempts,
           max_attempts, last_error
    FROM (SELECT * FROM freed ORDER BY token) ordered WHERE attempts < max_attempts
    RETURNING id
), buried AS (
    {into_archive}
    SELECT id, queue_id, attempts, token, $2, claimed_at, coalesce($3, now()), 'dead', $5
    FROM freed WHERE attempts >= max_attempts
    RETURNING id
)
SELECT (SELECT count(*) FROM {schema}.leases WHERE queue_id = $1 AND worker_id = $2)
     + (SELECT count(*) FROM {schema}.ready WHERE worker_id = $2) AS seen,
       (SELECT count(*) FROM released) AS released, (SELECT count(*) FROM buried) AS buried";

    workers = "
{workers}
WHERE ($1 IS NULL OR q.name = $1) AND ($2 IS NULL OR w.state = $2)
  AND ($3 IS NULL OR w.id = $3) AND ($4 IS NULL OR w.id > $4)
ORDER BY w.id LIMIT $5";

    /// What of a sweep there is to do: mostly nothing, and then this is all of it. $2 as below.
    sweep_due = "
SELECT EXISTS (SELECT FROM {schema}.queues q CROSS JOIN LATERAL (
           SELECT FROM {schema}.leases WHERE queue_id = q.id AND last_attempt
             AND visible_at <= coalesce($1, now()) ORDER BY visible_at LIMIT 1) l) AS spent,
       EXISTS (SELECT FROM {schema}.workers WHERE {is_dead}) AS dead_workers,
       EXISTS (SELECT FROM {schema}.workers WHERE state = 'stopped'
           AND stopped_at + $2 * interval '1 microsecond' <= coalesce($1, now())) AS old_workers,
       EXISTS (SELECT FROM {schema}.queues q CROSS JOIN LATERAL (
           SELECT FROM {schema}.archive WHERE queue_id = q.id
             AND archived_at <= coalesce($1, now()) - {retention}
           ORDER BY archived_at LIMIT 1) a WHERE q.retention_us IS NOT NULL) AS old_archive";

    bury_spent = "
WITH spent AS MATERIALIZED (
    SELECT l.row FROM {schema}.queues q CROSS JOIN LATERAL (
        SELECT ctid AS row FROM {schema}.leases
        WHERE queue_id = q.id AND last_attempt AND visible_at <= coalesce($1, now())
        ORDER BY visible_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ) l
    LIMIT $2
), ended AS (
    DELETE FROM {schema}.leases WHERE ctid = ANY (ARRAY (SELECT row FROM spent))
    RETURNING id, queue_id, attempts, token, worker_id, claimed_at
), buried AS (
    {into_archive}
    SELECT id, queue_id, attempts, token, worker_id, claimed_at, coalesce($1, now()), 'dead', $3
    FROM ended
    RETURNING id
)
SELECT count(*) AS buried FROM buried";

    dead_workers = "
SELECT id, queue_id FROM {schema}.workers
WHERE {is_dead}
ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED";

    /// $3: how long stopped workers are kept, in microseconds.
    remove_workers = "
WITH old AS MATERIALIZED (
    SELECT id FROM {schema}.workers
    WHERE state = 'stopped' AND stopped_at + $3 * interval '1 microsecond' <= coalesce($1, now())
    ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
), removed AS (
    DELETE FROM {schema}.workers WHERE id = ANY (ARRAY (SELECT id FROM old)) RETURNING id
)
SELECT count(*) AS removed FROM removed";

    remove_archived = "
WITH old AS MATERIALIZED (
    SELECT a.id FROM {schema}.queues q CROSS JOIN LATERAL (
        SELECT id FROM {schema}.archive
        WHERE queue_id = q.id AND archived_at <= coalesce($1, now()) - {retention}
        ORDER BY archived_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ) a
    LIMIT $2
), removed AS (
    DELETE FROM {schema}.archive WHERE id = ANY (ARRAY (SELECT id FROM old)) RETURNING id
), removed_messages AS (
    DELETE FROM {schema}.messages WHERE id = ANY (ARRAY (SELECT id FROM removed))
)
SELECT count(*) AS removed FROM removed";
}
