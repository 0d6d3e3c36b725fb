//! Every statement of this backend, in the order of the `Store` trait. Those of claims stand in
//! `sql_claim.rs`.
//!
//! Conventions: every time is `coalesce($n, now())`, or `{now}` where the transaction may be the
//! caller's and have begun long before; a common table expression that must run once, or that
//! locks, is `MATERIALIZED`; rows to take are picked by an index walk and deleted by
//! `ctid = ANY (ARRAY (…))`, a plan that depends on no statistics; the ids in a row ascend. Everything
//! in one statement sees one snapshot, from before its own writes.

use crate::{
    parts::PARTS,
    sql_claim::{CLAIM, GLANCE, LOOK, PROMOTE_DUE, SCOUT, STANDING},
    statements::statements,
};

statements! {
    create_schema = "CREATE SCHEMA {schema}";

    migrations = "SELECT version, checksum FROM {schema}.schema_migrations ORDER BY version";

    record_migration = "
INSERT INTO {schema}.schema_migrations (version, name, checksum, applied_at)
VALUES ($1, $2, $3, now())";

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

    /// Enqueue, redrive and register hold the row FOR KEY SHARE: none is in flight after this.
    lock_queue = "SELECT id FROM {schema}.queues WHERE name = $1 FOR UPDATE";

    count_live = "SELECT {live} AS live";

    /// Repeated until `seen` is 0: a message that another session is moving from one table to
    /// another is seen where it comes from until that session commits, and then where it went.
    delete_live = "
WITH gone AS (
    DELETE FROM {schema}.ready WHERE queue_id = $1 RETURNING ids
), gone_leases AS (
    DELETE FROM {schema}.leases WHERE queue_id = $1 RETURNING ids
), gone_delayed AS (
    DELETE FROM {schema}.delayed WHERE queue_id = $1 RETURNING ids
), gone_messages AS (
    DELETE FROM {schema}.messages WHERE id = ANY (ARRAY (
        SELECT unnest(ids) FROM (
            SELECT ids FROM gone
            UNION ALL SELECT ids FROM gone_leases UNION ALL SELECT ids FROM gone_delayed) l))
    RETURNING id
)
SELECT {live} AS seen, (SELECT count(*) FROM gone_messages) AS deleted";

    delete_workers = "DELETE FROM {schema}.workers WHERE queue_id = $1";

    delete_queue = "DELETE FROM {schema}.queues WHERE id = $1";

    queues = "
SELECT {queue} FROM {schema}.queues
WHERE $1 IS NULL OR name = $1 ORDER BY name COLLATE \"C\"";

    /// One walk over each table per queue, and over the archive one for all; archived messages past
    /// retention do not count.
    metrics = "
WITH ended AS MATERIALIZED (
    SELECT q.id, count(*) AS n, count(*) FILTER (WHERE outcome = 'dead') AS dead
    FROM {schema}.archive a JOIN {schema}.queues q ON q.id = a.queue_id
    WHERE ($1 IS NULL OR q.name = $1)
      AND (q.retention_us IS NULL OR archived_at > coalesce($2, now()) - {retention})
    GROUP BY q.id
)
SELECT q.name, t.now, r.n + d.due + l.expired AS ready, d.n - d.due AS delayed,
       l.n - l.expired AS leased, coalesce(a.n - a.dead, 0) AS archived, coalesce(a.dead, 0) AS dead,
       least(r.oldest, d.oldest, l.oldest) AS oldest_ready_at,
       w.ready AS workers_ready, w.suspended AS workers_suspended, w.stopped AS workers_stopped
FROM {schema}.queues q
CROSS JOIN (SELECT coalesce($2, now()) AS now) t
CROSS JOIN LATERAL (
    SELECT count(*) AS n, min(visible_at) AS oldest FROM {schema}.ready, unnest(ids)
    WHERE queue_id = q.id
) r
CROSS JOIN LATERAL (
    SELECT count(*) AS n, count(*) FILTER (WHERE visible_at <= t.now) AS due,
           min(visible_at) FILTER (WHERE visible_at <= t.now) AS oldest
    FROM {schema}.delayed, unnest(ids) WHERE queue_id = q.id
) d
CROSS JOIN LATERAL (
    SELECT count(*) AS n, count(*) FILTER (WHERE visible_at <= t.now AND NOT last_attempt) AS expired,
           min(visible_at) FILTER (WHERE visible_at <= t.now AND NOT last_attempt) AS oldest
    FROM {schema}.leases, unnest(ids) WHERE queue_id = q.id
) l
LEFT JOIN ended a ON a.id = q.id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE state = 'ready') AS ready,
           count(*) FILTER (WHERE state = 'suspended') AS suspended,
           count(*) FILTER (WHERE state = 'stopped') AS stopped
    FROM {schema}.workers WHERE queue_id = q.id
) w
WHERE $1 IS NULL OR q.name = $1 ORDER BY q.name COLLATE \"C\"";

    /// Ids are drawn in input order: the rows of one `unnest` are inserted one after the other.
    /// Messages that are alike and follow each other form a run ($8 to $12: its first and last
    /// message, and what they have in common). Nothing is written if the queue is missing or the
    /// largest message ($6 bytes) is too large.
    enqueue = "
