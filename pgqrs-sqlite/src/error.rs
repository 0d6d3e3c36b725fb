//! SQLite's errors as ours: what the caller can do about each.

use std::sync::Arc;

use pgqrs::{Error, Source};
use rusqlite::ErrorCode;

/// Why a request failed: for a reason of the contract, or of the database.
#[derive(Debug)]
pub(crate) enum Failure {
    Queue(Error),
    /// Shared, for one failed commit fails every request in it.
    Sqlite(Arc<rusqlite::Error>),
}

pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// Whether another connection's lock is in the way.
    pub(crate) fn is_busy(&self) -> bool {
        let Self::Sqlite(error) = self else { return false };
        let code = error.sqlite_error_code();
        matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    /// The same for another request of a transaction that failed as a whole.
    pub(crate) fn shared(&self) -> Self {
        match self {
            Self::Sqlite(error) => Self::Sqlite(error.clone()),
            Self::Queue(error) => {
                Self::Queue(Error::Unavailable { reason: error.to_string(), source: None })
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Queue(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Queue(error) => error,
            Failure::Sqlite(error) => translated(error),
        }
    }
}

pub(crate) fn stored_value(reason: impl Into<String>) -> Failure {
    let reason = format!("{}; the database was changed by another program", reason.into());
    Failure::Queue(Error::Backend { reason, source: None })
}

fn translated(error: Arc<rusqlite::Error>) -> Error {
    let text = error.to_string();
    let backend = |reason: &str, source: Source| {
        let reason = format!("{reason} ({text})");
        Error::Backend { reason, source: Some(source) }
    };
    let code = error.sqlite_error_code();
    let extended = error.sqlite_error().map(|error| error.extended_code);
    let is_outdated = extended == Some(rusqlite::ffi::SQLITE_BUSY_SNAPSHOT);
    let source: Source = Box::new(error);
    match code {
        Some(ErrorCode::DatabaseBusy) if is_outdated => Error::Unavailable {
            reason: "others have written since this transaction began to read; roll it back, and \
                     begin it with BEGIN IMMEDIATE"
                .into(),
            source: Some(source),
        },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Unavailable {
            reason: "another program kept the database locked for longer than busy_timeout; end \
                     its transaction, or raise ?busy_timeout= in the URL"
                .into(),
            source: Some(source),
        },
        Some(
            ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::AuthorizationForStatementDenied,
        ) => Error::PermissionDenied {
            reason: format!(
                "the database cannot be written; make the file and its folder writable, for \
                 SQLite keeps its log and its locks beside the file ({text})"
            ),
            source: Some(source),
        },
        Some(ErrorCode::DiskFull) => backend(
            "the disk is full, or the database has reached its max_page_count; nothing was \
             written; free space and try again",
            source,
        ),
        Some(ErrorCode::NotADatabase) => {
            backend("the file is no SQLite database, or is encrypted; name another file", source)
        }
        Some(ErrorCode::DatabaseCorrupt) => backend(
            "the database file is damaged; check it with PRAGMA integrity_check, then restore a \
             backup or run the sqlite3 shell's .recover",
            source,
        ),
        Some(ErrorCode::SystemIoFailure) => backend(
            "the disk failed; look at the system's log, and at whether the file system supports \
             locks",
            source,
        ),
        _ if text.contains("no such table: pgqrs_") => {
            Error::SchemaMissing { schema: "pgqrs_".into() }
        }
        _ => backend("SQLite refused a statement", source),
    }
}
