//! The native half of the Python package `pgqrs`: stores, leases and the run loop, handed to the
//! friendly half in `python/pgqrs`. Every call names an event loop's [`bridge::Bridge`] and the
//! number under which it is answered there; nothing here waits with the GIL held.

mod admin;
mod bridge;
mod caller;
mod error;
mod json;
mod leases;
mod message;
mod producer;
mod run;
mod runtime;
mod store;
mod transaction;
mod values;
mod wakeups;
mod worker;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{
        admin::Admin,
        bridge::Bridge,
        caller::{CallerCall, schema_missing},
        leases::Leases,
        message::{PyAction, PyMessage},
        producer::PyProducer,
        run::RunLoop,
        store::{PyStore, connect},
        transaction::Transaction,
        wakeups::Wakeups,
        worker::{PyConsumer, PyWorker},
    };
}
