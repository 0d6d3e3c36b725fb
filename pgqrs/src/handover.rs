//! What a claim brought, on its way to its caller.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use chrono::{DateTime, Utc};

use crate::{Action, Claimed, Delay, Result, Settle, Settlement, Store};

/// For backends: a claim on its way that nobody may wait for any more, as when a caller's
/// `select!` or `timeout` drops it.
///
/// It is awaited like `claim`. Dropped before that is over, `claim` goes on to its end in the
/// background, and what it leased is released through `store` at once, attempts included: without
/// this those messages would wait for their visibility timeout. Where no runtime is left they do.
///
/// ```
/// # use pgqrs::{Claim, Claimed, Handover, MemoryStore, Result, Store};
/// async fn claim(store: &MemoryStore, claim: Claim) -> Result<Claimed> {
///     let (claiming, now) = (store.clone(), claim.now);
///     Handover::of(store.clone(), now, async move { claiming.claim(claim).await }).await
/// }
/// ```
#[must_use = "a claim does nothing unless it is awaited"]
pub struct Handover {
    store: Arc<dyn Store>,
    now: Option<DateTime<Utc>>,
    claim: Option<Claiming>,
    has_begun: bool,
}

type Claiming = Pin<Box<dyn Future<Output = Result<Claimed>> + Send>>;

impl Handover {
    /// Hands over what `claim` brings, which was made at `now`.
    pub fn of(
        store: impl Store + 'static,
        now: Option<DateTime<Utc>>,
        claim: impl Future<Output = Result<Claimed>> + Send + 'static,
    ) -> Self {
        Self { store: Arc::new(store), now, claim: Some(Box::pin(claim)), has_begun: false }
    }
}

impl Future for Handover {
    type Output = Result<Claimed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.has_begun = true;
        let Some(claim) = &mut self.claim else { return Poll::Pending };
        let claimed = claim.as_mut().poll(context);
        if claimed.is_ready() {
            self.claim = None;
        }
        claimed
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if self.has_begun
            && let Some(claim) = self.claim.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (store, now) = (self.store.clone(), self.now);
            runtime.spawn(async move {
                let released = async { release(&*store, claim.await?, now).await };
                if let Err(error) = released.await {
                    tracing::warn!(%error, "could not release what nobody waits for any more");
                }
            });
        }
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").field("store", &self.store).finish_non_exhaustive()
    }
}

async fn release(store: &dyn Store, claimed: Claimed, now: Option<DateTime<Utc>>) -> Result<()> {
    let release = |receipt| Settlement { receipt, action: Action::Release(Delay::ZERO) };
    let receipts = claimed.messages.into_iter().map(|message| message.receipt);
    let settlements: Vec<_> = receipts.map(release).collect();
    if !settlements.is_empty() {
        store.settle(Settle { settlements, now }).await?;
    }
    Ok(())
}
