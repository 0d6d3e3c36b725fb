//! The ranges of the archive, kept by sweeps: made ahead, and dropped once all in them is past.
//!
//! Nothing here waits for others, and nobody waits for it: what needs a lock that somebody holds, or a
//! right that this user lacks, is left to a later sweep. Meanwhile what belongs to no range goes to
//! the default partition, and what is past is removed row by row.

use std::sync::atomic::Ordering;

use chrono::SecondsFormat;
use pgqrs::{Result, Sweep};
use tokio_postgres::error::SqlState;

use crate::{
    error::{column, sqlstate},
    pool::params,
    sql_operations::{
        ATTEMPT, DROP_PARTITION, EMPTY_PARTITION, MAKE_PARTITION, PARTITIONS, RETIRE_PARTITION,
    },
    store::Inner,
};

/// Ids in the smallest range. Below this a store has the default partition alone.
const RANGE: i64 = 1 << 18;
/// Messages of a retired partition that a statement removes, and statements that a sweep runs.
const REMOVED: i64 = 10_000;
const STATEMENTS: usize = 20;

/// Makes a range, retires one, and removes messages of retired ones; answers how many.
pub(crate) async fn keep(store: &Inner, sweep: Sweep) -> Result<u64> {
    let partitions = store.sql.render(PARTITIONS);
    let rows = store.pool.query(&partitions, params![sweep.now, RANGE]).await?;
    let Some(row) = rows.first() else {
        return Ok(0); // not for this user
    };
    if let Some(lower) = column::<Option<i64>>(row, "lower")? {
        let upper: i64 = column(row, "upper")?;
        let make = MAKE_PARTITION.replace("{lower}", &lower.to_string());
        attempt(store, &make.replace("{upper}", &upper.to_string())).await?;
    }
    if let Some(past) = column::<Option<&str>>(row, "past")?
        && is_time_to_retire(store, sweep)
    {
        let at = sweep.now.map(|now| now.to_rfc3339_opts(SecondsFormat::Micros, true));
        let at = at.map_or("NULL".into(), |now| format!("'{now}'::timestamptz"));
        attempt(store, &RETIRE_PARTITION.replace("{part}", past).replace("{at}", &at)).await?;
    }
    match column::<Option<&str>>(row, "retired")? {
        Some(retired) => empty(store, retired).await,
        None => Ok(0),
    }
}

/// Removes messages of a retired partition, and at last the partition, unless another sweep has.
async fn empty(store: &Inner, retired: &str) -> Result<u64> {
    let statement = store.sql.render(&EMPTY_PARTITION.replace("{part}", retired));
    let mut removed = 0;
    for _ in 0..STATEMENTS {
        let row = match store.pool.query_one(&statement, params![REMOVED]).await {
            Err(error) if sqlstate(&error) == Some(SqlState::UNDEFINED_TABLE) => break,
            answer => answer?,
        };
        let some: i64 = column(&row, "removed")?;
        removed += some.cast_unsigned();
        if column(&row, "is_done")? {
            attempt(store, &DROP_PARTITION.replace("{part}", retired)).await?;
        }
        if some < REMOVED {
            break;
        }
    }
    Ok(removed)
}

/// Does it now, or not at all.
async fn attempt(store: &Inner, what: &str) -> Result<()> {
    let mut tx = store.pool.begin().await?;
    let done = tx.batch(&store.sql.render(&ATTEMPT.replace("{attempt}", what))).await;
    tx.end(done).await
}

/// Once a minute: to look through a partition in which something is kept may take a while.
fn is_time_to_retire(store: &Inner, sweep: Sweep) -> bool {
    let minute = store.started.elapsed().as_secs() / 60 + 1;
    store.retired.swap(minute, Ordering::Relaxed) != minute || sweep.now.is_some()
}
