//! From the driver's errors to ours: what the caller can do.

use std::error::Error as _;

use deadpool_postgres::{PoolError, TimeoutType};
use pgqrs::{Error, Source};
use tokio_postgres::{error::SqlState, types::FromSql};

use crate::connection::Record;

/// The error of a statement or a connection.
pub(crate) fn from_driver(error: tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        return from_connection(error);
    };
    let (code, message) = (db.code().code().to_owned(), db.message().to_owned());
    from_server(&code, &message, error.into())
}

/// The error that the server reports, by its SQLSTATE.
pub(crate) fn from_server(code: &str, message: &str, source: Source) -> Error {
    let reason = format!("{message} (SQLSTATE {code})");
    let unavailable = match &SqlState::from_code(code) {
        &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            let reason = format!("{reason}; check user and password in the URL, and pg_hba.conf");
            return Error::PermissionDenied { reason, source: Some(source) };
        }
        &SqlState::INSUFFICIENT_PRIVILEGE => {
            let reason = format!(
                "{reason}; installing needs GRANT CREATE ON DATABASE, everything else GRANT USAGE \
                 ON the SCHEMA and ALL ON ALL TABLES and SEQUENCES IN it"
            );
            return Error::PermissionDenied { reason, source: Some(source) };
        }
        &SqlState::UNDEFINED_DATABASE => {
            let reason = format!("{reason}; create it with CREATE DATABASE, or correct the URL");
            return Error::Backend { reason, source: Some(source) };
        }
        &SqlState::READ_ONLY_SQL_TRANSACTION => {
            Some(format!("{reason}; the URL must lead to the primary, not to a standby"))
        }
        &SqlState::LOCK_NOT_AVAILABLE => {
            Some(format!("{reason}; pgqrs::admin(&store).doctor() names who holds locks for long"))
        }
        // Connection failures, shutdown and crash, too many connections, deadlock and serialisation.
        _ if ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class)) => {
            Some(reason.clone())
        }
        _ => None,
    };
    match unavailable {
        Some(reason) => Error::Unavailable { reason, source: Some(source) },
        None => Error::Backend { reason, source: Some(source) },
    }
}

/// The error of taking a connection from the pool.
pub(crate) fn from_pool(error: PoolError) -> Error {
    match error {
        PoolError::Backend(error) => from_driver(error),
        PoolError::Timeout(TimeoutType::Wait) => unavailable(
            "no connection of the pool became free in time; raise Options::pool_size".into(),
        ),
        PoolError::Timeout(_) => unavailable(TOO_LATE.into()),
        error => Error::Backend { reason: error.to_string(), source: Some(error.into()) },
    }
}

/// Why there is no connection.
pub(crate) const TOO_LATE: &str =
    "the server did not accept a connection in time; check host, port and network";

pub(crate) fn unavailable(reason: String) -> Error {
    Error::Unavailable { reason, source: None }
}

/// A number outside what is allowed.
pub(crate) fn out_of_range(
    what: &'static str,
    value: impl ToString,
    allowed: &'static str,
) -> Error {
    Error::OutOfRange { what, value: value.to_string(), allowed }
}

/// The SQLSTATE behind `error`, if the server gave one.
pub(crate) fn sqlstate(error: &Error) -> Option<SqlState> {
    let (Error::Unavailable { source, .. } | Error::Backend { source, .. }) = error else {
        return None;
    };
    let source = source.as_ref()?;
    #[cfg(feature = "sqlx-0_8")]
    if let Some(error) = source.downcast_ref() {
        return crate::sqlx::v0_8::sqlstate(error).map(|code| SqlState::from_code(&code));
    }
    #[cfg(feature = "sqlx-0_9")]
    if let Some(error) = source.downcast_ref() {
        return crate::sqlx::v0_9::sqlstate(error).map(|code| SqlState::from_code(&code));
    }
    source.downcast_ref::<tokio_postgres::Error>()?.code().cloned()
}

/// The value of a column.
pub(crate) fn column<'r, T: FromSql<'r>>(row: &'r impl Record, name: &str) -> pgqrs::Result<T> {
    row.value(name)
}

fn from_connection(error: tokio_postgres::Error) -> Error {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    let reason = format!("{error}{cause}");
    // The driver does not tell its kinds of errors apart but by their text.
    let kind = error.to_string();
    let source = Some(error.into());
    match kind.as_str() {
        "authentication error" | "invalid configuration" => {
            let reason = format!("{reason}; check user and password in the URL");
            Error::PermissionDenied { reason, source }
        }
        "error performing TLS handshake" => {
            let reason = format!("{reason}; check sslmode and sslrootcert in the URL");
            Error::Backend { reason, source }
        }
        "error connecting to server" => {
            let reason =
                format!("{reason}; check that the server runs, and host and port in the URL");
            Error::Unavailable { reason, source }
        }
        "error communicating with the server"
        | "connection closed"
        | "timeout waiting for server" => Error::Unavailable { reason, source },
        _ => Error::Backend { reason, source },
    }
}
