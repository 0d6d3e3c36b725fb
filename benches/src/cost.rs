//! What work costs beside time: on a machine that does other work too, the steadier figure.

use std::fs;

/// What a message cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    /// Microseconds of our process's processor time.
    pub(crate) client: Option<f64>,
    /// Microseconds of the server's processor time.
    pub(crate) server: Option<f64>,
    /// Bytes of write-ahead log.
    pub(crate) wal: Option<f64>,
    /// Transactions.
    pub(crate) commits: Option<f64>,
    /// Statements, where the server counts them.
    pub(crate) statements: Option<f64>,
}

impl Cost {
    /// The difference between two counts, per message.
    pub(crate) fn since(self, before: &Self, messages: usize) -> Self {
        let per_message = |after: Option<f64>, before: Option<f64>| {
            Some((after? - before.unwrap_or(0.0)) / messages as f64)
        };
        Self {
            client: per_message(self.client, before.client),
            server: per_message(self.server, before.server),
            wal: per_message(self.wal, before.wal),
            commits: per_message(self.commits, before.commits),
            statements: per_message(self.statements, before.statements),
        }
    }

    /// The median of each figure.
    pub(crate) fn median(costs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> Option<f64>| {
            let mut figures: Vec<f64> = costs.iter().filter_map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied()
        };
        Self {
            client: of(|cost| cost.client),
            server: of(|cost| cost.server),
            wal: of(|cost| cost.wal),
            commits: of(|cost| cost.commits),
            statements: of(|cost| cost.statements),
        }
    }
}

/// Microseconds of processor time that a process has used so far, and those of its children that
/// have ended. `None` where there is no `/proc`, or no such process on this machine.
pub(crate) fn processor_time(process: &str) -> Option<(f64, f64)> {
    /// Linux counts in hundredths of a second, whatever the kernel's own clock.
    const TICK: f64 = 10_000.0;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let times: Vec<f64> = fields(&stat)?.skip(11).take(4).filter_map(|f| f.parse().ok()).collect();
    let [user, system, ended_user, ended_system] = times[..] else { return None };
    Some(((user + system) * TICK, (ended_user + ended_system) * TICK))
}

/// The process that started this one.
pub(crate) fn parent(process: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    fields(&stat)?.nth(1).map(str::to_owned)
}

/// What follows the program's name, which may itself hold spaces and parentheses.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace())
}
