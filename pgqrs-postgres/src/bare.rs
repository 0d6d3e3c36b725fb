//! The store's claim and archive on a bare connection: what benchmarks measure run loops beside.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use pgqrs::{MessageId, QueueName, Receipt, WorkerId};
use tokio_postgres::{
    Client, Error, Statement,
    types::{ToSql, Type},
};

use crate::{
    PostgresStore,
    enqueue::RUN,
    known::{RANKS, Start},
    settle::leases,
};

/// A connection with the two statements prepared.
#[derive(Debug)]
pub struct Bare {
    client: Client,
    claim: Statement,
    archive: Statement,
    queue: QueueName,
    worker: WorkerId,
    marks: Mutex<[i64; RANKS]>,
}

impl Bare {
    /// Prepares the statements of `store` for claims of `worker`.
    ///
    /// # Errors
    /// Of the database.
    pub async fn new(
        store: &PostgresStore,
        client: Client,
        queue: QueueName,
        worker: WorkerId,
    ) -> Result<Self, Error> {
        let (text, number, time) = (Type::TEXT, Type::INT8, Type::TIMESTAMPTZ);
        let (numbers, places) = (Type::INT8_ARRAY, Type::INT4_ARRAY);
        let callers = [numbers.clone(), places.clone(), places.clone()];
        let most = [number.clone(), number.clone(), time.clone(), numbers.clone()];
        let claim = [&[text][..], &callers, &most, &[number, Type::INT4]];
        let archive = [numbers.clone(), numbers, places.clone(), places, time];
        let sql = store.statements();
        Ok(Self {
            claim: client.prepare_typed(&sql.claim, &claim.concat()).await?,
            archive: client.prepare_typed(&sql.archive_whole, &archive).await?,
            client,
            queue,
            worker,
            marks: Mutex::new(Start::HEAD.marks),
        })
    }

    /// Claims as a busy store does, from where the last claim ended, up to `limit` messages of full
    /// runs; their payloads are read and not parsed.
    ///
    /// # Errors
    /// Of the database.
    pub async fn claim(&self, limit: usize) -> Result<Vec<Receipt>, Error> {
        let marks = *self.marks();
        let mut receipts = self.claim_from(marks, limit).await?;
        if receipts.len() < limit && marks != Start::HEAD.marks {
            // What another claim has left of a run stands before.
            *self.marks() = Start::HEAD.marks;
            receipts.extend(self.claim_from(Start::HEAD.marks, limit - receipts.len()).await?);
        }
        Ok(receipts)
    }

    async fn claim_from(&self, marks: [i64; RANKS], limit: usize) -> Result<Vec<Receipt>, Error> {
        let (queue, workers) = (self.queue.as_str(), vec![Some(self.worker.0)]);
        let (first, last, runs) = (vec![0_i32], vec![limit as i32], limit.div_ceil(RUN) as i64);
        let (timeout, now, from) = (None::<i64>, None::<DateTime<Utc>>, marks.to_vec());
        let (ready, wanted) = (1_i64, limit as i32);
        let parameters: [&(dyn ToSql + Sync); 10] =
            [&queue, &workers, &first, &last, &runs, &timeout, &now, &from, &ready, &wanted];
        let rows = self.client.query(&self.claim, &parameters).await?;
        let mut receipts = Vec::with_capacity(rows.len());
        for row in &rows {
            let _payloads: Vec<&str> = row.try_get("payloads")?;
            let (ids, token): (Vec<i64>, i64) = (row.try_get("ids")?, row.try_get("token")?);
            receipts.extend(ids.into_iter().map(|id| Receipt { id: MessageId(id), token }));
            let rank: i16 = row.try_get("rank")?;
            self.marks()[usize::from(rank.unsigned_abs())] = row.try_get("pos")?;
        }
        Ok(receipts)
    }

    /// Archives, and returns how many leases were current.
    ///
    /// # Errors
    /// Of the database.
    pub async fn archive(&self, receipts: &[Receipt]) -> Result<usize, Error> {
        let (ids, tokens, firsts, lasts) = leases(&receipts.iter().copied().collect());
        let now = None::<DateTime<Utc>>;
        let row =
            self.client.query_one(&self.archive, &[&ids, &tokens, &firsts, &lasts, &now]).await?;
        Ok(row.try_get::<_, Option<Vec<i64>>>("ids")?.unwrap_or_default().len())
    }

    fn marks(&self) -> MutexGuard<'_, [i64; RANKS]> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
