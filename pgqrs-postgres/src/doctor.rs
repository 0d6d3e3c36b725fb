//! What hurts queues on this server, for `Store::doctor`.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pgqrs::{Error, Finding, Health, Result};
use tokio_postgres::Row;

use crate::{
    Notifications,
    error::column,
    listen, migrate,
    partitions::RANGE,
    pool::params,
    pooler::{self, Pooling},
    sql_operations as sql,
    store::Inner,
};

/// A transaction that is open for longer than this hurts, in seconds.
const OPEN_FOR: i64 = 60;
/// As many transactions since the beginning of one whose age in seconds is not known.
const TRANSACTIONS: i64 = 100_000;
/// So many dead rows in a table hurt if vacuum has not been there for [`VACUUMED`] seconds.
const DEAD: i64 = 100_000;
const VACUUMED: i64 = 600;
/// Share of the connections that may be in use, in percent.
const CONNECTIONS: i64 = 90;
/// Share of the numbers that may be drawn, in percent.
const NUMBERS: i64 = 50;
/// The clocks of program and server may be this far apart.
const CLOCKS: Duration = Duration::from_secs(1);
/// The oldest server that is tested.
const OLDEST_SERVER: i32 = 130_000;

/// What a check has found: the detail, and what it means.
type Found = (String, Health);

/// Looks at everything, one finding a check. What cannot be looked at is `Unknown`.
pub(crate) async fn examine(store: &Inner) -> Result<Vec<Finding>> {
    let versions = versions(store).await;
    if let Err(error @ Error::Unavailable { .. }) = versions {
        return Err(error);
    }
    let found = [
        ("versions", versions),
        ("oldest snapshot", oldest_snapshot(store).await),
        ("open transactions", oldest_session(store).await),
        ("dead rows", dead_rows(store).await),
        ("autovacuum", autovacuum(store).await),
        ("durability", durability(store).await),
        ("connections", connections(store).await),
        ("sequence", sequence(store).await),
        ("archive", archive(store).await),
        ("clock", clock(store).await),
        ("pooler", pooler(store).await),
        ("wake-ups", wakeups(store).await),
    ];
    let finding = |(check, found): (_, Result<Found>)| {
        let unknown =
            |error: Error| ("not looked at".into(), Health::Unknown { reason: error.to_string() });
        let (detail, health) = found.unwrap_or_else(unknown);
        Finding { check, detail, health }
    };
    Ok(found.into_iter().map(finding).collect())
}

async fn versions(store: &Inner) -> Result<Found> {
    let row = store.pool.query_one(sql::SERVER, params![]).await?;
    let (version, number): (String, i32) = (column(&row, "version")?, column(&row, "number")?);
    let known = migrate::LATEST;
    let (schema, remedy) = match migrate::verify(store).await {
        Ok(()) => (format!("at version {known}"), None),
        Err(Error::SchemaMissing { .. }) => {
            let remedy = "call pgqrs::admin(&store).install().await once";
            ("not installed".into(), Some(remedy.to_owned()))
        }
        Err(Error::SchemaTooNew { found, .. }) => {
            let remedy = "update this program before it meets what it does not know";
            (format!("at version {found}, newer than {known}"), Some(remedy.to_owned()))
        }
        Err(Error::SchemaDrift { findings }) => {
            ("not as installed".into(), Some(findings.join("; ")))
        }
        Err(error) => return Err(error),
    };
    let old = "update the server: Postgres 13 is the oldest that is tested".to_owned();
    let remedy = if number < OLDEST_SERVER { Some(old) } else { remedy };
    Ok((format!("Postgres {version}, schema {:?} {schema}", store.schema), ailing_if(remedy)))
}

async fn oldest_snapshot(store: &Inner) -> Result<Found> {
    let row = store.pool.query_one(sql::OLDEST_SNAPSHOT, params![]).await?;
    let Some(kind) = column::<Option<&str>>(&row, "kind")? else {
        return Ok(("no other transaction holds one".into(), visible(&row)?));
    };
    let (name, seconds): (&str, Option<i64>) = (column(&row, "name")?, column(&row, "seconds")?);
    let transactions = i64::from(column::<i32>(&row, "transactions")?);
    let application: Option<&str> = column(&row, "application")?;
    let application = application.filter(|name| !name.is_empty()).unwrap_or("unnamed");
    let state = column::<Option<&str>>(&row, "state")?.map(|state| format!(", {state}"));
    let age = seconds.map(|seconds| format!("{seconds} s and ")).unwrap_or_default();
    let detail = format!(
        "{kind} {name} ({application}{}) holds one that is {age}{transactions} transactions old",
        state.unwrap_or_default()
    );
    let hurts = seconds.map_or(transactions > TRANSACTIONS, |seconds| seconds > OPEN_FOR);
    let end = match kind {
        "prepared transaction" => format!("COMMIT PREPARED or ROLLBACK PREPARED {name}"),
        "replication slot" => {
            format!("let its consumer catch up, or SELECT pg_drop_replication_slot({name})")
        }
        "standby" => "end its long queries, or turn off its hot_standby_feedback".into(),
        _ => terminate(name.trim_start_matches("pid ")),
    };
    let remedy = format!("nothing that died since can be removed, and scans walk over it: {end}");
    Ok((detail, if hurts { Health::Ailing { remedy } } else { visible(&row)? }))
}

