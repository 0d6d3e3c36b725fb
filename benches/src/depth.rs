//! A queue with much in it beside what is claimed.

use std::time::Duration;

use crate::{
    Result,
    contest::{RATE, Sample},
    ours::{self, Ours, QUEUE},
};

/// How much of what stands in the queue.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Depth {
    /// Ready messages in the deep queue, of three priorities.
    #[arg(long, default_value_t = 1_000_000)]
    ready: usize,
    /// Leased messages in the deep queue, enqueued before the ready ones.
    #[arg(long, default_value_t = 100_000)]
    leased: usize,
    /// Delayed messages in the deep queue.
    #[arg(long, default_value_t = 100_000)]
    delayed: usize,
    /// Archived messages of the deep queue.
    #[arg(long, default_value_t = 1_000_000)]
    archived: usize,
}

impl Depth {
    /// What the cases say of it.
    pub(crate) fn describe(&self) -> String {
        let Self { ready, leased, delayed, archived } = self;
        format!("{ready} ready, {leased} leased, {delayed} delayed, {archived} archived")
    }

    /// Makes the store's queue so deep.
    pub(crate) async fn fill<S: Ours>(&self, store: &S) -> Result<()> {
        let mut left = self.archived;
        while left > 0 {
            let chunk = left.min(50_000);
            ours::fill(store, chunk).await?;
            ours::drain(store, chunk, 1_000, 4).await?;
            left -= chunk;
        }
        ours::fill(store, self.leased).await?;
        let mut left = self.leased;
        while left > 0 {
            let dequeue = pgqrs::dequeue().from(QUEUE).batch(left.min(1_000)).vt_offset(43_200);
            left -= dequeue.fetch_all(store).await?.len();
        }
        self.enqueue(store, self.delayed, 4, Duration::from_secs(86_400)).await?;
        for (priority, share) in [4, 2, 6].into_iter().zip(ours::shares(self.ready, 3)) {
            self.enqueue(store, share, priority, Duration::ZERO).await?;
        }
        Ok(())
    }

    async fn enqueue<S: Ours>(
        &self,
        store: &S,
        messages: usize,
        priority: u8,
        delay: Duration,
    ) -> Result<()> {
        let payloads = vec![ours::payload(); 1_000];
        let mut left = messages;
        while left > 0 {
            let size = left.min(payloads.len());
            let enqueue = pgqrs::enqueue().messages(&payloads[..size]).priority(priority);
            enqueue.with_delay(delay).to(QUEUE).execute(store).await?;
            left -= size;
        }
        Ok(())
    }
}

/// Drains some of what is ready.
pub(crate) async fn drain_some<S: Ours>(
    store: &S,
    messages: usize,
    batch: usize,
    consumers: usize,
) -> Result<Sample> {
    let drained = ours::drain(store, messages, batch, consumers).await?;
    let rate = |took: Duration| messages as f64 / took.as_secs_f64();
    let figures = vec![(RATE, rate(drained.took)), ("/s, claims", rate(drained.claiming))];
    Ok(Sample { figures, ..Sample::default() })
}
