//! The SQLite backend of pgqrs: a message queue in a file, with no server.
//!
//! [`connect`] opens the file, makes it when it is missing, and installs the schema. Several
//! processes may use one file; the application's own tables may live in it too, for every name of
//! ours begins with `pgqrs_`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = pgqrs_sqlite::connect("sqlite::memory:").await?; // or sqlite:///jobs.db
//! pgqrs::admin(&store).create_queue("tasks").await?;
//! pgqrs::enqueue().message(&"a job").to("tasks").execute(&store).await?;
//! # Ok(())
//! # }
//! ```
//!
//! One thread per store writes. It commits everything that is waiting at once, so that many callers
//! share one `fsync`, and no caller waits for another's handler. Reads run on connections of their
//! own.

#[cfg(feature = "bare")]
#[doc(hidden)]
pub mod bare;
mod caller;
mod checkpoint;
mod claim;
mod connection;
mod doctor;
mod enqueue;
mod error;
mod gaps;
mod lease;
mod migrate;
mod pace;
mod queues;
mod reader;
mod reads;
mod settle;
mod sql;
mod store;
mod sweep;
mod tx;
mod url;
mod watch;
mod workers;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;

pub use rusqlite;

pub use store::SqliteStore;

/// Opens the store that `url` names, and installs or upgrades its schema.
///
/// | URL | names |
/// | --- | --- |
/// | `sqlite:///jobs.db`, `sqlite://jobs.db` | a file, relative to the working folder |
/// | `sqlite:////var/lib/jobs.db` | a file, absolute |
/// | `sqlite::memory:` | a database of this store alone, gone with its last handle |
///
/// A missing file is made; its folder must exist. `%20` and the like are decoded. Parameters, after
/// `?` and separated by `&`:
///
/// - `synchronous=full` (the default) or `normal`. Both lose nothing when the program is killed.
///   `full` syncs the disk at every commit, so that a power cut loses nothing either; it is the
///   default because it is what a Postgres server promises, and because callers that are waiting
///   share one sync. `normal` syncs now and then: a power cut may undo the last commits, claims and
///   acknowledged enqueues among them, and never damages the file.
/// - `busy_timeout=5000`: for how many milliseconds a call waits for other programs that write to
///   the file before it is [`Unavailable`](pgqrs::Error::Unavailable); at most 3,600,000.
///
/// # Errors
/// [`InvalidUrl`](pgqrs::Error::InvalidUrl), also for a folder that is missing;
/// [`PermissionDenied`](pgqrs::Error::PermissionDenied) for a file that cannot be written;
/// [`Backend`](pgqrs::Error::Backend) for a file that is no database, is damaged, or stands on a
/// file system without write-ahead logging; `SchemaTooNew` and `SchemaDrift`.
pub async fn connect(url: &str) -> pgqrs::Result<SqliteStore> {
    SqliteStore::open(url.parse()?).await
}

/// The backend as a value for [`pgqrs::Backends`]: serves `sqlite` URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sqlite;

#[async_trait]
impl pgqrs::Backend for Sqlite {
    fn schemes(&self) -> &'static [&'static str] {
        &["sqlite"]
    }

    async fn connect(&self, url: &str) -> pgqrs::Result<Arc<dyn pgqrs::Store>> {
        Ok(Arc::new(connect(url).await?))
    }
}
