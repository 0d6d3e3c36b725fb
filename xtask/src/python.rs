//! The Python package: built into a fresh environment, its tests on SQLite and Postgres.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use crate::{
    Failure, root,
    steps::{command, output, show},
};

/// Builds the package as a person would install it, and runs its tests.
pub(crate) fn test() -> Result<(), Failure> {
    let target = root().join("target");
    let environment = target.join("python");
    let python = environment.join("bin/python");
    let python = python.to_string_lossy();
    show(&mut command(&format!("python3 -m venv --clear {}", environment.display())))?;
    show(&mut command(&format!("{python} -m pip install --quiet maturin")))?;
    let wheels = environment.join("wheels");
    let build = format!(
        "{python} -m maturin build --profile dev --manifest-path pgqrs-python/Cargo.toml --out {}",
        wheels.display()
    );
    show(command(&build).env("CARGO_TARGET_DIR", &target))?;
    let built = std::fs::read_dir(&wheels).map_err(|error| error.to_string())?;
    let wheel = built.flatten().next().ok_or("maturin built no wheel")?.path();
    show(&mut command(&format!("{python} -m pip install --quiet {}[test]", wheel.display())))?;

    let database = Database::start()?;
    let tests =
        format!("{python} -m pytest --quiet pgqrs-python/tests -c pgqrs-python/pyproject.toml");
    show(command(&tests).env("PGQRS_TEST_POSTGRES_URL", &database.url))
}

/// A throwaway database of the test kit's; it ends with its standard input.
struct Database {
    process: Child,
    url: String,
}

impl Database {
    fn start() -> Result<Self, Failure> {
        output(&mut command("cargo build --package pgqrs-testkit --example postgres"))?;
        let mut process = command("cargo run --quiet --package pgqrs-testkit --example postgres")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("no database for the Python tests: {error}"))?;
        let mut url = String::new();
        if let Some(said) = process.stdout.take() {
            BufReader::new(said).read_line(&mut url).map_err(|error| error.to_string())?;
        }
        let url = url.trim().to_owned();
        if url.is_empty() {
            return Err("no database for the Python tests: it ended at once".into());
        }
        Ok(Self { process, url })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It ends by itself now; waiting keeps it from becoming a zombie.
        let _ = self.process.wait();
    }
}
