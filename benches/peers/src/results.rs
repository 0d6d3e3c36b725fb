//! What was measured, read back.

use std::{fs, path::Path};

use serde::Deserialize;

use crate::{Result, libraries::Library};

/// The results of one run or several; a later one's figures replace an earlier one's.
#[derive(Debug, Default)]
pub(crate) struct Results {
    figures: Vec<Figure>,
}

/// One figure of one library.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Figure {
    scenario: String,
    case: String,
    contender: String,
    pub(crate) unit: String,
    pub(crate) median: f64,
    #[serde(rename = "client_us_per_message")]
    pub(crate) client: Option<f64>,
    #[serde(rename = "server_us_per_message")]
    pub(crate) server: Option<f64>,
    #[serde(rename = "wal_bytes_per_message")]
    pub(crate) wal: Option<f64>,
    #[serde(rename = "commits_per_message")]
    pub(crate) commits: Option<f64>,
}

/// A case: the name of its set and its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case<'r> {
    pub(crate) scenario: &'r str,
    pub(crate) name: &'r str,
}

impl Results {
    pub(crate) fn read<'f>(files: impl Iterator<Item = &'f std::path::PathBuf>) -> Result<Self> {
        let mut results = Self::default();
        for file in files {
            for figure in figures(file)? {
                match results.figures.iter_mut().find(|known| known.is_same(&figure)) {
                    Some(known) => *known = figure,
                    None => results.figures.push(figure),
                }
            }
        }
        Ok(results)
    }

    /// The cases whose sets' names start so, in the order they were measured.
    pub(crate) fn cases(&self, ground: &str) -> Vec<Case<'_>> {
        let mut cases: Vec<Case<'_>> = Vec::new();
        for figure in self.figures.iter().filter(|figure| figure.scenario.starts_with(ground)) {
            let case = Case { scenario: &figure.scenario, name: &figure.case };
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
        cases
    }

    /// A library's figures in a case.
    pub(crate) fn of(&self, case: &Case<'_>, library: &Library) -> Vec<&Figure> {
        let wanted = |figure: &&Figure| {
            figure.scenario == case.scenario
                && figure.case == case.name
                && figure.contender == library.name
        };
        self.figures.iter().filter(wanted).collect()
    }
}

impl Figure {
    fn is_same(&self, other: &Self) -> bool {
        (&self.scenario, &self.case, &self.contender, &self.unit)
            == (&other.scenario, &other.case, &other.contender, &other.unit)
    }

    /// Whether more is better.
    pub(crate) fn is_rate(&self) -> bool {
        self.unit == crate::contest::RATE
    }
}

fn figures(file: &Path) -> Result<Vec<Figure>> {
    #[derive(Deserialize)]
    struct Run {
        results: Vec<Figure>,
    }
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(serde_json::from_str::<Run>(&text)?.results)
}

/// Three significant digits, thousands as `k`.
pub(crate) fn short(figure: f64) -> String {
    match figure {
        figure if figure >= 100_000.0 => format!("{:.0}k", figure / 1e3),
        figure if figure >= 1_000.0 => format!("{:.1}k", figure / 1e3),
        figure if figure >= 100.0 => format!("{figure:.0}"),
        figure if figure >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}
