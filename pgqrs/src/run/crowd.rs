//! Whether many ask the store at once.

use std::time::Duration;

/// The store is crowded when claims take so many times as long as the quickest did, and no longer
/// crowded when they take less than half of that.
const SLOWER: f64 = 4.0;
/// The part of the last claim in what claims usually take.
const NEWEST: f64 = 0.125;

/// How long claims take, by which a loop tells whether the store is crowded: then one large claim at a
/// time serves everybody better than two, which meet those of others.
///
/// To measure how busy others keep something by the delay it causes is how TCP Vegas finds out about a
/// network (L. Brakmo and L. Peterson, "TCP Vegas: End to End Congestion Avoidance on a Global
/// Internet", 1995).
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// Seconds per message.
    quickest: Option<f64>,
    usual: f64,
    is_crowded: bool,
}

impl Crowd {
    pub(super) fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// Notes a claim that brought all that it asked for.
    pub(super) fn claimed(&mut self, messages: usize, took: Duration) {
        let took = took.as_secs_f64() / messages.max(1) as f64;
        self.usual = match self.quickest {
            Some(_) => self.usual + (took - self.usual) * NEWEST,
            None => took,
        };
        let quickest = self.quickest.map_or(took, |quickest| quickest.min(took));
        self.quickest = Some(quickest);
        let limit = if self.is_crowded { SLOWER / 2.0 } else { SLOWER };
        self.is_crowded = self.usual > quickest * limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(claims: &[(usize, u64)]) -> Crowd {
        let mut crowd = Crowd::default();
        for (messages, millis) in claims {
            crowd.claimed(*messages, Duration::from_millis(*millis));
        }
        crowd
    }

    #[test]
    fn claims_that_always_take_long_are_no_crowd() {
        assert!(!crowd(&[(64, 50); 100]).is_crowded());
    }

    #[test]
    fn one_slow_claim_is_no_crowd() {
        assert!(!crowd(&[(64, 2), (64, 2), (64, 20), (64, 2)]).is_crowded());
    }

    #[test]
    fn claims_that_take_longer_than_they_did_are_a_crowd() {
        let mut claims = vec![(64, 2)];
        claims.extend([(64, 10); 30]);
        assert!(crowd(&claims).is_crowded());
    }

    #[test]
    fn a_larger_claim_may_take_longer() {
        let mut claims = vec![(64, 2)];
        claims.extend([(640, 20); 30]);
        assert!(!crowd(&claims).is_crowded());
    }

    #[test]
    fn it_stays_until_claims_are_quick_again() {
        let mut claims = vec![(64, 2)];
        claims.extend([(64, 10); 30]);
        claims.extend([(64, 5); 30]);
        assert!(crowd(&claims).is_crowded());
        claims.extend([(64, 3); 30]);
        assert!(!crowd(&claims).is_crowded());
    }
}
