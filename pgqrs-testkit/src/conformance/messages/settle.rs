//! S5 to S7: release, failure, and batches of settlements.

use std::{sync::Arc, time::Duration};

use pgqrs::*;

use crate::conformance::scene::*;

/// S5: a released message is ready at once and nobody's.
pub async fn s5_a_released_message_is_ready_at_once(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    assert_eq!(scene.at(7).release(&message, 0).await, Ok(Settled::Released));
    let shown = scene.at(7).live_one(message.id).await;
    assert_eq!((shown.state, shown.visible_at), (MessageState::Ready, instant(7)));
    assert_eq!((shown.receipt, shown.worker, shown.last_error), (None, None, None));
    assert_eq!(scene.at(7).claim_one().await.id, message.id);
}

/// S5: with a delay, a released message is ready at its very end and not before.
pub async fn s5_a_release_may_wait_to_the_microsecond(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    assert_eq!(scene.at(7).release(&message, 100).await, Ok(Settled::Released));
    let shown = scene.at(7).live_one(message.id).await;
    assert_eq!((shown.state, shown.visible_at), (MessageState::Delayed, instant(107)));
    assert_eq!(scene.just_before(107).claim(1).await, []);
    assert_eq!(scene.at(107).claim_one().await.id, message.id);
}

/// S5: a delay of a microsecond is kept.
pub async fn s5_a_release_by_a_microsecond_is_kept(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    let delay = Delay::new(Duration::from_micros(1)).unwrap();
    scene.settle(message.receipt, Action::Release(delay)).await.unwrap();
    assert_eq!(scene.claim(1).await, []);
    assert_eq!(scene.just_after(0).claim_one().await.id, message.id);
}

/// S5: a release gives the attempt back: it is not a failure.
pub async fn s5_a_release_gives_the_attempt_back(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.send(tries(2)).await;
    scene.claim_one().await;
    for second in 30..40 {
        let message = scene.at(second).claim_one().await;
        assert_eq!(message.attempts, 2);
        scene.at(second).release(&message, 0).await.unwrap();
        assert_eq!(scene.at(second).live_one(message.id).await.attempts, 1);
    }
}

/// S5: a message released from its last attempt is no dead letter.
pub async fn s5_a_release_of_the_last_attempt_is_no_death(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease_all(vec![tries(1)]).await.remove(0);
    assert_eq!(scene.release(&message, 0).await, Ok(Settled::Released));
    assert_eq!(scene.history().await, []);
    let again = scene.claim_one().await;
    assert_eq!((again.id, again.attempts), (message.id, 1));
    assert!(again.receipt.token > message.receipt.token);
}

/// S6: a failure records the error, keeps the attempt, and the message is tried again.
pub async fn s6_a_failure_records_the_error_and_keeps_the_attempt(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    assert_eq!(scene.at(7).fail(&message, "no paper", 0).await, Ok(Settled::Retrying));
    let shown = scene.at(7).live_one(message.id).await;
    assert_eq!((shown.state, shown.visible_at), (MessageState::Ready, instant(7)));
    assert_eq!((shown.attempts, shown.receipt, shown.worker), (1, None, None));
    let again = scene.at(7).claim_one().await;
    assert_eq!((again.attempts, again.last_error.as_deref()), (2, Some("no paper")));
}

/// S6: a retry is due at its very time and not before.
pub async fn s6_a_retry_is_due_to_the_microsecond(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    scene.at(7).fail(&message, "failed", 10).await.unwrap();
    let shown = scene.at(7).live_one(message.id).await;
    assert_eq!((shown.state, shown.visible_at), (MessageState::Delayed, instant(17)));
    assert_eq!(scene.just_before(17).claim(1).await, []);
    assert_eq!(scene.at(17).claim_one().await.id, message.id);
}

