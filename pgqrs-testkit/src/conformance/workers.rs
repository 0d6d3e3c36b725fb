//! W1 to W6: registrations, their states, and what becomes of the messages that workers hold.

use std::{sync::Arc, time::Duration};

use pgqrs::*;

use super::scene::*;

/// W1: a registration is `ready`, has an id of its own, and is read back as it was made.
pub async fn w1_a_registration_is_ready(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let heartbeat_timeout = Some(Duration::from_micros(1_500_001));
    let kind = WorkerKind::Producer;
    let consumer = scene.at(3).consumer("höst");
    let register = Register { kind, heartbeat_timeout, port: 65_535, ..consumer };
    let worker = scene.try_register(register).await.unwrap();
    let expected = WorkerRecord {
        id: worker.id,
        kind,
        host: "höst".into(),
        port: 65_535,
        queue: scene.queue.clone(),
        state: WorkerState::Ready,
        heartbeat_timeout,
        registered_at: instant(3),
        heartbeat_at: instant(3),
        stopped_at: None,
        replaced_by: None,
    };
    assert_eq!(worker, expected);
    assert_eq!(scene.worker(&worker).await, expected);
}

/// W1: a host has 1 to 255 bytes.
pub async fn w1_a_host_has_1_to_255_bytes(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for bad in ["", &"h".repeat(256), &"é".repeat(128)] {
        let answer = scene.try_register(scene.consumer(bad)).await;
        assert_matches!(answer, Err(Error::OutOfRange { .. }));
    }
    assert_eq!(scene.workers().await, []);
    scene.register("h").await;
    scene.register(&"h".repeat(255)).await;
}

/// W1: the legal moves are `ready <-> suspended` and `ready | suspended -> stopped`.
pub async fn w1_legal_moves_are_made(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let stopped_while_ready = scene.register("other").await;
    for (change, state) in [
        (WorkerChange::Heartbeat, WorkerState::Ready),
        (WorkerChange::Suspend, WorkerState::Suspended),
        (WorkerChange::Heartbeat, WorkerState::Suspended),
        (WorkerChange::Resume, WorkerState::Ready),
        (WorkerChange::Suspend, WorkerState::Suspended),
        (WorkerChange::Stop, WorkerState::Stopped),
    ] {
        let record = scene.at(5).change(&worker, change).await.unwrap();
        assert_eq!((record.id, record.state), (worker.id, state));
        assert_eq!(scene.worker(&worker).await, record);
    }
    let stopped = scene.at(6).change(&stopped_while_ready, WorkerChange::Stop).await.unwrap();
    assert_eq!((stopped.state, stopped.stopped_at), (WorkerState::Stopped, Some(instant(6))));
    assert_eq!(stopped.replaced_by, None);
}

/// W1: every other move is an error that names both states, and changes nothing.
pub async fn w1_illegal_moves_name_both_states(store: &Arc<dyn Store>) {
    use {WorkerChange::*, WorkerState::*};
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    for (legal, change, expected) in [
        (None, Resume, (Ready, Ready)),
        (Some(Suspend), Suspend, (Suspended, Suspended)),
        (Some(Stop), Suspend, (Stopped, Suspended)),
        (None, Resume, (Stopped, Ready)),
        (None, Stop, (Stopped, Stopped)),
    ] {
        if let Some(legal) = legal {
            scene.change(&worker, legal).await.unwrap();
        }
        let before = scene.worker(&worker).await;
        assert_matches!(
            scene.at(1).change(&worker, change).await,
            Err(Error::IllegalTransition { worker: id, from, to })
                if (id, (from, to)) == (worker.id, expected)
        );
        assert_eq!(scene.worker(&worker).await, before);
    }
}

/// W1: `stopped` is final for a registration: not even its heartbeat counts.
pub async fn w1_a_stopped_worker_has_no_heartbeat(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let stopped = scene.at(1).change(&worker, WorkerChange::Stop).await.unwrap();
    assert_not_ready(scene.at(2).change(&worker, WorkerChange::Heartbeat).await, &stopped);
    assert_eq!(scene.worker(&worker).await, stopped);
}

/// W1: a worker that was never registered is an error that names it.
pub async fn w1_an_unknown_worker_is_named(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let known = scene.register("host").await;
    let unknown = WorkerRecord { id: WorkerId(i64::MAX), ..known };
    let answer = scene.change(&unknown, WorkerChange::Heartbeat).await;
    assert_matches!(answer, Err(Error::WorkerNotFound { worker }) if worker == unknown.id);
    scene.enqueue(1).await;
    let answer = scene.by(&unknown).try_claim(1).await;
    assert_matches!(answer, Err(Error::WorkerNotFound { worker }) if worker == unknown.id);
}

