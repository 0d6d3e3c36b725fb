//! The results as Markdown tables.

use std::fmt::Write;

use crate::{
    libraries::{Library, ON_POSTGRES, ON_SQLITE},
    results::{Case, Figure, Results, short},
};

/// Lines between which a page has the tables.
const BEGIN: &str = "<!-- peers: what follows was written by the generator -->\n";
const END: &str = "<!-- peers: end -->\n";

/// The page with these tables: in the place of those that it has, or, if it has none, they alone.
pub(crate) fn with_tables(page: &str, tables: &str) -> String {
    let parts = page.split_once(BEGIN);
    let parts = parts.and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) = parts.unwrap_or_default();
    format!("{head}{BEGIN}\n{tables}{END}{tail}")
}

/// Tables of everything that was measured.
pub(crate) fn markdown(results: &Results) -> String {
    let mut page = String::new();
    for (ground, name, libraries) in
        [("postgres", "Postgres", ON_POSTGRES), ("sqlite", "SQLite", ON_SQLITE)]
    {
        let cases = results.cases(ground);
        if cases.is_empty() {
            continue;
        }
        let measured: Vec<&Library> = libraries
            .iter()
            .filter(|library| cases.iter().any(|case| !results.of(case, library).is_empty()))
            .collect();
        page.push_str(&format!("#### {name}\n\n"));
        row(&mut page, "messages/s", names(&measured), "our best / the others' best");
        rule(&mut page, measured.len() + 2);
        for case in &cases {
            figures(&mut page, results, case, &measured);
        }
        page.push('\n');
        costs(&mut page, results, &cases, &measured);
        page.push_str(
            "| library | version | set | finished messages |\n| --- | --- | --- | --- |\n",
        );
        for library in measured {
            let Library { name, setting, finished, .. } = library;
            let _ = writeln!(page, "| {name} | {} | {setting} | {finished} |", library.version());
        }
        page.push('\n');
    }
    page
}

/// A case: each library's figure, the best one in bold.
fn figures(page: &mut String, results: &Results, case: &Case<'_>, libraries: &[&Library]) {
    let all: Vec<Vec<&Figure>> =
        libraries.iter().map(|library| results.of(case, library)).collect();
    let first = |figures: &Vec<&Figure>| figures.first().map(|figure| figure.median);
    let rates = all.iter().flatten().any(|figure| figure.is_rate());
    let best = |medians: &mut dyn Iterator<Item = f64>| {
        if rates { medians.reduce(f64::max) } else { medians.reduce(f64::min) }
    };
    let winner = best(&mut all.iter().filter_map(first));
    let cells = all.iter().map(|figures| {
        if figures.is_empty() {
            return "–".to_owned();
        }
        let medians: Vec<String> = figures.iter().map(|figure| short(figure.median)).collect();
        let text = medians.join(" / ");
        if first(figures) == winner { format!("**{text}**") } else { text }
    });
    let side = |ours: bool| {
        let side = libraries.iter().zip(&all).filter(|(library, _)| library.is_ours() == ours);
        best(&mut side.filter_map(|(_, figures)| first(figures)))
    };
    let ratio = side(true)
        .zip(side(false))
        .map(|(ours, other)| if rates { ours / other } else { other / ours });
    let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    row(page, &title(case, rates), cells.collect(), &ratio);
}

/// What is counted of a message's cost.
type Count = fn(&Figure) -> Option<f64>;

/// What a message costs where the server counts it.
fn costs(page: &mut String, results: &Results, cases: &[Case<'_>], libraries: &[&Library]) {
    let enqueue =
        cases.iter().find(|case| case.scenario.ends_with("-enqueue") && case.name.contains("64"));
    let drains: Vec<&Case<'_>> =
        cases.iter().filter(|case| case.scenario.ends_with("-drain")).collect();
    let counted = |figure: &&Figure| figure.wal.is_some();
    let of = |case: &Case<'_>, library| results.of(case, library).into_iter().find(counted);
    let (Some(enqueue), false) = (enqueue, drains.is_empty()) else { return };
    if !libraries.iter().any(|library| of(enqueue, library).is_some()) {
        return;
    }
    page.push_str(
        "| per message | WAL, bytes: enqueue | drain | commits: enqueue | drain | server, µs: enqueue \
         | drain | client, µs: enqueue | drain |\n",
    );
    rule(page, 9);
    for library in libraries {
        let enqueued = of(enqueue, library);
        // Its worker's, or else the largest batches'.
        let drained = drains.iter().find_map(|case| of(case, library));
        let mut cells = Vec::new();
        let kinds: [(Count, usize); 4] = [
            (|figure| figure.wal, 0),
            (|figure| figure.commits, 3),
            (|figure| figure.server, 0),
            (|figure| figure.client, 0),
        ];
        for (kind, digits) in kinds {
            for figure in [enqueued, drained] {
                let cost = figure.and_then(kind);
                cells.push(cost.map_or_else(|| "–".into(), |cost| format!("{cost:.digits$}")));
            }
        }
        let last = cells.pop().unwrap_or_default();
        row(page, library.name, cells, &last);
    }
    page.push('\n');
}

fn title(case: &Case<'_>, rates: bool) -> String {
    let (_, kind) = case.scenario.split_once('-').unwrap_or_default();
    match (kind, rates) {
        ("drain", _) => format!("claim + finish, {}", case.name),
        ("pick-up", _) => format!("enqueue to handler, idle, {}, p50 / p99 ms", case.name),
        _ => format!("{kind}, {}", case.name),
    }
}

fn names(libraries: &[&Library]) -> Vec<String> {
    libraries.iter().map(|library| library.name.to_owned()).collect()
}

fn row(page: &mut String, first: &str, cells: Vec<String>, last: &str) {
    let _ = writeln!(page, "| {first} | {} | {last} |", cells.join(" | "));
}

fn rule(page: &mut String, columns: usize) {
    let _ = writeln!(page, "|{}", " --- |".repeat(columns));
}
