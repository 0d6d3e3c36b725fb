//! The statement of an idle poll, which writes nothing; those that read the server's catalogues and
//! not our tables, of `install`, `verify` and `doctor`, where $1 is the schema's name; at the end those
//! that keep the archive's partitions.

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

pub(crate) const INSTALLED: &str = "
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1) AS schema_exists,
       EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
                 ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname = 'schema_migrations') AS installed";

/// One object a row, with its definition, in which `{schema}.` stands for the schema ($1).
/// Partitions are left out, but for the default and settings: they come and go, and no index of the
/// archive can be taken from one of them alone.
pub(crate) const CATALOGUE: &str = "
WITH n AS (
    SELECT oid, quote_ident(nspname) || '.' AS prefix FROM pg_catalog.pg_namespace WHERE nspname = $1
), c AS (
    SELECT c.*, n.prefix FROM pg_catalog.pg_class c JOIN n ON n.oid = c.relnamespace
), described (object, definition) AS (
    SELECT 'table ' || relname,
           CASE relpersistence WHEN 'u' THEN 'unlogged ' WHEN 't' THEN 'temporary ' ELSE '' END
               || CASE relkind WHEN 'p' THEN 'partitioned by ' || pg_get_partkeydef(oid)
                               ELSE 'plain' END
    FROM c WHERE relkind IN ('r', 'p') AND NOT relispartition
    UNION ALL
    SELECT 'partition ' || relname, 'DEFAULT' FROM c JOIN pg_catalog.pg_partitioned_table p
        ON p.partdefid = c.oid
    UNION ALL
    SELECT 'column ' || relname || '.' || attname,
           format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
               || CASE WHEN attidentity <> '' THEN ' GENERATED ALWAYS AS IDENTITY'
                       WHEN attgenerated <> ''
                           THEN ' GENERATED ALWAYS AS ' || pg_get_expr(adbin, adrelid) || ' STORED'
                       WHEN adbin IS NOT NULL THEN ' DEFAULT ' || pg_get_expr(adbin, adrelid)
                       ELSE '' END
    FROM c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE relkind IN ('r', 'p') AND NOT relispartition AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'index ' || relname, pg_get_indexdef(c.oid)
               || CASE WHEN indisvalid THEN '' ELSE ' (invalid)' END
    FROM c JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid WHERE NOT relispartition
    UNION ALL
    SELECT 'sequence ' || relname, format('AS %s INCREMENT %s CACHE %s %s',
               format_type(seqtypid, NULL), seqincrement, seqcache,
               CASE WHEN seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END)
    FROM c JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
    UNION ALL
    SELECT 'setting ' || relname || '.' || option_name, option_value
    FROM c, pg_options_to_table(reloptions) WHERE relkind IN ('r', 'p')
    UNION ALL
    SELECT format('function %s(%s)', proname, pg_get_function_identity_arguments(f.oid)),
           format('RETURNS %s, %s defaults, %s, body %s', pg_get_function_result(f.oid),
                  pronargdefaults,
                  CASE WHEN proconfig = ARRAY['search_path=' || quote_ident($1) || ', pg_temp']
                       THEN 'own search_path' ELSE 'foreign settings' END,
                  md5(prosrc))
    FROM pg_catalog.pg_proc f JOIN n ON n.oid = f.pronamespace
)
SELECT object, replace(definition, n.prefix, '{schema}.') AS definition FROM described, n
ORDER BY object COLLATE \"C\"";

