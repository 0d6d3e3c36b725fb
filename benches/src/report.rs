//! What was measured: a table as it grows, and a file at the end.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{Result, cost::Cost};

/// One figure of one contender.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) scenario: &'static str,
    pub(crate) case: String,
    pub(crate) unit: &'static str,
    pub(crate) contender: &'static str,
    pub(crate) median: f64,
    /// Of all rounds, the smallest first.
    pub(crate) figures: Vec<f64>,
    /// The first contender's median divided by this one's.
    pub(crate) ratio: Option<f64>,
    /// On the first of a contender's lines.
    pub(crate) cost: Cost,
}

/// Prints lines as they come and keeps them.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What the names of its cases have in them.
    cases: String,
    lines: Vec<Value>,
    heading: String,
}

impl Report {
    /// Of the cases with this in their names.
    pub(crate) fn of(cases: &str) -> Self {
        Self { cases: cases.to_owned(), ..Self::default() }
    }

    pub(crate) fn wants(&self, case: &str) -> bool {
        case.contains(&self.cases)
    }

    /// Prints and keeps a line.
    pub(crate) fn add(&mut self, line: Line) {
        let heading = format!("{}: {}", line.scenario, line.case);
        if heading != self.heading {
            println!("\n{heading}  [load {}]", load());
            println!(
                "  {:<34} {:>8} {:<12} {:>9}   {:<22} {:>9} {:>9} {:>6} {:>8} {:>10}",
                "",
                "median",
                "",
                "ours/this",
                "all rounds",
                "client us",
                "server us",
                "WAL B",
                "commits",
                "statements"
            );
            self.heading = heading;
        }
        let ratio = line.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let rounds: Vec<String> = line.figures.iter().map(|figure| short(*figure)).collect();
        let part = |cost: Option<f64>, digits: usize| {
            cost.map_or_else(String::new, |cost| format!("{cost:.digits$}"))
        };
        let cost = line.cost;
        println!(
            "  {:<34} {:>8} {:<12} {ratio:>9}   {:<22} {:>9} {:>9} {:>6} {:>8} {:>10}",
            line.contender,
            short(line.median),
            line.unit,
            rounds.join(" "),
            part(cost.client, 1),
            part(cost.server, 1),
            part(cost.wal, 0),
            part(cost.commits, 3),
            part(cost.statements, 3),
        );
        self.lines.push(json!({
            "scenario": line.scenario,
            "case": line.case,
            "contender": line.contender,
            "unit": line.unit,
            "median": line.median,
            "rounds": line.figures,
            "ours_to_this": line.ratio,
            "client_us_per_message": cost.client,
            "server_us_per_message": cost.server,
            "wal_bytes_per_message": cost.wal,
            "commits_per_message": cost.commits,
            "statements_per_message": cost.statements,
            "load": load(),
        }));
    }

    /// Prints a remark.
    pub(crate) fn note(&mut self, text: &str) {
        println!("  {text}");
    }

    /// Writes all lines to a file, as JSON.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let processors = std::thread::available_parallelism()?.get();
        let all = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "system": std::env::consts::OS,
            "processors": processors,
            "results": self.lines,
        });
        Ok(fs::write(file, serde_json::to_string_pretty(&all)?)?)
    }
}

/// Three significant digits, thousands as `k`.
fn short(figure: f64) -> String {
    match figure {
        figure if figure >= 100_000.0 => format!("{:.0}k", figure / 1e3),
        figure if figure >= 1_000.0 => format!("{:.1}k", figure / 1e3),
        figure if figure >= 100.0 => format!("{figure:.0}"),
        figure if figure >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}

/// How many processes wanted a processor in the last minute: other work on the machine shows here.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
