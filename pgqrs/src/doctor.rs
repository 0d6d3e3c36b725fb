//! What hurts the queues of a store, in an operator's words.

use std::fmt;

/// One thing that [`Store::doctor`](crate::Store::doctor) has looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a few words: `oldest snapshot`, `log size`.
    pub check: &'static str,
    /// What was found, with its figures and units.
    pub detail: String,
    /// What that means for the queues.
    pub health: Health,
}

/// Whether a finding needs somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Well,
    /// It slows queues down or endangers them, or will.
    Ailing {
        /// What to do about it.
        remedy: String,
    },
    /// It could not be looked at, most often for want of a right.
    Unknown {
        /// Why.
        reason: String,
    },
}

impl Finding {
    /// Whether somebody has to do something.
    pub fn is_ailing(&self) -> bool {
        matches!(self.health, Health::Ailing { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, detail, health } = self;
        match health {
            Health::Well => write!(f, "ok       {check}: {detail}"),
            Health::Ailing { remedy } => write!(f, "AILING   {check}: {detail}; {remedy}"),
            Health::Unknown { reason } => write!(f, "unknown  {check}: {detail}; {reason}"),
        }
    }
}
