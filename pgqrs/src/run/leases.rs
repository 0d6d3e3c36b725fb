//! The leases that a run loop keeps alive, and the moment at which each must be let go.

use std::collections::HashMap;

use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::{Action, Message, Receipt, Settlement, VisibilityTimeout};

/// What a loop holds: buffered messages and messages in work.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: HashMap<Receipt, Lease>,
}

#[derive(Debug)]
struct Lease {
    timeout: VisibilityTimeout,
    /// When the lease ends, at the latest, by this process's clock: counted from before the claim or
    /// renewal was sent, so it is never later than the store's own end.
    ends: Instant,
    /// Cancels the handler that works under the lease.
    handler: CancellationToken,
}

impl Lease {
    /// When the handler must be cancelled so that it stops before the lease lapses.
    fn fence(&self) -> Instant {
        self.ends - self.timeout.duration() / 10
    }

    fn renewal(&self) -> Instant {
        self.ends - self.timeout.duration() * 2 / 3
    }
}

impl Leases {
    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    /// Takes note of messages claimed by a request that was sent at `sent`.
    pub(super) fn hold(
        &mut self,
        messages: &[Message],
        sent: Instant,
        handler: &CancellationToken,
    ) {
        for message in messages {
            let timeout = timeout_of(message);
            let lease =
                Lease { timeout, ends: sent + timeout.duration(), handler: handler.clone() };
            self.leases.insert(message.receipt, lease);
        }
    }

    /// Forgets a lease; whether it was still held.
    pub(super) fn drop(&mut self, receipt: Receipt) -> bool {
        self.leases.remove(&receipt).is_some()
    }

    pub(super) fn is_held(&self, receipt: Receipt) -> bool {
        self.leases.contains_key(&receipt)
    }

    /// When the next lease wants to be renewed or given up.
    pub(super) fn next_event(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.renewal().min(lease.fence())).min()
    }

    /// When the next lease must be given up.
    pub(super) fn next_fence(&self) -> Option<Instant> {
        self.leases.values().map(Lease::fence).min()
    }

    /// Cancels all handlers; their leases stay, to be released.
    pub(super) fn cancel_all(&self) {
        self.leases.values().for_each(|lease| lease.handler.cancel());
    }

    /// The extensions of all leases that are due for renewal, and of those close to it, so that one
    /// statement renews them all.
    pub(super) fn renewals(&self, now: Instant) -> Vec<Settlement> {
        let is_close = |lease: &Lease| lease.renewal() <= now + lease.timeout.duration() / 6;
        let due = self.leases.iter().filter(|(_, lease)| is_close(lease));
        let extend = |(receipt, lease): (&Receipt, &Lease)| Settlement {
            receipt: *receipt,
            action: Action::Extend(lease.timeout),
        };
        due.map(extend).collect()
    }

    /// A renewal sent at `sent` succeeded.
    pub(super) fn renewed(&mut self, receipt: Receipt, sent: Instant) {
        if let Some(lease) = self.leases.get_mut(&receipt) {
            lease.ends = sent + lease.timeout.duration();
        }
    }

    /// Gives up a lease and cancels its handler; whether it was still held.
    pub(super) fn give_up(&mut self, receipt: Receipt) -> bool {
        let lease = self.leases.remove(&receipt);
        lease.inspect(|lease| lease.handler.cancel()).is_some()
    }

    /// Gives up every lease that is about to lapse, and cancels the handlers.
    pub(super) fn fence(&mut self, now: Instant) -> Vec<Receipt> {
        let lapsing = self.leases.iter().filter(|(_, lease)| lease.fence() <= now);
        let lapsing: Vec<_> = lapsing.map(|(receipt, _)| *receipt).collect();
        for receipt in &lapsing {
            self.give_up(*receipt);
        }
        lapsing
    }

    /// Gives each of `receipts` a cancellation of its own, when its handler starts.
    pub(super) fn start(&mut self, receipts: &[Receipt], handler: &CancellationToken) {
        for receipt in receipts {
            if let Some(lease) = self.leases.get_mut(receipt) {
                lease.handler = handler.clone();
            }
        }
    }
}

fn timeout_of(message: &Message) -> VisibilityTimeout {
    let lease = (message.visible_at - message.claimed_at).to_std();
    let timeout = lease.ok().and_then(|lease: Duration| VisibilityTimeout::new(lease).ok());
    timeout.unwrap_or(VisibilityTimeout::MIN)
}
