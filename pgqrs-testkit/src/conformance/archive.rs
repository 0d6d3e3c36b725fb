//! A1 to A4: what becomes of messages that have ended.

use std::{sync::Arc, time::Duration};

use pgqrs::*;
use serde_json::json;

use super::scene::*;

/// A1: payload, ids, priority, timestamps, attempts, outcome and last error survive.
pub async fn a1_a_done_message_keeps_its_fields(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let headers = Some(Json::new(&json!({"trace": "4bf9"})).unwrap());
    let new = NewMessage { headers, max_attempts: Some(7), ..urgent(6) };
    let first = scene.lease_all(vec![new.clone()]).await.remove(0);
    scene.at(1).fail(&first, "no paper", 0).await.unwrap();
    let message = scene.at(2).claim_one().await;
    scene.at(3).archive(&message).await.unwrap();
    let expected = ArchivedMessage {
        id: first.id,
        queue: scene.queue.clone(),
        outcome: Outcome::Done,
        payload: new.payload,
        headers: new.headers,
        priority: new.priority,
        enqueued_at: instant(0),
        claimed_at: Some(instant(2)),
        archived_at: instant(3),
        attempts: 2,
        max_attempts: 7,
        worker: None,
        last_error: Some("no paper".into()),
        receipt: Some(message.receipt),
    };
    assert_eq!(scene.at(3).history().await, [expected]);
}

/// A1: the same holds for a dead letter.
pub async fn a1_a_dead_letter_keeps_its_fields(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let headers = Some(Json::new(&json!({"trace": "4bf9"})).unwrap());
    let new = NewMessage { headers, ..urgent(2) };
    scene.send(new.clone()).await;
    let message = scene.at(1).claim_one().await;
    scene.at(2).bury(&message, "poison").await.unwrap();
    let letter = scene.at(2).archived_one(message.id).await;
    assert_eq!((letter.queue, letter.outcome), (scene.queue.clone(), Outcome::Dead));
    assert_eq!((letter.payload, letter.headers), (new.payload, new.headers));
    assert_eq!((letter.priority, letter.enqueued_at), (new.priority, instant(0)));
    assert_eq!((letter.claimed_at, letter.archived_at), (Some(instant(1)), instant(2)));
    assert_eq!((letter.attempts, letter.max_attempts, letter.worker), (1, 5, None));
    assert_eq!(letter.last_error.as_deref(), Some("poison"));
    assert_eq!(letter.receipt, Some(message.receipt));
}

/// A1: the worker of the last lease survives, also its own end.
pub async fn a1_the_archive_keeps_the_worker(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let worker = scene.register("host").await;
    let leased = scene.by(&worker).lease(2).await;
    scene.archive(&leased[0]).await.unwrap();
    scene.bury(&leased[1], "poison").await.unwrap();
    scene.change(&worker, WorkerChange::Stop).await.unwrap();
    for message in leased {
        assert_eq!(scene.archived_one(message.id).await.worker, Some(worker.id));
    }
}

/// A1: archived messages are never claimed.
pub async fn a1_archived_messages_are_never_claimed(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2).await;
    scene.archive(&leased[0]).await.unwrap();
    scene.bury(&leased[1], "poison").await.unwrap();
    for second in [0, 30, 1_000_000] {
        assert_eq!(scene.at(second).claim(10).await, []);
    }
}

/// A2: reads never show an archived message older than the retention, to the microsecond.
pub async fn a2_reads_hide_what_is_past_retention(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.retain(Some(60)).await;
    let leased = scene.lease(2).await;
    scene.archive(&leased[0]).await.unwrap();
    scene.bury(&leased[1], "poison").await.unwrap();
    assert_eq!(archived_ids(&scene.just_before(60).history().await), ids(&leased));
    assert_eq!(scene.at(60).history().await, []);
}

/// A2: by default the archive keeps messages for ever.
pub async fn a2_by_default_nothing_is_removed(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let message = scene.lease(1).await.remove(0);
    scene.archive(&message).await.unwrap();
    let later = scene.at(20 * YEAR);
    assert_eq!(later.sweep().await, Swept::default());
    assert_eq!(archived_ids(&later.history().await), [message.id]);
}

