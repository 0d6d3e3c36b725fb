//! Proves that a store keeps the contract of pgqrs.
//!
//! A backend author writes one function that makes an empty database, and gets a test for every
//! side of every clause of [`Store`](pgqrs::Store):
//!
//! ```
//! // tests/conformance.rs
//! async fn fresh() -> (pgqrs::MemoryStore, ()) {
//!     // The store, on an empty database, and a guard whose drop removes the database.
//!     (pgqrs::MemoryStore::new(), ())
//! }
//!
//! pgqrs_testkit::conformance!(fresh);
//! # fn main() {}
//! ```
//!
//! - [`conformance`](mod@conformance): the named cases, one or more per clause; time is injected,
//!   nothing sleeps.
//! - [`model`](mod@model): random programs that run on the store and on a model of it, and shrink
//!   when the two differ.
//! - [`history`]: a concurrent stress whose recorded history is checked afterwards.
//! - [`chaos`]: processes that are killed in the middle of their work.
//! - [`mutants`]: stores with one planted bug each, by which the kit proves itself.
//! - [`workers`]: run loops in processes that are frozen, killed and asked to stop.
//! - [`server`]: a throwaway Postgres server for tests.

pub mod chaos;
pub mod conformance;
pub mod history;
pub mod model;
pub mod mutants;
pub mod server;
pub mod workers;
