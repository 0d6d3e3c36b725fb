//! Stores with one planted bug each, by which the kit proves that it finds such bugs.
//!
//! A mutant wraps a correct store and breaks one promise from outside, with a bit of memory of its
//! own where it needs one. `tests/mutants.rs` of this crate shows which case catches which mutant;
//! the author of a further case can plant them over any store.

mod claim;
mod settle;
mod store;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pgqrs::{LiveMessage, Message, MessageFilter, MessageId, Receipt, Result, Store};

/// A bug, named after what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// E1: of a batch that is refused, the messages before the offender are written.
    BatchHalfWritten,
    /// E3: delayed messages come a microsecond early.
    DeliveredEarly,
    /// V1: a claim returns one message more than asked.
    LimitExceeded,
    /// V3: a claim that finds nothing returns a message that is leased.
    LeasesOverlap,
    /// V4: expired leases are never redelivered.
    NeverRedelivered,
    /// V4: leases lose the fraction of a second.
    ExpiryTruncated,
    /// V5: a batch comes in the wrong order.
    OrderIgnored,
    /// V5: a batch comes in order of ids, whatever the priorities.
    PriorityIgnored,
    /// V6: an extension is answered, not made.
    ExtensionIgnored,
    /// S1: a superseded receipt settles the newer lease.
    StaleSettled,
    /// S2: an archived message shows as live too.
    ArchivedStaysLive,
    /// S3: a repeated archive is refused.
    RepeatedArchiveRefused,
    /// S4: a deleted message goes to the archive.
    DeletedIsArchived,
    /// S5: a release counts the attempt.
    ReleaseCounts,
    /// S6: a failure at the maximum of attempts is retried.
    RetriedBeyondMaximum,
    /// S6: long errors are kept whole.
    ErrorNotCut,
    /// A2: messages vanish from the archive a second before their retention ends.
    RetentionTooEager,
    /// A3: a receipt from before a redrive is accepted.
    RedriveKeepsReceipt,
    /// A purge of live messages removes the dead letters too.
    PurgeTooMuch,
    /// W2: a suspended worker is served.
    SuspendedServed,
    /// W5: a replaced worker is served in the name of its successor.
    ZombieServed,
    /// W6: a replacement gives the attempts back.
    ReplacementForgives,
    /// Q1: a paused queue hands out messages.
    PausedServes,
}

impl Mutant {
    /// Every mutant.
    pub const ALL: [Self; 23] = [
        Self::BatchHalfWritten,
        Self::DeliveredEarly,
        Self::LimitExceeded,
        Self::LeasesOverlap,
        Self::NeverRedelivered,
        Self::ExpiryTruncated,
        Self::OrderIgnored,
        Self::PriorityIgnored,
        Self::ExtensionIgnored,
        Self::StaleSettled,
        Self::ArchivedStaysLive,
        Self::RepeatedArchiveRefused,
        Self::DeletedIsArchived,
        Self::ReleaseCounts,
        Self::RetriedBeyondMaximum,
        Self::ErrorNotCut,
        Self::RetentionTooEager,
        Self::RedriveKeepsReceipt,
        Self::PurgeTooMuch,
        Self::SuspendedServed,
        Self::ZombieServed,
        Self::ReplacementForgives,
        Self::PausedServes,
    ];
}

/// `store` with the bug. It works through `store` alone.
pub fn plant(mutant: Mutant, store: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(Mutated { mutant, store, memory: Mutex::default() })
}

/// A store with a bug.
#[derive(Debug)]
struct Mutated {
    mutant: Mutant,
    store: Arc<dyn Store>,
    memory: Mutex<Memory>,
}

/// What some bugs need to remember.
#[derive(Debug, Default)]
struct Memory {
    /// What was claimed last.
    claimed: Option<Message>,
    /// Archived messages as they were when they lived.
    archived: HashMap<MessageId, LiveMessage>,
    /// Receipts that have archived.
    archives: HashSet<Receipt>,
    /// Receipts of dead letters that were redriven.
    redriven: HashSet<Receipt>,
    /// Errors as they came.
    errors: HashMap<MessageId, String>,
}

impl Mutated {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live message of this id.
    async fn live(&self, id: MessageId) -> Result<Option<LiveMessage>> {
        let filter = MessageFilter { id: Some(id), ..MessageFilter::default() };
        Ok(self.store.messages(filter).await?.pop())
    }
}
