//! The Postgres backend of pgqrs.
//!
//! ```no_run
//! # async fn run() -> pgqrs::Result<()> {
//! let store = pgqrs_postgres::connect("postgresql://localhost/app?sslmode=verify-full").await?;
//! pgqrs::admin(&store).install().await?; // once; every other call needs it
//! pgqrs::admin(&store).create_queue("tasks").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Postgres 13 or later. Every call is one statement or one short transaction, keeps no state in the
//! session and takes only transaction-scoped locks, so that transaction poolers such as PgBouncer
//! may stand between; see [`StatementMode`].
//!
//! [`PostgresStore::enqueue_in`] and its siblings work in a transaction of the caller's, see
//! [`Transaction`]. With the feature `sqlx-0_8` or `sqlx-0_9` it may be one of sqlx; the latter
//! needs Rust 1.94, all else 1.89.

#[cfg(feature = "bare")]
#[doc(hidden)]
pub mod bare;
mod catalogue;
mod claim;
mod connection;
mod doctor;
mod enqueue;
mod error;
mod group;
mod known;
mod listen;
mod migrate;
mod options;
mod partitions;
mod parts;
mod pool;
mod pooler;
mod queues;
mod reads;
mod remote;
mod session;
mod settle;
mod sql;
mod sql_claim;
mod sql_operations;
mod sql_partitions;
#[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
mod sqlx;
mod statements;
mod store;
mod sweep;
mod tls;
mod transaction;
mod url;
mod workers;

/// The code of the page is compiled here, where every driver is.
#[cfg(all(doctest, feature = "sqlx-0_8", feature = "sqlx-0_9"))]
#[doc = include_str!("../../docs/postgres.md")]
struct Page;

pub use options::{Notifications, Options, StatementMode};
pub use remote::{Remote, RemoteAnswer, RemoteStatement, RemoteValue};
pub use store::{Postgres, PostgresStore, connect};
pub use transaction::Transaction;
