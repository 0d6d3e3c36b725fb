//! Proves a pgqrs backend.

pub mod chaos;
pub mod conformance;
pub mod history;
pub mod model;
pub mod mutants;
pub mod server;