WITH {addressed}, message AS (
    INSERT INTO {schema}.messages
        (id, queue_id, priority, max_attempts, enqueued_at, payload, headers)
    SELECT nextval('{schema}.sequence'), (SELECT id FROM q), priority,
           coalesce(i.max_attempts, (SELECT max_attempts FROM q)), coalesce($7, {now}), payload,
           headers
    FROM unnest($2, $3, $4, $5) AS i (payload, headers, priority, max_attempts)
    WHERE (SELECT fits FROM q)
    RETURNING id
), numbered AS MATERIALIZED (
    SELECT array_agg(id) AS ids FROM message
), run AS MATERIALIZED (
    SELECT ids[first:last] AS ids, ids[first] AS pos, q.id AS queue_id, 9 - priority AS rank, delay_us,
           coalesce(r.max_attempts, q.max_attempts) AS max_attempts
    FROM q, numbered, unnest($8, $9, $10, $11, $12)
        AS r (first, last, priority, delay_us, max_attempts)
    WHERE ids IS NOT NULL
), ready AS (
    {into_ready}
    SELECT ids, queue_id, pos, coalesce($7, {now}), rank, 0, max_attempts, NULL
    FROM run WHERE delay_us = 0
), delayed AS (
    {into_delayed}
    SELECT ids, queue_id, pos, coalesce($7, {now}) + delay_us * interval '1 microsecond', rank, 0,
           max_attempts, NULL
    FROM run WHERE delay_us > 0
)
SELECT q.fits, q.payload_limit, numbered.ids FROM q, numbered";

    /// One message that is ready at once, in a run of its own: the same with half of the work.
    enqueue_one = "
WITH {addressed}, message AS (
    INSERT INTO {schema}.messages
        (id, queue_id, priority, max_attempts, enqueued_at, payload, headers)
    SELECT nextval('{schema}.sequence'), id, $4, coalesce($5, max_attempts), coalesce($7, {now}), $2,
           $3
    FROM q WHERE fits
    RETURNING id, queue_id, priority, max_attempts, enqueued_at
), ready AS (
    {into_ready}
    SELECT ARRAY[id], queue_id, id, enqueued_at, 9 - priority, 0, max_attempts, NULL FROM message
)
SELECT fits, payload_limit, (SELECT ARRAY[id] FROM message) AS ids FROM q";

    /// A transaction of its own, which needs not wait for the disk: it writes nothing.
    notify = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')";

    promote_due = PROMOTE_DUE;

    claim = CLAIM;

    standing = STANDING;

    look = LOOK;

    scout = SCOUT;

    glance = GLANCE;

    /// The messages $1 of whole leases, named by token ($2) and the places of their messages in $1
    /// ($3 to $4). Leases that have other messages, too, are left to `archive`.
    archive_whole = "
