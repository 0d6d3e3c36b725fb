//! The schema: numbered, append-only scripts, applied in one transaction with the write lock held.

use pgqrs::Error;
use rusqlite::Connection;

use crate::{error::Outcome, tx::Tx};

struct Migration {
    version: i64,
    name: &'static str,
    script: &'static str,
}

/// Never change one that was published: append.
const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "initial",
    script: include_str!("../migrations/0001_initial.sql"),
}];

const CREATE_TABLE: &str = "
CREATE TABLE IF NOT EXISTS pgqrs_migrations (
    version  INTEGER PRIMARY KEY,
    name     TEXT NOT NULL,
    checksum TEXT NOT NULL
) STRICT";
const APPLIED: &str = "SELECT version, checksum FROM pgqrs_migrations ORDER BY version";
const RECORD: &str = "INSERT INTO pgqrs_migrations VALUES (?1, ?2, ?3)";
const OBJECTS: &str = "
SELECT type || ' ' || name, sql
FROM sqlite_schema
WHERE name LIKE 'pgqrs\\_%' ESCAPE '\\'
ORDER BY name";

/// Applies what is missing.
///
/// # Errors
/// `SchemaTooNew`, and `SchemaDrift` if a script differs from the one that was applied.
pub(crate) fn install(tx: &Tx<'_>) -> Outcome<()> {
    tx.connection.execute_batch(CREATE_TABLE)?;
    let applied = check_applied(tx)?;
    for migration in MIGRATIONS.iter().skip(applied) {
        tx.connection.execute_batch(migration.script)?;
        tx.run(RECORD, (migration.version, migration.name, checksum(migration.script)))?;
    }
    Ok(())
}

/// Compares the schema with what the scripts make.
///
/// # Errors
/// `SchemaMissing`, `SchemaTooNew`, `SchemaDrift`.
pub(crate) fn verify(tx: &Tx<'_>) -> Outcome<()> {
    if check_applied(tx)? < MIGRATIONS.len() {
        return Err(Error::SchemaMissing { schema: "pgqrs_".into() }.into());
    }
    let fresh = Connection::open_in_memory()?;
    let fresh = Tx::new(&fresh);
    install(&fresh)?;
    let (expected, found) = (objects(&fresh)?, objects(tx)?);
    let mut findings = Vec::new();
    for (name, sql) in &expected {
        match found.iter().find(|(other, _)| other == name) {
            None => findings.push(format!("{name} is missing")),
            Some((_, other)) if other != sql => findings.push(format!("{name} is different")),
            Some(_) => {}
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(Error::SchemaDrift { findings }.into()) }
}

/// How many migrations are applied, each as this program knows it.
fn check_applied(tx: &Tx<'_>) -> Outcome<usize> {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let applied: Vec<(i64, String)> = tx.all(APPLIED, (), read)?;
    let known = MIGRATIONS.last().map_or(0, |last| last.version);
    if let Some((found, _)) = applied.last().filter(|(version, _)| *version > known) {
        return Err(Error::SchemaTooNew { found: *found, known }.into());
    }
    let mut findings = Vec::new();
    for ((version, found), migration) in applied.iter().zip(MIGRATIONS) {
        if *version != migration.version || *found != checksum(migration.script) {
            findings.push(format!("migration {version} is not the one this program knows"));
        }
    }
    if findings.is_empty() {
        Ok(applied.len())
    } else {
        Err(Error::SchemaDrift { findings }.into())
    }
}

fn objects(tx: &Tx<'_>) -> Outcome<Vec<(String, Option<String>)>> {
    tx.all(OBJECTS, (), |row| Ok((row.get(0)?, row.get(1)?)))
}

/// 64-bit FNV-1a of the script, line ends aside.
fn checksum(script: &str) -> String {
    let bytes = script.bytes().filter(|byte| *byte != b'\r');
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
