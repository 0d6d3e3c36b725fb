//! The settings of our sessions.

/// A plan is made once, and a table that is empty at that moment, which any of ours may be, would be
/// read from end to end for as long as the plan is kept. Set where no pooler stands between, which
/// would hand the settings on to others.
pub(crate) const SESSION: &str =
    "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; SET jit = off";
