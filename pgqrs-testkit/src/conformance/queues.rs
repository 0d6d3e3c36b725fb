//! Q1 to Q3, and what is asked of queues: settings, metrics, the store as a whole.

use std::{sync::Arc, time::Duration};

use pgqrs::*;

use super::scene::*;

/// Q1: a paused queue takes messages and hands out none.
pub async fn q1_a_paused_queue_takes_messages_and_hands_out_none(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.enqueue(1).await;
    scene.set_state(QueueState::Paused).await;
    scene.enqueue(1).await;
    assert_eq!(scene.claim(2).await, []);
    assert_eq!(scene.live().await.len(), 2);
}

/// Q1: resumed, it hands out what it took.
pub async fn q1_a_resumed_queue_hands_out_what_it_took(store: &Arc<dyn Store>) {
    let settings = QueueSettings { state: QueueState::Paused, ..QueueSettings::default() };
    let scene = Scene::with(store, settings).await;
    let sent = scene.enqueue(2).await;
    assert_eq!(scene.claim(2).await, []);
    scene.set_state(QueueState::Active).await;
    assert_eq!(ids(&scene.claim(2).await), sent);
}

/// Q1: what was claimed before the pause is settled as ever, and other queues go on.
pub async fn q1_a_pause_leaves_leases_and_other_queues_alone(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    let leased = scene.lease(3).await;
    scene.set_state(QueueState::Paused).await;
    assert_eq!(scene.at(40).archive(&leased[0]).await, Ok(Settled::Archived));
    assert_eq!(scene.at(40).release(&leased[1], 0).await, Ok(Settled::Released));
    assert!(scene.at(40).extend(&leased[2], 30).await.is_ok());
    assert_eq!(scene.at(40).claim(3).await, []);
    assert_eq!(other.at(40).lease(2).await.len(), 2);
}

/// Q2: deleting a queue with live messages needs force; without it nothing changes.
pub async fn q2_a_queue_with_live_messages_is_deleted_by_force_only(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.lease(1).await;
    scene.send_all(vec![message(0), delayed(60)]).await;
    let before = scene.everything().await;
    assert_matches!(
        scene.delete_queue(LiveMessages::Keep).await,
        Err(Error::QueueNotEmpty { queue, live: 3 }) if queue == scene.queue
    );
    assert_eq!(scene.everything().await, before);
    scene.delete_queue(LiveMessages::Delete).await.unwrap();
    assert_eq!(store.queues(QueueFilter::default()).await.unwrap(), []);
}

/// Q2: deleting a queue removes its messages, its archive and its registration.
pub async fn q2_a_deleted_queue_takes_all_of_it_along(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2).await;
    scene.archive(&leased[0]).await.unwrap();
    scene.bury(&leased[1], "poison").await.unwrap();
    scene.delete_queue(LiveMessages::Keep).await.unwrap();
    scene.create(QueueSettings::default()).await;
    scene.lease(1).await;
    scene.enqueue(1).await;
    scene.delete_queue(LiveMessages::Delete).await.unwrap();
    assert_eq!(scene.everything().await, (vec![], vec![]));
}

/// Q2: a deleted queue's workers go with it: their calls get `QueueNotFound`.
pub async fn q2_workers_of_a_deleted_queue_get_queue_not_found(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    scene.delete_queue(LiveMessages::Keep).await.unwrap();
    assert_eq!(scene.workers().await, []);
    assert_matches!(scene.by(&worker).try_claim(1).await, Err(Error::QueueNotFound { .. }));
    for change in CHANGES {
        assert_matches!(
            scene.change(&worker, change).await,
            Err(Error::QueueNotFound { queue }) if queue == scene.queue
        );
    }
    scene.create(QueueSettings::default()).await;
    assert_matches!(scene.by(&worker).try_claim(1).await, Err(Error::WorkerNotFound { .. }));
}

