//! The order of a claim (V5), as rules on pairs: they admit every order that the contract admits.

use std::cmp::Ordering;

use chrono::{DateTime, Utc};
use pgqrs::{MessageId, Priority};

/// A message that was ready at a claim.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) id: MessageId,
    pub(super) priority: Priority,
    pub(super) enqueued_at: DateTime<Utc>,
    /// Since when it has been ready.
    pub(super) ready_at: DateTime<Utc>,
    pub(super) past: Past,
}

/// What a ready message has been through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// Never delayed, never leased.
    Fresh,
    /// Delayed at first, never leased.
    Due,
    /// Leased at this instant, the last time.
    Leased(DateTime<Utc>),
}

/// Checks a claim that took `batch`, in this order, from `candidates`.
pub(super) fn check(candidates: &[Candidate], batch: &[MessageId]) -> Result<(), String> {
    let taken = |candidate: &&Candidate| batch.contains(&candidate.id);
    let left: Vec<_> = candidates.iter().filter(|one| !taken(one)).collect();
    let find = |id: &MessageId| candidates.iter().find(|one| one.id == *id);
    let batch: Vec<_> = batch.iter().filter_map(find).collect();
    for (place, first) in batch.iter().enumerate() {
        for second in batch[place + 1..].iter().chain(&left) {
            if let Some(rule) = broken(first, second) {
                return Err(format!("V5: {rule}: {first:?} came before {second:?}"));
            }
        }
    }
    Ok(())
}

/// The rule that forbids `first` to come before `second`, if one does.
fn broken(first: &Candidate, second: &Candidate) -> Option<&'static str> {
    match first.priority.cmp(&second.priority) {
        Ordering::Less => return Some("a higher priority comes first"),
        Ordering::Greater => return None,
        Ordering::Equal => {}
    }
    let both_fresh = first.past == Past::Fresh && second.past == Past::Fresh;
    if both_fresh && first.id > second.id {
        return Some("messages never delayed or leased come in id order");
    }
    if second.past != Past::Fresh && first.enqueued_at > second.ready_at {
        return Some("a message comes before those enqueued after it became ready");
    }
    match first.past {
        Past::Leased(at) if at > second.ready_at => {
            Some("nothing starves: one that has had a turn while another was ready waits for it")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn candidate(id: i64, ready_at: i64, past: Past) -> Candidate {
        Candidate {
            id: MessageId(id),
            priority: Priority::default(),
            enqueued_at: at(id),
            ready_at: at(ready_at),
            past,
        }
    }

    fn broken_by(candidates: &[Candidate], batch: &[i64]) -> Option<String> {
        let batch: Vec<_> = batch.iter().copied().map(MessageId).collect();
        check(candidates, &batch).err()
    }

    #[test]
    fn a_higher_priority_comes_first() {
        let urgent = Candidate { priority: Priority::HIGHEST, ..candidate(2, 2, Past::Fresh) };
        let ready = [candidate(1, 1, Past::Fresh), urgent];
        assert!(broken_by(&ready, &[1]).unwrap().contains("priority"));
        assert_eq!(broken_by(&ready, &[2, 1]), None);
    }

    #[test]
    fn fresh_messages_come_in_id_order() {
        let ready = [candidate(1, 1, Past::Fresh), candidate(2, 2, Past::Fresh)];
        assert!(broken_by(&ready, &[2, 1]).unwrap().contains("id order"));
        assert!(broken_by(&ready, &[2]).unwrap().contains("id order"));
        assert_eq!(broken_by(&ready, &[1]), None);
    }

    #[test]
    fn a_due_message_comes_before_what_was_enqueued_after_its_moment() {
        let ready = [candidate(1, 5, Past::Due), candidate(6, 6, Past::Fresh)];
        assert!(broken_by(&ready, &[6, 1]).unwrap().contains("became ready"));
        let same_time = [candidate(1, 5, Past::Due), candidate(4, 4, Past::Fresh)];
        assert_eq!(broken_by(&same_time, &[4, 1]), None);
        assert_eq!(broken_by(&same_time, &[1, 4]), None);
    }

    #[test]
    fn a_released_message_does_not_pass_the_waiting_ones_again_and_again() {
        let ready = [candidate(1, 9, Past::Leased(at(8))), candidate(2, 2, Past::Fresh)];
        assert!(broken_by(&ready, &[1]).unwrap().contains("starves"));
        assert_eq!(broken_by(&ready, &[2, 1]), None);
    }
}
