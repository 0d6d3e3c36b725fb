//! A contest: the same work done by several contenders, in turns, in one run.

use std::time::Duration;

use futures::{FutureExt, future::LocalBoxFuture};

use crate::{
    Result,
    cost::Cost,
    report::{Line, Report},
};

/// What a contender's turn yielded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// What was measured, with its unit, and how much it was.
    pub(crate) figures: Vec<(&'static str, f64)>,
    /// What it cost per message, as far as that can be counted.
    pub(crate) cost: Cost,
}

/// The unit of most figures.
pub(crate) const RATE: &str = "messages/s";

impl Sample {
    /// So many messages in so much time.
    pub(crate) fn rate(messages: usize, took: Duration) -> Self {
        let rate = messages as f64 / took.as_secs_f64();
        Self { figures: vec![(RATE, rate)], cost: Cost::default() }
    }

    /// The median and the 99th percentile of the times, in milliseconds.
    pub(crate) fn latencies(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |share: f64| {
            let nth = (times.len() as f64 * share) as usize;
            let time = times.get(nth.min(times.len().saturating_sub(1)));
            time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        Self { figures: vec![("p50 ms", at(0.5)), ("p99 ms", at(0.99))], cost: Cost::default() }
    }
}

type Turn<'a> = Box<dyn FnMut() -> LocalBoxFuture<'a, Result<Sample>> + 'a>;

/// The contenders; the first is the one that the others are compared with.
pub(crate) struct Contest<'a> {
    scenario: &'static str,
    case: String,
    contenders: Vec<(&'static str, Turn<'a>)>,
}

impl<'a> Contest<'a> {
    pub(crate) fn new(scenario: &'static str, case: impl Into<String>) -> Self {
        Self { scenario, case: case.into(), contenders: Vec::new() }
    }

    /// Adds a contender.
    pub(crate) fn contender<F>(
        mut self,
        name: &'static str,
        mut turn: impl FnMut() -> F + 'a,
    ) -> Self
    where
        F: Future<Output = Result<Sample>> + 'a,
    {
        self.contenders.push((name, Box::new(move || turn().boxed_local())));
        self
    }

    /// Lets everybody have a turn in each round, and reports the medians.
    pub(crate) async fn run(self, rounds: usize, report: &mut Report) -> Result<()> {
        let Self { scenario, case, mut contenders } = self;
        if !report.wants(&case) {
            return Ok(());
        }
        let mut samples = vec![Vec::new(); contenders.len()];
        for _ in 0..rounds {
            for ((name, turn), samples) in contenders.iter_mut().zip(&mut samples) {
                let sample = turn().await;
                samples
                    .push(sample.map_err(|error| format!("{scenario}, {case}, {name}: {error}"))?);
            }
        }
        let names = contenders.iter().map(|(name, _)| *name);
        for line in lines(scenario, &case, names.zip(&samples)) {
            report.add(line);
        }
        Ok(())
    }
}

/// One line per figure and contender.
fn lines<'s>(
    scenario: &'static str,
    case: &str,
    contenders: impl Iterator<Item = (&'static str, &'s Vec<Sample>)>,
) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (contender, samples) in contenders {
        let Some(first) = samples.first() else { continue };
        for (nth, &(unit, _)) in first.figures.iter().enumerate() {
            let figures = samples.iter().filter_map(|sample| sample.figures.get(nth));
            let mut figures: Vec<f64> = figures.map(|(_, figure)| *figure).collect();
            figures.sort_by(f64::total_cmp);
            let median = figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN);
            let ours = lines.iter().find(|line| line.unit == unit).map(|line| line.median);
            let costs: Vec<Cost> = samples.iter().map(|sample| sample.cost).collect();
            lines.push(Line {
                scenario,
                case: case.to_owned(),
                unit,
                contender,
                median,
                figures,
                ratio: ours.map(|ours| ours / median),
                cost: if nth == 0 { Cost::median(&costs) } else { Cost::default() },
            });
        }
    }
    lines
}
