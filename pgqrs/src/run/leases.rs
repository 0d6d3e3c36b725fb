//! The leases that a run loop keeps alive, and the moment at which each must be let go.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use tokio::time::Instant;

use crate::{Action, Context, Message, Receipt, Settlement, VisibilityTimeout};

/// What a loop holds: buffered messages and messages in work.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: HashMap<Receipt, Lease, BuildHasherDefault<Numbers>>,
    /// Never later than the first renewal that is due. It may be earlier: settled leases leave it.
    next_renewal: Option<Instant>,
    /// Likewise for the first lease that must be given up.
    next_fence: Option<Instant>,
}

#[derive(Debug)]
struct Lease {
    /// What the claim or the last renewal asked for.
    timeout: VisibilityTimeout,
    /// When the lease ends, at the earliest, by this process's clock: counted from before the claim
    /// or renewal was sent, so it is never later than the store's own end.
    ends: Instant,
    /// The handler that works under it, or will.
    handler: Context,
}

impl Lease {
    /// When the handler must be cancelled so that it stops before the lease lapses.
    fn fence(&self) -> Instant {
        let wish = self.handler.wish();
        let extended = wish.until.map(|until| until - wish.timeout.duration() / 10);
        let fence = self.ends - self.timeout.duration() / 10;
        extended.map_or(fence, |extended| extended.max(fence))
    }

    fn renewal(&self) -> Instant {
        self.ends - self.timeout.duration() * 2 / 3
    }

    /// Whether it is due for renewal or close to that.
    fn is_nearly_due(&self, now: Instant) -> bool {
        self.renewal() <= now + self.timeout.duration() / 6
    }

    /// How long renewals hold it: as long as the claim did, or longer if its handler wants that.
    fn renewal_timeout(&self) -> VisibilityTimeout {
        self.handler.wish().timeout
    }

    /// Whether its handler has settled the message itself: then it is not lost.
    fn is_settled(&self) -> bool {
        self.handler.is_settled()
    }

    fn cancel(&self) {
        self.handler.cancelled().cancel();
    }
}

impl Leases {
    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(super) fn next_renewal(&self) -> Option<Instant> {
        self.next_renewal
    }

    pub(super) fn next_fence(&self) -> Option<Instant> {
        self.next_fence
    }

    /// Takes note of messages claimed by a request that was sent at `sent`, to be handled together.
    pub(super) fn hold(
        &mut self,
        messages: &[Message],
        sent: Instant,
        handler: &Context,
    ) -> Vec<Receipt> {
        for message in messages {
            let timeout = message.lease();
            let lease =
                Lease { timeout, ends: sent + timeout.duration(), handler: handler.clone() };
            self.next_renewal = earlier(self.next_renewal, lease.renewal());
            self.next_fence = earlier(self.next_fence, lease.fence());
            self.leases.insert(message.receipt, lease);
        }
        messages.iter().map(|message| message.receipt).collect()
    }

    /// Whether all of them are held.
    pub(super) fn hold_all(&self, receipts: &[Receipt]) -> bool {
        receipts.iter().all(|receipt| self.leases.contains_key(receipt))
    }

    /// Forgets a lease; whether it was still held.
    pub(super) fn drop(&mut self, receipt: Receipt) -> bool {
        self.leases.remove(&receipt).is_some()
    }

    /// Cancels all handlers; their leases stay, to be released.
    pub(super) fn cancel_all(&self) {
        self.leases.values().for_each(Lease::cancel);
    }

    /// The extensions of all leases that are due for renewal, and of those close to it, so that one
    /// statement renews them all.
    pub(super) fn renewals(&mut self, now: Instant) -> Vec<Settlement> {
        let due = self.leases.iter().filter(|(_, lease)| lease.is_nearly_due(now));
        let extend = |(receipt, lease): (&Receipt, &Lease)| Settlement {
            receipt: *receipt,
            action: Action::Extend(lease.renewal_timeout()),
        };
        let renewals: Vec<_> = due.map(extend).collect();
        if renewals.is_empty() {
            self.look_ahead();
        }
        renewals
    }

    /// Renewals sent at `sent` succeeded for these receipts.
    pub(super) fn renewed(
        &mut self,
        renewed: impl Iterator<Item = (Receipt, VisibilityTimeout)>,
        sent: Instant,
    ) {
        for (receipt, timeout) in renewed {
            if let Some(lease) = self.leases.get_mut(&receipt) {
                (lease.timeout, lease.ends) = (timeout, sent + timeout.duration());
            }
        }
        self.look_ahead();
    }

    /// Gives up a lease and cancels its handler; whether it was still held.
    pub(super) fn give_up(&mut self, receipt: Receipt) -> bool {
        let lease = self.leases.remove(&receipt).filter(|lease| !lease.is_settled());
        lease.inspect(Lease::cancel).is_some()
    }

    /// Gives up all leases.
    pub(super) fn give_up_all(&mut self) -> Vec<Receipt> {
        let lost = self.leases.drain().filter(|(_, lease)| !lease.is_settled());
        lost.inspect(|(_, lease)| lease.cancel()).map(|(receipt, _)| receipt).collect()
    }

    /// Gives up every lease that is about to lapse.
    pub(super) fn give_up_lapsing(&mut self, now: Instant) -> Vec<Receipt> {
        if self.next_fence.is_none_or(|fence| fence > now) {
            return Vec::new();
        }
        let lapsing = self.leases.extract_if(|_, lease| lease.fence() <= now);
        let lapsing = lapsing.filter(|(_, lease)| !lease.is_settled());
        let lapsing = lapsing.inspect(|(_, lease)| lease.cancel()).map(|(receipt, _)| receipt);
        let lapsing = lapsing.collect();
        self.look_ahead();
        lapsing
    }

    fn look_ahead(&mut self) {
        self.next_renewal = self.leases.values().map(Lease::renewal).min();
        self.next_fence = self.leases.values().map(Lease::fence).min();
    }
}

/// A hash of numbers that a store has drawn one after the other: nobody chooses them to collide.
#[derive(Debug, Default)]
struct Numbers(u64);

impl Hasher for Numbers {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_i64((*byte).into()));
    }

    fn write_i64(&mut self, number: i64) {
        // 2^64 by the golden ratio (D. Knuth, "The Art of Computer Programming", 6.4).
        self.0 =
            (self.0.rotate_left(32) ^ number.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A loop that is dropped leaves no handler at work.
impl Drop for Leases {
    fn drop(&mut self) {
        self.cancel_all();
    }
}

fn earlier(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
}