async fn oldest_session(store: &Inner) -> Result<Found> {
    let row = store.pool.query_one(sql::OLDEST_SESSION, params![store.schema]).await?;
    let Some(pid) = column::<Option<i32>>(&row, "pid")? else {
        return Ok(("none on the tables of this schema".into(), visible(&row)?));
    };
    let application: &str = column(&row, "application")?;
    let (state, seconds): (&str, i64) = (column(&row, "state")?, column(&row, "seconds")?);
    let detail =
        format!("the oldest on these tables is pid {pid} ({application:?}, {state}), {seconds} s");
    if seconds <= OPEN_FOR {
        return Ok((detail, visible(&row)?));
    }
    let remedy = format!(
        "it may hold messages and keep others waiting: {}; idle_in_transaction_session_timeout ends \
         idle ones by itself",
        terminate(&pid.to_string())
    );
    Ok((detail, Health::Ailing { remedy }))
}

async fn dead_rows(store: &Inner) -> Result<Found> {
    let rows = store.pool.query(sql::DEAD_ROWS, params![store.schema]).await?;
    let (mut details, mut hurt) = (Vec::new(), Vec::new());
    for row in &rows {
        let (name, dead): (&str, i64) = (column(row, "name")?, column(row, "dead")?);
        let vacuumed: Option<i64> = column(row, "vacuumed")?;
        let ago = vacuumed.map_or("never vacuumed".into(), |s| format!("vacuumed {s} s ago"));
        details.push(format!("{name} {dead} ({ago})"));
        if dead > DEAD && vacuumed.is_none_or(|seconds| seconds > VACUUMED) {
            hurt.push(format!("VACUUM \"{}\".{name}", store.schema));
        }
    }
    let remedy = (!hurt.is_empty()).then(|| {
        format!(
            "{}, and see why autovacuum does not: locks, its cost limits, its workers",
            hurt.join("; ")
        )
    });
    Ok((details.join(", "), ailing_if(remedy)))
}

async fn autovacuum(store: &Inner) -> Result<Found> {
    let row = store.pool.query_one(sql::AUTOVACUUM, params![store.schema]).await?;
    let on = "in postgresql.conf: dead rows pile up without it";
    let (detail, remedy) = match column::<Option<String>>(&row, "tables")? {
        _ if !column::<bool>(&row, "vacuums")? => {
            ("off on this server".to_owned(), Some(format!("set autovacuum = on {on}")))
        }
        _ if !column::<bool>(&row, "counts")? => (
            "blind, for track_counts is off".to_owned(),
            Some(format!("set track_counts = on {on}")),
        ),
        Some(tables) => {
            let remedy = "ALTER TABLE … RESET (autovacuum_enabled) for each".to_owned();
            (format!("off for {tables}"), Some(remedy))
        }
        None => ("on".to_owned(), None),
    };
    Ok((detail, ailing_if(remedy)))
}

async fn durability(store: &Inner) -> Result<Found> {
    let row = store.pool.query_one(sql::DURABILITY, params![]).await?;
    let Some(off) = column::<Option<String>>(&row, "off")? else {
        return Ok(("commits are on disk before they are acknowledged".into(), Health::Well));
    };
    let remedy = "turn them on: a crash loses messages, and a token of a lost claim comes again";
    Ok((off, Health::Ailing { remedy: remedy.into() }))
}

async fn connections(store: &Inner) -> Result<Found> {
    let row = store.pool.query_one(sql::CONNECTIONS, params![]).await?;
    let (used, allowed): (i64, i64) = (column(&row, "used")?, column(&row, "allowed")?);
    let remedy = (used * 100 > allowed * CONNECTIONS).then(|| {
        "lower Options::pool_size, put a pooler in between, or raise max_connections".to_owned()
    });
    Ok((format!("{used} of {allowed} in use"), ailing_if(remedy)))
}

async fn sequence(store: &Inner) -> Result<Found> {
    let row = store.pool.query_one(&store.sql.render(sql::SEQUENCE), params![]).await?;
    let drawn: i64 = column(&row, "last_value")?;
    let percent = drawn / (i64::MAX / 100);
    let remedy = (percent >= NUMBERS).then(|| {
        "no program counts that far: find out who called setval, and move to a new schema"
            .to_owned()
    });
    Ok((format!("{drawn} numbers drawn, {percent} % of all"), ailing_if(remedy)))
}

