//! What CI checks.

use crate::{
    Failure, prerequisites, python, size,
    steps::{Steps, command, output, show},
};

/// Crates that the core must not depend on.
const DRIVERS: [&str; 9] = [
    "deadpool-postgres",
    "diesel",
    "libsqlite3-sys",
    "mysql_async",
    "postgres",
    "redb",
    "rusqlite",
    "sqlx",
    "tokio-postgres",
];

/// The oldest and the newest Postgres that is supported.
const POSTGRES: [u32; 2] = [13, 18];

/// What depends most on the version: the contract, random programs, and plans.
const ON_EACH_POSTGRES: &str = "--test conformance --test plans --test verify --test function";

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Scope {
    /// Everything.
    #[default]
    Whole,
    /// What a change breaks most often.
    Quick,
}

/// How the checks are to run.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) scope: Scope,
    /// Major versions for all the Postgres tests; those of CI are tested in any case.
    pub(crate) postgres: Vec<u32>,
}

/// Runs every check, also after one has failed.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let mut steps = Steps::default();
    steps.step("prerequisites", || prerequisites::provide(options.scope));
    if steps.failed() {
        return steps.finish();
    }
    steps.step("format", || cargo("fmt --all --check"));
    steps.step("sizes", size::check);
    steps.step("no database driver in the core", core_without_driver);
    steps.step("lints", || cargo("clippy --workspace --all-targets --all-features -- -D warnings"));
    // What of the Python package is Rust cannot be linked without an interpreter.
    let tests = "test --workspace --exclude pgqrs-python --all-features --no-fail-fast";
    match options.scope {
        Scope::Quick => {
            steps.step("tests", || cargo(&format!("{tests} --lib --bins --tests --examples")));
        }
        Scope::Whole => {
            steps.step("tests and doc tests", || cargo(tests));
            steps.step("documentation", || {
                let doc = "cargo doc --workspace --exclude pgqrs-python --all-features --no-deps";
                let mut doc = command(doc);
                show(doc.env("RUSTDOCFLAGS", "-D warnings"))
            });
            steps.step("quickstart", || {
                cargo("run --quiet --package pgqrs-sqlite --example quickstart -- xtask/src")
            });
            steps.step("beside sqlx's SQLite", || {
                let manifest = "xtask/beside-sqlx/Cargo.toml";
                cargo(&format!(
                    "check --locked --manifest-path {manifest} --target-dir target/sqlx"
                ))
            });
            steps.step("Python", python::test);
            for version in POSTGRES.iter().filter(|version| !options.postgres.contains(version)) {
                let name = format!("contract and plans on Postgres {version}");
                steps.step(&name, || on_postgres(*version, ON_EACH_POSTGRES));
            }
        }
    }
    for version in &options.postgres {
        let name = format!("all tests on Postgres {version}");
        steps.step(&name, || on_postgres(*version, ""));
    }
    steps.finish()
}

/// Runs tests on a server of this version, which is fetched unless it is installed.
fn on_postgres(version: u32, which: &str) -> Result<(), Failure> {
    let tests = "test --package pgqrs-postgres --all-features --no-fail-fast";
    let mut tests = command(&format!("cargo {tests} {which}"));
    // A running server has the version that it has.
    tests.env_remove("PGQRS_TEST_POSTGRES_URL");
    show(tests.env("PGQRS_TEST_POSTGRES_VERSION", version.to_string()))
}

fn cargo(arguments: &str) -> Result<(), Failure> {
    show(&mut command(&format!("cargo {arguments}")))
}

fn core_without_driver() -> Result<(), Failure> {
    let tree = output(&mut command("cargo tree --package pgqrs --edges normal --prefix none"))?;
    let crates = tree.lines().filter_map(|line| line.split(' ').next());
    let found: Vec<&str> = crates.filter(|name| DRIVERS.contains(name)).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("pgqrs depends on {}; see `cargo tree -p pgqrs -e normal`", found.join(", ")))
}
