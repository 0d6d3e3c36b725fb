//! The clauses once more, with calls that really run at the same time.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::join_all;
use pgqrs::*;

use super::scene::*;

/// E1: of messages enqueued from everywhere at once none is lost, and no id is given twice.
pub async fn e1_concurrent_enqueues_are_all_there(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = at_once(8, |_| {
        let scene = scene.clone();
        async move {
            let mut sent = Vec::new();
            for size in 1..=10 {
                let batch = scene.enqueue(size).await;
                assert!(batch.is_sorted_by(|a, b| a < b), "{batch:?}");
                sent.extend(batch);
            }
            sent
        }
    });
    let mut sent = sent.await.concat();
    sent.sort();
    assert_eq!(sent.len(), 8 * 55);
    assert_eq!(live_ids(&scene.live().await), sent);
}

/// V3: eight consumers that claim at once never share a message, and leave none behind.
pub async fn v3_eight_claimers_never_share_a_message(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = scene.send_all((0..400).map(|n| urgent(n as u8 % 3)).collect()).await;
    let claimed = at_once(8, |_| {
        let scene = scene.clone();
        async move { drain(&scene).await }
    });
    let mut claimed = claimed.await.concat();
    claimed.extend(drain(&scene).await);
    let mut claimed = ids(&claimed);
    claimed.sort();
    assert_eq!(claimed, sent);
}

/// V3: nor do they when all that there is has expired or come due at that moment.
pub async fn v3_claimers_never_share_what_expired_or_came_due(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let mut sent = ids(&scene.lease(150).await);
    sent.extend(scene.send_all(vec![delayed(30); 150]).await);
    let later = scene.at(30);
    let claimed = at_once(8, |_| {
        let later = later.clone();
        async move { drain(&later).await }
    });
    let mut claimed = claimed.await.concat();
    claimed.extend(drain(&later).await);
    let mut claimed = ids(&claimed);
    claimed.sort();
    assert_eq!(claimed, sent);
}

/// S1: of settles of one receipt that race, one acts and all others are lost.
pub async fn s1_of_racing_settles_one_acts(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for message in scene.lease(20).await {
        let answers = at_once(4, |racer| {
            let (scene, message) = (scene.clone(), message.clone());
            async move {
                match racer {
                    0 => scene.archive(&message).await,
                    1 => scene.delete(&message).await,
                    2 => scene.release(&message, 60).await,
                    _ => scene.fail(&message, "failed", 60).await,
                }
            }
        });
        let answers = answers.await;
        let acted: Vec<_> = answers.iter().flatten().collect();
        assert_eq!(acted.len(), 1, "{answers:?}");
        let (live, archive) = scene.everything().await;
        let places =
            (live_ids(&live).contains(&message.id), archived_ids(&archive).contains(&message.id));
        let expected = match acted[0] {
            Settled::Archived => (false, true),
            Settled::Deleted => (false, false),
            _ => (true, false),
        };
        assert_eq!(places, expected, "{answers:?}");
    }
}

/// S1: batches that settle the same receipts in opposite order act once on each, and do not stand
/// in each other's way.
pub async fn s1_racing_batches_act_once_on_each_receipt(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(200).await;
    let answers = at_once(4, |racer| {
        let mut settlements: Vec<_> = leased
            .iter()
            .map(|message| Settlement { receipt: message.receipt, action: Action::Delete })
            .collect();
        let scene = scene.clone();
        async move {
            if racer % 2 == 1 {
                settlements.reverse();
            }
            scene.settle_all(settlements).await
        }
    });
    assert_eq!(answers.await.concat().iter().flatten().count(), 200);
    assert_eq!(scene.live().await, []);
}

/// S1: when a holder settles as its lease expires and another claims, one of them gets the message.
pub async fn s1_a_settle_that_races_a_claim_acts_or_is_lost(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(100).await;
    let later = scene.at(30);
    let claim = tokio::spawn({
        let later = later.clone();
        async move { drain(&later).await }
    });
    let mut archived = BTreeSet::new();
    for message in &leased {
        if later.archive(message).await.is_ok() {
            archived.insert(message.id);
        }
    }
    let mut claimed = claim.await.unwrap();
    claimed.extend(drain(&later).await);
    let all: Vec<_> = archived.iter().copied().chain(ids(&claimed)).collect();
    assert_eq!(all.len(), 100, "each went to one of the two");
    assert_eq!(BTreeSet::from_iter(archived_ids(&later.history().await)), archived);
    let live = BTreeSet::from_iter(live_ids(&later.live().await));
    assert_eq!(live, BTreeSet::from_iter(ids(&claimed)));
}

