//! The statements of `install`, `verify` and `doctor`: on the server's catalogues rather than our
//! tables. $1 is the schema's name.

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

/// The last id in the archive, where its ranges end, and what the default partition holds.
pub(crate) const ARCHIVE: &str = "
SELECT (SELECT coalesce(max(id), 0) FROM {schema}.archive) AS reached, r.ranges, r.upto,
       pg_size_pretty(pg_table_size('{schema}.archive_default')) AS default_size
FROM (
    SELECT count(bound) AS ranges, max(bound[1]::bigint) AS upto
    FROM pg_catalog.pg_inherits JOIN pg_catalog.pg_class ON oid = inhrelid,
         regexp_match(pg_get_expr(relpartbound, oid), 'TO \\D+(\\d+)') AS bound
    WHERE inhparent = '{schema}.archive'::regclass
) r";

/// The server's version.
pub(crate) const SERVER: &str = "
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::integer AS number";

/// The server's clock at this moment.
pub(crate) const CLOCK: &str = "SELECT clock_timestamp() AS now";

/// Which process of the server answers.
pub(crate) const PROCESS: &str = "SELECT pg_backend_pid() AS pid";
