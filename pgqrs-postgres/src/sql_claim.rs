//! The statements of `Store::claim`, by the conventions of `sql.rs`.

/// Takes into ready what has become due, earliest first, $3 delayed runs and $3 expired ones at
/// most, and buries runs that expired on their last attempt, of up to $4 messages together.
/// Nothing for workers that may not claim: a refused claim changes nothing. What is promoted
/// comes no earlier than the marks of this store ($7), and thus before all that waits.
pub(crate) const PROMOTE_DUE: &str = "
WITH q AS MATERIALIZED (
    SELECT id FROM {schema}.queues q WHERE name = $1 AND EXISTS (
        SELECT FROM unnest($6) AS c (worker) WHERE worker IS NULL OR EXISTS (
            SELECT FROM {schema}.workers WHERE id = worker AND queue_id = q.id AND state = 'ready'))
), due AS MATERIALIZED (
    SELECT ctid FROM {schema}.delayed
    WHERE queue_id = (SELECT id FROM q) AND visible_at <= coalesce($2, now())
      AND visible_at >= coalesce($8, '-infinity')
    ORDER BY visible_at LIMIT $3 FOR UPDATE SKIP LOCKED
), woken AS (
    DELETE FROM {schema}.delayed WHERE ctid = ANY (ARRAY (SELECT ctid FROM due)) RETURNING *
), expired AS MATERIALIZED (
    SELECT ctid FROM {schema}.leases
    WHERE queue_id = (SELECT id FROM q) AND NOT last_attempt AND visible_at <= coalesce($2, now())
      AND visible_at >= coalesce($8, '-infinity')
    ORDER BY visible_at LIMIT $3 FOR UPDATE SKIP LOCKED
), lapsed AS (
    DELETE FROM {schema}.leases WHERE ctid = ANY (ARRAY (SELECT ctid FROM expired)) RETURNING *
), promoted AS (
    {back_to_ready}
    SELECT ids, queue_id, greatest(pos, ($7)[rank + 1]), visible_at, rank, attempts, max_attempts,
           last_error, NULL, NULL, NULL
    FROM woken
    UNION ALL
    SELECT ids, queue_id, greatest(token, ($7)[rank + 1]), visible_at, rank, attempts, max_attempts,
           last_error, token, worker_id, claimed_at
    FROM lapsed
), spent AS MATERIALIZED (
    SELECT ctid FROM {schema}.leases
    WHERE ctid = ANY (ARRAY (
        SELECT row FROM (
            SELECT row, sum(size) OVER (ORDER BY visible_at, row) AS total FROM (
                SELECT ctid AS row, visible_at, cardinality(ids) AS size FROM {schema}.leases
                WHERE queue_id = (SELECT id FROM q) AND last_attempt
                  AND visible_at <= coalesce($2, now())
                  AND visible_at >= coalesce($8, '-infinity')
                ORDER BY visible_at LIMIT $4) l) l
        WHERE total <= $4))
    FOR UPDATE SKIP LOCKED
), ended AS (
    DELETE FROM {schema}.leases WHERE ctid = ANY (ARRAY (SELECT ctid FROM spent)) RETURNING *
), buried AS (
    {into_archive}
    SELECT unnest(ids), queue_id, attempts, token, worker_id, claimed_at, coalesce($2, now()), 'dead',
           $5
    FROM ended
)
SELECT now() AS now,
       greatest((SELECT count(*) FROM due), (SELECT count(*) FROM expired)) < $3
         AND (SELECT count(*) FROM spent) = 0 AND EXISTS (SELECT FROM q) AS is_complete";