WITH ended AS (
    DELETE FROM {schema}.leases WHERE ctid = ANY (ARRAY (
        SELECT l.row FROM unnest($2, $3, $4) AS r (token, first, last) CROSS JOIN LATERAL (
            SELECT ctid AS row FROM {schema}.leases WHERE token = r.token AND ids <@ ($1)[first:last]
            OFFSET 0
        ) l))
    RETURNING *
), archived AS (
    {into_archive}
    SELECT unnest(ids), queue_id, attempts, token, worker_id, claimed_at, coalesce($5, {now}), 'done',
           last_error
    FROM ended
    RETURNING id, token
)
SELECT array_agg(id) AS ids, array_agg(token) AS tokens FROM archived";

    /// Answers with the receipts that it settled; so do the others. Rows are met in the order of
    /// their places in the table: two batches do not deadlock.
    archive = "
WITH {held}, archived AS (
    {into_archive}
    SELECT id, queue_id, attempts, token, worker_id, claimed_at, coalesce($3, {now}), 'done',
           last_error
    FROM held
    RETURNING id, token
)
SELECT array_agg(id) AS ids, array_agg(token) AS tokens, EXISTS (SELECT FROM others) AS in_part
FROM archived";

    delete = "
WITH {held}, gone AS (
    DELETE FROM {schema}.messages WHERE id = ANY (ARRAY (SELECT id FROM held))
)
SELECT array_agg(id) AS ids, array_agg(token) AS tokens FROM held";

    /// Release and failure. A delay that is null: dead at once. A release gives an attempt back, is
    /// never dead, and has no error of its own.
    give_back = "
WITH {held}, back AS MATERIALIZED (
    SELECT id, token, queue_id, rank, attempts - returned AS attempts, max_attempts, worker_id,
           claimed_at, coalesce(error, last_error) AS last_error, delay_us,
           delay_us IS NULL OR last_attempt AND returned = 0 AS dead
    FROM (SELECT * FROM held OFFSET 0) h
    JOIN unnest($1, $2, $4, $5, $6) AS r (id, token, delay_us, error, returned) USING (id, token)
), ready AS (
    {into_ready}
    SELECT ARRAY[id], queue_id, nextval('{schema}.sequence'), coalesce($3, {now}), rank, attempts,
           max_attempts, last_error
    FROM back WHERE NOT dead AND delay_us = 0
), delayed AS (
    {into_delayed}
    SELECT ARRAY[id], queue_id, nextval('{schema}.sequence'),
           coalesce($3, {now}) + delay_us * interval '1 microsecond', rank, attempts, max_attempts,
           last_error
    FROM back WHERE NOT dead AND delay_us > 0
), buried AS (
    {into_archive}
    SELECT id, queue_id, attempts, token, worker_id, claimed_at, coalesce($3, {now}), 'dead',
           last_error
    FROM back WHERE dead
)
SELECT array_agg(id) AS ids, array_agg(token) AS tokens,
       array_agg(id) FILTER (WHERE dead) AS dead
FROM back";

    /// By $4 microseconds.
    extend = "
WITH {held}, extended AS (
    {into_leases}
    SELECT array_agg(id ORDER BY id), token, queue_id, rank, attempts, max_attempts,
           coalesce($3, {now}) + $4 * interval '1 microsecond', claimed_at, worker_id, last_error
    FROM held
    GROUP BY token, queue_id, rank, attempts, max_attempts, claimed_at, worker_id, last_error
    RETURNING ids, token, visible_at
)
SELECT array_agg(id) AS ids, array_agg(token) AS tokens, max(visible_at) AS visible_at
FROM (SELECT unnest(ids) AS id, token, visible_at FROM extended) l";

    /// Which receipts are current though a settlement missed them: another session has changed their
    /// runs meanwhile, or a claim's promotion has moved them to ready, and nobody has taken them.
    /// Those go back to leases, for their holder to settle them.
    retake = "
