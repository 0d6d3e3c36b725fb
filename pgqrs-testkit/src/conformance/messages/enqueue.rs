//! E1, E3, E4 and E5: what goes in, and when it comes out.

use std::{sync::Arc, time::Duration};

use pgqrs::*;
use serde_json::{Value, json};

use crate::conformance::scene::*;

/// E1: a batch is all or nothing.
pub async fn e1_a_batch_is_all_or_nothing(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.limit_payloads(1024).await;
    for bad in [sized(1025), tries(0), tries(32_768)] {
        let mut batch: Vec<_> = (0..20).map(message).collect();
        batch.push(bad);
        assert!(scene.try_send(batch.clone()).await.is_err());
        batch.rotate_right(1);
        assert!(scene.try_send(batch).await.is_err());
    }
    assert_eq!(scene.live().await, []);
}

/// E1: ids come back in input order and grow within the batch.
pub async fn e1_ids_come_back_in_input_order(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = scene.send_all((0..50).map(|n| urgent(n % 10)).collect()).await;
    assert!(sent.is_sorted_by(|a, b| a < b), "{sent:?}");
    let payloads = scene.enqueue(50).await;
    for (number, id) in payloads.into_iter().enumerate() {
        assert_eq!(scene.live_one(id).await.payload, message(number).payload);
    }
}

/// E1: ids grow from batch to batch and are unique in the store.
pub async fn e1_ids_grow_across_batches_and_queues(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let other = scene.queue("other").await;
    let mut sent = Vec::new();
    for second in 0..5 {
        sent.extend(scene.at(second).enqueue(2).await);
        sent.extend(other.at(second).enqueue(1).await);
    }
    assert!(sent.is_sorted_by(|a, b| a < b), "{sent:?}");
}

/// E1: every message of a batch keeps its own payload, headers, priority, delay and attempts.
pub async fn e1_each_message_of_a_batch_keeps_its_own_fields(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let headers = Some(Json::new(&json!({"trace": "4bf92f35"})).unwrap());
    let full = NewMessage { headers, priority: Priority::HIGHEST, ..delayed(5) };
    let full = NewMessage { max_attempts: Some(32_767), ..full };
    let sent = scene.send_all(vec![message(1), full.clone()]).await;
    let (plain, rich) = (scene.live_one(sent[0]).await, scene.live_one(sent[1]).await);
    assert_eq!((plain.payload, plain.priority), (message(1).payload, Priority::default()));
    assert_eq!((plain.visible_at, plain.max_attempts), (instant(0), 5));
    assert!(plain.headers.is_none_or(|headers| headers.as_str() == "{}"));
    assert_eq!((rich.payload, rich.headers), (full.payload, full.headers));
    assert_eq!((rich.priority, rich.max_attempts), (Priority::HIGHEST, 32_767));
    assert_eq!((rich.visible_at, rich.attempts), (instant(5), 0));
    assert_eq!((rich.worker, rich.last_error, rich.receipt), (None, None, None));
}

/// E3: with a delay, a message is never claimable before `now + delay`, to the microsecond.
pub async fn e3_a_delayed_message_is_not_claimable_a_microsecond_early(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let id = scene.send(delayed(10)).await;
    assert_eq!(scene.claim(1).await, []);
    assert_eq!(scene.just_before(10).claim(1).await, []);
    assert_eq!(scene.just_before(10).live_one(id).await.state, MessageState::Delayed);
}

/// E3: a delayed message is claimable from `now + delay` on.
pub async fn e3_a_delayed_message_is_claimable_when_it_is_due(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let id = scene.send(delayed(10)).await;
    let shown = scene.at(10).live_one(id).await;
    assert_eq!((shown.state, shown.visible_at), (MessageState::Ready, instant(10)));
    assert_eq!(scene.at(10).claim_one().await.id, id);
}

/// E3: delays are whole microseconds; none is cut to a coarser unit.
pub async fn e3_a_delay_of_a_microsecond_is_kept(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let delay = Delay::new(Duration::from_nanos(1)).unwrap();
    let id = scene.send(NewMessage { delay, ..message(0) }).await;
    assert_eq!(scene.claim(1).await, []);
    assert_eq!(scene.just_after(0).claim_one().await.id, id);
}

/// E3: the longest delay, ten years, is kept to the microsecond as well.
pub async fn e3_the_longest_delay_is_kept(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let id = scene.send(NewMessage { delay: Delay::MAX, ..message(0) }).await;
    let due = i64::try_from(Delay::MAX.duration().as_secs()).unwrap();
    assert_eq!(scene.just_before(due).claim(1).await, []);
    assert_eq!(scene.at(due).claim_one().await.id, id);
}

