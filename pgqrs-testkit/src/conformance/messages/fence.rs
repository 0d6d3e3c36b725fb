//! S1 to S4: who may settle, and that a settled message is in one place.

use std::sync::Arc;

use pgqrs::*;

use crate::conformance::scene::*;

/// S1: a receipt with a token that was never given out is refused.
pub async fn s1_a_forged_token_is_refused(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let Receipt { id, token } = scene.lease(1).await[0].receipt;
    for token in [token - 1, token + 1, 0, -1, i64::MIN, i64::MAX] {
        scene.assert_lost(Receipt { id, token }).await;
    }
}

/// S1: the token of one message does not settle another.
pub async fn s1_a_receipt_settles_its_own_message_only(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2).await;
    let (one, two) = (leased[0].receipt, leased[1].receipt);
    if one.token != two.token {
        scene.assert_lost(Receipt { id: one.id, token: two.token }).await;
    }
    scene.assert_lost(Receipt { id: MessageId(i64::MAX), token: one.token }).await;
}

/// S1: two leases whose receipts have exchanged their tokens are refused in one batch, and stay.
pub async fn s1_exchanged_tokens_are_refused(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.enqueue(2).await;
    let (one, two) = (scene.claim_one().await.receipt, scene.claim_one().await.receipt);
    let exchanged =
        [Receipt { id: one.id, token: two.token }, Receipt { id: two.id, token: one.token }];
    for action in actions() {
        let settlements = exchanged.map(|receipt| Settlement { receipt, action: action.clone() });
        let answers = scene.settle_all(settlements.to_vec()).await;
        assert_eq!(answers, [Err(LeaseLost), Err(LeaseLost)], "{action:?}");
        assert_eq!(live_ids(&scene.live().await), [one.id, two.id], "{action:?}");
    }
    let own = [one, two].map(|receipt| Settlement { receipt, action: Action::Archive });
    let answers = scene.settle_all(own.to_vec()).await;
    assert_eq!(answers, [Ok(Settled::Archived), Ok(Settled::Archived)]);
}

/// S1: a message that nobody has leased cannot be settled.
pub async fn s1_a_message_never_leased_cannot_be_settled(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for new in [message(0), delayed(60)] {
        let id = scene.send(new).await;
        for token in [0, 1, id.0] {
            scene.assert_lost(Receipt { id, token }).await;
        }
    }
}

/// S1: once a message is claimed again, the earlier receipt is lost and the later one is good.
pub async fn s1_a_message_claimed_again_is_lost_to_its_first_holder(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let first = scene.lease(1).await.remove(0);
    let second = scene.at(30).claim_one().await;
    scene.at(31).assert_lost(first.receipt).await;
    let third = scene.at(60).claim_one().await;
    scene.at(61).assert_lost(first.receipt).await;
    scene.at(61).assert_lost(second.receipt).await;
    assert_eq!(scene.at(61).archive(&third).await, Ok(Settled::Archived));
}

/// S1: the receipt of a deleted message is lost.
pub async fn s1_a_deleted_message_is_lost(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2).await;
    scene.delete(&leased[0]).await.unwrap();
    scene.assert_lost(leased[0].receipt).await;
}

/// S1: a released message's receipt is lost at once, not only when somebody claims it.
pub async fn s1_a_released_message_is_lost(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2).await;
    scene.release(&leased[0], 0).await.unwrap();
    scene.release(&leased[1], 60).await.unwrap();
    scene.assert_lost(leased[0].receipt).await;
    scene.assert_lost(leased[1].receipt).await;
}

/// S1: a failed message's receipt is lost at once, whether it is tried again or dead.
pub async fn s1_a_failed_message_is_lost(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(3).await;
    scene.fail(&leased[0], "failed", 0).await.unwrap();
    scene.fail(&leased[1], "failed", 60).await.unwrap();
    scene.bury(&leased[2], "failed").await.unwrap();
    for message in leased {
        scene.assert_lost(message.receipt).await;
    }
}

/// S1: an archived message cannot be deleted, released, failed or extended.
pub async fn s1_an_archived_message_is_lost_but_to_a_repeated_archive(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    scene.archive(&message).await.unwrap();
    let before = scene.everything().await;
    for action in actions().into_iter().filter(|action| *action != Action::Archive) {
        assert_eq!(
            scene.settle(message.receipt, action.clone()).await,
            Err(LeaseLost),
            "{action:?}"
        );
    }
    assert_eq!(scene.everything().await, before);
}

/// S1: the receipts of purged messages are lost.
pub async fn s1_a_purged_message_is_lost(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    scene.purge(PurgeScope::Live).await;
    scene.assert_lost(message.receipt).await;
}

/// S1: a holder whose lease has expired but whose message nobody has taken may still settle it.
pub async fn s1_an_expired_lease_that_nobody_took_still_settles(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(5).await;
    assert_all_act(&scene.at(3_600), &leased).await;
}

/// S1: that holds also after other claims, reads and sweeps have met the expired leases.
pub async fn s1_an_expired_lease_that_others_passed_by_still_settles(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(5).await;
    let later = scene.at(40);
    for _ in 0..3 {
        let urgent = later.send(urgent(9)).await;
        assert_eq!(later.claim_one().await.id, urgent);
    }
    later.set_state(QueueState::Paused).await;
    assert_eq!(later.claim(5).await, []);
    assert_eq!(later.sweep().await, Swept::default());
    assert_eq!(later.live_one(leased[0].id).await.receipt, Some(leased[0].receipt));
    assert_all_act(&later, &leased).await;
}

