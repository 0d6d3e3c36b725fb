//! The Python package: its tests on SQLite and Postgres, and its wheel for others.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use crate::{
    Failure, root,
    steps::{command, output, show},
};

/// The versions of Python that one wheel serves, which is built for the oldest of them.
const MINORS: std::ops::RangeInclusive<u32> = 9..=15;
/// The oldest glibc that the wheel is to run on; `maturin` checks that it does.
const PLATFORM: &str = "manylinux2014";

/// Builds the package as a person would install it, and runs its tests.
pub(crate) fn test() -> Result<(), Failure> {
    let target = root().join("target");
    let environment = Environment::create("python3", &target.join("python"))?;
    environment.install("maturin")?;
    let wheel = environment.build("--profile dev", &target)?;
    environment.install(&format!("{}[test]", wheel.display()))?;

    let checker = "cargo build --package pgqrs-bench --example check_history";
    show(&mut command(checker))?;
    let database = Database::start()?;
    let tests = "-m pytest --quiet pgqrs-python/tests -c pgqrs-python/pyproject.toml";
    let mut tests = environment.python(tests);
    tests.env("PGQRS_TEST_POSTGRES_URL", &database.url);
    show(tests.env("PGQRS_CHECK_HISTORY", target.join("debug/examples/check_history")))
}

/// Builds the wheel to hand out, and runs the quickstart with it on every Python that is found.
pub(crate) fn wheel() -> Result<(), Failure> {
    let target = root().join("target");
    let environment = Environment::create("python3", &target.join("python"))?;
    environment.install("maturin[zig]")?;
    // Zig links against an older glibc than this machine's.
    let options = match cfg!(target_os = "linux") {
        true => format!("--release --zig --compatibility {PLATFORM}"),
        false => "--release".to_owned(),
    };
    let wheel = environment.build(&options, &target)?;
    let mut tried = Vec::new();
    for python in interpreters() {
        let fresh = Environment::create(&python, &target.join("python-fresh"))?;
        fresh.install(&wheel.display().to_string())?;
        let database = fresh.folder.join("jobs.db");
        let quickstart = "pgqrs-python/examples/quickstart.py sqlite:///";
        show(&mut fresh.python(&format!("{quickstart}{}", database.display())))?;
        tried.push(python);
    }
    println!("{} works with {}", wheel.display(), tried.join(", "));
    Ok(())
}

/// A fresh virtual environment.
struct Environment {
    folder: PathBuf,
}

impl Environment {
    fn create(python: &str, folder: &Path) -> Result<Self, Failure> {
        show(&mut command(&format!("{python} -m venv --clear {}", folder.display())))?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn python(&self, arguments: &str) -> std::process::Command {
        command(&format!("{} {arguments}", self.folder.join("bin/python").display()))
    }

    fn install(&self, what: &str) -> Result<(), Failure> {
        show(&mut self.python(&format!("-m pip install --quiet {what}")))
    }

    /// Builds the package's wheel.
    fn build(&self, options: &str, target: &Path) -> Result<PathBuf, Failure> {
        let wheels = self.folder.join("wheels");
        let package = "--manifest-path pgqrs-python/Cargo.toml";
        let build = format!("-m maturin build {options} {package} --out {}", wheels.display());
        // As if it were activated: maturin looks for Zig beside the first Python on PATH.
        let mut path = vec![self.folder.join("bin")];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let path = env::join_paths(path).map_err(|error| error.to_string())?;
        show(self.python(&build).env("PATH", path).env("CARGO_TARGET_DIR", target))?;
        let built = std::fs::read_dir(&wheels).map_err(|error| error.to_string())?;
        Ok(built.flatten().next().ok_or("maturin built no wheel")?.path())
    }
}

/// On PATH, and of pyenv.
fn interpreters() -> Vec<String> {
    let on_path = MINORS.map(|minor| format!("python3.{minor}"));
    let pyenv = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let pyenv = pyenv.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv")));
    let versions = pyenv.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    let installed = versions.into_iter().flatten().flatten();
    let installed = installed.map(|it| it.path().join("bin/python3").display().to_string());
    let serves = |python: &String| {
        output(&mut command(&format!("{python} --version"))).is_ok_and(|version| {
            let minor = version.trim().split('.').nth(1).and_then(|minor| minor.parse().ok());
            version.starts_with("Python 3.") && minor.is_some_and(|minor| MINORS.contains(&minor))
        })
    };
    on_path.chain(installed).filter(serves).collect()
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
