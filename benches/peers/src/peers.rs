//! The libraries that can share a lock file with ours.

pub(crate) mod apalis_postgres;
pub(crate) mod apalis_sqlite;
pub(crate) mod graphile;
pub(crate) mod ours;
pub(crate) mod pgmq;
