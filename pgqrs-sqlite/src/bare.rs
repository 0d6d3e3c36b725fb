//! The store's claim and archive on a bare connection: what benchmarks measure run loops beside.

use pgqrs::{Action, BatchSize, Claim, QueueName, Receipt, Result, Settle, Settlement, WorkerId};

use crate::{claim, connection::open_writer, error::Outcome, settle, sql, tx::Tx};

/// Empties a queue on a connection of its own, as `worker`: in each transaction what was claimed is
/// archived and `batch` messages are claimed; payloads are read and not parsed. Returns how many it
/// were.
///
/// # Errors
/// Of the database.
pub fn drain(url: &str, queue: QueueName, worker: WorkerId, batch: BatchSize) -> Result<usize> {
    let connection = open_writer(&url.parse()?)?;
    let tx = Tx::new(&connection);
    let claim = Claim { queue, worker: Some(worker), limit: batch, timeout: None, now: None };
    let (mut held, mut done) = (relay(&tx, &[], &claim)?, 0);
    while !held.is_empty() {
        done += held.len();
        held = relay(&tx, &held, &claim)?;
    }
    Ok(done)
}

fn relay(tx: &Tx<'_>, held: &[Receipt], claim: &Claim) -> Outcome<Vec<Receipt>> {
    tx.run(sql::BEGIN, ())?;
    tx.begun()?;
    let archive = |&receipt| Settlement { receipt, action: Action::Archive };
    let settlements = held.iter().map(archive).collect();
    settle::settle(tx, &Settle { settlements, now: None })?;
    let claimed = claim::claim(tx, claim)?.receipts();
    tx.flush()?;
    tx.run(sql::COMMIT, ())?;
    Ok(claimed)
}