/// Q2: old receipts are `LeaseLost`, also once the queue is made anew.
pub async fn q2_receipts_of_a_deleted_queue_are_lost(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2).await;
    scene.archive(&leased[0]).await.unwrap();
    scene.delete_queue(LiveMessages::Delete).await.unwrap();
    for message in &leased {
        scene.assert_lost(message.receipt).await;
    }
    scene.create(QueueSettings::default()).await;
    scene.lease(2).await;
    for message in &leased {
        scene.assert_lost(message.receipt).await;
    }
}

/// Q2: every call on a queue that is gone is `QueueNotFound` and names it.
pub async fn q2_every_call_on_a_deleted_queue_names_it(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.delete_queue(LiveMessages::Keep).await.unwrap();
    let answers = [
        scene.try_send(vec![message(0)]).await.map(drop),
        scene.try_claim(1).await.map(drop),
        scene.update(QueueChanges::default()).await.map(drop),
        scene.delete_queue(LiveMessages::Keep).await,
        scene.delete_queue(LiveMessages::Delete).await,
    ];
    for answer in answers {
        assert_matches!(answer, Err(Error::QueueNotFound { queue }) if queue == scene.queue);
    }
}

/// Q2: so are the calls of the optional parts.
pub async fn q2_optional_calls_on_a_deleted_queue_name_it(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.delete_queue(LiveMessages::Keep).await.unwrap();
    let queue = || scene.queue.clone();
    let letters = DeadLetters::Oldest(BatchSize::ONE);
    let metrics = MetricsFilter { queue: Some(queue()), now: Some(scene.now) };
    let answers = [
        store.redrive(Redrive { queue: queue(), letters, now: Some(scene.now) }).await.map(drop),
        store.purge(Purge { queue: queue(), scope: PurgeScope::Live }).await.map(drop),
        store.metrics(metrics).await.map(drop),
        scene.try_register(scene.consumer("host")).await.map(drop),
    ];
    for answer in answers {
        assert_matches!(answer, Err(Error::QueueNotFound { queue }) if queue == scene.queue);
    }
}

/// Q2: a queue made anew under the name is empty, has its own settings, and reuses no id.
pub async fn q2_a_queue_made_anew_is_empty_and_reuses_no_id(store: &Arc<dyn Store>) {
    let settings = QueueSettings { state: QueueState::Active, ..unusual() };
    let scene = Scene::with(store, settings).await;
    let old = scene.lease(3).await;
    scene.archive(&old[0]).await.unwrap();
    scene.delete_queue(LiveMessages::Delete).await.unwrap();
    let anew = scene.at(1).create(QueueSettings::default()).await;
    assert_eq!((anew.settings, anew.created_at), (QueueSettings::default(), instant(1)));
    assert_eq!(scene.at(60).claim(10).await, []);
    assert_eq!(scene.everything().await, (vec![], vec![]));
    let new = scene.at(60).lease(1).await.remove(0);
    assert!(new.id > old[2].id && new.receipt.token > old[2].receipt.token);
}

/// Q2: deleting a queue leaves the others as they are.
pub async fn q2_deleting_a_queue_leaves_the_others(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    let leased = other.lease(2).await;
    other.archive(&leased[0]).await.unwrap();
    scene.lease(1).await;
    let kept = (other.live().await, other.history().await);
    scene.delete_queue(LiveMessages::Delete).await.unwrap();
    assert_eq!(scene.everything().await, kept);
    assert_eq!(other.archive(&leased[1]).await, Ok(Settled::Archived));
}

/// Q3: names are 1 to 63 of `A-Za-z0-9_.-`, whatever the database makes of them.
pub async fn q3_names_of_1_to_63_characters_are_queues(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let long = "q".repeat(63);
    for queue in ["x", &long, "A-Z.a_z-09", "..", "-", "_", "0", "select", "a.b.c", "NULL", "--"] {
        let queue = scene.queue(queue).await;
        let leased = queue.lease(1).await.remove(0);
        assert_eq!(leased.queue, queue.queue);
        assert_eq!(queue.archive(&leased).await, Ok(Settled::Archived));
        queue.delete_queue(LiveMessages::Keep).await.unwrap();
    }
}

