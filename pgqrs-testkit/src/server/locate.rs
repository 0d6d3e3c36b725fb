//! Finds the programs of a Postgres server on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Error, Result, package, run};

/// The versions that tests may ask for.
const VERSIONS: std::ops::RangeInclusive<u32> = 13..=18;

/// Folders with one installation per version: those of Debian, Red Hat and Homebrew.
const SHELVES: [&str; 4] = ["/usr/lib/postgresql", "/usr", "/opt/homebrew/opt", "/usr/local/opt"];

/// The programs of one server version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) bin: PathBuf,
    pub(super) major: u32,
}

impl Programs {
    /// The version asked for, or else the newest installed, or else a packaged one.
    pub(super) fn find() -> Result<Self> {
        let wanted = wanted(env::var("PGQRS_TEST_POSTGRES_VERSION").ok().as_deref())?;
        let suits = |programs: &Self| wanted.is_none_or(|wanted| wanted == programs.major);
        match installed().into_iter().filter(suits).max_by_key(|programs| programs.major) {
            Some(programs) => Ok(programs),
            None => package::fetch(wanted.unwrap_or(*VERSIONS.end())),
        }
    }

    /// The programs in the folder, if it holds a whole server.
    pub(super) fn at(bin: &Path) -> Option<Self> {
        let whole = ["initdb", "pg_ctl", "postgres"].iter().all(|name| bin.join(name).is_file());
        if !whole {
            return None;
        }
        let version = run(Command::new(bin.join("postgres")).arg("--version")).ok()?;
        Some(Self { bin: bin.to_owned(), major: major(&version)? })
    }

    /// The path of a program.
    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }
}

fn wanted(version: Option<&str>) -> Result<Option<u32>> {
    let Some(version) = version.filter(|version| !version.is_empty()) else {
        return Ok(None);
    };
    match version.parse() {
        Ok(major) if VERSIONS.contains(&major) => Ok(Some(major)),
        _ => Err(Error::new(format!(
            "PGQRS_TEST_POSTGRES_VERSION is {version:?}; it may be {} to {}",
            VERSIONS.start(),
            VERSIONS.end()
        ))),
    }
}

fn installed() -> Vec<Programs> {
    let shelved = SHELVES.iter().filter_map(|shelf| fs::read_dir(shelf).ok()).flatten();
    let shelved = shelved.filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?;
        let named = name.starts_with("postgresql@") || name.starts_with("pgsql-");
        (named || name.parse::<u32>().is_ok()).then(|| path.join("bin"))
    });
    // On PATH `postgres` may be a link: initdb lies beside the file it points to.
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).filter_map(|folder| {
        Some(fs::canonicalize(folder.join("postgres")).ok()?.parent()?.into())
    });
    let mut folders: Vec<PathBuf> = shelved.chain(on_path).collect();
    folders.sort();
    folders.dedup();
    folders.iter().filter_map(|folder| Programs::at(folder)).collect()
}

/// The 15 of `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major(version: &str) -> Option<u32> {
    let number = version.split(' ').nth(2)?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_every_form() {
        assert_eq!(major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major("postgres\n"), None);
    }

    #[test]
    fn a_version_out_of_range_is_refused_by_name() {
        assert_eq!(wanted(Some("16")), Ok(Some(16)));
        assert_eq!(wanted(Some("")), Ok(None));
        for version in ["12", "19", "new"] {
            let error = wanted(Some(version)).unwrap_err().to_string();
            assert!(error.contains(version) && error.contains("13 to 18"), "{error}");
        }
    }
}