/// A2: the sweep removes what is older than the retention, and nothing younger is ever removed.
pub async fn a2_the_sweep_removes_the_older_ones_only(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let old = scene.lease(2).await;
    scene.archive(&old[0]).await.unwrap();
    scene.bury(&old[1], "poison").await.unwrap();
    let later = scene.at(YEAR);
    let young = later.lease(1).await.remove(0);
    later.archive(&young).await.unwrap();
    later.retain(Some(60)).await;
    assert_eq!(scene.at(YEAR + 59).sweep().await.archive_removed, 2);
    assert_eq!(scene.at(YEAR + 59).sweep().await.archive_removed, 0);
    later.retain(None).await;
    assert_eq!(archived_ids(&later.history().await), [young.id]);
}

/// A2: retention is a queue's own.
pub async fn a2_retention_is_per_queue(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    scene.retain(Some(60)).await;
    other.retain(Some(3_600)).await;
    for queue in [&scene, &other] {
        let message = queue.lease(1).await.remove(0);
        queue.archive(&message).await.unwrap();
    }
    scene.at(61).sweep().await;
    assert_eq!(scene.at(61).history().await, []);
    assert_eq!(other.at(61).history().await.len(), 1);
    assert_eq!(other.at(3_600).history().await, []);
}

/// A2: the sweep removes a message at the very end of its retention, and not before.
pub async fn a2_retention_ends_to_the_microsecond(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.retain(Some(60)).await;
    let message = scene.lease(1).await.remove(0);
    scene.archive(&message).await.unwrap();
    assert_eq!(scene.just_before(60).sweep().await, Swept::default());
    assert_eq!(archived_ids(&scene.just_before(60).history().await), [message.id]);
    assert_eq!(scene.at(60).history().await, []);
    let removed = Swept { archive_removed: 1, ..Swept::default() };
    assert_eq!(scene.at(60).sweep().await, removed);
}

/// A2: a dead letter past its retention is not shown as one, and not redriven.
pub async fn a2_what_is_past_retention_is_not_redriven(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.retain(Some(60)).await;
    let message = scene.lease(1).await.remove(0);
    scene.bury(&message, "poison").await.unwrap();
    let later = scene.at(60);
    let (queue, outcome) = (Some(scene.queue.clone()), Some(Outcome::Dead));
    let filter = ArchiveFilter { queue, outcome, ..later.all_archived() };
    assert_eq!(store.archive(filter).await.unwrap(), []);
    assert_eq!(later.redrive(DeadLetters::Oldest(BatchSize::MAX)).await, []);
    assert_eq!(later.redrive(DeadLetters::Ids(vec![message.id])).await, []);
    assert_eq!(later.live().await, []);
}

/// A2: retention may be of any length; an age that no clock reaches means for ever.
pub async fn a2_retention_may_be_of_any_length(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(2).await;
    scene.archive(&leased[0]).await.unwrap();
    scene.bury(&leased[1], "poison").await.unwrap();
    for age in [Duration::from_secs(100 * 365 * 24 * 60 * 60), Duration::MAX] {
        let retention = Some(Retention::For(age));
        scene.update(QueueChanges { retention, ..QueueChanges::default() }).await.unwrap();
        let later = scene.at(1_000_000);
        assert_eq!(later.sweep().await, Swept::default());
        assert_eq!(archived_ids(&later.history().await), ids(&leased));
        assert_eq!(later.archive(&leased[0]).await, Ok(Settled::Archived));
    }
}