/// Q3: names are case-sensitive.
pub async fn q3_names_are_case_sensitive(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let upper = scene.queue("TASKS").await;
    let sent = upper.enqueue(1).await;
    assert_eq!(scene.claim(1).await, []);
    scene.delete_queue(LiveMessages::Keep).await.unwrap();
    assert_eq!(ids(&upper.claim(1).await), sent);
}

/// Q3: names that resemble one another are different queues.
pub async fn q3_names_that_resemble_one_another_are_apart(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let mut queues = Vec::new();
    for queue in ["a", "a_", "a_b", "a-b", "a.b", "aXb", "a_bc", "ab"] {
        queues.push(scene.queue(queue).await);
    }
    for queue in &queues {
        queue.enqueue(1).await;
    }
    queues[2].delete_queue(LiveMessages::Delete).await.unwrap();
    for queue in queues.iter().filter(|queue| queue.queue != name("a_b")) {
        assert_eq!(queue.claim(10).await.len(), 1, "{}", queue.queue);
    }
}

/// Creating a queue that exists returns it as it is.
pub async fn creating_a_queue_again_changes_nothing(store: &Arc<dyn Store>) {
    let scene = Scene::nowhere(store);
    let made = scene.at(5).create(unusual()).await;
    assert_eq!((&made.name, made.created_at), (&scene.queue, instant(5)));
    assert_eq!(made.settings, unusual());
    scene.at(5).enqueue(1).await;
    assert_eq!(scene.at(9).create(QueueSettings::default()).await, made);
    assert_eq!(store.queues(QueueFilter::default()).await.unwrap(), [made]);
    assert_eq!(scene.at(9).live().await.len(), 1);
}

