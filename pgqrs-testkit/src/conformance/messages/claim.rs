//! V1 to V4 and V6: claims and leases.

use std::{sync::Arc, time::Duration};

use pgqrs::*;
use serde_json::{Value, json};

use crate::conformance::scene::*;

/// V1: a claim returns at most `limit` messages.
pub async fn v1_a_claim_returns_at_most_its_limit(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = scene.enqueue(5).await;
    assert_eq!(ids(&scene.claim(3).await), sent[..3]);
    assert_eq!(ids(&scene.claim(3).await), sent[3..]);
    assert_eq!(scene.claim(3).await, []);
}

/// V1: every claimed message was ready: neither delayed nor leased.
pub async fn v1_only_ready_messages_are_claimed(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.lease(2).await;
    scene.send_all(vec![delayed(10), delayed(20)]).await;
    let ready = scene.enqueue(2).await;
    assert_eq!(ids(&scene.claim(10).await), ready);
}

/// V1: a claim returns messages of its queue only.
pub async fn v1_a_claim_leaves_other_queues_alone(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    let theirs = other.send_all(vec![urgent(9), urgent(9)]).await;
    let ours = scene.enqueue(2).await;
    assert_eq!(ids(&scene.claim(10).await), ours);
    assert_eq!(ids(&other.claim(10).await), theirs);
}

/// V1: a message whose attempts have reached their maximum is not claimed.
pub async fn v1_a_message_at_its_maximum_is_not_claimed(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.send(tries(2)).await;
    assert_eq!(scene.claim_one().await.attempts, 1);
    assert_eq!(scene.at(30).claim_one().await.attempts, 2);
    assert_eq!(scene.at(60).claim(1).await, []);
}

/// V1: a claim that finds nothing ready tells when the next delay or lease ends, if any does.
pub async fn v1_an_empty_claim_tells_when_the_next_message_is_due(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.queue("other").await.send(delayed(1)).await;
    let due_in = async |scene: Scene| scene.try_claim(1).await.unwrap().due_in;
    let seconds = |seconds| Some(std::time::Duration::from_secs(seconds));
    assert_eq!(due_in(scene.clone()).await, None);
    scene.send_all(vec![delayed(50), delayed(40)]).await;
    assert_eq!(due_in(scene.clone()).await, seconds(40));
    scene.lease(1).await;
    assert_eq!(due_in(scene.clone()).await, seconds(30));
    scene.at(30).claim_one().await;
    assert_eq!(due_in(scene.at(30)).await, seconds(10));
}

/// V2: a claim sets visible_at = now + timeout, a new token, attempts + 1 and the time.
pub async fn v2_a_claim_returns_the_message_and_its_lease(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let headers = Some(Json::new(&json!({"trace": "4bf9"})).unwrap());
    let id = scene.send(NewMessage { headers, max_attempts: Some(7), ..urgent(6) }).await;
    let message = scene.at(3).claim_one().await;
    let expected = Message {
        id,
        queue: scene.queue.clone(),
        payload: json!({"number": 0}),
        headers: [(String::from("trace"), Value::from("4bf9"))].into_iter().collect(),
        priority: Priority::new(6).unwrap(),
        enqueued_at: instant(0),
        claimed_at: instant(3),
        visible_at: instant(33),
        attempts: 1,
        max_attempts: 7,
        worker: None,
        last_error: None,
        receipt: Receipt { id, token: message.receipt.token },
    };
    assert_eq!(message, expected);
}

/// V2: the lease is in the store, all of it, once the claim has answered.
pub async fn v2_reads_show_the_lease(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    let shown = scene.at(1).live_one(message.id).await;
    assert_eq!((shown.state, shown.visible_at), (MessageState::Leased, instant(30)));
    assert_eq!((shown.attempts, shown.receipt), (1, Some(message.receipt)));
}

