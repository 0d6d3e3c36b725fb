//! Contests on SQLite.

mod drain;
mod enqueue;
mod flat;
mod floor;
mod group;
mod run_loop;
mod steady;
mod wake;
mod watcher;

use std::{fmt, path::PathBuf};

use clap::ValueEnum;
use pgqrs::admin;
use pgqrs_sqlite::SqliteStore;
use tempfile::TempDir;

pub(crate) use drain::drain;
pub(crate) use enqueue::enqueue;
pub(crate) use flat::flat;
pub(crate) use run_loop::{processes, run_loop};
pub(crate) use steady::steady;
pub(crate) use wake::{offer_bare, wake};
pub(crate) use watcher::watcher;

use crate::{
    Result,
    contest::Sample,
    cost::{Cost, processor_time},
    ours::QUEUE,
};

/// When a commit is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Synchronous {
    Normal,
    Full,
}

impl fmt::Display for Synchronous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::Full => "full",
        })
    }
}

/// Where database files are made, and how they are synced.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// What the cases call it.
    pub(crate) name: &'static str,
    pub(crate) folder: PathBuf,
    pub(crate) synchronous: Synchronous,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.name, self.synchronous)
    }
}

impl Place {
    /// A file in a folder of its own.
    fn file(&self) -> Result<DatabaseFile> {
        let folder = TempDir::with_prefix_in("pgqrs-bench-", &self.folder)?;
        Ok(DatabaseFile {
            path: folder.path().join("queue.db"),
            synchronous: self.synchronous,
            _folder: folder,
        })
    }
}

/// A database file, removed after use.
struct DatabaseFile {
    path: PathBuf,
    synchronous: Synchronous,
    _folder: TempDir,
}

impl DatabaseFile {
    fn url(&self) -> String {
        format!("sqlite:///{}?synchronous={}", self.path.display(), self.synchronous)
    }

    /// Our store on it, with an empty queue.
    async fn store(&self) -> Result<SqliteStore> {
        let store = pgqrs_sqlite::connect(&self.url()).await?;
        admin(&store).create_queue(QUEUE).await?;
        Ok(store)
    }

    fn floor(&self) -> Result<floor::Floor> {
        floor::Floor::create(&self.path, self.synchronous)
    }
}

/// What `work` yields, and the processor time it costs per message.
async fn measured(messages: usize, work: impl Future<Output = Result<Sample>>) -> Result<Sample> {
    let usage = || Cost { client: processor_time("self").map(|(own, _)| own), ..Cost::default() };
    let before = usage();
    let mut sample = work.await?;
    sample.cost = usage().since(&before, messages);
    Ok(sample)
}
