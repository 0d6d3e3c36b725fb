//! The history checker on hand-written histories: clean ones pass, each violation is reported.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::{DateTime, Utc};
use pgqrs::{
    ArchivedMessage, Json, LiveMessage, MessageId, MessageState, Outcome, Priority, QueueName,
    Receipt, WorkerId, WorkerKind, WorkerRecord, WorkerState,
};
use pgqrs_testkit::history::{
    Act, Answer, Event, FinalState, Lease, Log, Record, Report, Violation, check, read,
};

#[test]
fn a_whole_life_is_clean() {
    let report = check(
        &[actor([
            Event::Enqueuing(4),
            enqueued(1..=4),
            Event::Claimed(vec![lease(1, 10, 0, 30), lease(2, 11, 0, 30), lease(3, 12, 0, 30)]),
            Event::Settling(vec![
                (receipt(1, 10), Act::Archive),
                (receipt(2, 11), Act::Delete),
                (receipt(3, 12), Act::Fail),
            ]),
            Event::Settled(vec![
                (receipt(1, 10), Act::Archive, Answer::Archived),
                (receipt(2, 11), Act::Delete, Answer::Deleted),
                (receipt(3, 12), Act::Fail, Answer::Dead),
            ]),
        ])],
        &end([live(4)], [done(1), dead(3)]),
    );
    assert_eq!(report.violations, []);
    let Report { enqueued, done, dead, deleted, live, leases, .. } = report;
    assert_eq!((enqueued, done, dead, deleted, live, leases), (4, 1, 1, 1, 1, 3));
}

#[test]
fn an_expired_a_released_and_a_replaced_lease_may_be_followed_by_another() {
    let expired = [lease(1, 10, 0, 30), lease(1, 20, 30, 60)];
    let released = [lease(2, 11, 0, 30), lease(2, 21, 5, 60)];
    let replaced =
        [Lease { worker: Some(WorkerId(7)), ..lease(3, 12, 0, 30) }, lease(3, 22, 9, 60)];
    let mut end = end([live(1), live(2), live(3)], []);
    end.workers.push(stopped(7, 9));
    let report = check(
        &[actor([
            Event::Enqueuing(3),
            enqueued(1..=3),
            Event::Claimed(vec![expired[0], released[0], replaced[0]]),
            Event::Settling(vec![(receipt(2, 11), Act::Release)]),
            Event::Settled(vec![(receipt(2, 11), Act::Release, Answer::GivenBack)]),
            Event::Claimed(vec![expired[1], released[1], replaced[1]]),
        ])],
        &end,
    );
    assert_eq!(report.violations, []);
}

#[test]
fn overlapping_leases_are_reported() {
    let (first, second) = (lease(1, 10, 0, 30), lease(1, 20, 29, 60));
    let claimed = [Event::Enqueuing(1), enqueued(1..=1), Event::Claimed(vec![first])];
    let other = actor([Event::Claimed(vec![second])]);
    let report = check(&[actor(claimed), other], &end([live(1)], []));
    assert_eq!(report.violations, [Violation::Overlap { first, second }]);
}

#[test]
fn an_extended_lease_holds_to_its_new_end() {
    let (first, second) = (lease(1, 10, 0, 30), lease(1, 20, 40, 60));
    let report = check(
        &[actor([
            Event::Enqueuing(1),
            enqueued(1..=1),
            Event::Claimed(vec![first]),
            Event::Settling(vec![(first.receipt, Act::Extend)]),
            Event::Settled(vec![(first.receipt, Act::Extend, Answer::Extended(at(50)))]),
            Event::Claimed(vec![second]),
        ])],
        &end([live(1)], []),
    );
    assert_eq!(report.violations, [Violation::Overlap { first, second }]);
}

#[test]
fn a_settle_that_was_not_answered_may_have_ended_the_lease() {
    let report = check(
        &[
            actor([
                Event::Enqueuing(1),
                enqueued(1..=1),
                Event::Claimed(vec![lease(1, 10, 0, 30)]),
                Event::Settling(vec![(receipt(1, 10), Act::Release)]),
            ]),
            actor([Event::Claimed(vec![lease(1, 20, 5, 60)])]),
        ],
        &end([live(1)], []),
    );
    assert_eq!(report.violations, []);
}

#[test]
fn a_repeated_receipt_and_a_token_that_went_back_are_reported() {
    let (first, second) = (lease(1, 10, 0, 30), lease(1, 10, 40, 60));
    let (early, late) = (lease(2, 21, 0, 30), lease(2, 20, 40, 60));
    let report = check(
        &[actor([
            Event::Enqueuing(2),
            enqueued(1..=2),
            Event::Claimed(vec![first, early]),
            Event::Claimed(vec![second, late]),
        ])],
        &end([live(1), live(2)], []),
    );
    let expected = [
        Violation::ReceiptRepeated(receipt(1, 10)),
        Violation::TokenWentBack { first: late, second: early },
    ];
    assert_eq!(report.violations, expected);
}