/// Claims for several callers at once: workers $2 (or null), of whom each is due the messages
/// from its $3rd to before its $4th, $10 in all. Takes up to $5 runs, and puts back what nobody
/// is due. Nothing unless all $9 workers may claim; `standing` says why.
///
/// What a caller gets of a run becomes leases together, under one token, and comes back as one
/// row; `upto` tells runs apart. A lease begins no earlier than its messages became ready: now()
/// is when this statement began, and another claim may have promoted since what expired since.
/// The workers' rows are locked: stop, suspension and replacement wait for the claim, or are
/// seen by it. The messages of a run are neighbours in their index, or nearly: one short walk finds
/// them, where a search for each (`id = ANY`, which is why it says `id + 0`) would cost more.
pub(crate) const CLAIM: &str = "
WITH q AS MATERIALIZED (
    SELECT id, visibility_timeout_us FROM {schema}.queues q
    WHERE name = $1 AND NOT paused AND $9 = (
        SELECT count(*) FROM (
            SELECT FROM {schema}.workers
            WHERE id = ANY ($2) AND queue_id = q.id AND state = 'ready' FOR SHARE) w)
), taken AS (
    DELETE FROM {schema}.ready WHERE ctid = ANY (ARRAY (
        SELECT r.row FROM unnest($8) WITH ORDINALITY AS m (mark, nth) CROSS JOIN LATERAL (
            SELECT ctid AS row FROM {schema}.ready
            WHERE queue_id = (SELECT id FROM q) AND rank = (m.nth - 1)::smallint AND pos >= m.mark
            ORDER BY pos LIMIT $5 FOR UPDATE SKIP LOCKED
        ) r
        LIMIT $5))
    RETURNING *
), run AS MATERIALIZED (
    SELECT *, (sum(cardinality(ids)) OVER w)::integer AS upto FROM taken
    WINDOW w AS (ORDER BY rank, pos, ids ROWS UNBOUNDED PRECEDING)
), rest AS (
    {back_to_ready}
    SELECT ids[1 + greatest(cardinality(ids) - upto + $10, 0):], queue_id, pos, visible_at, rank,
           attempts, max_attempts, last_error, token, worker_id, claimed_at
    FROM run WHERE upto > $10
), lease AS MATERIALIZED (
    SELECT nextval('{schema}.sequence') AS token, n, worker, queue_id, rank, pos, upto,
           cardinality(ids) AS size, (attempts + 1)::smallint AS attempts, max_attempts, last_error,
           greatest(coalesce($7, now()), visible_at) AS since,
           greatest(coalesce($7, now()), visible_at) + interval '1 microsecond'
               * coalesce($6, (SELECT visibility_timeout_us FROM q)) AS until,
           ids[1 + greatest(first - upto + cardinality(ids), 0):
               cardinality(ids) - greatest(upto - last, 0)] AS ids
    FROM run JOIN unnest($2, $3, $4) WITH ORDINALITY AS c (worker, first, last, n)
        ON first < upto AND last > upto - cardinality(ids)
), leased AS (
    {into_leases}
    SELECT ids, token, queue_id, rank, attempts, max_attempts, until, since, worker, last_error
    FROM lease
)
SELECT n, token, rank, pos, upto, size, attempts, max_attempts, since, until, last_error,
       m.ids, m.payloads, m.headers, m.enqueued_at
FROM lease CROSS JOIN LATERAL (
    SELECT array_agg(id) AS ids, array_agg(payload) AS payloads, array_agg(headers) AS headers,
           min(enqueued_at) AS enqueued_at -- of messages that were enqueued together
    FROM {schema}.messages
    WHERE id BETWEEN lease.ids[1] AND lease.ids[cardinality(lease.ids)]
      AND id + 0 = ANY (lease.ids)
) m
WHERE m.ids IS NOT NULL -- else somebody has deleted them by hand
ORDER BY token";

/// Whether the workers $2 may claim; nothing if the queue is missing.
pub(crate) const STANDING: &str = "
SELECT c.n, w.state, w.replaced_by
FROM {schema}.queues q CROSS JOIN unnest($2) WITH ORDINALITY AS c (worker, n)
LEFT JOIN {schema}.workers w ON w.id = c.worker AND w.queue_id = q.id
WHERE q.name = $1";

