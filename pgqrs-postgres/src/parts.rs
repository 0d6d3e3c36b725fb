//! What several statements have in common.

/// Written `{name}` in the statements; a part may hold those that come after it.
pub(crate) const PARTS: &[(&str, &str)] = &[
    (
        "{into_ready}",
        "INSERT INTO {schema}.ready
        (ids, queue_id, pos, visible_at, rank, attempts, max_attempts, last_error)",
    ),
    (
        "{into_delayed}",
        "INSERT INTO {schema}.delayed
        (ids, queue_id, pos, visible_at, rank, attempts, max_attempts, last_error)",
    ),
    (
        "{back_to_ready}",
        "INSERT INTO {schema}.ready (ids, queue_id, pos, visible_at, rank, attempts, max_attempts,
        last_error, token, worker_id, claimed_at)",
    ),
    (
        "{into_archive}",
        "INSERT INTO {schema}.archive (id, queue_id, attempts, token, worker_id, claimed_at,
        archived_at, outcome, last_error)",
    ),
    // The queue that messages are for, and whether the largest of them, of $6 bytes, may be added.
    (
        "{addressed}",
        "q AS MATERIALIZED (
    SELECT id, max_attempts, payload_limit, $6 <= payload_limit AS fits
    FROM {schema}.queues CROSS JOIN {schema}.settings WHERE name = $1 FOR KEY SHARE OF queues
)",
    ),
    // What may run in a transaction of the caller's counts from the statement.
    ("{now}", "statement_timestamp()"),
    // Takes the messages of the receipts $1, $2 out of leases. A run of which only some are meant is
    // written anew without them. What another session does the same to meanwhile is missed: see
    // `retake`.
    (
        "{held}",
        "named AS MATERIALIZED (
    SELECT token, array_agg(id) AS ids FROM unnest($1, $2) AS r (id, token) GROUP BY token
), ended AS (
    DELETE FROM {schema}.leases WHERE ctid = ANY (ARRAY (
        SELECT l.row FROM named CROSS JOIN LATERAL (
            SELECT ctid AS row FROM {schema}.leases WHERE token = named.token AND ids && named.ids
            OFFSET 0
        ) l))
    RETURNING *
), others AS (
    {into_leases}
    SELECT ARRAY (SELECT id FROM unnest(l.ids) AS id WHERE id <> ALL (named.ids)), token, queue_id,
           rank, attempts, max_attempts, visible_at, claimed_at, worker_id, last_error
    FROM ended l JOIN named USING (token) WHERE NOT l.ids <@ named.ids
    RETURNING token
), held AS (
    SELECT m.id, token, queue_id, rank, attempts, max_attempts, last_attempt, worker_id, claimed_at,
           last_error
    FROM ended l JOIN named USING (token) CROSS JOIN LATERAL unnest(l.ids) AS m (id)
    WHERE m.id = ANY (named.ids)
)",
    ),
    (
        "{into_leases}",
        "INSERT INTO {schema}.leases (ids, token, queue_id, rank, attempts, max_attempts, visible_at,
        claimed_at, worker_id, last_error)",
    ),
    (
        "{read_archive}",
        "
SELECT q.name, a.*, m.priority, m.max_attempts, m.enqueued_at, m.payload, m.headers
FROM {schema}.archive a
JOIN {schema}.queues q ON q.id = a.queue_id JOIN {schema}.messages m ON m.id = a.id
WHERE ($1 IS NULL OR q.name = $1) AND ($2 IS NULL OR a.outcome = $2)
  AND ($4 IS NULL OR a.id > $4)
  AND (q.retention_us IS NULL OR a.archived_at > coalesce($6, now()) - {retention})",
    ),
    (
        "{letter}",
        "a.queue_id = q.id AND a.outcome = 'dead'
      AND (q.retention_us IS NULL OR a.archived_at > coalesce($4, now()) - {retention})",
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
        "{live}",
        "(SELECT count(*) FROM (
            SELECT unnest(ids) FROM {schema}.ready WHERE queue_id = $1
            UNION ALL SELECT unnest(ids) FROM {schema}.leases WHERE queue_id = $1
            UNION ALL SELECT unnest(ids) FROM {schema}.delayed WHERE queue_id = $1) l)",
    ),
    ("{horizon}", "coalesce(coalesce($2, now()) + $4 * interval '1 microsecond', 'infinity')"),
    ("{queue}", "name, paused, visibility_timeout_us, max_attempts, retry, retention_us, created_at"),
    (
        "{workers}",
        "SELECT w.id, w.kind, w.host, w.port, q.name, w.queue_id, w.state, w.heartbeat_timeout_us,
       w.registered_at, w.heartbeat_at, w.stopped_at, w.replaced_by
FROM {schema}.workers w JOIN {schema}.queues q ON q.id = w.queue_id",
    ),
];
