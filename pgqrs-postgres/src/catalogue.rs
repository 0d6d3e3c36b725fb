//! What has to stand in the schema, and what to do about what does not.

use std::collections::HashMap;

use pgqrs::Result;
use tokio_postgres::Row;

use crate::{error::column, sql::Statements};

/// What the migrations leave, `object: definition` a line. An ignored test of `tests/verify.rs`
/// writes it anew after a change of theirs.
const EXPECTED: &str = include_str!("../migrations/catalogue.txt");

/// Objects and their definitions, both as the statement `CATALOGUE` gives them.
pub(crate) struct Catalogue<'a>(HashMap<&'a str, &'a str>);

impl<'a> Catalogue<'a> {
    /// What stands in the database.
    pub(crate) fn of(rows: &'a [Row]) -> Result<Self> {
        let pairs = rows.iter().map(|row| Ok((column(row, "object")?, column(row, "definition")?)));
        pairs.collect::<Result<_>>().map(Self)
    }

    /// Whether the functions are as this version has them.
    pub(crate) fn has_functions(&self) -> bool {
        let mut functions = expected().filter(|(object, _)| object.starts_with("function "));
        functions.all(|(object, wanted)| self.0.get(object) == Some(&wanted))
    }

    /// What is missing or different, each with the remedy.
    pub(crate) fn findings(&self, sql: &Statements) -> Vec<String> {
        let missing = expected().filter_map(|(object, wanted)| {
            let found = self.0.get(object).copied();
            (found != Some(wanted)).then(|| finding(object, wanted, found))
        });
        let off = self.0.iter().filter_map(|(object, value)| {
            let table = object.strip_prefix("setting ")?.strip_suffix(".autovacuum_enabled")?;
            let is_on = ["on", "true", "yes", "1"].contains(&value.to_lowercase().as_str());
            (!is_on).then(|| {
                format!(
                    "autovacuum is off for table {table}: ALTER TABLE {{schema}}.{table} RESET \
                     (autovacuum_enabled)"
                )
            })
        });
        let mut findings: Vec<_> = missing.chain(off).map(|text| sql.render(&text)).collect();
        findings.sort();
        findings
    }
}

fn expected() -> impl Iterator<Item = (&'static str, &'static str)> {
    EXPECTED.lines().filter_map(|line| line.split_once(": "))
}

/// What is wrong with an object, and what to do, with `{schema}` for the schema's name.
fn finding(object: &str, wanted: &str, found: Option<&str>) -> String {
    let (kind, name) = object.split_once(' ').unwrap_or_default();
    let remedy = match (kind, found) {
        ("table", _) => "restore it from a backup, or drop the schema and install it anew".into(),
        ("partition", _) => {
            format!("CREATE TABLE {{schema}}.{name} PARTITION OF {{schema}}.archive {wanted}")
        }
        ("column", None) => "restore the table from a backup".into(),
        ("column", Some(_)) => {
            let (table, column) = name.split_once('.').unwrap_or_default();
            format!("ALTER TABLE {{schema}}.{table} ALTER COLUMN {column} … back to {wanted}")
        }
        ("index", None) => create_index(wanted),
        ("index", Some(_)) => {
            format!("DROP INDEX {{schema}}.{name}, then {}", create_index(wanted))
        }
        ("sequence", _) => format!("ALTER SEQUENCE {{schema}}.{name} {wanted}"),
        ("setting", _) => {
            let (table, setting) = name.split_once('.').unwrap_or_default();
            format!("ALTER TABLE {{schema}}.{table} SET ({setting} = {wanted})")
        }
        _ => "call pgqrs::admin(&store).install().await, which puts it back".into(),
    };
    match found {
        None => format!("{object} is missing: {remedy}"),
        Some(found) if kind == "function" => format!("{object} is another one ({found}): {remedy}"),
        Some(found) => format!("{object} is {found}, not {wanted}: {remedy}"),
    }
}

/// The statement that builds an index without locking writers out, where Postgres can.
fn create_index(definition: &str) -> String {
    match definition.contains(" ON ONLY ") {
        true => definition.replacen(" ON ONLY ", " ON ", 1),
        false => definition.replacen("INDEX ", "INDEX CONCURRENTLY ", 1),
    }
}