/// S6: the last error stays until another failure replaces it; a release does not.
pub async fn s6_the_last_error_is_the_latest_failures(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    scene.fail(&message, "first", 0).await.unwrap();
    let message = scene.claim_one().await;
    scene.release(&message, 0).await.unwrap();
    let message = scene.claim_one().await;
    assert_eq!(message.last_error.as_deref(), Some("first"));
    scene.fail(&message, "second", 0).await.unwrap();
    let message = scene.claim_one().await;
    assert_eq!(message.last_error.as_deref(), Some("second"));
    scene.archive(&message).await.unwrap();
    let done = scene.archived_one(message.id).await;
    assert_eq!(done.last_error.as_deref(), Some("second"));
}

/// S6: a failure at the maximum of attempts makes a dead letter in the same step, and says so.
pub async fn s6_a_failure_at_the_maximum_is_a_dead_letter(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let id = scene.send(tries(3)).await;
    for answer in [Settled::Retrying, Settled::Retrying, Settled::Dead] {
        let message = scene.claim_one().await;
        assert_eq!(scene.fail(&message, "failed", 0).await, Ok(answer));
    }
    assert_eq!(scene.live().await, []);
    let letter = scene.archived_one(id).await;
    assert_eq!((letter.outcome, letter.attempts), (Outcome::Dead, 3));
    assert_eq!(letter.last_error.as_deref(), Some("failed"));
}

/// S6: a failure with `Dead` makes a dead letter at once, attempts left or not.
pub async fn s6_a_failure_for_good_is_a_dead_letter_at_once(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    assert_eq!(scene.at(7).bury(&message, "poison").await, Ok(Settled::Dead));
    assert_eq!(scene.live().await, []);
    let letter = scene.at(7).archived_one(message.id).await;
    assert_eq!((letter.outcome, letter.attempts), (Outcome::Dead, 1));
    assert_eq!(letter.last_error.as_deref(), Some("poison"));
    assert_eq!((letter.archived_at, letter.receipt), (instant(7), Some(message.receipt)));
}

/// S6: the error is cut at 8 KiB, at a character.
pub async fn s6_an_error_is_cut_at_8_kib(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let full = "x".repeat(8_192);
    for (error, kept) in [
        (full.clone(), full.clone()),
        (full.clone() + "y", full),
        ("é".repeat(5_000), "é".repeat(4_096)),
        ("€".repeat(3_000), "€".repeat(2_730)),
        (String::new(), String::new()),
    ] {
        let leased = scene.lease(2).await;
        scene.fail(&leased[0], &error, 60).await.unwrap();
        assert_eq!(scene.live_one(leased[0].id).await.last_error, Some(kept.clone()));
        scene.bury(&leased[1], &error).await.unwrap();
        assert_eq!(scene.archived_one(leased[1].id).await.last_error, Some(kept));
    }
}

/// S6: an error with a NUL character is recorded, not refused.
pub async fn s6_an_error_may_contain_nul(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2).await;
    assert_eq!(scene.fail(&leased[0], "be\0fore", 0).await, Ok(Settled::Retrying));
    assert_eq!(scene.bury(&leased[1], "be\0fore").await, Ok(Settled::Dead));
    let kept = Some(cut_error("be\0fore"));
    assert_eq!(scene.live_one(leased[0].id).await.last_error, kept);
    assert_eq!(scene.archived_one(leased[1].id).await.last_error, kept);
}

/// S7: a batch settles each receipt by itself and answers in input order.
pub async fn s7_a_batch_answers_in_input_order(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(6).await;
    let [archive, delete, release, fail, extend] = actions();
    let dead = Action::Fail { error: "failed".into(), retry: RetryDecision::Dead };
    let lost = Receipt { id: leased[0].id, token: 0 };
    let settlements = [
        (leased[5].receipt, extend),
        (leased[2].receipt, delete),
        (lost, Action::Archive),
        (leased[4].receipt, dead),
        (leased[0].receipt, archive),
        (leased[3].receipt, fail),
        (leased[1].receipt, release),
    ];
    let answers = scene.at(1).settle_all(settlements.map(settlement).to_vec()).await;
    let expected = [
        Ok(Settled::Extended(instant(61))),
        Ok(Settled::Deleted),
        Err(LeaseLost),
        Ok(Settled::Dead),
        Ok(Settled::Archived),
        Ok(Settled::Retrying),
        Ok(Settled::Released),
    ];
    assert_eq!(answers, expected);
    assert_eq!(live_ids(&scene.live().await), [leased[1].id, leased[3].id, leased[5].id]);
    assert_eq!(archived_ids(&scene.history().await), [leased[0].id, leased[4].id]);
}