WITH lapsed AS (
    DELETE FROM {schema}.ready WHERE ctid = ANY (ARRAY (
        SELECT d.row FROM unnest($1, $2) AS r (id, token) CROSS JOIN LATERAL (
            SELECT ctid AS row FROM {schema}.ready WHERE token = r.token AND r.id = ANY (ids) OFFSET 0
        ) d))
    RETURNING *
), back AS (
    {into_leases}
    SELECT ids, token, queue_id, rank, attempts, max_attempts, visible_at, claimed_at, worker_id,
           last_error
    FROM lapsed
    RETURNING ids, token
)
SELECT array_agg(id) AS ids, array_agg(token) AS tokens FROM unnest($1, $2) AS r (id, token)
WHERE EXISTS (SELECT FROM back WHERE token = r.token AND r.id = ANY (ids))
   OR EXISTS (SELECT FROM {schema}.leases WHERE token = r.token AND r.id = ANY (ids))";

    /// Which receipts the archive holds as done, within retention.
    archived = "
SELECT array_agg(a.id) AS ids, array_agg(a.token) AS tokens FROM unnest($1, $2) AS r (id, token)
JOIN {schema}.archive a ON a.id = r.id AND a.token = r.token
JOIN {schema}.queues q ON q.id = a.queue_id
WHERE a.outcome = 'done'
  AND (q.retention_us IS NULL OR a.archived_at > coalesce($3, now()) - {retention})";

    /// The three tables are read in one snapshot: every live message is seen in one place.
    messages = "
