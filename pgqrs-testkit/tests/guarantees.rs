//! `docs/guarantees.md` names every conformance case, under its clause, and no test that is not
//! there.

use std::{collections::BTreeSet, fs, path::Path};

use pgqrs_testkit::conformance::{self, Case};

const PAGE: &str = include_str!("../../docs/guarantees.md");
/// The heading of the cases that prove no numbered clause.
const OTHERS: &str = "Beside";

#[test]
fn every_case_stands_under_its_clause_and_nothing_else_does() {
    let clause = |case: &Case| case.clause().unwrap_or_else(|| OTHERS.to_owned());
    let cases: BTreeSet<_> =
        conformance::cases().iter().map(|case| (clause(case), format!("{case:?}"))).collect();
    let named = items().filter(|item| item.file.is_none());
    let named: BTreeSet<_> = named.map(|item| (item.clause, item.test)).collect();
    let missing: Vec<_> = cases.difference(&named).collect();
    assert!(missing.is_empty(), "docs/guarantees.md does not name {missing:#?}");
    let unknown: Vec<_> = named.difference(&cases).collect();
    assert!(unknown.is_empty(), "docs/guarantees.md names what is no case: {unknown:#?}");
}

#[test]
fn every_test_of_a_file_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for Item { file, test, .. } in items() {
        let Some(file) = file else { continue };
        let source = fs::read_to_string(root.join(&file)).unwrap_or_default();
        assert!(source.contains(&format!("fn {test}()")), "{file} has no test {test}");
    }
}

#[test]
fn every_clause_has_a_test() {
    let headings = PAGE.lines().filter_map(|line| line.strip_prefix("### "));
    let clauses: Vec<String> = headings.map(clause).collect();
    let of = |group: char, last: u8| (1..=last).map(move |number| format!("{group}{number}"));
    let contract = [('E', 5), ('V', 7), ('S', 7), ('A', 4), ('W', 6), ('Q', 3)];
    let contract = contract.into_iter().flat_map(|(group, last)| of(group, last));
    assert_eq!(clauses, contract.chain([OTHERS.to_owned()]).collect::<Vec<_>>());
    for clause in clauses {
        assert!(items().any(|item| item.clause == clause), "{clause} has no test");
    }
}

/// A test that the page names.
struct Item {
    clause: String,
    /// The file it stands in, unless it is a case of the kit.
    file: Option<String>,
    test: String,
}

/// The items of the lists under the clauses: ``- `case` `` or ``- `file` `test` ``.
fn items() -> impl Iterator<Item = Item> {
    let mut current = None;
    PAGE.lines().filter_map(move |line| {
        if line.starts_with('#') {
            current = line.strip_prefix("### ").map(clause);
        }
        let mut names =
            line.strip_prefix("- `")?.split('`').step_by(2).filter(|name| !name.is_empty());
        let (first, second) = (names.next()?.to_owned(), names.next());
        let clause = current.clone()?;
        Some(match second {
            Some(test) => Item { clause, file: Some(first), test: test.to_owned() },
            None => Item { clause, file: None, test: first },
        })
    })
}

/// The clause of a heading: its first word, without the mark of the model.
fn clause(heading: &str) -> String {
    heading.split(' ').next().unwrap_or_default().trim_end_matches("\\*").to_owned()
}