/// V2: a claim by a worker sets the worker.
pub async fn v2_a_claim_sets_the_worker(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let message = scene.by(&worker).lease(1).await.remove(0);
    assert_eq!(message.worker, Some(worker.id));
    assert_eq!(scene.live_one(message.id).await.worker, Some(worker.id));
    let message = scene.at(30).claim_one().await;
    assert_eq!(message.worker, None);
    assert_eq!(scene.at(30).live_one(message.id).await.worker, None);
}

/// V2: every claim of a message has a greater token and one attempt more.
pub async fn v2_tokens_and_attempts_grow_with_every_claim(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let mut last = scene.lease(1).await.remove(0);
    for round in 1..5 {
        let next = scene.at(30 * round).claim_one().await;
        assert!(next.receipt.token > last.receipt.token, "{next:?}");
        assert_eq!((next.id, next.attempts), (last.id, last.attempts + 1));
        last = next;
    }
}

/// V2: the timeout is the claim's own, or else the queue's.
pub async fn v2_the_timeout_is_the_claims_or_else_the_queues(store: &Arc<dyn Store>) {
    let visibility_timeout = lease_of(7);
    let settings = QueueSettings { visibility_timeout, ..QueueSettings::default() };
    let scene = Scene::with(store, settings).await;
    scene.enqueue(2).await;
    assert_eq!(scene.claim_one().await.visible_at, instant(7));
    let longest = scene.claim_for(1, VisibilityTimeout::MAX).await.remove(0);
    assert_eq!(longest.visible_at, instant(12 * 60 * 60));
}

/// V3: two claims at one instant never share a message.
pub async fn v3_two_claims_never_share_a_message(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = scene.enqueue(10).await;
    let (first, second) = (scene.claim(6).await, scene.claim(6).await);
    assert_eq!([ids(&first), ids(&second)].concat(), sent);
}

/// V3: a leased message is not claimed again before its lease ends, to the microsecond.
pub async fn v3_a_leased_message_is_not_claimed_again(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.lease(3).await;
    assert_eq!(scene.claim(3).await, []);
    assert_eq!(scene.at(15).claim(3).await, []);
    assert_eq!(scene.just_before(30).claim(3).await, []);
}

/// V4: an expired lease makes the message ready again by itself, at its very end.
pub async fn v4_an_expired_lease_is_ready_to_the_microsecond(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(3).await;
    assert_eq!(scene.just_before(30).claim(3).await, []);
    assert_eq!(ids(&scene.at(30).claim(3).await), ids(&leased));
}

/// V4: leases of less than a second end to the microsecond as well.
pub async fn v4_a_lease_of_a_millisecond_ends_to_the_microsecond(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.enqueue(2).await;
    scene.claim_for(1, VisibilityTimeout::MIN).await;
    let odd = VisibilityTimeout::new(Duration::from_micros(1_501)).unwrap();
    scene.claim_for(1, odd).await;
    assert_eq!(scene.at_micros(999).claim(2).await, []);
    assert_eq!(scene.at_micros(1_000).claim(2).await.len(), 1);
    assert_eq!(scene.at_micros(1_500).claim(2).await, []);
    assert_eq!(scene.at_micros(1_501).claim(2).await.len(), 1);
}

/// V4: whichever of the messages that were claimed together are archived or extended, at once or one
/// by one, the others come back when their lease ends, and the extended ones when theirs does.
pub async fn v4_what_is_left_of_a_claim_comes_back(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let actions = [None, Some(Action::Archive), Some(Action::Extend(lease_of(60)))];
    for case in 0..54 {
        let nth = [case % 3, case / 3 % 3, case / 9 % 3];
        let start = 100 * case as i64;
        let leased = scene.at(start).lease(3).await;
        let of = |wanted| {
            let chosen = leased.iter().zip(nth).filter(move |(_, nth)| *nth == wanted);
            chosen.map(|(message, _)| message.id).collect::<Vec<_>>()
        };
        let (left, extended) = (of(0), of(2));
        let settle = leased.iter().zip(nth).filter_map(|(message, nth)| {
            Some(Settlement { receipt: message.receipt, action: actions[nth].clone()? })
        });
        let settlements: Vec<Settlement> = settle.collect();
        let settling = scene.at(start + 10);
        if case < 27 {
            settling.settle_all(settlements).await;
        } else {
            for Settlement { receipt, action } in settlements.into_iter().rev() {
                settling.settle(receipt, action).await.unwrap();
            }
        }
        for (end, expected) in [(30, left), (70, extended)] {
            assert_eq!(scene.just_before(start + end).claim(3).await, [], "{nth:?}");
            let mut back = scene.at(start + end).claim(3).await;
            back.sort_by_key(|message| message.id);
            assert_eq!(ids(&back), expected, "{nth:?} after {end} s");
            for message in &back {
                scene.at(start + end).archive(message).await.unwrap();
            }
        }
    }
}

