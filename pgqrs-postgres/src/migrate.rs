//! Migrations: numbered, append-only, embedded, checksummed.

use pgqrs::{Error, Result};

use crate::{
    catalogue::Catalogue,
    error::column,
    pool::{Session, params},
    sql_operations::{CATALOGUE, INSTALLED},
    store::Inner,
};

struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

/// Never change one that has been released: add another.
const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "initial",
    sql: include_str!("../migrations/0001_initial.sql"),
}];

/// The newest version.
pub(crate) const LATEST: i64 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// What an installation puts in place whenever it is missing or different.
const FUNCTIONS: &str = include_str!("../migrations/functions.sql");

/// Installs or upgrades the schema in one transaction. Installers go one after the other.
pub(crate) async fn install(store: &Inner) -> Result<()> {
    let mut tx = store.pool.begin_long().await?;
    let installed = migrate(store, &mut tx).await;
    tx.end(installed).await
}

/// Checks what is installed against what this program knows.
pub(crate) async fn verify(store: &Inner) -> Result<()> {
    let applied = store.pool.query(&store.sql.migrations, params![]).await;
    let mut findings = match applied {
        Ok(rows) => check(&rows)?,
        Err(_) if !is_installed(store).await? => return Err(store.schema_missing()),
        Err(error) => return Err(error),
    };
    let rows = store.pool.query(CATALOGUE, params![store.schema]).await?;
    findings.extend(Catalogue::of(&rows)?.findings(&store.sql));
    match findings.is_empty() {
        true => Ok(()),
        false => Err(Error::SchemaDrift { findings }),
    }
}

/// Fails if the schema is newer than this program; a missing one is fine.
pub(crate) async fn check_version(store: &Inner) -> Result<()> {
    if is_installed(store).await? {
        check(&store.pool.query(&store.sql.migrations, params![]).await?)?;
    }
    Ok(())
}

/// Whether the table of migrations exists.
pub(crate) async fn is_installed(store: &Inner) -> Result<bool> {
    let row = store.pool.query_one(INSTALLED, params![store.schema]).await?;
    column(&row, "installed")
}

async fn migrate(store: &Inner, tx: &mut Session<'_>) -> Result<()> {
    tx.query(&store.sql.lock_identity, params![checksum(&store.schema)]).await?;
    // Not IF NOT EXISTS: that asks for the right to create even when there is nothing to create.
    let row = tx.query_one(INSTALLED, params![store.schema]).await?;
    if !column::<bool>(&row, "schema_exists")? {
        tx.batch(&store.sql.create_schema).await?;
    }
    let applied = match column(&row, "installed")? {
        true => tx.query(&store.sql.migrations, params![]).await?,
        false => Vec::new(),
    };
    let findings = check(&applied)?;
    if !findings.is_empty() {
        return Err(Error::SchemaDrift { findings });
    }
    for migration in &MIGRATIONS[applied.len()..] {
        tx.batch(&store.sql.render(migration.sql)).await?;
        let Migration { version, name, sql } = *migration;
        tx.query(&store.sql.record_migration, params![version, name, checksum(sql)]).await?;
    }
    let rows = tx.query(CATALOGUE, params![store.schema]).await?;
    if !Catalogue::of(&rows)?.has_functions() {
        tx.batch(&store.sql.render(FUNCTIONS)).await?;
    }
    Ok(())
}

/// What differs between the migrations applied and those known.
fn check(applied: &[tokio_postgres::Row]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for (index, row) in applied.iter().enumerate() {
        let found: i64 = column(row, "version")?;
        if found > LATEST {
            return Err(Error::SchemaTooNew { found, known: LATEST });
        }
        let known = MIGRATIONS.get(index).filter(|known| known.version == found);
        if known.map(|known| checksum(known.sql)) != Some(column(row, "checksum")?) {
            findings.push(format!("migration {found} is not the one this program knows"));
        }
    }
    Ok(findings)
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>).
pub(crate) fn checksum(text: &str) -> i64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.cast_signed()
}