/// S3: a repeated archive that runs beside the first is `Ok` too, and the archive holds one.
pub async fn s3_archives_of_one_receipt_at_once_are_all_ok(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(10).await;
    for message in &leased {
        let answers = at_once(4, |_| {
            let (scene, message) = (scene.clone(), message.clone());
            async move { scene.archive(&message).await }
        });
        assert_eq!(answers.await, [Ok(Settled::Archived); 4]);
    }
    assert_eq!(archived_ids(&scene.history().await), ids(&leased));
}

/// A3: of redrives at once, one revives each dead letter.
pub async fn a3_redrives_at_once_revive_each_letter_once(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let dead = scene.lease(60).await;
    for message in &dead {
        scene.bury(message, "poison").await.unwrap();
    }
    let revived = at_once(4, |_| {
        let (scene, ids) = (scene.clone(), ids(&dead));
        async move { scene.redrive(DeadLetters::Ids(ids)).await }
    });
    let mut revived = revived.await.concat();
    revived.sort();
    assert_eq!(revived, ids(&dead));
    assert_eq!(live_ids(&scene.live().await), ids(&dead));
}

/// A4: sweeps and claims at once bury each spent message once.
pub async fn a4_sweeps_at_once_bury_each_message_once(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let spent = scene.lease_all(vec![tries(1); 200]).await;
    let later = scene.at(30);
    let buried = at_once(4, |_| {
        let later = later.clone();
        async move { later.sweep().await.buried }
    });
    let buried = buried.await.iter().sum::<u64>() + later.sweep().await.buried;
    assert_eq!(buried, 200);
    assert_eq!(archived_ids(&later.history().await), ids(&spent));
    assert_eq!(later.live().await, []);
}

/// W3: a worker that is stopped while it claims holds nothing afterwards.
pub async fn w3_a_stop_that_races_a_claim_leaves_nothing_held(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let sent = scene.enqueue(100).await;
    let claims = tokio::spawn(claim_until_stopped(scene.by(&worker)));
    tokio::task::yield_now().await;
    scene.change(&worker, WorkerChange::Stop).await.unwrap();
    assert_nothing_held(&scene, claims.await.unwrap(), &sent).await;
}

/// W4: sweeps at once stop a dead worker once, and release what it holds once.
pub async fn w4_sweeps_at_once_free_each_message_once(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register_mortal("host", 10).await;
    scene.by(&worker).lease(100).await;
    let later = scene.at(11);
    let swept = at_once(4, |_| {
        let later = later.clone();
        async move { later.sweep().await }
    });
    let mut swept = swept.await;
    swept.push(later.sweep().await);
    assert_eq!(swept.iter().map(|swept| swept.workers_stopped).sum::<u64>(), 1);
    assert_eq!(swept.iter().map(|swept| swept.released).sum::<u64>(), 100);
    let again = drain(&later).await;
    assert!(again.len() == 100 && again.iter().all(|message| message.attempts == 2));
}

/// W5: of registrations of one identity at once all succeed and one is left.
pub async fn w5_of_racing_registrations_one_is_left(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let made = at_once(8, |_| {
        let scene = scene.clone();
        async move { scene.register("host").await.id }
    });
    let made = BTreeSet::from_iter(made.await);
    let workers = scene.workers().await;
    assert_eq!(made, workers.iter().map(|worker| worker.id).collect());
    assert_eq!(workers.len(), 8);
    let (left, replaced): (Vec<_>, Vec<_>) =
        workers.iter().partition(|worker| worker.state == WorkerState::Ready);
    assert_eq!(left.len(), 1, "{workers:?}");
    assert!(replaced.iter().all(|worker| worker.replaced_by.is_some()), "{workers:?}");
}