/// V4: it happens again and again, for as long as there are attempts.
pub async fn v4_a_message_comes_back_for_every_attempt(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let id = scene.send(tries(20)).await;
    for attempt in 0..20 {
        let message = scene.at(30 * attempt).claim_one().await;
        assert_eq!((message.id, i64::from(message.attempts)), (id, attempt + 1));
        assert_eq!(scene.just_before(30 * attempt + 30).claim(1).await, []);
    }
}

/// V4: until somebody takes it, reads show the message as ready since the end of the lease, and
/// its receipt as current.
pub async fn v4_reads_show_an_expired_lease_as_ready(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    assert_eq!(scene.just_before(30).live_one(message.id).await.state, MessageState::Leased);
    let shown = scene.at(30).live_one(message.id).await;
    assert_eq!((shown.state, shown.visible_at), (MessageState::Ready, instant(30)));
    assert_eq!((shown.attempts, shown.receipt), (1, Some(message.receipt)));
}

/// V6: extend sets visible_at = now + seconds: from now, not from the end of the lease.
pub async fn v6_extend_counts_from_now(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    let answer = scene.at(10).extend(&message, 40).await;
    assert_eq!(answer, Ok(Settled::Extended(instant(50))));
    let shown = scene.at(10).live_one(message.id).await;
    assert_eq!((shown.visible_at, shown.receipt), (instant(50), Some(message.receipt)));
}

/// V6: an extended lease holds to its new end and ends there.
pub async fn v6_an_extended_lease_ends_to_the_microsecond(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    for second in [10, 20, 30] {
        scene.at(second).extend(&message, 40).await.unwrap();
    }
    assert_eq!(scene.at(50).claim(1).await, []);
    assert_eq!(scene.just_before(70).claim(1).await, []);
    let again = scene.at(70).claim_one().await;
    assert_eq!((again.id, again.attempts), (message.id, 2));
}

/// V6: extend may also end a lease sooner.
pub async fn v6_extend_may_shorten(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    let answer = scene.at(1).extend(&message, 2).await;
    assert_eq!(answer, Ok(Settled::Extended(instant(3))));
    assert_eq!(scene.just_before(3).claim(1).await, []);
    assert_eq!(scene.at(3).claim_one().await.id, message.id);
}

/// V6: the holder of an expired lease may extend it while nobody has taken the message, and then
/// holds it alone.
pub async fn v6_an_expired_lease_that_nobody_took_may_be_extended(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    let answer = scene.at(40).extend(&message, 30).await;
    assert_eq!(answer, Ok(Settled::Extended(instant(70))));
    assert_eq!(scene.at(40).live_one(message.id).await.state, MessageState::Leased);
    assert_eq!(scene.just_before(70).claim(1).await, []);
    assert_eq!(scene.just_before(70).archive(&message).await, Ok(Settled::Archived));
}

/// V6: extend is for the holder of a current receipt only, and costs no attempt.
pub async fn v6_only_the_holder_extends(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let lost = scene.lease(1).await.remove(0);
    let held = scene.at(30).claim_one().await;
    assert_eq!(scene.at(31).extend(&lost, 600).await, Err(LeaseLost));
    assert_eq!(scene.at(31).live_one(held.id).await.visible_at, instant(60));
    scene.at(31).extend(&held, 60).await.unwrap();
    assert_eq!(scene.at(31).live_one(held.id).await.attempts, 2);
}