#[test]
fn a_settle_after_a_newer_claim_is_reported() {
    for (act, answer) in [
        (Act::Release, Answer::GivenBack),
        (Act::Extend, Answer::Extended(at(99))),
        (Act::Archive, Answer::Archived),
    ] {
        let report = check(
            &[actor([
                Event::Enqueuing(1),
                enqueued(1..=1),
                Event::Claimed(vec![lease(1, 10, 0, 30)]),
                Event::Claimed(vec![lease(1, 20, 31, 60)]),
                Event::Settling(vec![(receipt(1, 10), act)]),
                Event::Settled(vec![(receipt(1, 10), act, answer)]),
            ])],
            &end([live(1)], []),
        );
        let stale = Violation::StaleSettled {
            receipt: receipt(1, 10),
            act,
            answer,
            ended_by: receipt(1, 20),
        };
        assert!(report.violations.contains(&stale), "{act:?}: {:?}", report.violations);
    }
}

#[test]
fn a_second_settle_of_a_receipt_is_reported_but_a_repeated_archive_is_not() {
    let twice = |first, second| {
        let [first_answer, second_answer] = [first, second].map(|act| match act {
            Act::Archive => Answer::Archived,
            _ => Answer::GivenBack,
        });
        let report = check(
            &[actor([
                Event::Enqueuing(1),
                enqueued(1..=1),
                Event::Claimed(vec![lease(1, 10, 0, 30)]),
                Event::Settling(vec![(receipt(1, 10), first)]),
                Event::Settled(vec![(receipt(1, 10), first, first_answer)]),
                Event::Settling(vec![(receipt(1, 10), second)]),
                Event::Settled(vec![(receipt(1, 10), second, second_answer)]),
            ])],
            &end([], [done(1)]),
        );
        report.violations.iter().any(|one| matches!(one, Violation::StaleSettled { .. }))
    };
    assert!(!twice(Act::Archive, Act::Archive));
    assert!(twice(Act::Archive, Act::Release));
    assert!(twice(Act::Release, Act::Archive));
    assert!(twice(Act::Release, Act::Release));
}

#[test]
fn a_message_both_archived_and_live_is_reported() {
    let events = [Event::Enqueuing(1), enqueued(1..=1)];
    let report = check(&[actor(events)], &end([live(1)], [dead(1)]));
    assert_eq!(report.violations, [Violation::ShownTwice(MessageId(1))]);
}

#[test]
fn a_lost_message_is_reported() {
    let report = check(&[actor([Event::Enqueuing(2), enqueued(1..=2)])], &end([live(1)], []));
    let (expected, found) = ("live or a dead letter", "nowhere");
    assert_eq!(report.violations, [Violation::Misplaced { id: MessageId(2), expected, found }]);
}

#[test]
fn a_message_must_be_where_its_settle_put_it() {
    let settled = |act, answer, end: FinalState| {
        let report = check(
            &[actor([
                Event::Enqueuing(1),
                enqueued(1..=1),
                Event::Claimed(vec![lease(1, 10, 0, 30)]),
                Event::Settling(vec![(receipt(1, 10), act)]),
                Event::Settled(vec![(receipt(1, 10), act, answer)]),
            ])],
            &end,
        );
        report.violations.len()
    };
    assert_eq!(settled(Act::Archive, Answer::Archived, end([], [done(1)])), 0);
    assert_eq!(settled(Act::Archive, Answer::Archived, end([live(1)], [])), 1);
    assert_eq!(settled(Act::Archive, Answer::Archived, end([], [])), 1);
    assert_eq!(settled(Act::Delete, Answer::Deleted, end([], [])), 0);
    assert_eq!(settled(Act::Delete, Answer::Deleted, end([], [done(1)])), 1);
    assert_eq!(settled(Act::Fail, Answer::Dead, end([], [dead(1)])), 0);
    assert_eq!(settled(Act::Archive, Answer::Lost, end([], [done(1)])), 1);
}

#[test]
fn what_was_not_answered_may_or_may_not_have_happened() {
    for place in [end([live(1)], []), end([], [done(1)])] {
        let report = check(
            &[actor([
                Event::Enqueuing(1),
                enqueued(1..=1),
                Event::Claimed(vec![lease(1, 10, 0, 30)]),
                Event::Settling(vec![(receipt(1, 10), Act::Archive)]),
            ])],
            &place,
        );
        assert_eq!(report.violations, []);
    }
    let unanswered = [actor([Event::Enqueuing(2)])];
    assert_eq!(check(&unanswered, &end([], [])).violations, []);
    assert_eq!(check(&unanswered, &end([live(1), live(2)], [])).violations, []);
    let three = check(&unanswered, &end([live(1), live(2), live(3)], []));
    assert_eq!(three.violations, [Violation::Unexplained { found: 3, allowed: 2 }]);
}