/// S1: a claim that takes some of the expired messages leaves the receipts of the others current.
pub async fn s1_a_claim_of_some_expired_leases_leaves_the_others(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(3).await;
    let taken = scene.at(40).claim(2).await;
    for message in leased {
        let answer = scene.at(41).archive(&message).await;
        let lost = taken.iter().any(|again| again.id == message.id);
        assert_eq!(answer, if lost { Err(LeaseLost) } else { Ok(Settled::Archived) });
    }
}

/// S2: archive moves a message from live to archive in one step: it is in one place, always.
pub async fn s2_a_message_is_live_or_archived_or_gone(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(3).await;
    let place = async |message: &Message| {
        let (live, archive) = scene.everything().await;
        let live = live_ids(&live).contains(&message.id);
        (live, archived_ids(&archive).contains(&message.id))
    };
    for message in &leased {
        assert_eq!(place(message).await, (true, false));
    }
    scene.archive(&leased[0]).await.unwrap();
    scene.bury(&leased[1], "failed").await.unwrap();
    scene.delete(&leased[2]).await.unwrap();
    assert_eq!(place(&leased[0]).await, (false, true));
    assert_eq!(place(&leased[1]).await, (false, true));
    assert_eq!(place(&leased[2]).await, (false, false));
}

/// S2: settling a message leaves its neighbours as they are.
pub async fn s2_settling_leaves_the_neighbours(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(3).await;
    let before = scene.live().await;
    scene.archive(&leased[1]).await.unwrap();
    assert_eq!(scene.live().await, [before[0].clone(), before[2].clone()]);
    assert_eq!(archived_ids(&scene.history().await), [leased[1].id]);
}

/// S3: repeating an archive with the same receipt is `Ok` and changes nothing.
pub async fn s3_a_repeated_archive_is_ok(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    assert_eq!(scene.at(1).archive(&message).await, Ok(Settled::Archived));
    let archived = scene.history().await;
    for second in [1, 60, 1_000_000] {
        assert_eq!(scene.at(second).archive(&message).await, Ok(Settled::Archived));
    }
    assert_eq!(scene.history().await, archived);
    assert_eq!(archived[0].archived_at, instant(1));
}

/// S3: under another token, an earlier one too, archiving an archived message is `LeaseLost`.
pub async fn s3_a_repeated_archive_needs_the_same_token(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let early = scene.lease(1).await.remove(0);
    let message = scene.at(30).claim_one().await;
    scene.at(30).archive(&message).await.unwrap();
    scene.at(31).assert_lost(early.receipt).await;
    let Receipt { id, token } = message.receipt;
    scene.at(31).assert_lost(Receipt { id, token: token + 1 }).await;
}

/// S3: archiving a dead letter is `LeaseLost`: it is not there as `done`.
pub async fn s3_a_dead_letter_is_not_archived_again(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    scene.bury(&message, "failed").await.unwrap();
    assert_eq!(scene.archive(&message).await, Err(LeaseLost));
}

/// S3: once the archive no longer holds the message, repeating the archive is `LeaseLost`.
pub async fn s3_a_repeated_archive_is_lost_after_a_purge(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    scene.archive(&message).await.unwrap();
    scene.purge(PurgeScope::Archived(Outcome::Done)).await;
    scene.assert_lost(message.receipt).await;
}

/// S3: past the retention of its queue the archive holds a message no longer.
pub async fn s3_a_repeated_archive_is_lost_past_retention(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.retain(Some(60)).await;
    let message = scene.lease(1).await.remove(0);
    scene.archive(&message).await.unwrap();
    assert_eq!(scene.just_before(60).archive(&message).await, Ok(Settled::Archived));
    assert_eq!(scene.at(60).archive(&message).await, Err(LeaseLost));
}

/// S3: a receipt from before a redrive is lost, also when the message is done after all.
pub async fn s3_a_receipt_from_before_a_redrive_stays_lost(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let dead = scene.lease(1).await.remove(0);
    scene.bury(&dead, "failed").await.unwrap();
    scene.redrive(DeadLetters::Ids(vec![dead.id])).await;
    let done = scene.claim_one().await;
    scene.archive(&done).await.unwrap();
    scene.assert_lost(dead.receipt).await;
    assert_eq!(scene.archive(&done).await, Ok(Settled::Archived));
}

/// S4: delete removes a message everywhere, for good.
pub async fn s4_a_deleted_message_is_gone_for_good(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(3).await;
    assert_eq!(scene.delete(&leased[1]).await, Ok(Settled::Deleted));
    let kept = [leased[0].id, leased[2].id];
    assert_eq!(live_ids(&scene.live().await), kept);
    assert_eq!(scene.history().await, []);
    assert_eq!(ids(&scene.at(30).claim(3).await), kept);
    assert_eq!(scene.at(30).archive(&leased[1]).await, Err(LeaseLost));
}

/// Settles the five messages, each by another sort of action, and wants each to act.
async fn assert_all_act(scene: &Scene, leased: &[Message]) {
    let extended = Settled::Extended(scene.now + lease_of(60).duration());
    let expected =
        [Settled::Archived, Settled::Deleted, Settled::Released, Settled::Retrying, extended];
    for ((message, action), expected) in leased.iter().zip(actions()).zip(expected) {
        assert_eq!(scene.settle(message.receipt, action).await, Ok(expected));
    }
}
