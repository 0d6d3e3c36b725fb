//! The account that servers run as: ours, unless that is root, which Postgres refuses.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::Command,
};

use super::{Context, Error, Result};

/// A user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    /// The user of this process.
    Own,
    /// The user that a root process hands its servers to.
    Other { uid: u32, gid: u32 },
}

impl Account {
    /// Ourselves; for root `postgres` or else `nobody`.
    pub(super) fn for_servers() -> Result<Self> {
        if !is_root() {
            return Ok(Self::Own);
        }
        let passwd = Path::new("/etc/passwd");
        let users = fs::read_to_string(passwd).context("cannot read", passwd)?;
        let found = ["postgres", "nobody"].iter().find_map(|name| entry(&users, name));
        let (uid, gid) = found.ok_or_else(|| {
            Error::new("Postgres refuses to run as root, and there is no user postgres or nobody")
        })?;
        Ok(Self::Other { uid, gid })
    }

    /// A command that this account runs, from a folder it can read.
    pub(super) fn command(self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir("/");
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Makes the file or folder this account's.
    pub(super) fn own(self, path: &Path) -> Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => {
                chown(path, Some(uid), Some(gid)).context("cannot chown", path)
            }
        }
    }
}

/// Whether this process is root's.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn entry(users: &str, name: &str) -> Option<(u32, u32)> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_by_its_whole_name() {
        let users = "nobody2:x:1:1::/:/bin/sh\nnobody:x:65534:65533:nobody:/:/usr/sbin/nologin\n";
        assert_eq!(entry(users, "nobody"), Some((65534, 65533)));
        assert_eq!(entry(users, "postgres"), None);
    }
}
