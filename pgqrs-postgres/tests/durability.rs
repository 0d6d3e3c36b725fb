//! E2: what was acknowledged survives a crash of the server, and so do the numbers given out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use pgqrs::{
    Action, ArchiveFilter, BatchSize, Claim, Enqueue, Json, MessageFilter, MessageId, NewMessage,
    Outcome, Page, QueueName, Result, Settle, Settled, Settlement, Store,
};
use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::server::{Cluster, Durability, Options};
use tokio::task::JoinSet;

const ROUNDS: usize = 3;
/// After so many acknowledged calls of a round the server is killed.
const CALLS: usize = 300;

/// What the server had said `Ok` to.
#[derive(Debug, Default)]
struct Acknowledged {
    enqueued: HashSet<MessageId>,
    archived: HashSet<MessageId>,
    /// Ids and claim tokens, which share a sequence.
    numbers: Vec<i64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let options = Options { durability: Durability::Durable, ..Options::default() };
    let cluster = Cluster::start(options).await.unwrap();
    let database = cluster.database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    store.install().await.unwrap();
    pgqrs::admin(&store).create_queue("q").await.unwrap();

    let mut all = Acknowledged::default();
    for _ in 0..ROUNDS {
        let calls = Arc::new(AtomicUsize::new(0));
        let mut load = JoinSet::new();
        for _ in 0..4 {
            load.spawn(enqueue_until_down(store.clone(), calls.clone()));
            load.spawn(archive_until_down(store.clone(), calls.clone()));
        }
        while calls.load(Ordering::Relaxed) < CALLS {
            tokio::task::yield_now().await;
        }
        cluster.kill().await.unwrap();
        let round = load.join_all().await;
        cluster.restart().await.unwrap();
        until_up(&store).await;

        let last = all.numbers.iter().copied().max().unwrap_or(0);
        for mut part in round {
            assert!(part.numbers.iter().all(|number| *number > last), "a number came back");
            all.enqueued.extend(part.enqueued);
            all.archived.extend(part.archived);
            all.numbers.append(&mut part.numbers);
        }
        assert_kept(&store, &all).await;
    }
    let unique: HashSet<_> = all.numbers.iter().collect();
    assert_eq!(unique.len(), all.numbers.len(), "a number was given out twice");
    assert!(all.archived.len() > ROUNDS, "the load has archived");
}

/// All that was enqueued is live or archived, and all that was archived is done.
async fn assert_kept(store: &PostgresStore, all: &Acknowledged) {
    let page = Page::first(BatchSize::MAX);
    let live = store.messages(MessageFilter { page, ..MessageFilter::default() }).await.unwrap();
    let live: HashSet<_> = live.iter().map(|message| message.id).collect();
    let filter = ArchiveFilter { outcome: Some(Outcome::Done), page, ..ArchiveFilter::default() };
    let done = store.archive(filter).await.unwrap();
    let done: HashSet<_> = done.iter().map(|message| message.id).collect();
    assert!(live.len() < page.limit.count() && done.len() < page.limit.count());
    assert!(all.archived.is_subset(&done), "an acknowledged archive is lost");
    assert!(live.is_disjoint(&done), "a message is live and archived");
    let is_there = |id: &&MessageId| live.contains(id) || done.contains(id);
    assert_eq!(all.enqueued.iter().find(|id| !is_there(id)), None, "a message is lost");
}

async fn enqueue_until_down(store: PostgresStore, calls: Arc<AtomicUsize>) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let enqueue = || Enqueue {
        queue: QueueName::new("q").unwrap(),
        messages: vec![NewMessage::new(Json::new("a message").unwrap()); 2],
        now: None,
    };
    while let Some(ids) = unless_down(store.enqueue(enqueue()).await) {
        calls.fetch_add(1, Ordering::Relaxed);
        acknowledged.numbers.extend(ids.iter().map(|id| id.0));
        acknowledged.enqueued.extend(ids);
    }
    acknowledged
}

async fn archive_until_down(store: PostgresStore, calls: Arc<AtomicUsize>) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let claim = || Claim {
        queue: QueueName::new("q").unwrap(),
        worker: None,
        limit: BatchSize::ONE,
        timeout: None,
        now: None,
    };
    while let Some(claimed) = unless_down(store.claim(claim()).await) {
        for message in claimed.messages {
            let receipt = message.receipt;
            acknowledged.numbers.push(receipt.token);
            let settlements = vec![Settlement { receipt, action: Action::Archive }];
            let settle = Settle { settlements, now: None };
            let Some(settled) = unless_down(store.settle(settle).await) else {
                return acknowledged;
            };
            assert_eq!(settled, [Ok(Settled::Archived)]);
            calls.fetch_add(1, Ordering::Relaxed);
            acknowledged.archived.insert(message.id);
        }
    }
    acknowledged
}

/// The answer; `None` if the server is down, and nothing but that may be wrong.
fn unless_down<T>(answer: Result<T>) -> Option<T> {
    match answer {
        Err(error) if error.is_unavailable() => None,
        answer => Some(answer.unwrap()),
    }
}

/// The pool may still hold connections to the server that was killed.
async fn until_up(store: &PostgresStore) {
    while unless_down(store.verify().await).is_none() {
        tokio::task::yield_now().await;
    }
}