/// Queues are read by name, all or one.
pub async fn reads_list_queues_by_name(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for queue in ["b", "B", "a.z", "a"] {
        scene.queue(queue).await;
    }
    let read = async |filter| {
        let queues = store.queues(filter).await.unwrap();
        queues.iter().map(|queue| queue.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(read(QueueFilter::default()).await, ["B", "a", "a.z", "b", "tasks"]);
    assert_eq!(read(QueueFilter::named(name("b"))).await, ["b"]);
    assert!(read(QueueFilter::named(name("c"))).await.is_empty());
}

/// Settings change one by one; what is not named stays.
pub async fn settings_change_one_by_one(store: &Arc<dyn Store>) {
    let scene = Scene::with(store, unusual()).await;
    let mut expected = unusual();
    let none = QueueChanges::default;
    let retry = Backoff::Linear { step: Duration::from_micros(1), max: Duration::from_secs(9) };
    let steps = [
        none(),
        QueueChanges { state: Some(QueueState::Active), ..none() },
        QueueChanges { visibility_timeout: Some(VisibilityTimeout::MIN), ..none() },
        QueueChanges { max_attempts: Some(1), ..none() },
        QueueChanges { retry: Some(retry), ..none() },
        QueueChanges { retry: Some(Backoff::default()), ..none() },
    ];
    for changes in steps {
        expected = changes.clone().applied_to(expected);
        let queue = scene.update(changes).await.unwrap();
        assert_eq!(queue.settings, expected);
        assert_eq!(store.queues(QueueFilter::default()).await.unwrap(), [queue]);
    }
}

/// Retention is a setting like the others.
pub async fn settings_hold_the_retention(store: &Arc<dyn Store>) {
    let retention = Retention::For(Duration::from_micros(86_400_000_001));
    let scene = Scene::with(store, QueueSettings { retention, ..unusual() }).await;
    let read = async || store.queues(QueueFilter::default()).await.unwrap().remove(0).settings;
    assert_eq!(read().await.retention, retention);
    scene.retain(Some(60)).await;
    assert_eq!(read().await.retention, Retention::For(Duration::from_secs(60)));
    scene.retain(None).await;
    assert_eq!(read().await, unusual());
}

/// A queue's maximum of attempts is 1 to 32,767; it holds for messages enqueued from then on.
pub async fn settings_hold_the_maximum_of_attempts(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let change =
        |attempts| QueueChanges { max_attempts: Some(attempts), ..QueueChanges::default() };
    let early = scene.enqueue(1).await[0];
    for good in [1, 32_767] {
        scene.update(change(good)).await.unwrap();
        let id = scene.enqueue(1).await[0];
        assert_eq!(scene.live_one(id).await.max_attempts, good);
    }
    assert_eq!(scene.live_one(early).await.max_attempts, 5);
    let absent = scene.absent("absent");
    for bad in [0, 32_768] {
        assert_matches!(scene.update(change(bad)).await, Err(Error::OutOfRange { .. }));
        let settings = QueueSettings { max_attempts: bad, ..QueueSettings::default() };
        assert_matches!(absent.try_create(settings).await, Err(Error::OutOfRange { .. }));
    }
    let queues = store.queues(QueueFilter::default()).await.unwrap();
    assert_eq!((queues.len(), queues[0].settings.max_attempts), (1, 32_767));
}

/// The payload limit is 1 MiB unless it is changed, within 1 KiB and 256 MiB.
pub async fn configure_holds_the_payload_limit(store: &Arc<dyn Store>) {
    store.install().await.unwrap();
    let configure = async |payload_limit| store.configure(Configure { payload_limit }).await;
    assert_eq!(configure(None).await.unwrap().payload_limit, 1_048_576);
    for bad in [0, 1_023, 268_435_457, usize::MAX] {
        assert_matches!(configure(Some(bad)).await, Err(Error::OutOfRange { .. }));
    }
    assert_eq!(configure(None).await.unwrap().payload_limit, 1_048_576);
    for good in [1_024, 268_435_456] {
        assert_eq!(configure(Some(good)).await.unwrap().payload_limit, good);
        assert_eq!(configure(None).await.unwrap().payload_limit, good);
    }
}

/// Installing again changes nothing, and what is installed verifies.
pub async fn install_is_idempotent(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.lease(2).await;
    scene.limit_payloads(2_048).await;
    let before = scene.everything().await;
    store.install().await.unwrap();
    store.verify().await.unwrap();
    assert_eq!(scene.everything().await, before);
    let settings = store.configure(Configure::default()).await.unwrap();
    assert_eq!(settings.payload_limit, 2_048);
}

/// A store that lacks a part says so in every call of it, and one that has it does not.
pub async fn capabilities_are_what_the_calls_say(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let (queue, now) = (|| scene.queue.clone(), Some(scene.now));
    let letters = DeadLetters::Ids(vec![]);
    let retention = Some(Retention::For(Duration::from_secs(60)));
    let Capabilities { redrive, metrics, workers, retention: retains, .. } = store.capabilities();
    let calls = [
        (redrive, store.redrive(Redrive { queue: queue(), letters, now }).await.map(drop)),
        (redrive, store.purge(Purge { queue: queue(), scope: PurgeScope::Live }).await.map(drop)),
        (metrics, store.metrics(MetricsFilter { queue: None, now }).await.map(drop)),
        (workers, scene.try_register(scene.consumer("host")).await.map(drop)),
        (
            retains,
            scene.update(QueueChanges { retention, ..QueueChanges::default() }).await.map(drop),
        ),
    ];
    for (support, answer) in calls {
        match support {
            Support::Full => answer.unwrap(),
            Support::Missing => assert_matches!(answer, Err(Error::Unsupported { .. })),
        }
    }
}

/// Metrics count live messages by state, as reads show them.
pub async fn metrics_count_messages_by_state(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease_all(vec![message(0), message(1), message(2), tries(1)]).await;
    scene.archive(&leased[0]).await.unwrap();
    scene.bury(&leased[1], "poison").await.unwrap();
    scene.lease(3).await;
    scene.send_all(vec![delayed(50), message(0), message(1)]).await;
    let counts = async |scene: Scene| {
        let QueueMetrics { ready, delayed, leased, archived, dead, .. } = scene.metrics().await;
        (ready, delayed, leased, archived, dead)
    };
    assert_eq!(counts(scene.at(1)).await, (2, 1, 5, 1, 1));
    assert_eq!(counts(scene.just_before(30)).await, (2, 1, 5, 1, 1));
    assert_eq!(counts(scene.at(30)).await, (6, 1, 1, 1, 1));
    assert_eq!(counts(scene.at(50)).await, (7, 0, 1, 1, 1));
}

/// Metrics tell since when the longest-waiting ready message has been ready.
pub async fn metrics_tell_the_age_of_the_oldest_ready_message(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let oldest = async |scene: Scene| {
        let metrics = scene.metrics().await;
        assert_eq!(metrics.now, scene.now);
        metrics.oldest_ready_at
    };
    assert_eq!(oldest(scene.clone()).await, None);
    let leased = scene.lease(1).await.remove(0);
    scene.send(delayed(3)).await;
    assert_eq!(oldest(scene.at(2)).await, None);
    scene.at(5).send(urgent(9)).await;
    assert_eq!(oldest(scene.at(5)).await, Some(instant(3)));
    scene.at(6).claim(2).await;
    assert_eq!(oldest(scene.at(6)).await, None);
    assert_eq!(oldest(scene.at(30)).await, Some(instant(30)));
    scene.at(31).release(&leased, 0).await.unwrap();
    assert_eq!(oldest(scene.at(32)).await, Some(instant(31)));
}

/// Metrics of archived messages leave out those past retention.
pub async fn metrics_leave_out_what_is_past_retention(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.retain(Some(60)).await;
    let leased = scene.lease(2).await;
    scene.archive(&leased[0]).await.unwrap();
    scene.bury(&leased[1], "poison").await.unwrap();
    let metrics = scene.just_before(60).metrics().await;
    assert_eq!((metrics.archived, metrics.dead), (1, 1));
    let metrics = scene.at(60).metrics().await;
    assert_eq!((metrics.archived, metrics.dead), (0, 0));
}

/// Metrics count workers by state.
pub async fn metrics_count_workers_by_state(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.queue("other").await.register("host").await;
    for host in ["a", "b", "c"] {
        scene.register(host).await;
    }
    let (d, e, f) =
        (scene.register("d").await, scene.register("e").await, scene.register("f").await);
    scene.change(&d, WorkerChange::Suspend).await.unwrap();
    scene.change(&e, WorkerChange::Suspend).await.unwrap();
    scene.change(&f, WorkerChange::Stop).await.unwrap();
    let expected = WorkerCounts { ready: 3, suspended: 2, stopped: 1 };
    assert_eq!(scene.metrics().await.workers, expected);
}

/// Metrics come for all queues, by name, empty ones too, or for the one that is named.
pub async fn metrics_come_by_queue(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.queue("empty").await;
    scene.queue("Z").await.enqueue(2).await;
    scene.enqueue(1).await;
    let filter = MetricsFilter { queue: None, now: Some(scene.now) };
    let all = store.metrics(filter.clone()).await.unwrap();
    let counts: Vec<_> = all.iter().map(|one| (one.queue.as_str(), one.ready)).collect();
    assert_eq!(counts, [("Z", 2), ("empty", 0), ("tasks", 1)]);
    assert_eq!(scene.metrics().await, all[2]);
    let absent = MetricsFilter { queue: Some(name("absent")), ..filter };
    assert_matches!(store.metrics(absent).await, Err(Error::QueueNotFound { .. }));
}

/// Settings that differ from the defaults in everything but retention, which is optional.
fn unusual() -> QueueSettings {
    QueueSettings {
        state: QueueState::Paused,
        visibility_timeout: VisibilityTimeout::new(Duration::from_micros(1_234_567)).unwrap(),
        max_attempts: 32_767,
        retry: Backoff::Fixed(Duration::from_millis(1_500)),
        retention: Retention::Forever,
    }
}

const CHANGES: [WorkerChange; 4] =
    [WorkerChange::Heartbeat, WorkerChange::Suspend, WorkerChange::Resume, WorkerChange::Stop];