/// E4: an unknown queue is an error that names it.
pub async fn e4_an_unknown_queue_is_named(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let absent = scene.absent("absent");
    let error = absent.try_send(vec![message(0)]).await.unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    assert_matches!(error, Error::QueueNotFound { queue } if queue == absent.queue);
    let claimed = absent.try_claim(1).await;
    assert_matches!(claimed, Err(Error::QueueNotFound { queue }) if queue == absent.queue);
    assert_eq!(scene.everything().await, (vec![], vec![]));
    assert_eq!(store.queues(QueueFilter::named(absent.queue)).await.unwrap(), []);
}

/// E4: a payload of 1 MiB, the default limit, is taken; one byte more is refused.
pub async fn e4_a_payload_at_the_limit_is_taken_and_one_byte_more_refused(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let id = scene.send(sized(1_048_576)).await;
    assert_eq!(scene.live_one(id).await.payload.size(), 1_048_576);
    assert_matches!(
        scene.try_send(vec![sized(1_048_577)]).await,
        Err(Error::PayloadTooLarge { index: 0, size: 1_048_577, limit: 1_048_576 })
    );
    assert_eq!(scene.live().await.len(), 1);
}

/// E4: headers are held to the same limit.
pub async fn e4_headers_are_held_to_the_limit(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.limit_payloads(1024).await;
    let with = |bytes: usize| {
        let value = "x".repeat(bytes - r#"{"h":""}"#.len());
        NewMessage { headers: Some(Json::new(&json!({ "h": value })).unwrap()), ..message(0) }
    };
    assert_matches!(
        scene.try_send(vec![with(1025)]).await,
        Err(Error::PayloadTooLarge { index: 0, size: 1025, limit: 1024 })
    );
    let id = scene.send(NewMessage { payload: sized(1024).payload, ..with(1024) }).await;
    assert_eq!(live_ids(&scene.live().await), [id]);
}

/// E4: the limit counts bytes of UTF-8, not characters.
pub async fn e4_the_limit_counts_bytes(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.limit_payloads(1024).await;
    let letters = |count: usize| text(&format!("\"{}\"", "é".repeat(count)));
    scene.send(letters(511)).await;
    assert_matches!(
        scene.try_send(vec![letters(512)]).await,
        Err(Error::PayloadTooLarge { size: 1026, limit: 1024, .. })
    );
}

/// E4: the error says which message of the batch is too large.
pub async fn e4_the_offender_of_a_batch_is_named(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.limit_payloads(1024).await;
    let batch = vec![message(0), message(1), sized(2000), message(3)];
    assert_matches!(
        scene.try_send(batch).await,
        Err(Error::PayloadTooLarge { index: 2, size: 2000, limit: 1024 })
    );
    assert_eq!(scene.live().await, []);
}

/// E4: an empty batch and one of more than 10,000 messages are refused.
pub async fn e4_batches_hold_1_to_10_000_messages(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for bad in [0, 10_001] {
        let error = scene.try_send((0..bad).map(message).collect()).await.unwrap_err();
        assert!(error.to_string().contains("10000"), "{error}");
        assert_matches!(error, Error::OutOfRange { .. });
    }
    assert_eq!(scene.live().await, []);
    assert_eq!(scene.enqueue(10_000).await.len(), 10_000);
    assert_eq!(scene.live().await.len(), 10_000);
}

/// E4: a message is allowed 1 to 32,767 attempts.
pub async fn e4_a_message_has_1_to_32_767_attempts(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for bad in [0, 32_768, u32::MAX] {
        assert_matches!(scene.try_send(vec![tries(bad)]).await, Err(Error::OutOfRange { .. }));
    }
    assert_eq!(scene.live().await, []);
    for good in [1, 32_767] {
        let id = scene.send(tries(good)).await;
        assert_eq!(scene.live_one(id).await.max_attempts, good);
    }
}

/// E5: the text of payload and headers comes back byte for byte.
pub async fn e5_payload_and_headers_keep_every_byte(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for json in TEXTS {
        let headers = format!(r#"{{"z":1,"a":{json}}}"#);
        let new = NewMessage { headers: Some(Json::from_stored(&headers)), ..text(json) };
        let id = scene.send(new).await;
        let live = scene.live_one(id).await;
        assert_eq!((live.payload.as_str(), live.headers.unwrap().as_str()), (json, &*headers));
        let message = scene.claim_one().await;
        scene.archive(&message).await.unwrap();
        let done = scene.archived_one(id).await;
        assert_eq!((done.payload.as_str(), done.headers.unwrap().as_str()), (json, &*headers));
    }
}

/// E5: a consumer gets payload and headers as they were sent; without headers, none.
pub async fn e5_a_claim_returns_payload_and_headers_parsed(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    scene.enqueue(1).await;
    assert!(scene.claim_one().await.headers.is_empty());
    for json in TEXTS {
        let headers = Some(Json::from_stored(format!(r#"{{"z":{json},"a":1}}"#)));
        scene.send(NewMessage { headers, ..text(json) }).await;
        let message = scene.claim_one().await;
        assert_eq!(message.payload, serde_json::from_str::<Value>(json).unwrap());
        assert_eq!(message.headers["z"], message.payload);
        assert_eq!(message.headers.len(), 2);
    }
}

/// E5: a stored payload that does not parse never fails a claim: that message alone becomes a dead
/// letter.
pub async fn e5_a_payload_that_does_not_parse_becomes_a_dead_letter_alone(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let nested = "[".repeat(200) + &"]".repeat(200);
    for (round, bad) in UNPARSEABLE.into_iter().chain([&*nested]).enumerate() {
        let sent = scene.send_all(vec![message(1), text(bad), message(2)]).await;
        assert_eq!(ids(&scene.claim(3).await), [sent[0], sent[2]], "beside {bad:?}");
        let letter = scene.archived_one(sent[1]).await;
        assert_eq!((letter.outcome, letter.payload.as_str()), (Outcome::Dead, bad));
        let error = letter.last_error.unwrap();
        assert!(error.starts_with("payload does not parse: "), "{error}");
        assert_eq!(scene.history().await.len(), round + 1);
    }
}

/// E5: headers that do not parse as an object never fail a claim either.
pub async fn e5_headers_that_do_not_parse_make_a_dead_letter_alone(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    for bad in UNPARSEABLE.into_iter().chain(["[1]", "null"]) {
        let headers = Some(Json::from_stored(bad));
        let bad = NewMessage { headers: headers.clone(), ..message(0) };
        let sent = scene.send_all(vec![message(1), bad, message(2)]).await;
        assert_eq!(ids(&scene.claim(3).await), [sent[0], sent[2]], "beside {headers:?}");
        let letter = scene.archived_one(sent[1]).await;
        assert_eq!((letter.outcome, letter.headers), (Outcome::Dead, headers));
        let error = letter.last_error.unwrap();
        assert!(error.starts_with("headers do not parse: "), "{error}");
    }
}

/// E5: a payload that does not parse does not stand in the way of those behind it.
pub async fn e5_a_payload_that_does_not_parse_blocks_nobody(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let bad = NewMessage { priority: Priority::HIGHEST, ..text("{") };
    scene.send_all(vec![bad.clone(), bad.clone(), bad]).await;
    let good = scene.enqueue(1).await;
    let mut claimed = Vec::new();
    for _ in 0..4 {
        claimed.extend(scene.claim(1).await);
    }
    assert_eq!(ids(&claimed), good);
    assert_eq!(scene.history().await.len(), 3);
}

/// E5: such a message was leased like any other: its attempt counts and its token is used.
pub async fn e5_a_payload_that_does_not_parse_has_had_its_attempt(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = scene.send_all(vec![message(1), text("{"), message(2)]).await;
    let claimed = scene.at(5).claim(3).await;
    assert_eq!(ids(&claimed), [sent[0], sent[2]]);
    let letter = scene.archived_one(sent[1]).await;
    assert_eq!((letter.attempts, letter.claimed_at), (1, Some(instant(5))));
    // Messages of one claim may share a token; then their ids tell their order.
    let place = |receipt: Receipt| (receipt.token, receipt.id);
    let [before, after] = [place(claimed[0].receipt), place(claimed[1].receipt)];
    let its_own = place(letter.receipt.unwrap());
    assert!(before < its_own && its_own < after, "{letter:?}");
}

/// JSON that a parsed or normalised form would change: order and repetition of keys, `\u0000`,
/// numbers beyond 64 bits, escapes, white space.
const TEXTS: [&str; 10] = [
    r#"{"b":1,"a":{"z":[],"y":{}}}"#,
    r#"{"a":1,"a":2}"#,
    r#""nul \u0000 and quote \" and solidus \/""#,
    "123456789012345678901234567890",
    "1.10",
    "1e2",
    "-0",
    "\"ünï ✓ 漢字 🦀 \\ud83e\\udd80 \u{2028}\"",
    " [ 1 , 2 ] ",
    "null",
];

/// Text that is no JSON, or that Rust's values cannot hold.
const UNPARSEABLE: [&str; 6] = [r#"{"a":"#, "", "nonsense", r#""\ud800""#, "1e999", "{} {}"];