/// W2: a suspended worker claims nothing, also when somebody else suspended it.
pub async fn w2_a_suspended_worker_claims_nothing(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    scene.enqueue(2).await;
    scene.by(&worker).claim_one().await;
    let suspended = scene.change(&worker, WorkerChange::Suspend).await.unwrap();
    let before = scene.live().await;
    assert_not_ready(scene.by(&worker).try_claim(1).await, &suspended);
    assert_eq!(scene.live().await, before);
}

/// W2: a resumed worker claims again.
pub async fn w2_a_resumed_worker_claims_again(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let sent = scene.enqueue(1).await;
    scene.change(&worker, WorkerChange::Suspend).await.unwrap();
    scene.change(&worker, WorkerChange::Resume).await.unwrap();
    assert_eq!(ids(&scene.by(&worker).claim(1).await), sent);
}

/// W2: a stopped worker claims nothing.
pub async fn w2_a_stopped_worker_claims_nothing(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    scene.enqueue(1).await;
    let stopped = scene.change(&worker, WorkerChange::Stop).await.unwrap();
    assert_not_ready(scene.by(&worker).try_claim(1).await, &stopped);
    assert_eq!(scene.live().await[0].state, MessageState::Ready);
}

/// W2: a worker that is not ready is told so by an empty or paused queue too.
pub async fn w2_a_suspended_worker_is_told_so_by_a_paused_queue(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let suspended = scene.change(&worker, WorkerChange::Suspend).await.unwrap();
    assert_not_ready(scene.by(&worker).try_claim(1).await, &suspended);
    scene.set_state(QueueState::Paused).await;
    assert_not_ready(scene.by(&worker).try_claim(1).await, &suspended);
}

/// W2: a suspended worker keeps what it holds, and may settle it.
pub async fn w2_a_suspended_worker_settles_what_it_holds(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let leased = scene.by(&worker).lease(2).await;
    scene.change(&worker, WorkerChange::Suspend).await.unwrap();
    assert_eq!(scene.live_one(leased[0].id).await.worker, Some(worker.id));
    assert!(scene.at(20).extend(&leased[0], 30).await.is_ok());
    assert_eq!(scene.at(40).archive(&leased[0]).await, Ok(Settled::Archived));
    assert_eq!(scene.at(40).release(&leased[1], 0).await, Ok(Settled::Released));
}

/// W2: a worker claims from the queue it serves only.
pub async fn w2_a_worker_claims_from_its_queue_only(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    let worker = other.register("host").await;
    scene.enqueue(1).await;
    let answer = scene.by(&worker).try_claim(1).await;
    assert_matches!(answer, Err(Error::WorkerNotFound { worker: id }) if id == worker.id);
    assert_eq!(scene.live().await[0].state, MessageState::Ready);
}

/// W3: shutdown releases what the worker still holds, at once, attempts given back.
pub async fn w3_a_stopped_worker_gives_back_what_it_holds(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let (one, two) = (scene.register("one").await, scene.register("two").await);
    let leased = scene.by(&one).lease_all(vec![tries(1), message(0)]).await;
    scene.at(5).change(&one, WorkerChange::Stop).await.unwrap();
    for message in &leased {
        let shown = scene.at(5).live_one(message.id).await;
        assert_eq!((shown.state, shown.visible_at), (MessageState::Ready, instant(5)));
        assert_eq!((shown.attempts, shown.worker, shown.receipt), (0, None, None));
    }
    let again = scene.at(5).by(&two).claim(2).await;
    assert!(again.iter().all(|message| message.attempts == 1), "{again:?}");
    assert_eq!(again.len(), 2);
}

/// W3: the receipts of a stopped worker are dead, also before anybody claims the messages.
pub async fn w3_the_receipts_of_a_stopped_worker_are_dead(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let leased = scene.by(&worker).lease(2).await;
    scene.change(&worker, WorkerChange::Suspend).await.unwrap();
    scene.change(&worker, WorkerChange::Stop).await.unwrap();
    for message in leased {
        scene.assert_lost(message.receipt).await;
    }
}

