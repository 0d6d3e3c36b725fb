//! The checker: a history is right if every message has one holder at a time and one end.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use pgqrs::{MessageId, Outcome, Receipt, WorkerId};

use super::{Act, Answer, Event, FinalState, Lease, Record, Report, Violation};

/// How far the store's times of two concurrent transactions may be out of their order.
const SLACK: TimeDelta = TimeDelta::seconds(1);

/// Checks the histories of all actors that have used one queue, each in its own order, against the
/// rows that are left. Messages must not have been redriven or purged meanwhile, and the archive
/// must keep them.
pub fn check(actors: &[Vec<Record>], end: &FinalState) -> Report {
    let mut history = History::default();
    for records in actors {
        history.add(records);
    }
    let stopped = end.workers.iter().filter_map(|worker| Some((worker.id, worker.stopped_at?)));
    history.check_leases(&stopped.collect());
    history.check_fences();
    history.account(end)
}

/// What all actors did, message by message.
#[derive(Debug, Default)]
struct History {
    enqueued: BTreeSet<MessageId>,
    /// How many messages are in batches that were not answered.
    maybe_enqueued: usize,
    claims: BTreeMap<MessageId, Vec<Claimed>>,
    settles: HashMap<Receipt, Settles>,
    lost_leases: usize,
    violations: Vec<Violation>,
}

/// A lease, and the host's time when its holder had it.
#[derive(Debug, Clone, Copy)]
struct Claimed {
    lease: Lease,
    at: u64,
}

/// What was done by one receipt.
#[derive(Debug, Default, Clone)]
struct Settles {
    /// In the order of the actor, which is the only one to have the receipt.
    accepted: Vec<Accepted>,
    /// What was asked and not answered: it may have happened.
    maybe: HashSet<Act>,
}

/// A settlement that was accepted, and the host's times around the call.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    act: Act,
    answer: Answer,
    begun: u64,
    answered: u64,
}

impl History {
    fn add(&mut self, records: &[Record]) {
        let mut fenced: HashSet<WorkerId> = HashSet::new();
        for (place, record) in records.iter().enumerate() {
            let answer = records.get(place + 1).map(|next| &next.event);
            match &record.event {
                Event::Enqueuing(count) => {
                    if !matches!(answer, Some(Event::Enqueued(_))) {
                        self.maybe_enqueued += count;
                    }
                }
                Event::Enqueued(ids) => {
                    for id in ids.iter().filter(|id| !self.enqueued.insert(**id)) {
                        self.violations.push(Violation::IdRepeated(*id));
                    }
                }
                Event::Claimed(leases) => {
                    for lease in leases.iter().copied() {
                        let claim = Claimed { lease, at: record.at };
                        self.claims.entry(lease.receipt.id).or_default().push(claim);
                        if let Some(worker) = lease.worker.filter(|id| fenced.contains(id)) {
                            self.violations.push(Violation::FencedWorkerServed(worker));
                        }
                    }
                }
                Event::Settling(asked) => match answer {
                    Some(Event::Settled(_)) => {}
                    _ => {
                        for (receipt, act) in asked {
                            self.settles.entry(*receipt).or_default().maybe.insert(*act);
                        }
                    }
                },
                Event::Settled(answers) => {
                    let begun = place.checked_sub(1).map_or(0, |before| records[before].at);
                    for &(receipt, act, answer) in answers {
                        if answer == Answer::Lost {
                            self.lost_leases += 1;
                            continue;
                        }
                        let accepted = Accepted { act, answer, begun, answered: record.at };
                        self.settles.entry(receipt).or_default().accepted.push(accepted);
                    }
                }
                Event::Fenced(worker) => drop(fenced.insert(*worker)),
            }
        }
    }

    /// V2, V3, W2: the leases of a message follow each other, and none is given to a worker that
    /// had stopped.
    fn check_leases(&mut self, stopped: &HashMap<WorkerId, DateTime<Utc>>) {
        let stopped_at = |lease: &Lease| lease.worker.and_then(|worker| stopped.get(&worker));
        let mut found = Vec::new();
        for claims in self.claims.values_mut() {
            claims.sort_by_key(|claim| claim.lease.receipt.token);
        }
        for pair in self.claims.values().flat_map(|claims| claims.windows(2)) {
            let (first, second) = (pair[0].lease, pair[1].lease);
            let freed = stopped_at(&first).is_some_and(|at| *at <= second.from + SLACK);
            let held = self.settles.get(&first.receipt).cloned().unwrap_or_default();
            if first.receipt == second.receipt {
                found.push(Violation::ReceiptRepeated(first.receipt));
            } else if second.from + SLACK < first.from {
                found.push(Violation::TokenWentBack { first, second });
            } else if !freed && held.until(&first).is_some_and(|until| second.from < until) {
                found.push(Violation::Overlap { first, second });
            }
        }
        for lease in self.claims.values().flatten().map(|claim| claim.lease) {
            let Some(worker) = lease.worker else { continue };
            if stopped_at(&lease).is_some_and(|at| *at + SLACK < lease.from) {
                found.push(Violation::FencedWorkerServed(worker));
            }
        }
        self.violations.append(&mut found);
    }

