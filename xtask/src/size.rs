//! Keeps files and crates small enough to be read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Failure, root};

/// Lines of one file, tests included.
const FILE: usize = 600;

/// The tutorial for authors of backends is one file, for it is read from top to bottom.
const TUTORIAL: (&str, usize) = ("custom_store.rs", 700);

/// Lines of code of a crate: SQL included; unit tests, comments and blank lines left out.
const CRATES: [(&str, usize); 3] =
    [("pgqrs", 5000), ("pgqrs-postgres", 5000), ("pgqrs-sqlite", 3000)];

/// Prints the sizes of the crates; fails for what is too large.
pub(crate) fn check() -> Result<(), Failure> {
    let mut failures = Vec::new();
    for path in sources(&root())? {
        let lines = read(&path)?.lines().count();
        let is_tutorial = path.file_name().is_some_and(|name| name == TUTORIAL.0);
        let limit = if is_tutorial { TUTORIAL.1 } else { FILE };
        if lines > limit {
            failures.push(format!("{}: {lines} lines, more than {limit}", path.display()));
        }
    }
    for (name, limit) in CRATES {
        let mut lines = 0;
        for folder in ["src", "migrations"] {
            for path in sources(&root().join(name).join(folder))? {
                lines += code(&read(&path)?);
            }
        }
        println!("{name}: {lines} lines of code, at most {limit}");
        if lines > limit {
            failures.push(format!("{name}: {lines} lines of code, more than {limit}"));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// The source files below the folder. Hidden folders and build output are left out.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return Ok(found) };
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !name.starts_with('.') && !matches!(&*name, "target" | "node_modules") {
                found.extend(sources(&path)?);
            }
        } else if path.extension().is_some_and(|ext| ext == "rs" || ext == "sql" || ext == "py") {
            found.push(path);
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The lines of code before the module of unit tests, which stands last in its file.
fn code(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let tests = lines.windows(2).position(|pair| pair == ["#[cfg(test)]", "mod tests {"]);
    let lines = &lines[..tests.unwrap_or(lines.len())];
    let comment = |line: &str| line.starts_with("//") || line.starts_with("--");
    lines.iter().filter(|line| !line.is_empty() && !comment(line)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_counts() {
        assert_eq!(code("//! Doc.\n\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n}\n"), 1);
        assert_eq!(code("-- A table.\nCREATE TABLE t (\n    -- Its key.\n    id int\n)\n"), 3);
        assert_eq!(code("#[cfg(test)]\nuse x;\nfn f() {}\n"), 3);
    }
}
