//! Leases that are renewed while handlers work, however long those keep the interpreter busy.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pgqrs::{Action, Receipt, Settle, Settlement, Store, VisibilityTimeout};
use pyo3::prelude::*;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    message::{receipt, timeout},
    runtime::{self, OfProcess},
};

/// How soon a renewal is tried again that the store did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// The leases of one consumer. Renewal ends when it is closed or dropped.
#[pyclass(frozen, module = "pgqrs._native")]
pub(crate) struct Leases {
    held: OfProcess<Arc<Held>>,
    renewal: OfProcess<Mutex<Option<DropGuard>>>,
}

#[derive(Debug, Default)]
struct Held {
    leases: Mutex<HashMap<Receipt, Lease>>,
    changed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    timeout: VisibilityTimeout,
    renew_at: Instant,
}

impl Leases {
    pub(crate) fn new(store: Arc<dyn Store>) -> PyResult<Self> {
        let (held, closed) = (Arc::new(Held::default()), CancellationToken::new());
        let renewal = closed.clone().drop_guard();
        let renew = renew(store, held.clone());
        runtime::handle()?.spawn(async move { closed.run_until_cancelled(renew).await });
        let renewal = OfProcess::new(Mutex::new(Some(renewal)));
        Ok(Self { held: OfProcess::new(held), renewal })
    }
}

#[pymethods]
impl Leases {
    /// Renews the lease from now on, so that it always lasts at least two thirds of `micros`. The
    /// first renewal comes when a third of `lasts` has passed, both in microseconds.
    fn hold(&self, id: i64, token: i64, micros: i64, lasts: i64) -> PyResult<()> {
        let (timeout, lasts) = (timeout(micros)?, timeout(lasts)?);
        let ends = Instant::now() + lasts.duration();
        let renew_at = ends - timeout.duration().min(lasts.duration()) * 2 / 3;
        let held = self.held.here()?;
        held.leases().insert(receipt(id, token), Lease { timeout, renew_at });
        held.changed.notify_one();
        Ok(())
    }

    /// Renews it no more; whether it was still held.
    fn drop(&self, id: i64, token: i64) -> PyResult<bool> {
        Ok(self.held.here()?.leases().remove(&receipt(id, token)).is_some())
    }

    fn is_held(&self, id: i64, token: i64) -> PyResult<bool> {
        Ok(self.held.here()?.leases().contains_key(&receipt(id, token)))
    }

    /// Renews nothing any more.
    fn close(&self) -> PyResult<()> {
        self.renewal.here()?.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
}

impl Held {
    fn leases(&self) -> MutexGuard<'_, HashMap<Receipt, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Instant> {
        self.leases().values().map(|lease| lease.renew_at).min()
    }

    /// The leases to renew now, and those close to it, so that one statement renews them all.
    fn due(&self, now: Instant) -> Vec<(Receipt, Lease)> {
        let is_due = |lease: &Lease| lease.renew_at <= now + lease.timeout.duration() / 6;
        let leases = self.leases();
        leases.iter().filter(|(_, lease)| is_due(lease)).map(|(&id, &lease)| (id, lease)).collect()
    }
}

async fn renew(store: Arc<dyn Store>, held: Arc<Held>) {
    loop {
        match held.next() {
            None => held.changed.notified().await,
            Some(next) => tokio::select! {
                () = held.changed.notified() => continue,
                () = tokio::time::sleep_until(next) => {}
            },
        }
        let (now, due) = (Instant::now(), held.due(Instant::now()));
        let extend = |&(receipt, lease): &(Receipt, Lease)| Settlement {
            receipt,
            action: Action::Extend(lease.timeout),
        };
        let settlements = due.iter().map(extend).collect();
        let outcomes = store.settle(Settle { settlements, now: None }).await;
        let mut leases = held.leases();
        for (position, (receipt, lease)) in due.iter().enumerate() {
            match &outcomes {
                Ok(outcomes) if outcomes.get(position).is_none_or(|outcome| outcome.is_err()) => {
                    leases.remove(receipt);
                }
                outcomes => {
                    let pause = lease.timeout.duration() / 3;
                    let pause = if outcomes.is_ok() { pause } else { pause.min(RETRY) };
                    if let Some(lease) = leases.get_mut(receipt) {
                        lease.renew_at = now + pause;
                    }
                }
            }
        }
    }
}