    /// S1: nothing is accepted after what ended its receipt.
    fn check_fences(&mut self) {
        let mut stale = Vec::new();
        for (&receipt, settles) in &self.settles {
            let claims = self.claims.get(&receipt.id).map(Vec::as_slice).unwrap_or_default();
            let newer: Vec<_> =
                claims.iter().filter(|claim| claim.lease.receipt.token > receipt.token).collect();
            for (place, settle) in settles.accepted.iter().enumerate() {
                let own = settles.accepted[..place].iter().any(|earlier| earlier.ended(settle));
                let by_claim = newer
                    .iter()
                    .find(|claim| settle.is_final() || claim.at < settle.begun)
                    .map(|claim| claim.lease.receipt);
                if let Some(ended_by) = by_claim.or(own.then_some(receipt)) {
                    let Accepted { act, answer, .. } = *settle;
                    stale.push(Violation::StaleSettled { receipt, act, answer, ended_by });
                }
            }
        }
        self.violations.append(&mut stale);
    }

    /// S2, and `enqueued = done + dead + deleted + live`, id by id.
    fn account(mut self, end: &FinalState) -> Report {
        let live = end.live.iter().map(|row| (row.id, Place::Live));
        let archived = end.archive.iter().map(|row| match row.outcome {
            Outcome::Done => (row.id, Place::Done),
            Outcome::Dead => (row.id, Place::Dead),
        });
        let mut places: HashMap<MessageId, Place> = HashMap::new();
        for (id, place) in live.chain(archived) {
            if places.insert(id, place).is_some() {
                self.violations.push(Violation::ShownTwice(id));
            }
        }
        let mut known = self.enqueued.clone();
        known.extend(self.claims.keys());
        known.extend(places.keys());
        let unexplained = known.len() - self.enqueued.len();
        if unexplained > self.maybe_enqueued {
            let (found, allowed) = (unexplained, self.maybe_enqueued);
            self.violations.push(Violation::Unexplained { found, allowed });
        }

        let mut fates: BTreeMap<MessageId, Fate> = BTreeMap::new();
        for (receipt, settles) in &self.settles {
            fates.entry(receipt.id).or_default().add(settles);
        }
        let mut report = Report { enqueued: known.len(), ..Report::default() };
        for id in known {
            let place = places.get(&id).copied().unwrap_or(Place::Gone);
            match place {
                Place::Live => report.live += 1,
                Place::Done => report.done += 1,
                Place::Dead => report.dead += 1,
                Place::Gone => report.deleted += 1,
            }
            let fate = fates.remove(&id).unwrap_or_default();
            if let Err(expected) = fate.admits(place) {
                let found = place.name();
                self.violations.push(Violation::Misplaced { id, expected, found });
            }
        }
        report.leases = self.claims.values().map(Vec::len).sum();
        report.lost_leases = self.lost_leases;
        report.violations = self.violations;
        report
    }
}

impl Settles {
    /// When `lease` ends by itself; `None` if it ended, or may have ended, at an unknown moment.
    fn until(&self, lease: &Lease) -> Option<DateTime<Utc>> {
        let mut until = lease.until;
        for settle in &self.accepted {
            match settle.answer {
                Answer::Extended(extended) => until = extended,
                _ => return None,
            }
        }
        self.maybe.is_empty().then_some(until)
    }
}

impl Accepted {
    /// Whether the message is never delivered again after it.
    fn is_final(&self) -> bool {
        matches!(self.answer, Answer::Archived | Answer::Deleted | Answer::Dead)
    }

    /// Whether this one had ended the receipt before `later`, on the same receipt, was asked. An
    /// archive may be repeated (S3).
    fn ended(&self, later: &Self) -> bool {
        match (self.act, later.act) {
            (Act::Extend, _) | (Act::Archive, Act::Archive) => false,
            (_, Act::Extend) => self.answered <= later.begun,
            _ => true,
        }
    }
}

/// Where a message is in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Live,
    Done,
    Dead,
    Gone,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Done => "archived as done",
            Self::Dead => "a dead letter",
            Self::Gone => "nowhere",
        }
    }
}

/// Where a message's settles, by all its receipts, leave it.
#[derive(Debug, Default)]
struct Fate {
    certain: Option<Place>,
    maybe_archived: bool,
    maybe_deleted: bool,
}

impl Fate {
    fn add(&mut self, settles: &Settles) {
        self.maybe_archived |= settles.maybe.contains(&Act::Archive);
        self.maybe_deleted |= settles.maybe.contains(&Act::Delete);
        for settle in &settles.accepted {
            match settle.answer {
                Answer::Archived => self.certain = Some(Place::Done),
                Answer::Deleted => self.certain = Some(Place::Gone),
                Answer::Dead => self.certain = Some(Place::Dead),
                Answer::Lost | Answer::GivenBack | Answer::Extended(_) => {}
            }
        }
    }

    /// Whether the message may be in `place`; else where it must be.
    fn admits(&self, place: Place) -> Result<(), &'static str> {
        let expected = match (self.certain, place) {
            (Some(certain), _) if certain == place => return Ok(()),
            (Some(certain), _) => certain.name(),
            (None, Place::Live | Place::Dead) => return Ok(()),
            (None, Place::Done) if self.maybe_archived => return Ok(()),
            (None, Place::Gone) if self.maybe_deleted => return Ok(()),
            (None, Place::Done | Place::Gone) => "live or a dead letter",
        };
        Err(expected)
    }
}