/// W3: leases that have expired and that nobody took are among what it still holds.
pub async fn w3_a_stopped_worker_gives_back_expired_leases_too(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let leased = scene.by(&worker).lease_all(vec![tries(1), tries(2)]).await;
    scene.at(40).change(&worker, WorkerChange::Stop).await.unwrap();
    for message in leased {
        assert_eq!(scene.at(40).live_one(message.id).await.attempts, 0);
        scene.at(40).assert_lost(message.receipt).await;
    }
}

/// W3: also those that a claim of others has passed by.
pub async fn w3_a_stopped_worker_gives_back_what_others_passed_by(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let leased = scene.by(&worker).lease(2).await;
    let pressing = scene.at(40).send(urgent(9)).await;
    assert_eq!(scene.at(40).claim_one().await.id, pressing);
    scene.at(41).change(&worker, WorkerChange::Stop).await.unwrap();
    for message in leased {
        let shown = scene.at(41).live_one(message.id).await;
        assert_eq!((shown.attempts, shown.worker, shown.receipt), (0, None, None));
        scene.at(41).assert_lost(message.receipt).await;
    }
}

/// W3: what others hold, and what it has lost to others, stays theirs.
pub async fn w3_a_stopped_worker_leaves_what_others_hold(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let (one, two) = (scene.register("one").await, scene.register("two").await);
    scene.by(&one).lease(1).await;
    let taken = scene.at(30).by(&two).claim_one().await;
    let ephemeral = scene.at(30).lease(1).await.remove(0);
    let before = scene.at(31).live().await;
    scene.at(31).change(&one, WorkerChange::Stop).await.unwrap();
    assert_eq!(scene.at(31).live().await, before);
    assert_eq!(scene.at(31).archive(&taken).await, Ok(Settled::Archived));
    assert_eq!(scene.at(31).archive(&ephemeral).await, Ok(Settled::Archived));
}

/// W4: a worker past its heartbeat timeout is stopped by the next sweep, and none before.
pub async fn w4_a_worker_past_its_timeout_is_stopped(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register_mortal("host", 10).await;
    assert_eq!(scene.at(10).sweep().await, Swept::default());
    let expected = Swept { workers_stopped: 1, ..Swept::default() };
    assert_eq!(scene.just_after(10).sweep().await, expected);
    assert_eq!(scene.just_after(10).sweep().await, Swept::default());
    let stopped = scene.worker(&worker).await;
    assert_eq!((stopped.state, stopped.replaced_by), (WorkerState::Stopped, None));
    assert_eq!(stopped.stopped_at, Some(scene.just_after(10).now));
    assert_not_ready(scene.at(11).change(&worker, WorkerChange::Heartbeat).await, &stopped);
    assert_not_ready(scene.at(11).by(&worker).try_claim(1).await, &stopped);
}

/// W4: suspended workers must be heard of as well.
pub async fn w4_a_suspended_worker_past_its_timeout_is_stopped(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register_mortal("host", 10).await;
    scene.change(&worker, WorkerChange::Suspend).await.unwrap();
    assert_eq!(scene.at(11).sweep().await.workers_stopped, 1);
    assert_eq!(scene.worker(&worker).await.state, WorkerState::Stopped);
}

/// W4: without a heartbeat timeout, the default, only the lease protects and frees messages.
pub async fn w4_without_a_timeout_silence_means_nothing(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let message = scene.by(&worker).lease(1).await.remove(0);
    assert_eq!(scene.at(1_000_000).sweep().await, Swept::default());
    assert_eq!(scene.worker(&worker).await, worker);
    assert_eq!(scene.at(1_000_000).archive(&message).await, Ok(Settled::Archived));
}

/// W4: a heartbeat starts the timeout again.
pub async fn w4_a_heartbeat_starts_the_timeout_again(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register_mortal("host", 10).await;
    for second in [7, 14, 24] {
        let record = scene.at(second).change(&worker, WorkerChange::Heartbeat).await.unwrap();
        assert_eq!((record.heartbeat_at, record.registered_at), (instant(second), instant(0)));
        assert_eq!(scene.at(second + 10).sweep().await, Swept::default());
    }
    assert_eq!(scene.just_after(34).sweep().await.workers_stopped, 1);
}