WITH t AS MATERIALIZED (
    SELECT coalesce($7, now()) AS now
), live AS (
    SELECT unnest(ids) AS id, queue_id, 'ready' AS state, visible_at, attempts, max_attempts, token,
           worker_id, last_error
    FROM {schema}.ready
    UNION ALL
    SELECT unnest(ids), queue_id, CASE WHEN visible_at <= t.now THEN 'ready' ELSE 'delayed' END,
           visible_at, attempts, max_attempts, NULL, NULL, last_error
    FROM {schema}.delayed, t
    UNION ALL
    SELECT unnest(ids), queue_id,
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

    archive_page = "{read_archive} ORDER BY a.id LIMIT $5";

    /// Apart, for a plan that serves both walks over the archive.
    archived_message = "{read_archive} AND a.id = $3 LIMIT $5";

    redrive = "
WITH q AS MATERIALIZED (
    SELECT id, retention_us FROM {schema}.queues WHERE name = $1 FOR KEY SHARE
), letters AS MATERIALIZED (
    SELECT a.id FROM q CROSS JOIN LATERAL (
        SELECT id FROM {schema}.archive a WHERE $2 IS NULL AND {letter}
        ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED) a
    UNION ALL
    SELECT a.id FROM q, unnest($2) AS n (id) CROSS JOIN LATERAL (
        SELECT id FROM {schema}.archive a WHERE a.id = n.id AND {letter} FOR UPDATE SKIP LOCKED) a
), raised AS (
    DELETE FROM {schema}.archive WHERE id = ANY (ARRAY (SELECT id FROM letters))
      AND id BETWEEN (SELECT min(id) FROM letters) AND (SELECT max(id) FROM letters)
    RETURNING id, last_error
), redriven AS (
    {into_ready}
    SELECT ARRAY[id], queue_id, nextval('{schema}.sequence'), coalesce($4, now()), 9 - priority, 0,
           max_attempts, last_error
    FROM (SELECT m.*, raised.last_error
          FROM raised JOIN {schema}.messages m USING (id) ORDER BY id) ordered
    RETURNING ids[1] AS id
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
    SELECT ids, queue_id, rank, attempts - $4 AS attempts, max_attempts, token, claimed_at,
           last_error
    FROM held
    UNION ALL
    SELECT ids, queue_id, rank, attempts - $4, max_attempts, token, claimed_at, last_error
    FROM lapsed
), released AS (
    {into_ready}
    SELECT ids, queue_id, nextval('{schema}.sequence'), coalesce($3, now()), rank, attempts,
           max_attempts, last_error
    FROM (SELECT * FROM freed ORDER BY token, ids) ordered WHERE attempts < max_attempts
    RETURNING ids
), buried AS (
    {into_archive}
    SELECT unnest(ids), queue_id, attempts, token, $2, claimed_at, coalesce($3, now()), 'dead', $5
    FROM freed WHERE attempts >= max_attempts
    RETURNING id
)
SELECT (SELECT count(*) FROM {schema}.leases WHERE queue_id = $1 AND worker_id = $2)
     + (SELECT count(*) FROM {schema}.ready WHERE worker_id = $2) AS seen,
       (SELECT count(*) FROM released, unnest(ids)) AS released,
       (SELECT count(*) FROM buried) AS buried";

    workers = "
{workers}
WHERE ($1 IS NULL OR q.name = $1) AND ($2 IS NULL OR w.state = $2)
  AND ($3 IS NULL OR w.id = $3) AND ($4 IS NULL OR w.id > $4)
ORDER BY w.id LIMIT $5";

    /// What of a sweep there is to do: mostly nothing, and then this is all of it. $2 as below. The
    /// partitions of the archive are looked at when $3 numbers have been drawn since $4, and from then
    /// on now and then.
    sweep_due = "
SELECT EXISTS (SELECT FROM {schema}.queues q CROSS JOIN LATERAL (
           SELECT FROM {schema}.leases WHERE queue_id = q.id AND last_attempt
             AND visible_at <= coalesce($1, now()) ORDER BY visible_at LIMIT 1) l) AS spent,
       EXISTS (SELECT FROM {schema}.workers WHERE {is_dead}) AS dead_workers,
       EXISTS (SELECT FROM {schema}.workers WHERE state = 'stopped'
           AND stopped_at + $2 * interval '1 microsecond' <= coalesce($1, now())) AS old_workers,
       EXISTS (SELECT FROM {schema}.queues q CROSS JOIN LATERAL (
           (SELECT 1 FROM {schema}.archive_default WHERE queue_id = q.id
              AND archived_at <= coalesce($1, now()) - {retention} LIMIT 1)
           UNION ALL
           (SELECT 1 FROM {schema}.archive WHERE queue_id = q.id
              AND archived_at <= coalesce($1, now()) - 2 * {retention} LIMIT 1)
       ) a WHERE q.retention_us IS NOT NULL) AS old_archive,
       last_value, last_value >= $4 + $3 OR $1 IS NOT NULL OR last_value >= $3 AND random() < 0.05
           OR EXISTS (SELECT FROM {schema}.retired) AS partitions
FROM {schema}.sequence";

    /// Of the last run only as many as are left to $2.
    bury_spent = "
WITH spent AS MATERIALIZED (
    SELECT ctid FROM {schema}.leases
    WHERE ctid = ANY (ARRAY (
        SELECT row FROM (
            SELECT row, size, sum(size) OVER (ORDER BY visible_at, row) AS upto
            FROM {schema}.queues q CROSS JOIN LATERAL (
                SELECT ctid AS row, visible_at, cardinality(ids) AS size FROM {schema}.leases
                WHERE queue_id = q.id AND last_attempt AND visible_at <= coalesce($1, now())
                ORDER BY visible_at LIMIT $2) l) l
        WHERE upto - size < $2))
    FOR UPDATE SKIP LOCKED
), ended AS (
    DELETE FROM {schema}.leases WHERE ctid = ANY (ARRAY (SELECT ctid FROM spent)) RETURNING *
), run AS MATERIALIZED (
    SELECT *, cardinality(ids) - greatest(sum(cardinality(ids)) OVER w - $2, 0)::integer AS most
    FROM ended WINDOW w AS (ORDER BY visible_at, token, ids ROWS UNBOUNDED PRECEDING)
), others AS (
    {into_leases}
    SELECT ids[most + 1:], token, queue_id, rank, attempts, max_attempts, visible_at, claimed_at,
           worker_id, last_error
    FROM run WHERE most < cardinality(ids)
), buried AS (
    {into_archive}
    SELECT unnest(ids[:most]), queue_id, attempts, token, worker_id, claimed_at,
           coalesce($1, now()), 'dead', $3
    FROM run
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
}
