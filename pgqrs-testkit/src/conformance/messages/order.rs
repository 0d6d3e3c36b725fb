//! V5: the order of claims.

use std::{collections::BTreeSet, sync::Arc};

use pgqrs::*;

use crate::conformance::scene::*;

/// V5: a higher priority comes first.
pub async fn v5_a_higher_priority_comes_first(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for priority in [3, 9, 0, 7, 1, 8, 2, 6, 4, 5] {
        scene.send(urgent(priority)).await;
    }
    for expected in (0..10).rev() {
        assert_eq!(scene.claim_one().await.priority.level(), expected);
    }
}

/// V5: without a priority of its own a message has priority 4.
pub async fn v5_the_default_priority_is_4(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = scene.send_all(vec![urgent(3), message(0), urgent(4), urgent(5)]).await;
    assert_eq!(ids(&scene.claim(4).await), [sent[3], sent[1], sent[2], sent[0]]);
}

/// V5: within a priority, messages never delayed or leased come in id order.
pub async fn v5_within_a_priority_ids_are_in_order(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = [scene.enqueue(30).await, scene.at(1).enqueue(30).await].concat();
    let mut claimed = Vec::new();
    for limit in [1, 7, 20, 32] {
        claimed.extend(ids(&scene.at(1).claim(limit).await));
    }
    assert_eq!(claimed, sent);
}

/// V5: a claimed batch comes back in claim order.
pub async fn v5_a_batch_comes_in_claim_order(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = scene.send_all((0..30).map(|n| urgent(n % 3)).collect()).await;
    let of_priority = |p: usize| sent.iter().skip(p).step_by(3).copied().collect::<Vec<_>>();
    let expected = [of_priority(2), of_priority(1), of_priority(0)].concat();
    assert_eq!(ids(&scene.claim(30).await), expected);
}

/// V5: an urgent message passes those that wait already.
pub async fn v5_an_urgent_latecomer_passes(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let waiting = scene.enqueue(3).await;
    scene.claim_one().await;
    let late = scene.at(1).send(urgent(5)).await;
    assert_eq!(ids(&scene.at(1).claim(2).await), [late, waiting[1]]);
}

/// V5: a message that came due is never claimed after one enqueued later than that.
pub async fn v5_a_due_message_precedes_later_ones(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let due = scene.send(delayed(10)).await;
    let later = scene.at(11).enqueue(2).await;
    assert_eq!(ids(&scene.at(12).claim(3).await), [due, later[0], later[1]]);
}

/// V5: a released message is never claimed after one enqueued later than its release, or than the
/// end of the release's delay.
pub async fn v5_a_released_message_precedes_later_ones(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2).await;
    scene.release(&leased[0], 0).await.unwrap();
    scene.release(&leased[1], 5).await.unwrap();
    let later = scene.at(6).enqueue(2).await;
    let claimed = ids(&scene.at(7).claim(4).await);
    assert_eq!(claimed[2..], later, "{claimed:?}");
}

/// V5: a failed message is never claimed after one enqueued later than the time of its retry.
pub async fn v5_a_failed_message_precedes_later_ones(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2).await;
    scene.fail(&leased[0], "failed", 0).await.unwrap();
    scene.fail(&leased[1], "failed", 5).await.unwrap();
    let later = scene.at(6).enqueue(2).await;
    let claimed = ids(&scene.at(7).claim(4).await);
    assert_eq!(claimed[2..], later, "{claimed:?}");
}

/// V5: a message whose lease expired is never claimed after one enqueued later than that.
pub async fn v5_an_expired_message_precedes_later_ones(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(3).await;
    let later = scene.at(31).enqueue(2).await;
    let claimed = ids(&scene.at(32).claim(5).await);
    assert_eq!(claimed[3..], later, "{claimed:?}");
    assert_eq!(BTreeSet::from_iter(ids(&leased)), claimed[..3].iter().copied().collect());
}

/// V5: what comes back keeps its priority, among those that waited and those that come.
pub async fn v5_what_comes_back_keeps_its_priority(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let due = scene.send(NewMessage { delay: seconds(20), ..urgent(8) }).await;
    let leased = scene.lease_all(vec![urgent(7), urgent(6), urgent(5)]).await;
    scene.release(&leased[0], 0).await.unwrap();
    scene.fail(&leased[1], "failed", 1).await.unwrap();
    let plain = scene.enqueue(1).await[0];
    let late = scene.at(30).send(urgent(9)).await;
    let expected = [late, due, leased[0].id, leased[1].id, leased[2].id, plain];
    assert_eq!(ids(&scene.at(30).claim(6).await), expected);
}

/// V5: within a priority nothing starves: a message released over and over blocks nobody.
pub async fn v5_a_message_released_over_and_over_blocks_nobody(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = BTreeSet::from_iter(scene.enqueue(3).await);
    let mut seen = BTreeSet::new();
    for second in 0..20 {
        let message = scene.at(second).claim_one().await;
        scene.at(second).release(&message, 0).await.unwrap();
        seen.insert(message.id);
    }
    assert_eq!(seen, sent);
}

/// V5: within a priority nothing starves: a message whose leases expire one after another blocks
/// nobody.
pub async fn v5_a_message_that_expires_over_and_over_blocks_nobody(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = BTreeSet::from_iter(scene.send_all(vec![tries(100); 3]).await);
    let mut seen = BTreeSet::new();
    for round in 0..20 {
        seen.insert(scene.at(30 * round).claim_one().await.id);
    }
    assert_eq!(seen, sent);
}

/// V5: when more than 1,000 messages have become ready since the last claim, all of them are
/// claimed in the end, each of them once.
pub async fn v5_thousands_that_come_due_together_are_all_claimed(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let due = scene.send_all((0..2_500).map(|n| delayed(1 + n % 7)).collect()).await;
    let sent = [due, scene.enqueue(10).await].concat();
    let mut claimed = ids(&scene.at(10).claim_all().await);
    claimed.sort();
    assert_eq!(claimed, sent.into_iter().collect::<Vec<_>>());
}

/// V5: the same for thousands of leases that expired together.
pub async fn v5_thousands_of_expired_leases_are_all_claimed(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2_500).await;
    let mut claimed = ids(&scene.at(30).claim_all().await);
    claimed.sort();
    assert_eq!(claimed, ids(&leased));
}

/// V5: of more than a claim takes in, those that were due first come first.
pub async fn v5_of_thousands_the_earliest_due_come_first(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let early = scene.send_all(vec![delayed(30); 700]).await;
    scene.send_all(vec![delayed(60); 700]).await;
    let mut claimed = ids(&scene.at(60).claim(700).await);
    claimed.sort();
    assert_eq!(claimed, early);
}

/// V5: of up to 1,000 messages that became ready, the highest priority comes first.
pub async fn v5_a_thousand_due_messages_come_by_priority(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let due = |priority| NewMessage { delay: seconds(5), ..urgent(priority) };
    scene.send_all((0..1_000_u16).map(|n| due((n % 10) as u8)).collect()).await;
    let levels = |messages: &[Message]| {
        messages.iter().map(|message| message.priority.level()).collect::<Vec<_>>()
    };
    let first = scene.at(10).claim(150).await;
    assert_eq!(levels(&first), [vec![9; 100], vec![8; 50]].concat());
    let rest = levels(&scene.at(10).claim_all().await);
    assert!(rest.is_sorted_by(|a, b| a >= b) && rest.len() == 850, "{rest:?}");
}