/// A3: redrive makes a dead letter live again with attempts 0, the same id, priority and payload,
/// ready at once, its last error kept.
pub async fn a3_a_redriven_message_starts_anew(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let dead = scene.lease_all(vec![NewMessage { max_attempts: Some(1), ..urgent(6) }]).await;
    scene.at(1).fail(&dead[0], "failed", 0).await.unwrap();
    let redriven = scene.at(2).redrive(DeadLetters::Ids(ids(&dead))).await;
    assert_eq!(redriven, ids(&dead));
    assert_eq!(scene.at(2).history().await, []);
    let live = scene.at(2).live_one(dead[0].id).await;
    assert_eq!((live.state, live.visible_at), (MessageState::Ready, instant(2)));
    assert_eq!((live.attempts, live.max_attempts), (0, 1));
    assert_eq!((live.enqueued_at, live.priority), (instant(0), dead[0].priority));
    assert_eq!(live.payload, message(0).payload);
    assert_eq!((live.worker, live.receipt), (None, None));
    assert_eq!(live.last_error.as_deref(), Some("failed"));
}

/// A3: the old receipts of a redriven message stay dead; its next token is greater.
pub async fn a3_old_receipts_stay_dead_after_a_redrive(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let first = scene.lease_all(vec![tries(2)]).await.remove(0);
    let second = scene.at(30).claim_one().await;
    scene.at(30).bury(&second, "poison").await.unwrap();
    scene.at(31).redrive(DeadLetters::Ids(vec![first.id])).await;
    scene.at(31).assert_lost(first.receipt).await;
    scene.at(31).assert_lost(second.receipt).await;
    let third = scene.at(31).claim_one().await;
    assert_eq!((third.id, third.attempts), (first.id, 1));
    assert!(third.receipt.token > second.receipt.token);
    scene.at(31).assert_lost(first.receipt).await;
    scene.at(31).assert_lost(second.receipt).await;
    assert_eq!(scene.at(31).archive(&third).await, Ok(Settled::Archived));
}

/// A3: a redriven message has all its attempts again, and may die and be redriven again.
pub async fn a3_a_redriven_message_has_all_its_attempts(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let id = scene.send(tries(2)).await;
    for _ in 0..3 {
        for answer in [Settled::Retrying, Settled::Dead] {
            let message = scene.claim_one().await;
            assert_eq!(scene.fail(&message, "failed", 0).await, Ok(answer));
        }
        assert_eq!(scene.redrive(DeadLetters::Ids(vec![id])).await, [id]);
    }
    assert_eq!(live_ids(&scene.live().await), [id]);
}

/// A3: redrive takes the oldest dead letters first, as many as it is asked for, and answers in the
/// order of their ids.
pub async fn a3_redrive_takes_the_oldest_first(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let dead = scene.lease(5).await;
    // By id, not by the time of their death.
    for (message, second) in dead.iter().rev().zip(0..) {
        scene.at(second).bury(message, "poison").await.unwrap();
    }
    let dead = ids(&dead);
    let oldest = |count| DeadLetters::Oldest(BatchSize::new(count).unwrap());
    assert_eq!(scene.at(5).redrive(oldest(2)).await, dead[..2]);
    assert_eq!(live_ids(&scene.at(5).live().await), dead[..2]);
    assert_eq!(scene.at(5).redrive(oldest(100)).await, dead[2..]);
    assert_eq!(scene.at(5).redrive(oldest(100)).await, []);
}

/// A3: it answers in the order of the ids also where it was asked in another.
pub async fn a3_redrive_answers_in_id_order(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let dead = scene.lease(5).await;
    for message in &dead {
        scene.bury(message, "poison").await.unwrap();
    }
    let mut asked = ids(&dead);
    asked.reverse();
    assert_eq!(scene.redrive(DeadLetters::Ids(asked)).await, ids(&dead));
    assert_eq!(ids(&scene.claim(5).await), ids(&dead), "they are ready in that order, too");
}