#[test]
fn a_worker_that_was_refused_must_not_be_served_again() {
    let served = Lease { worker: Some(WorkerId(7)), ..lease(1, 10, 20, 30) };
    let claims = [Event::Enqueuing(1), enqueued(1..=1), Event::Claimed(vec![served])];
    let mut events = vec![Event::Fenced(WorkerId(7))];
    events.extend(claims.clone());
    let report = check(&[actor(events)], &end([live(1)], []));
    assert_eq!(report.violations, [Violation::FencedWorkerServed(WorkerId(7))]);

    let mut end = end([live(1)], []);
    end.workers.push(stopped(7, 15));
    let report = check(&[actor(claims)], &end);
    assert_eq!(report.violations, [Violation::FencedWorkerServed(WorkerId(7))]);
}

#[test]
fn an_id_given_twice_is_reported() {
    let once = || actor([Event::Enqueuing(1), enqueued(1..=1)]);
    let report = check(&[once(), once()], &end([live(1)], []));
    assert_eq!(report.violations, [Violation::IdRepeated(MessageId(1))]);
}

#[test]
fn a_log_file_reads_back_without_a_line_that_was_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("actor.jsonl");
    let mut log = Log::create(&path).unwrap();
    let events = [
        Event::Claimed(vec![lease(1, 10, 0, 30)]),
        Event::Settling(vec![(receipt(1, 10), Act::Extend)]),
        Event::Settled(vec![(receipt(1, 10), Act::Extend, Answer::Extended(at(60)))]),
    ];
    events.iter().for_each(|event| log.write(event.clone()).unwrap());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], br#"{"at":1,"event":{"Enq"#].concat()).unwrap();
    let found: Vec<_> = read(&path).unwrap().into_iter().map(|record| record.event).collect();
    assert_eq!(found, events);
}

/// An actor whose events are one microsecond apart.
fn actor(events: impl IntoIterator<Item = Event>) -> Vec<Record> {
    (0..).zip(events).map(|(at, event)| Record { at, event }).collect()
}

fn enqueued(ids: std::ops::RangeInclusive<i64>) -> Event {
    Event::Enqueued(ids.map(MessageId).collect())
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap()
}

fn receipt(id: i64, token: i64) -> Receipt {
    Receipt { id: MessageId(id), token }
}

fn lease(id: i64, token: i64, from: i64, until: i64) -> Lease {
    Lease { receipt: receipt(id, token), worker: None, from: at(from), until: at(until) }
}

fn end<const L: usize, const A: usize>(
    live: [LiveMessage; L],
    archive: [ArchivedMessage; A],
) -> FinalState {
    FinalState { live: live.into(), archive: archive.into(), workers: Vec::new() }
}

fn live(id: i64) -> LiveMessage {
    LiveMessage {
        id: MessageId(id),
        queue: QueueName::new("tasks").unwrap(),
        state: MessageState::Ready,
        payload: Json::from_stored("1"),
        headers: None,
        priority: Priority::default(),
        enqueued_at: at(0),
        visible_at: at(0),
        attempts: 0,
        max_attempts: 5,
        worker: None,
        last_error: None,
        receipt: None,
    }
}

fn done(id: i64) -> ArchivedMessage {
    ArchivedMessage {
        id: MessageId(id),
        queue: QueueName::new("tasks").unwrap(),
        outcome: Outcome::Done,
        payload: Json::from_stored("1"),
        headers: None,
        priority: Priority::default(),
        enqueued_at: at(0),
        claimed_at: Some(at(0)),
        archived_at: at(1),
        attempts: 1,
        max_attempts: 5,
        worker: None,
        last_error: None,
        receipt: None,
    }
}

fn dead(id: i64) -> ArchivedMessage {
    ArchivedMessage { outcome: Outcome::Dead, ..done(id) }
}

fn stopped(id: i64, second: i64) -> WorkerRecord {
    WorkerRecord {
        id: WorkerId(id),
        kind: WorkerKind::Consumer,
        host: "actor".to_owned(),
        port: 1,
        queue: QueueName::new("tasks").unwrap(),
        state: WorkerState::Stopped,
        heartbeat_timeout: None,
        registered_at: at(0),
        heartbeat_at: at(0),
        stopped_at: Some(at(second)),
        replaced_by: Some(WorkerId(8)),
    }
}
