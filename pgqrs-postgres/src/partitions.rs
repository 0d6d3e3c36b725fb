//! The ranges of the archive, kept by sweeps: made ahead, and dropped once all in them is past.
//!
//! Nothing here waits for others, and nobody waits for it: what needs a lock that somebody holds, or a
//! right that this user lacks, is left to a later sweep. Meanwhile what belongs to no range goes to
//! the default partition, and what is past is removed row by row.

use chrono::{DateTime, Utc};
use pgqrs::Result;
use tokio_postgres::error::SqlState;

use crate::{
    error::{column, sqlstate},
    pool::params,
    sql_partitions::{
        ATTEMPT, DROP_PARTITION, EMPTY_PARTITION, MAKE_PARTITION, PARTITIONS, RETIRE_PARTITION,
    },
    store::Inner,
};

/// Ids in the smallest range. Below this a store has the default partition alone.
pub(crate) const RANGE: i64 = 1 << 18;
/// Messages of a retired partition that a sweep removes: enough for 10,000 a second and run loop.
const REMOVED: i64 = 50_000;

/// Makes a range, retires one, and removes messages of retired ones; answers how many.
pub(crate) async fn keep(store: &Inner, now: Option<DateTime<Utc>>) -> Result<u64> {
    let rows = store.pool.query(&store.sql.render(PARTITIONS), params![now, RANGE]).await?;
    let Some(row) = rows.first() else {
        return Ok(0); // not for this user
    };
    let text = |name| column::<Option<&str>>(row, name);
    if let (Some(lower), Some(upper)) = (text("lower")?, text("upper")?) {
        attempt(store, MAKE_PARTITION, &[("{lower}", lower), ("{upper}", upper)]).await?;
    }
    if let (Some(part), Some(at)) = (text("past")?, text("at")?) {
        attempt(store, RETIRE_PARTITION, &[("{part}", part), ("{at}", at)]).await?;
    }
    match text("retired")? {
        Some(part) => empty(store, part).await,
        None => Ok(0),
    }
}

/// Removes messages of a retired partition, and at last the partition, unless another sweep has.
async fn empty(store: &Inner, part: &str) -> Result<u64> {
    let statement = store.sql.render(&EMPTY_PARTITION.replace("{part}", part));
    let row = match store.pool.query_one(&statement, params![REMOVED]).await {
        Err(error) if sqlstate(&error) == Some(SqlState::UNDEFINED_TABLE) => return Ok(0),
        answer => answer?,
    };
    if column(&row, "is_done")? {
        attempt(store, DROP_PARTITION, &[("{part}", part)]).await?;
    }
    Ok(column::<i64>(&row, "removed")?.cast_unsigned())
}

/// Does it now, or not at all.
async fn attempt(store: &Inner, what: &str, values: &[(&str, &str)]) -> Result<()> {
    let put_in = |sql: String, (name, value): &(&str, &str)| sql.replace(name, value);
    let sql = values.iter().fold(ATTEMPT.replace("{attempt}", what), put_in);
    let mut tx = store.pool.begin().await?;
    let done = tx.batch(&store.sql.render(&sql)).await;
    tx.end(done).await
}