/// When the next message of a queue that may be claimed from becomes ready by itself, which may
/// be past, if that is within $4 microseconds; and whether there is something to bury.
pub(crate) const LOOK: &str = "
WITH q AS MATERIALIZED (
    SELECT id FROM {schema}.queues WHERE name = $1 AND NOT paused
)
SELECT (1000000 * extract(epoch FROM least(
           (SELECT visible_at FROM {schema}.delayed
            WHERE queue_id = (SELECT id FROM q) AND visible_at >= coalesce($3, '-infinity')
              AND visible_at <= {horizon}
            ORDER BY visible_at LIMIT 1),
           (SELECT visible_at FROM {schema}.leases
            WHERE queue_id = (SELECT id FROM q) AND NOT last_attempt
              AND visible_at >= coalesce($3, '-infinity') AND visible_at <= {horizon}
            ORDER BY visible_at LIMIT 1)) - coalesce($2, now())))::bigint AS due_in_us,
       (SELECT visible_at FROM {schema}.leases
        WHERE queue_id = (SELECT id FROM q) AND last_attempt
          AND visible_at >= coalesce($3, '-infinity') AND visible_at <= coalesce($2, now())
        ORDER BY visible_at LIMIT 1) IS NOT NULL AS spent,
       (SELECT now() FROM q) AS now";

/// Where the first messages stand that are ready before the marks $2, and since when something has
/// been due that was due before $3; else as given.
pub(crate) const SCOUT: &str = "
WITH q AS MATERIALIZED (SELECT id FROM {schema}.queues WHERE name = $1)
SELECT ARRAY (
           SELECT coalesce((
               SELECT pos FROM {schema}.ready
               WHERE queue_id = (SELECT id FROM q) AND rank = (m.nth - 1)::smallint AND pos < m.mark
               ORDER BY pos LIMIT 1), m.mark)
           FROM unnest($2) WITH ORDINALITY AS m (mark, nth) ORDER BY m.nth) AS marks,
       least((SELECT visible_at FROM {schema}.delayed
              WHERE queue_id = (SELECT id FROM q) AND visible_at < $3
              ORDER BY visible_at LIMIT 1),
             (SELECT visible_at FROM {schema}.leases
              WHERE queue_id = (SELECT id FROM q) AND NOT last_attempt AND visible_at < $3
              ORDER BY visible_at LIMIT 1),
             (SELECT visible_at FROM {schema}.leases
              WHERE queue_id = (SELECT id FROM q) AND last_attempt AND visible_at < $3
              ORDER BY visible_at LIMIT 1), $3) AS due_since";

/// Whether a queue that may be claimed from by the workers $2 (null: by anybody) has nothing ready,
/// nothing due and nothing to bury, and when its next message becomes ready by itself.
pub(crate) const GLANCE: &str = "
WITH q AS MATERIALIZED (SELECT id FROM {schema}.queues WHERE name = $1 AND NOT paused), due AS (
    SELECT least(
        (SELECT visible_at FROM {schema}.delayed
         WHERE queue_id = (SELECT id FROM q) ORDER BY visible_at LIMIT 1),
        (SELECT visible_at FROM {schema}.leases
         WHERE queue_id = (SELECT id FROM q) AND NOT last_attempt ORDER BY visible_at LIMIT 1)) AS next,
        (SELECT visible_at FROM {schema}.leases
         WHERE queue_id = (SELECT id FROM q) AND last_attempt ORDER BY visible_at LIMIT 1) AS spent
)
SELECT EXISTS (SELECT FROM q) AND coalesce(least(next, spent) > now(), true)
         AND NOT EXISTS (SELECT FROM {schema}.ready WHERE queue_id = (SELECT id FROM q))
         AND NOT EXISTS (SELECT FROM unnest($2) AS c (worker) WHERE worker IS NOT NULL
             AND NOT EXISTS (SELECT FROM {schema}.workers
                 WHERE id = worker AND queue_id = (SELECT id FROM q) AND state = 'ready')) AS is_quiet,
       (1000000 * extract(epoch FROM next - now()))::bigint AS due_in_us, now() AS now
FROM due";
