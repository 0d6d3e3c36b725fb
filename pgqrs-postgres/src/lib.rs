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

mod claim;
mod enqueue;
mod error;
mod group;
mod known;
mod listen;
mod migrate;
mod options;
mod parts;
mod pool;
mod queues;
mod reads;
mod session;
mod settle;
mod sql;
mod statements;
mod store;
mod sweep;
mod tls;
mod url;
mod workers;

pub use options::{Notifications, Options, StatementMode};
pub use store::{Postgres, PostgresStore, connect};