/// W5: no claim of the earlier registration takes effect after it has been replaced.
pub async fn w5_a_zombie_that_claims_holds_nothing(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let zombie = scene.register("host").await;
    let sent = scene.enqueue(100).await;
    let claims = tokio::spawn(claim_until_stopped(scene.by(&zombie)));
    tokio::task::yield_now().await;
    scene.register("host").await;
    assert_nothing_held(&scene, claims.await.unwrap(), &sent).await;
}

/// Q2: a concurrent enqueue either precedes the deletion of its queue or gets `QueueNotFound`.
pub async fn q2_an_enqueue_precedes_a_deletion_or_finds_no_queue(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for _ in 0..5 {
        let enqueues = (0..4).map(|_| tokio::spawn(enqueue_until_deleted(scene.clone())));
        let enqueues: Vec<_> = enqueues.collect();
        tokio::task::yield_now().await;
        scene.delete_queue(LiveMessages::Delete).await.unwrap();
        for enqueue in enqueues {
            enqueue.await.unwrap();
        }
        assert_eq!(scene.everything().await, (vec![], vec![]));
        scene.create(QueueSettings::default()).await;
        assert_eq!(scene.live().await, []);
    }
}

/// Calls that race to create one queue all succeed and leave one queue.
pub async fn creating_a_queue_at_once_leaves_one(store: &Arc<dyn Store>) {
    store.install().await.unwrap();
    let scene = Scene::nowhere(store);
    let made = at_once(8, |racer| {
        let scene = scene.clone();
        async move {
            let settings = QueueSettings { max_attempts: racer + 1, ..QueueSettings::default() };
            scene.create(settings).await
        }
    });
    let made = made.await;
    assert!(made.iter().all(|queue| *queue == made[0]), "{made:?}");
    assert_eq!(store.queues(QueueFilter::default()).await.unwrap(), made[..1]);
}

/// Any number of installers may race, with each other and with work that goes on.
pub async fn install_may_race(store: &Arc<dyn Store>) {
    let installs = at_once(8, |_| {
        let store = store.clone();
        async move { store.install().await.unwrap() }
    });
    installs.await;
    let scene = Scene::new(store).await;
    let (installs, _) = tokio::join!(store.install(), scene.lease(10));
    installs.unwrap();
    store.verify().await.unwrap();
    assert_eq!(scene.live().await.len(), 10);
}

/// Runs `count` tasks at the same time and returns what they return.
async fn at_once<T, F>(count: u32, task: impl Fn(u32) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..count).map(|number| tokio::spawn(task(number))).collect();
    join_all(tasks).await.into_iter().map(|ended| ended.unwrap()).collect()
}

/// Claims in small batches until nothing is left.
async fn drain(scene: &Scene) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let claimed = scene.claim(7).await;
        if claimed.is_empty() {
            return all;
        }
        all.extend(claimed);
    }
}

/// Claims one message after another until the worker is told that it is not ready, or has tried
/// often enough.
async fn claim_until_stopped(scene: Scene) -> Vec<Message> {
    let mut all = Vec::new();
    for _ in 0..1_000 {
        match scene.try_claim(1).await {
            Ok(claimed) => all.extend(claimed.messages),
            Err(Error::WorkerNotReady { state: WorkerState::Stopped, .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    all
}

/// Enqueues until the queue is gone, or often enough.
async fn enqueue_until_deleted(scene: Scene) {
    for _ in 0..1_000 {
        match scene.try_send(vec![message(0), message(1)]).await {
            Ok(_) => {}
            Err(Error::QueueNotFound { queue }) if queue == scene.queue => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Fails the case unless all that was sent is ready, and what was claimed is lost.
async fn assert_nothing_held(scene: &Scene, claimed: Vec<Message>, sent: &[MessageId]) {
    let live = scene.live().await;
    assert_eq!(live_ids(&live), sent);
    assert!(live.iter().all(|message| message.worker.is_none() && message.receipt.is_none()));
    for message in claimed {
        assert_eq!(scene.archive(&message).await, Err(LeaseLost));
    }
    assert_eq!(scene.claim(BatchSize::MAX.count()).await.len(), sent.len());
}
