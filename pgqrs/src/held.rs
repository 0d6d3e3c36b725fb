//! The receipts that a consumer handle holds, so that an id alone settles the right lease.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{Message, MessageId, Receipt};

/// The newest receipt per message id, until a settle succeeds or answers that the lease is lost;
/// and the receipts of the last archived messages, so that an archive can be repeated (S3).
#[derive(Debug, Default)]
pub struct Held {
    book: Mutex<Book>,
}

impl Held {
    /// Beyond this many receipts the oldest are dropped: a handle cannot grow without bound.
    pub const MAX_RECEIPTS: usize = 10_000;
    /// How many archived receipts are remembered.
    pub const MAX_ARCHIVED: usize = 1_000;

    /// Takes note of fetched messages.
    pub fn note(&self, messages: &[Message]) {
        let mut book = self.book();
        for message in messages {
            book.hold(message.receipt);
        }
    }

    /// Takes note of one lease.
    pub(crate) fn hold(&self, receipt: Receipt) {
        self.book().hold(receipt);
    }

    /// The newest receipt of `id`, held or lately archived.
    pub fn receipt(&self, id: MessageId) -> Option<Receipt> {
        let book = self.book();
        book.held.get(&id).or_else(|| book.archived.get(&id)).copied()
    }

    /// Whether the lease of this receipt was neither settled nor found lost.
    pub fn holds(&self, receipt: Receipt) -> bool {
        self.book().holds(&receipt)
    }

    /// All receipts of leases that were neither settled nor found lost.
    pub fn receipts(&self) -> Vec<Receipt> {
        let book = self.book();
        book.order.iter().filter(|receipt| book.holds(receipt)).copied().collect()
    }

    /// Forgets a receipt whose lease has ended; a newer one of the same message stays.
    pub fn ended(&self, receipt: Receipt) {
        self.book().drop_held(&receipt);
    }

    /// Like [`ended`](Held::ended), and remembers that the message was archived under it.
    pub fn archived(&self, receipt: Receipt) {
        let mut book = self.book();
        book.drop_held(&receipt);
        if book.archived.insert(receipt.id, receipt).is_none() {
            book.archive_order.push_back(receipt.id);
        }
        if book.archive_order.len() > Self::MAX_ARCHIVED
            && let Some(oldest) = book.archive_order.pop_front()
        {
            book.archived.remove(&oldest);
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ids mostly come and go in ascending order, which ordered maps are good at.
#[derive(Debug, Default)]
struct Book {
    held: BTreeMap<MessageId, Receipt>,
    /// In the order in which they came; some may have ended.
    order: VecDeque<Receipt>,
    archived: BTreeMap<MessageId, Receipt>,
    archive_order: VecDeque<MessageId>,
}

impl Book {
    fn hold(&mut self, receipt: Receipt) {
        // Else a receipt that is noted twice would stand twice in the order.
        if self.held.insert(receipt.id, receipt) != Some(receipt) {
            self.order.push_back(receipt);
        }
        while self.held.len() > Held::MAX_RECEIPTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.drop_held(&oldest);
        }
        if self.order.len() > 2 * Held::MAX_RECEIPTS {
            let held = &self.held;
            self.order.retain(|receipt| held.get(&receipt.id) == Some(receipt));
        }
    }

    fn holds(&self, receipt: &Receipt) -> bool {
        self.held.get(&receipt.id) == Some(receipt)
    }

    fn drop_held(&mut self, receipt: &Receipt) {
        if self.holds(receipt) {
            self.held.remove(&receipt.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(id: i64, token: i64) -> Receipt {
        Receipt { id: MessageId(id), token }
    }

    #[test]
    fn the_newest_receipt_of_an_id_wins() {
        let held = Held::default();
        held.book().hold(receipt(1, 10));
        held.book().hold(receipt(1, 11));
        held.ended(receipt(1, 10));
        assert_eq!(held.receipt(MessageId(1)), Some(receipt(1, 11)));
    }

    #[test]
    fn the_oldest_receipts_are_dropped_beyond_the_bound() {
        let held = Held::default();
        for id in 0..=Held::MAX_RECEIPTS as i64 {
            held.book().hold(receipt(id, id));
        }
        assert_eq!(held.receipt(MessageId(0)), None);
        assert_eq!(held.receipts().len(), Held::MAX_RECEIPTS);
    }

    #[test]
    fn an_archived_receipt_is_remembered_but_no_longer_held() {
        let held = Held::default();
        held.book().hold(receipt(1, 10));
        held.archived(receipt(1, 10));
        assert_eq!(held.receipt(MessageId(1)), Some(receipt(1, 10)));
        assert!(held.receipts().is_empty());
    }
}