/// W4: only a registration and a heartbeat are signs of life. An operator who suspends or resumes a
/// dead worker does not keep it from being swept.
pub async fn w4_an_operators_change_is_no_sign_of_life(store: &Arc<dyn Store>) {
    use WorkerChange::*;
    let scene = Scene::new(store).await;
    let worker = scene.register_mortal("host", 10).await;
    for (second, change) in [(3, Suspend), (6, Resume), (9, Suspend)] {
        let record = scene.at(second).change(&worker, change).await.unwrap();
        assert_eq!(record.heartbeat_at, instant(0), "after {change:?}");
        assert_eq!(scene.worker(&worker).await, record);
    }
    assert_eq!(scene.just_after(10).sweep().await.workers_stopped, 1);
    assert_eq!(scene.worker(&worker).await.heartbeat_at, instant(0));
    let other = scene.at(20).register("other").await;
    let stopped = scene.at(25).change(&other, Stop).await.unwrap();
    assert_eq!((stopped.heartbeat_at, stopped.stopped_at), (instant(20), Some(instant(25))));
}

/// W4: a heartbeat timeout may be of any length; one that no clock reaches means for ever.
pub async fn w4_a_heartbeat_timeout_may_be_of_any_length(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    for (host, timeout) in [("long", century), ("longest", Duration::MAX)] {
        let register = Register { heartbeat_timeout: Some(timeout), ..scene.consumer(host) };
        let worker = scene.try_register(register).await.unwrap();
        assert!(worker.heartbeat_timeout.is_some_and(|kept| kept >= century), "{worker:?}");
        assert_eq!(scene.worker(&worker).await, worker);
        assert_eq!(scene.at(1_000_000).sweep().await, Swept::default());
        assert_eq!(scene.change(&worker, WorkerChange::Heartbeat).await.unwrap(), worker);
    }
}

/// W4: a dead worker is freed whole, however much it holds: the limit of a sweep counts workers.
pub async fn w4_a_dead_worker_is_freed_whole(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for host in ["one", "two"] {
        let worker = scene.register_mortal(host, 10).await;
        scene.by(&worker).lease(3).await;
    }
    let sweep = Sweep { limit: BatchSize::ONE, now: Some(scene.at(11).now) };
    for _ in 0..2 {
        let expected = Swept { workers_stopped: 1, released: 3, ..Swept::default() };
        assert_eq!(store.sweep(sweep).await.unwrap(), expected);
    }
    assert_eq!(store.sweep(sweep).await.unwrap(), Swept::default());
}