/// A3: ids that are no dead letters of the queue are passed over.
pub async fn a3_redrive_passes_over_what_is_no_dead_letter(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    let theirs = other.lease(1).await.remove(0);
    other.bury(&theirs, "poison").await.unwrap();
    let leased = scene.lease(3).await;
    scene.archive(&leased[0]).await.unwrap();
    scene.bury(&leased[1], "poison").await.unwrap();
    let mut asked = ids(&leased);
    asked.extend([theirs.id, MessageId(i64::MAX), leased[1].id]);
    assert_eq!(scene.redrive(DeadLetters::Ids(asked)).await, [leased[1].id]);
    assert_eq!(scene.redrive(DeadLetters::Ids(vec![])).await, []);
    assert_eq!(scene.archived_one(leased[0].id).await.outcome, Outcome::Done);
    assert_eq!(scene.live_one(leased[2].id).await.receipt, Some(leased[2].receipt));
    assert_eq!(other.archived_one(theirs.id).await.outcome, Outcome::Dead);
}

/// A4: a message whose lease expires on its last attempt becomes a dead letter by the next claim.
pub async fn a4_a_claim_buries_what_expired_on_its_last_attempt(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let spent = scene.lease_all(vec![tries(1), tries(1)]).await;
    let fresh = scene.at(29).enqueue(1).await;
    assert_eq!(ids(&scene.just_before(30).claim(10).await), fresh);
    assert_eq!(scene.just_before(30).history().await, []);
    assert_eq!(scene.at(40).claim(10).await, []);
    for message in &spent {
        let letter = scene.at(40).archived_one(message.id).await;
        assert_eq!((letter.outcome, letter.attempts), (Outcome::Dead, 1));
        assert_eq!(letter.last_error.as_deref(), Some("lease expired"));
        assert_eq!((letter.claimed_at, letter.archived_at), (Some(instant(0)), instant(40)));
        scene.at(40).assert_lost(message.receipt).await;
    }
}

/// A4: or by a sweep, at the very end of the lease and not before.
pub async fn a4_a_sweep_buries_what_expired_on_its_last_attempt(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let spent = scene.lease_all(vec![tries(1), tries(2)]).await;
    assert_eq!(scene.just_before(30).sweep().await, Swept::default());
    assert_eq!(scene.at(30).sweep().await, Swept { buried: 1, ..Swept::default() });
    assert_eq!(scene.at(30).sweep().await, Swept::default());
    let letter = scene.at(30).archived_one(spent[0].id).await;
    assert_eq!(letter.last_error.as_deref(), Some("lease expired"));
    scene.at(30).assert_lost(spent[0].receipt).await;
    assert_eq!(live_ids(&scene.at(30).live().await), [spent[1].id]);
}

/// A4: until then reads show it as leased with visible_at in the past.
pub async fn a4_until_buried_reads_show_it_as_leased(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let spent = scene.lease_all(vec![tries(1)]).await.remove(0);
    let shown = scene.at(100).live_one(spent.id).await;
    assert_eq!((shown.state, shown.visible_at), (MessageState::Leased, instant(30)));
    assert_eq!((shown.attempts, shown.receipt), (1, Some(spent.receipt)));
    for (state, found) in [(MessageState::Leased, 1), (MessageState::Ready, 0)] {
        let filter = MessageFilter { state: Some(state), ..scene.at(100).all_live() };
        assert_eq!(store.messages(filter).await.unwrap().len(), found, "{state:?}");
    }
}

/// A4: until then the holder of its current receipt may still settle it.
pub async fn a4_until_buried_its_holder_may_settle_it(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let spent = scene.lease_all(vec![tries(1); 5]).await;
    let late = scene.at(100);
    assert_eq!(late.archive(&spent[0]).await, Ok(Settled::Archived));
    assert_eq!(late.delete(&spent[1]).await, Ok(Settled::Deleted));
    assert_eq!(late.release(&spent[2], 0).await, Ok(Settled::Released));
    assert_eq!(late.fail(&spent[3], "failed", 0).await, Ok(Settled::Dead));
    assert_eq!(late.extend(&spent[4], 30).await, Ok(Settled::Extended(instant(130))));
    assert_eq!(late.sweep().await, Swept::default());
    assert_eq!(ids(&late.claim(10).await), [spent[2].id]);
    assert_eq!(late.archive(&spent[4]).await, Ok(Settled::Archived));
}