async fn archive(store: &Inner) -> Result<Found> {
    let row = store.pool.query_one(&store.sql.render(sql::ARCHIVE), params![]).await?;
    let (reached, ranges): (i64, i64) = (column(&row, "reached")?, column(&row, "ranges")?);
    let size: &str = column(&row, "default_size")?;
    let upto = column::<Option<i64>>(&row, "upto")?.unwrap_or(RANGE);
    // Sweeps are more than a range behind; less is caught up with.
    let remedy = (reached >= upto + RANGE).then(|| {
        format!(
            "what is archived can only be removed row by row: let a role that owns the archive \
             sweep; if one does, the default partition is too large to be looked through in 200 ms: \
             purge queues or give them a retention, then VACUUM FULL \"{}\".archive_default",
            store.schema
        )
    });
    let detail = format!("{ranges} ranges end at id {upto}, {reached} is reached; default {size}");
    Ok((detail, ailing_if(remedy)))
}

/// The best of three: the shorter the way, the less is uncertain.
async fn clock(store: &Inner) -> Result<Found> {
    let mut best = None;
    for _ in 0..3 {
        let (before, began) = (Utc::now(), Instant::now());
        let row = store.pool.query_one(sql::CLOCK, params![]).await?;
        let there: DateTime<Utc> = column(&row, "now")?;
        let uncertain = began.elapsed() / 2;
        let ahead = (there - before).as_seconds_f64() - uncertain.as_secs_f64();
        if best.is_none_or(|(_, best)| uncertain < best) {
            best = Some((ahead, uncertain));
        }
    }
    let (ahead, uncertain) = best.unwrap_or_default();
    Ok(skew(ahead, uncertain))
}

/// How far the server's clock is ahead, in seconds, give or take what the way takes.
fn skew(ahead: f64, uncertain: Duration) -> Found {
    let detail = format!(
        "the server's is {:.1} ms {}, give or take {:.1} ms",
        ahead.abs() * 1e3,
        if ahead < 0.0 { "behind this host's" } else { "ahead of this host's" },
        uncertain.as_secs_f64() * 1e3
    );
    let remedy = (ahead.abs() - uncertain.as_secs_f64() > CLOCKS.as_secs_f64()).then(|| {
        "synchronise both by NTP: queues go by the server's alone, but times that this host takes \
         and compares are wrong"
            .to_owned()
    });
    (detail, ailing_if(remedy))
}

async fn pooler(store: &Inner) -> Result<Found> {
    let pooling = pooler::detect(&store.pool).await?;
    let form = if store.pool.is_unnamed() { "unnamed" } else { "prepared" };
    let detail = match pooling {
        Pooling::None => format!("none; statements are {form}"),
        Pooling::Session => format!("one in session mode; statements are {form}"),
        Pooling::Transaction => format!("one in transaction mode; statements are {form}"),
    };
    let remedy = (pooling == Pooling::Transaction && form == "prepared").then(|| {
        "take StatementMode::Auto or Unnamed, unless the pooler follows prepared statements".into()
    });
    Ok((detail, ailing_if(remedy)))
}

async fn wakeups(store: &Inner) -> Result<Found> {
    if store.listener.mode == Notifications::Off {
        return Ok(("off by Options::notifications; run loops poll".into(), Health::Well));
    }
    let began = Instant::now();
    if listen::is_heard(store).await? {
        let detail = format!("a notification came back after {:.1?}", began.elapsed());
        return Ok((detail, Health::Well));
    }
    let remedy = "give Options::listen_url a direct connection; until then run loops poll";
    let detail = "LISTEN is answered, but nothing arrives".into();
    Ok((detail, Health::Ailing { remedy: remedy.into() }))
}

fn ailing_if(remedy: Option<String>) -> Health {
    remedy.map_or(Health::Well, |remedy| Health::Ailing { remedy })
}

/// Well, as far as this user sees everybody's sessions.
fn visible(row: &Row) -> Result<Health> {
    let (hidden, me): (i64, &str) = (column(row, "hidden")?, column(row, "me")?);
    if hidden == 0 {
        return Ok(Health::Well);
    }
    let reason =
        format!("{hidden} sessions of others are hidden: GRANT pg_read_all_stats TO {me:?}");
    Ok(Health::Unknown { reason })
}

fn terminate(pid: &str) -> String {
    format!("end it, or SELECT pg_terminate_backend({pid})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_apart_only_beyond_what_the_way_leaves_open() {
        let way = Duration::from_millis(300);
        assert_eq!(skew(1.2, way).1, Health::Well);
        let (detail, health) = skew(-1.4, way);
        assert!(detail.contains("1400.0 ms behind") && detail.contains("300.0 ms"), "{detail}");
        assert!(matches!(health, Health::Ailing { .. }));
    }
}