/// W4: the sweep releases what a dead worker holds without waiting for its leases; its receipts
/// are no longer current, and the attempts count.
pub async fn w4_the_sweep_frees_what_a_dead_worker_holds(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let (dead, alive) = (scene.register_mortal("dead", 10).await, scene.register("alive").await);
    let held = scene.by(&alive).lease(1).await.remove(0);
    let freed = scene.by(&dead).lease(2).await;
    let swept = scene.at(11).sweep().await;
    assert_eq!(swept, Swept { workers_stopped: 1, released: 2, ..Swept::default() });
    for message in &freed {
        let shown = scene.at(11).live_one(message.id).await;
        assert_eq!((shown.state, shown.visible_at), (MessageState::Ready, instant(11)));
        assert_eq!((shown.attempts, shown.worker, shown.receipt), (1, None, None));
        scene.at(11).assert_lost(message.receipt).await;
    }
    let again = scene.at(11).by(&alive).claim(5).await;
    assert_eq!(again.iter().map(|message| message.attempts).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(scene.at(11).archive(&held).await, Ok(Settled::Archived));
}

/// W4: what a dead worker held on its last attempt becomes a dead letter in the same step.
pub async fn w4_a_dead_workers_last_attempts_are_dead_letters(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register_mortal("host", 10).await;
    let leased = scene.by(&worker).lease_all(vec![tries(1), tries(2)]).await;
    let swept = scene.at(11).sweep().await;
    assert_eq!((swept.workers_stopped, swept.released, swept.buried), (1, 1, 1));
    let letter = scene.at(11).archived_one(leased[0].id).await;
    assert_eq!((letter.outcome, letter.worker), (Outcome::Dead, Some(worker.id)));
    assert_eq!(letter.last_error.as_deref(), Some("worker missed its heartbeats"));
    assert_eq!((letter.attempts, letter.archived_at), (1, instant(11)));
    assert_eq!(live_ids(&scene.at(11).live().await), [leased[1].id]);
}

/// W4: stopped workers are removed by the sweep after 7 days, not before, and no others.
pub async fn w4_stopped_workers_are_removed_after_7_days(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let (alive, suspended) = (scene.register("alive").await, scene.register("suspended").await);
    scene.change(&suspended, WorkerChange::Suspend).await.unwrap();
    let stopped = scene.register("stopped").await;
    scene.change(&stopped, WorkerChange::Stop).await.unwrap();
    let week = 7 * 24 * 60 * 60;
    assert_eq!(scene.just_before(week).sweep().await, Swept::default());
    assert_eq!(scene.workers().await.len(), 3);
    let removed = Swept { workers_removed: 1, ..Swept::default() };
    assert_eq!(scene.at(week).sweep().await, removed);
    let left: Vec<_> = scene.workers().await.iter().map(|worker| worker.id).collect();
    assert_eq!(left, [alive.id, suspended.id]);
    let answer = scene.at(week).by(&stopped).try_claim(1).await;
    assert_matches!(answer, Err(Error::WorkerNotFound { worker }) if worker == stopped.id);
}

/// W5: registering the same (kind, host, port, queue) again replaces the earlier registration.
pub async fn w5_the_same_identity_replaces_the_earlier_one(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let first = scene.register("host").await;
    let second = scene.at(5).register("host").await;
    assert!(second.id > first.id);
    assert_eq!((second.state, second.replaced_by), (WorkerState::Ready, None));
    let replaced = scene.worker(&first).await;
    assert_eq!((replaced.state, replaced.replaced_by), (WorkerState::Stopped, Some(second.id)));
    assert_eq!(replaced.stopped_at, Some(instant(5)));
    scene.at(5).change(&second, WorkerChange::Suspend).await.unwrap();
    let third = scene.at(6).register("host").await;
    assert_eq!(scene.worker(&second).await.replaced_by, Some(third.id));
    assert_eq!(scene.worker(&first).await, replaced);
}

/// W5: what the replaced worker held is ready at once, its receipts dead, its attempts counted.
pub async fn w5_what_a_replaced_worker_held_is_ready_at_once(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let first = scene.register("host").await;
    let leased = scene.by(&first).lease(2).await;
    let second = scene.at(5).register("host").await;
    for message in &leased {
        let shown = scene.at(5).live_one(message.id).await;
        assert_eq!((shown.state, shown.visible_at), (MessageState::Ready, instant(5)));
        assert_eq!((shown.attempts, shown.worker, shown.receipt), (1, None, None));
        scene.at(5).assert_lost(message.receipt).await;
    }
    let again = scene.at(5).by(&second).claim(5).await;
    assert_eq!(again.iter().map(|message| message.attempts).collect::<Vec<_>>(), [2, 2]);
}

/// W5: what it held on its last attempt becomes a dead letter in the same step.
pub async fn w5_a_replaced_workers_last_attempts_are_dead_letters(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let first = scene.register("host").await;
    let leased = scene.by(&first).lease_all(vec![tries(1), tries(2)]).await;
    scene.at(5).register("host").await;
    let letter = scene.at(5).archived_one(leased[0].id).await;
    assert_eq!((letter.outcome, letter.worker), (Outcome::Dead, Some(first.id)));
    assert_eq!(letter.last_error.as_deref(), Some("worker was replaced"));
    assert_eq!(live_ids(&scene.at(5).live().await), [leased[1].id]);
}

/// W5: a zombie never speaks for its successor: its calls fail and name who replaced it.
pub async fn w5_a_zombies_calls_name_its_successor(store: &Arc<dyn Store>) {
    use WorkerChange::*;
    let scene = Scene::new(store).await;
    let first = scene.register("host").await;
    let second = scene.register("host").await;
    scene.enqueue(1).await;
    let zombie = scene.worker(&first).await;
    assert_eq!(zombie.replaced_by, Some(second.id));
    for change in [Heartbeat, Suspend, Resume, Stop] {
        assert_not_ready(scene.change(&first, change).await, &zombie);
    }
    assert_not_ready(scene.by(&first).try_claim(1).await, &zombie);
    assert_eq!(scene.worker(&first).await, zombie);
    assert_eq!(scene.worker(&second).await, second);
    assert_eq!(scene.by(&second).claim(1).await.len(), 1);
}

/// W5: port 0 means no fixed identity and never replaces anyone.
pub async fn w5_port_0_replaces_nobody(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let anonymous = Register { port: 0, ..scene.consumer("host") };
    let first = scene.try_register(anonymous.clone()).await.unwrap();
    let message = scene.by(&first).lease(1).await.remove(0);
    let second = scene.try_register(anonymous).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(scene.workers().await, [first, second]);
    assert_eq!(scene.archive(&message).await, Ok(Settled::Archived));
}

/// W5: another kind, host, port or queue is another identity.
pub async fn w5_other_identities_stay(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    let same = || scene.consumer("host");
    let mut made = Vec::new();
    for register in [
        same(),
        Register { kind: WorkerKind::Producer, ..same() },
        Register { host: "HOST".into(), ..same() },
        Register { port: 2, ..same() },
        Register { queue: other.queue.clone(), ..same() },
    ] {
        made.push(scene.try_register(register).await.unwrap());
    }
    assert_eq!([scene.workers().await, other.workers().await].concat(), made);
}

/// W5: a registration that has stopped already is not replaced.
pub async fn w5_a_stopped_worker_is_not_replaced(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let first = scene.register("host").await;
    let stopped = scene.at(1).change(&first, WorkerChange::Stop).await.unwrap();
    let second = scene.at(2).register("host").await;
    assert_eq!(second.state, WorkerState::Ready);
    assert_eq!(scene.worker(&first).await, stopped);
}

/// W6: release and graceful shutdown give the attempt back; the end of a lease, a missed heartbeat
/// and a replacement count it.
pub async fn w6_what_gives_an_attempt_back_and_what_counts_it(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let id = scene.enqueue(1).await[0];
    let next = async |scene: Scene| {
        let message = scene.claim_one().await;
        assert_eq!(message.id, id);
        message
    };
    let released = next(scene.clone()).await;
    scene.release(&released, 0).await.unwrap();
    let worker = scene.register("host").await;
    assert_eq!(next(scene.by(&worker)).await.attempts, 1, "a release gives back");
    scene.at(1).change(&worker, WorkerChange::Stop).await.unwrap();
    assert_eq!(next(scene.at(1)).await.attempts, 1, "a shutdown gives back");
    let mortal = scene.at(31).register_mortal("host", 10).await;
    assert_eq!(next(scene.at(31).by(&mortal)).await.attempts, 2, "expiry counts");
    scene.at(42).sweep().await;
    let worker = scene.at(42).register("host").await;
    assert_eq!(next(scene.at(42).by(&worker)).await.attempts, 3, "silence counts");
    scene.at(43).register("host").await;
    assert_eq!(next(scene.at(43)).await.attempts, 4, "a replacement counts");
}

/// Reads filter workers by queue, state and id, and come in pages, by id.
pub async fn reads_filter_and_page_workers(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let mut made = Vec::new();
    for host in ["c", "b", "a"] {
        made.push(scene.register(host).await.id);
    }
    let theirs = scene.queue("other").await.register("host").await.id;
    let second = scene.workers().await.remove(1);
    scene.change(&second, WorkerChange::Suspend).await.unwrap();
    let read = async |filter| {
        let workers = store.workers(filter).await.unwrap();
        workers.iter().map(|worker| worker.id).collect::<Vec<_>>()
    };
    let all = WorkerFilter::default;
    let state = Some(WorkerState::Ready);
    assert_eq!(read(all()).await, [made[0], made[1], made[2], theirs]);
    assert_eq!(read(WorkerFilter { state, ..all() }).await, [made[0], made[2], theirs]);
    let queue = Some(scene.queue.clone());
    assert_eq!(
        read(WorkerFilter { queue: queue.clone(), state, ..all() }).await,
        [made[0], made[2]]
    );
    assert_eq!(read(WorkerFilter { queue, id: Some(theirs), ..all() }).await, []);
    assert_eq!(read(WorkerFilter { id: Some(theirs), ..all() }).await, [theirs]);
    let limit = BatchSize::new(2).unwrap();
    let page = |after| WorkerFilter { page: Page { after, limit }, ..all() };
    assert_eq!(read(page(None)).await, made[..2]);
    assert_eq!(read(page(Some(made[1]))).await, [made[2], theirs]);
    assert_eq!(read(page(Some(theirs))).await, []);
}

/// Fails the case unless the answer is that `worker` is not ready, as its registration says.
fn assert_not_ready<T: std::fmt::Debug>(answer: Result<T>, worker: &WorkerRecord) {
    let expected = (worker.id, worker.state, worker.replaced_by);
    assert_matches!(
        answer,
        Err(Error::WorkerNotReady { worker, state, replaced_by })
            if (worker, state, replaced_by) == expected
    );
}