/// The oldest transaction whose snapshot keeps dead rows of this database, and how many sessions
/// are hidden from this user. A session's age counts from the start of its transaction; a slot and
/// a standby have only transactions that have begun since.
pub(crate) const OLDEST_SNAPSHOT: &str = "
WITH sessions AS (
    SELECT * FROM pg_catalog.pg_stat_activity
    WHERE pid <> pg_backend_pid() AND (datname = current_database() OR backend_type = 'walsender')
), holders (kind, name, application, state, seconds, transactions) AS (
    SELECT CASE backend_type WHEN 'walsender' THEN 'standby' ELSE 'session' END, 'pid ' || pid,
           application_name, state, extract(epoch FROM clock_timestamp() - xact_start)::bigint,
           greatest(age(backend_xmin), age(backend_xid))
    FROM sessions
    WHERE coalesce(backend_xmin, backend_xid) IS NOT NULL AND backend_type <> 'autovacuum worker'
    UNION ALL
    SELECT 'prepared transaction', quote_literal(gid), owner::text, NULL,
           extract(epoch FROM clock_timestamp() - prepared)::bigint, age(transaction)
    FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()
    UNION ALL
    SELECT 'replication slot', quote_literal(slot_name), coalesce(plugin, slot_type), NULL, NULL,
           age(xmin)
    FROM pg_catalog.pg_replication_slots WHERE xmin IS NOT NULL
)
SELECT o.*, (SELECT count(*) FROM sessions WHERE query = '<insufficient privilege>') AS hidden,
       current_user::text AS me
FROM (SELECT) one LEFT JOIN LATERAL (
    SELECT * FROM holders ORDER BY transactions DESC, seconds DESC NULLS LAST LIMIT 1
) o ON true";

/// The oldest transaction that has touched a table of ours and is still open.
pub(crate) const OLDEST_SESSION: &str = "
WITH touching AS MATERIALIZED (
    SELECT DISTINCT l.pid FROM pg_catalog.pg_locks l
    JOIN pg_catalog.pg_class c ON c.oid = l.relation
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = current_database()
    WHERE n.nspname = $1 AND l.pid <> pg_backend_pid()
), sessions AS (
    SELECT a.* FROM pg_catalog.pg_stat_activity a JOIN touching USING (pid)
)
SELECT o.*, (SELECT count(*) FROM sessions WHERE query = '<insufficient privilege>') AS hidden,
       current_user::text AS me
FROM (SELECT) one LEFT JOIN LATERAL (
    SELECT pid, application_name AS application, state,
           extract(epoch FROM clock_timestamp() - xact_start)::bigint AS seconds
    FROM sessions WHERE xact_start IS NOT NULL AND backend_type = 'client backend'
    ORDER BY xact_start LIMIT 1
) o ON true";

/// Dead rows as the statistics have them, most first.
pub(crate) const DEAD_ROWS: &str = "
SELECT relname::text AS name, n_dead_tup AS dead,
       extract(epoch FROM clock_timestamp() - greatest(last_vacuum, last_autovacuum))::bigint
           AS vacuumed
FROM pg_catalog.pg_stat_all_tables WHERE schemaname = $1 ORDER BY n_dead_tup DESC, relname";

/// Whether autovacuum works at all, and the tables for which it is off.
pub(crate) const AUTOVACUUM: &str = "
SELECT current_setting('autovacuum')::boolean AS vacuums,
       current_setting('track_counts')::boolean AS counts,
       (SELECT string_agg(c.relname, ', ' ORDER BY c.relname)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL pg_options_to_table(c.reloptions) o
        WHERE n.nspname = $1 AND o.option_name = 'autovacuum_enabled'
          AND NOT o.option_value::boolean) AS tables";

/// Client connections, and how many an ordinary user may make.
pub(crate) const CONNECTIONS: &str = "
SELECT (SELECT sum(numbackends)::bigint FROM pg_catalog.pg_stat_database) AS used,
       current_setting('max_connections')::bigint
           - current_setting('superuser_reserved_connections')::bigint
           - coalesce(current_setting('reserved_connections', true)::bigint, 0) AS allowed";

/// What may lose a commit that was acknowledged.
pub(crate) const DURABILITY: &str = "
SELECT string_agg(name || ' = off', ', ' ORDER BY name) AS off FROM unnest(ARRAY[
    'fsync', 'full_page_writes', 'synchronous_commit']) AS s (name)
WHERE current_setting(name) = 'off'";

/// The numbers drawn so far.
pub(crate) const SEQUENCE: &str = "SELECT last_value FROM {schema}.sequence";

/// The server's version.
pub(crate) const SERVER: &str = "
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::integer AS number";

/// The server's clock at this moment.
pub(crate) const CLOCK: &str = "SELECT clock_timestamp() AS now";

/// Which process of the server answers.
pub(crate) const PROCESS: &str = "SELECT pg_backend_pid() AS pid";

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