/// A4: any number of such messages keeps no claim from what is ready, and all are buried.
pub async fn a4_hundreds_that_expired_block_nobody(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.lease_all(vec![NewMessage { max_attempts: Some(1), ..urgent(9) }; 250]).await;
    let ready = scene.at(30).enqueue(1).await[0];
    assert_eq!(scene.at(31).claim_one().await.id, ready);
    let buried = scene.at(31).history().await.len();
    assert!(buried <= BURIED_PER_CLAIM, "one claim buried {buried}");
    scene.at(31).sweep().await;
    assert_eq!(scene.at(31).history().await.len(), 250);
    assert_eq!(live_ids(&scene.at(31).live().await), [ready]);
}

/// A4: a sweep handles as many as its limit allows, and the next one goes on.
pub async fn a4_a_sweep_keeps_to_its_limit(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.lease_all(vec![tries(1); 5]).await;
    for buried in [2, 2, 1, 0] {
        let sweep = Sweep { limit: BatchSize::new(2).unwrap(), now: Some(instant(30)) };
        assert_eq!(store.sweep(sweep).await.unwrap().buried, buried);
    }
}

/// Reads filter the archive by queue, outcome and id.
pub async fn reads_filter_the_archive(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    let (leased, theirs) = (scene.lease(2).await, other.lease(1).await.remove(0));
    scene.archive(&leased[0]).await.unwrap();
    scene.bury(&leased[1], "poison").await.unwrap();
    other.archive(&theirs).await.unwrap();
    let read = async |filter| archived_ids(&store.archive(filter).await.unwrap());
    let all = scene.all_archived();
    let (done, dead, id) = (leased[0].id, leased[1].id, Some(leased[1].id));
    let of = |outcome| ArchiveFilter { outcome: Some(outcome), ..all.clone() };
    assert_eq!(read(all.clone()).await, [done, dead, theirs.id]);
    assert_eq!(read(of(Outcome::Done)).await, [done, theirs.id]);
    assert_eq!(read(of(Outcome::Dead)).await, [dead]);
    assert_eq!(read(ArchiveFilter { id, ..all.clone() }).await, [dead]);
    assert_eq!(read(ArchiveFilter { id, ..of(Outcome::Done) }).await, []);
    let queue = Some(scene.queue.clone());
    assert_eq!(read(ArchiveFilter { queue, ..of(Outcome::Done) }).await, [done]);
}

/// Reads of the archive come in pages, by id, in whatever order the messages ended.
pub async fn reads_page_the_archive(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(5).await;
    for index in [3, 0, 4, 1, 2] {
        scene.archive(&leased[index]).await.unwrap();
    }
    let (mut read, mut page) = (Vec::new(), Page::first(BatchSize::new(2).unwrap()));
    for rows in [2, 2, 1, 0] {
        let filter = ArchiveFilter { page, ..scene.all_archived() };
        let found = archived_ids(&store.archive(filter).await.unwrap());
        assert_eq!(found.len(), rows);
        page.after = found.last().copied().or(page.after);
        read.extend(found);
    }
    assert_eq!(read, ids(&leased));
}

/// A purge removes what it names and says how many; the rest stays.
pub async fn purge_removes_what_it_names(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    other.enqueue(2).await;
    let leased = scene.lease(6).await;
    for message in &leased[..3] {
        scene.archive(message).await.unwrap();
    }
    scene.bury(&leased[3], "poison").await.unwrap();
    scene.send_all(vec![message(0), delayed(60)]).await;
    assert_eq!(scene.purge(PurgeScope::Archived(Outcome::Done)).await, 3);
    assert_eq!(archived_ids(&scene.history().await), [leased[3].id]);
    assert_eq!(scene.purge(PurgeScope::Live).await, 4);
    assert_eq!(scene.live().await, []);
    assert_eq!(scene.purge(PurgeScope::Archived(Outcome::Dead)).await, 1);
    assert_eq!(scene.history().await, []);
    assert_eq!(scene.purge(PurgeScope::Live).await, 0);
    assert_eq!(other.live().await.len(), 2);
}

const YEAR: i64 = 365 * 24 * 60 * 60;
