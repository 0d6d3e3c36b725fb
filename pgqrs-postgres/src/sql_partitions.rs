//! The statements that a sweep keeps the archive with, by the conventions of `sql.rs`.

/// What there is to do for the partitions of the archive, at $1, by a user who may. A range of ids to
/// make one for, so that two are ahead of what is archived, at least $2 ids and a third of what there
/// is. One that may be past: its first and its last row are, and the first one above, so that hardly
/// any of its messages is to come yet; one time in ten, for to look through one in which something is
/// kept may take a while. And one retired.
pub(crate) const PARTITIONS: &str = "
WITH part AS MATERIALIZED (
    SELECT quote_ident(relname) AS name, bound[1]::bigint AS lower, bound[2]::bigint AS upper
    FROM pg_catalog.pg_inherits JOIN pg_catalog.pg_class ON oid = inhrelid,
         regexp_match(pg_get_expr(relpartbound, oid), '(\\d+)\\D+(\\d+)') AS bound
    WHERE inhparent = '{schema}.archive'::regclass AND bound IS NOT NULL
), next AS (
    SELECT greatest((max(upper) - min(lower)) / 3 / $2, 1) * $2 AS size,
           greatest(max(upper),
                    ((SELECT coalesce(max(id), 0) FROM {schema}.archive_default) / $2 + 1) * $2) AS lower
    FROM (SELECT coalesce(max(id), 0) AS reached FROM {schema}.archive) a LEFT JOIN part ON true
    GROUP BY reached HAVING count(*) FILTER (WHERE lower > reached) < 2
), past AS MATERIALIZED (
    SELECT name FROM part CROSS JOIN LATERAL (
        SELECT bool_or(q.retention_us IS NULL OR a.archived_at > coalesce($1, now()) - {retention})
                   AS is_kept, bool_or(a.id >= upper) AS is_passed
        FROM ((SELECT * FROM {schema}.archive WHERE id >= lower ORDER BY id LIMIT 1)
              UNION ALL (SELECT * FROM {schema}.archive WHERE id < upper ORDER BY id DESC LIMIT 1)
              UNION ALL (SELECT * FROM {schema}.archive WHERE id >= upper ORDER BY id LIMIT 1)
        ) a JOIN {schema}.queues q ON q.id = a.queue_id) looked
    WHERE upper <= (SELECT last_value FROM {schema}.sequence) AND is_passed AND NOT is_kept
      AND ($1 IS NOT NULL OR random() < 0.1)
)
SELECT next.lower::text, (next.lower + next.size)::text AS upper, quote_literal(coalesce($1, now())) AS at,
       (SELECT name FROM past ORDER BY random() LIMIT 1) AS past,
       (SELECT min(name) FROM {schema}.retired JOIN pg_catalog.pg_class
          ON oid = to_regclass('{schema}.' || name) AND pg_has_role(relowner, 'USAGE')) AS retired
FROM pg_catalog.pg_class c LEFT JOIN next ON true
WHERE c.oid = '{schema}.archive'::regclass AND pg_has_role(c.relowner, 'USAGE')
  AND has_schema_privilege(c.relnamespace, 'CREATE')";

/// What waits for no lock for long, and leaves nothing behind where it cannot be done now.
pub(crate) const ATTEMPT: &str = "
SET LOCAL lock_timeout = 100; SET LOCAL statement_timeout = 200;
DO $do$ BEGIN
    {attempt}
EXCEPTION WHEN lock_not_available OR query_canceled OR deadlock_detected OR insufficient_privilege
    OR duplicate_table OR duplicate_object OR unique_violation OR check_violation
    OR undefined_table THEN NULL;
END $do$";

/// The archive itself is locked in a mode that stops nobody, the default partition for a moment: it is
/// searched for rows of the range, and there are none.
pub(crate) const MAKE_PARTITION: &str = "
    CREATE TABLE {schema}.archive_{lower} (LIKE {schema}.archive);
    ALTER TABLE {schema}.archive ATTACH PARTITION {schema}.archive_{lower}
        FOR VALUES FROM ({lower}) TO ({upper});";

/// Looks whether anything in a partition is to be kept; if nothing is, locks it, unless somebody uses
/// it, and looks again. Only then the archive is locked, at which others would have to wait.
pub(crate) const RETIRE_PARTITION: &str = "
    FOR look IN 1..2 LOOP
        IF EXISTS (
            SELECT FROM {schema}.queues q CROSS JOIN LATERAL (
                (SELECT 1 FROM {schema}.{part} WHERE queue_id = q.id AND q.retention_us IS NULL LIMIT 1)
                UNION ALL (SELECT 1 FROM {schema}.{part} WHERE queue_id = q.id
                           AND archived_at > {at}::timestamptz - {retention} LIMIT 1)) kept
        ) THEN RETURN; END IF;
        LOCK TABLE ONLY {schema}.{part} IN ACCESS EXCLUSIVE MODE NOWAIT;
    END LOOP;
    ALTER TABLE {schema}.archive DETACH PARTITION {schema}.{part};
    INSERT INTO {schema}.retired (name, upto) VALUES ('{part}', 0);";

/// Removes up to $1 messages of a retired partition. Done: none is left, and nobody else is at it.
pub(crate) const EMPTY_PARTITION: &str = "
WITH mark AS MATERIALIZED (
    SELECT upto FROM {schema}.retired WHERE name = '{part}' FOR UPDATE SKIP LOCKED
), old AS MATERIALIZED (
    SELECT id FROM {schema}.{part} WHERE id > (SELECT upto FROM mark) ORDER BY id LIMIT $1
), removed AS (
    DELETE FROM {schema}.messages WHERE id = ANY (ARRAY (SELECT id FROM old))
), marked AS (
    UPDATE {schema}.retired SET upto = (SELECT max(id) FROM old)
    WHERE name = '{part}' AND EXISTS (SELECT FROM old)
)
SELECT count(*) AS removed, count(*) < $1 AND EXISTS (SELECT FROM mark) AS is_done FROM old";

pub(crate) const DROP_PARTITION: &str = "
    DROP TABLE {schema}.{part};
    DELETE FROM {schema}.retired WHERE name = '{part}';";

/// Row by row, what is past its retention: of the default partition at once, of a range only when it
/// has waited for as long again to be dropped with it.
pub(crate) const REMOVE_ARCHIVED: &str = "
WITH old AS MATERIALIZED (
    SELECT a.id FROM {schema}.queues q CROSS JOIN LATERAL (
        SELECT id FROM (
            SELECT id FROM {schema}.archive_default
            WHERE queue_id = q.id AND archived_at <= coalesce($1, now()) - {retention}
            LIMIT $2 FOR UPDATE SKIP LOCKED) of_none
        UNION ALL
        SELECT id FROM (
            SELECT id FROM {schema}.archive
            WHERE queue_id = q.id AND archived_at <= coalesce($1, now()) - 2 * {retention}
            LIMIT $2 FOR UPDATE SKIP LOCKED) of_ranges
    ) a
    WHERE q.retention_us IS NOT NULL
    LIMIT $2
), removed AS (
    DELETE FROM {schema}.archive WHERE id = ANY (ARRAY (SELECT id FROM old))
      AND id BETWEEN (SELECT min(id) FROM old) AND (SELECT max(id) FROM old)
    RETURNING id
), removed_messages AS (
    DELETE FROM {schema}.messages WHERE id = ANY (ARRAY (SELECT id FROM removed))
)
SELECT count(*) AS removed FROM removed";
