//! Wake-ups: hints that a queue may have something ready. Never needed for correctness.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use crate::QueueName;

/// The signals of one store: backends keep one, call [`notify`](Signals::notify) when something
/// may have become ready, and hand out [`Wakeups`] from it.
#[derive(Debug, Default)]
pub struct Signals {
    queues: Mutex<HashMap<QueueName, watch::Sender<()>>>,
    reach: Arc<AtomicBool>,
}

/// How far the wake-ups of a store reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// They tell of what this process enqueues.
    Process,
    /// They are proven to tell of what other processes enqueue too, so polling may be rarer.
    Everywhere,
}

impl Signals {
    /// Wakes whoever waits for `queue` in this process.
    pub fn notify(&self, queue: &QueueName) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = queues.get(queue) {
            sender.send_replace(());
        }
    }

    /// Wakes all that wait, whatever the queue.
    pub fn notify_all(&self) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.values().for_each(|sender| sender.send_replace(()));
    }

    /// Wake-ups for `queue` from now on.
    pub fn subscribe(&self, queue: &QueueName) -> Wakeups {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|name, sender| name == queue || sender.receiver_count() > 0);
        let sender = queues.entry(queue.clone()).or_insert_with(|| watch::channel(()).0);
        Wakeups { signal: sender.subscribe(), reach: self.reach.clone() }
    }

    /// Whether anybody in this process waits for a wake-up.
    pub fn has_subscribers(&self) -> bool {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.values().any(|sender| sender.receiver_count() > 0)
    }

    /// Says how far wake-ups reach; in the process, until told otherwise.
    pub fn set_reach(&self, reach: Reach) {
        self.reach.store(reach == Reach::Everywhere, Ordering::Relaxed);
    }
}

/// Wake-ups for one queue.
#[derive(Debug, Clone)]
pub struct Wakeups {
    signal: watch::Receiver<()>,
    reach: Arc<AtomicBool>,
}

impl Wakeups {
    /// Waits for the next wake-up since the last one that was waited for or
    /// [forgotten](Wakeups::forget). For ever once the store is gone. Safe to drop and call again.
    pub async fn wait(&mut self) {
        if self.signal.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Forgets the wake-ups so far: a claim that starts now will see what they told of.
    pub fn forget(&mut self) {
        self.signal.mark_unchanged();
    }

    /// How far they reach at present.
    pub fn reach(&self) -> Reach {
        if self.reach.load(Ordering::Relaxed) { Reach::Everywhere } else { Reach::Process }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_wake_up_between_two_waits_is_not_lost() {
        let (signals, queue) = (Signals::default(), QueueName::new("tasks").unwrap());
        let mut wakeups = signals.subscribe(&queue);
        assert!(wakeups.wait().now_or_never().is_none());
        signals.notify(&queue);
        signals.notify(&queue);
        assert!(wakeups.wait().now_or_never().is_some());
        assert!(wakeups.wait().now_or_never().is_none());
    }

    #[test]
    fn another_queues_wake_up_wakes_nobody_here() {
        let signals = Signals::default();
        let mut wakeups = signals.subscribe(&QueueName::new("tasks").unwrap());
        signals.notify(&QueueName::new("other").unwrap());
        assert!(wakeups.wait().now_or_never().is_none());
    }
}
