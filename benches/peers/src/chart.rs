//! The results as bars.

use std::fmt::Write;

use crate::{
    libraries::{Library, ON_POSTGRES, ON_SQLITE},
    results::{Case, Results, short},
};

const WIDTH: u32 = 760;
/// Where bars begin, and how long the longest is.
const LEFT: u32 = 150;
const LONGEST: f64 = 500.0;
const BAR: u32 = 13;
const STEP: u32 = 17;

const STYLE: &str = "text { font: 12px system-ui, sans-serif; fill: #24292f }
  .case { font-weight: 600 } .title { font-size: 15px; font-weight: 600 } .note { fill: #6e7781 }
  rect { fill: #afb8c1 } .ours { fill: #1f6feb } .page { fill: #ffffff }";

/// Bars of every case of a database system: rates, longer is better; latencies, shorter is.
pub(crate) fn svg(results: &Results, ground: &str, name: &str) -> String {
    let libraries = if ground == "postgres" { ON_POSTGRES } else { ON_SQLITE };
    let (mut body, mut y) = (String::new(), 24);
    text(&mut body, "title", 8, y, &format!("pgqrs beside other libraries, {name}"));
    y += 10;
    for case in results.cases(ground) {
        y = group(&mut body, results, &case, libraries, y + 22) + 4;
    }
    let height = y + 12;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<title>pgqrs beside other libraries, \
         {name}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n{body}</svg>\n"
    )
}

/// One case; returns where the next can begin.
fn group(
    body: &mut String,
    results: &Results,
    case: &Case<'_>,
    libraries: &[Library],
    mut y: u32,
) -> u32 {
    let all: Vec<_> =
        libraries.iter().map(|library| (library, results.of(case, library))).collect();
    let figures =
        || all.iter().filter_map(|(library, figures)| Some((*library, *figures.first()?)));
    let rates = figures().any(|(_, figure)| figure.is_rate());
    let longest = figures().map(|(_, figure)| figure.median).fold(f64::MIN_POSITIVE, f64::max);
    let (_, kind) = case.scenario.split_once('-').unwrap_or_default();
    let unit = if rates { "messages/s" } else { "median, ms; shorter is better" };
    text(body, "case", 8, y, &format!("{kind}: {}, {unit}", case.name));
    y += 8;
    for (library, figure) in figures() {
        let length = (figure.median / longest * LONGEST).max(1.0);
        let class = if library.is_ours() { " class=\"ours\"" } else { "" };
        text(body, "", 8, y + BAR - 2, library.name);
        let _ = writeln!(
            body,
            "<rect{class} x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\"/>"
        );
        let after = LEFT + length as u32 + 6;
        text(body, "note", after, y + BAR - 2, &short(figure.median));
        y += STEP;
    }
    y
}

fn text(body: &mut String, class: &str, x: u32, y: u32, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(body, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>");
}