/// S7: of several settles of one receipt in one batch the first acts; the others get what a later
/// call would get.
pub async fn s7_of_several_settles_of_one_receipt_the_first_acts(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let [archive, delete, release, fail, _] = actions();
    let archived = Ok(Settled::Archived);
    for (batch, expected) in [
        ([&archive, &archive], [archived, archived]),
        ([&archive, &delete], [archived, Err(LeaseLost)]),
        ([&delete, &archive], [Ok(Settled::Deleted), Err(LeaseLost)]),
        ([&delete, &delete], [Ok(Settled::Deleted), Err(LeaseLost)]),
        ([&release, &archive], [Ok(Settled::Released), Err(LeaseLost)]),
        ([&fail, &release], [Ok(Settled::Retrying), Err(LeaseLost)]),
        ([&fail, &fail], [Ok(Settled::Retrying), Err(LeaseLost)]),
    ] {
        let id = scene.enqueue(1).await[0];
        let leased = scene.claim(100).await;
        let receipt = leased.iter().find(|message| message.id == id).unwrap().receipt;
        let settlements = batch.map(|action| settlement((receipt, action.clone())));
        assert_eq!(scene.settle_all(settlements.to_vec()).await, expected, "{batch:?}");
    }
}

/// S7: an extension does not end the lease: after it in a batch, another settle acts as well.
pub async fn s7_a_settle_after_an_extension_acts_too(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let extended = |seconds| Ok(Settled::Extended(instant(seconds)));
    let extend = |seconds| Action::Extend(lease_of(seconds));
    for (batch, expected) in [
        ([extend(40), Action::Archive], [extended(40), Ok(Settled::Archived)]),
        ([extend(40), Action::Delete], [extended(40), Ok(Settled::Deleted)]),
        ([extend(40), extend(50)], [extended(40), extended(50)]),
        ([Action::Archive, extend(40)], [Ok(Settled::Archived), Err(LeaseLost)]),
    ] {
        let message = scene.lease(1).await.remove(0);
        let settlements = batch.map(|action| settlement((message.receipt, action)));
        assert_eq!(scene.settle_all(settlements.to_vec()).await, expected);
    }
    let live = scene.live().await;
    assert_eq!((live.len(), live[0].visible_at), (1, instant(50)));
}

/// S7: a batch may settle messages of several queues.
pub async fn s7_a_batch_may_span_queues(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    let leased = [scene.lease(1).await, other.lease(1).await].concat();
    let settlements = leased.iter().map(|m| settlement((m.receipt, Action::Archive))).collect();
    assert_eq!(scene.settle_all(settlements).await, [Ok(Settled::Archived); 2]);
    assert_eq!(archived_ids(&scene.history().await), [leased[0].id]);
    assert_eq!(archived_ids(&other.history().await), [leased[1].id]);
}

/// S7: an empty batch is no error, and 10,000 settlements are the most.
pub async fn s7_a_batch_holds_up_to_10_000_settlements(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    assert_eq!(scene.settle_all(vec![]).await, []);
    let message = scene.lease(1).await.remove(0);
    let lost = Receipt { id: message.id, token: 0 };
    let mut settlements = vec![settlement((lost, Action::Archive)); 10_000];
    settlements.push(settlement((message.receipt, Action::Archive)));
    let settle = Settle { settlements: settlements.clone(), now: Some(scene.now) };
    assert_matches!(store.settle(settle).await, Err(Error::OutOfRange { .. }));
    assert_eq!(scene.live_one(message.id).await.receipt, Some(message.receipt));
    settlements.remove(0);
    let answers = scene.settle_all(settlements).await;
    assert_eq!(answers[9_999], Ok(Settled::Archived));
    assert!(answers[..9_999].iter().all(|answer| *answer == Err(LeaseLost)));
}

fn settlement((receipt, action): (Receipt, Action)) -> Settlement {
    Settlement { receipt, action }
}
