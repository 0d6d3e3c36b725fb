//! What slows a file down or endangers it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pgqrs::{Finding, Health};

use crate::{
    connection::{CHECKPOINT_AFTER, open_writer, patiently},
    error::Outcome,
    sql,
    tx::Tx,
    url::{Place, Synchronous, Target},
};

/// A log of so many pages has outlived several attempts to empty it.
const LONG_LOG: i64 = 2 * CHECKPOINT_AFTER;
/// Free space below this is none to give back.
const FREE_BYTES: i64 = 16 * 1024 * 1024;
/// The write lock is held for some milliseconds at a time.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// File systems on which locks or shared memory do not reach other hosts, or do not work.
const NETWORKS: [&str; 8] = ["9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "nfs", "smb3"];

pub(crate) fn examine(tx: &Tx<'_>, target: &Target) -> Outcome<Vec<Finding>> {
    let mut findings = vec![durability(target), free_space(tx)?];
    if let Place::File(path) = &target.place {
        findings.extend([log_size(tx)?, write_lock(target)?, file_system(path)]);
    }
    Ok(findings)
}

fn durability(target: &Target) -> Finding {
    let detail = match (&target.place, target.synchronous) {
        (Place::Memory, _) => "in memory: all is gone with the last handle",
        (_, Synchronous::Full) => "synchronous=full: a power cut loses nothing",
        (_, Synchronous::Normal) => "synchronous=normal: a power cut may undo the last commits",
    };
    Finding { check: "durability", detail: detail.into(), health: Health::Well }
}

fn free_space(tx: &Tx<'_>) -> Outcome<Finding> {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let (pages, free, size): (i64, i64, i64) = tx.first(sql::PAGES, (), read)?.unwrap_or_default();
    let is_much = free * size > FREE_BYTES && free > pages / 2;
    Ok(Finding {
        check: "free space",
        detail: format!("{} of {} in the file are free", mib(free, size), mib(pages, size)),
        health: ailing_if(
            is_much,
            "what is enqueued later uses it; to give it back to the disk, run VACUUM while nobody \
             works, and set a retention so that the archive stops growing",
        ),
    })
}

/// The log is emptied into the file every [`CHECKPOINT_AFTER`] pages, up to what the oldest reader
/// may still look at.
fn log_size(tx: &Tx<'_>) -> Outcome<Finding> {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(1)?, row.get(2)?));
    let (log, copied): (i64, i64) = tx.first(sql::LOG, (), read)?.unwrap_or_default();
    let size = tx.first(sql::PAGES, (), |row| row.get(2))?.unwrap_or_default();
    Ok(Finding {
        check: "log size",
        detail: format!("{} of log, {} of it in the file too", mib(log, size), mib(copied, size)),
        health: ailing_if(
            log > LONG_LOG && copied < log,
            "some program's read transaction keeps it from being emptied, and it grows with every \
             write: find who has the file open (lsof), and end that transaction",
        ),
    })
}

/// Takes the lock for a moment: a program that is stopped in the middle of a commit keeps it.
fn write_lock(target: &Target) -> Outcome<Finding> {
    let connection = open_writer(target)?;
    let begun = Instant::now();
    let locked = patiently(LOCK_PATIENCE, || Ok(connection.execute_batch(sql::BEGIN)?));
    let waited = begun.elapsed();
    let is_stuck = match locked {
        Ok(()) => false,
        Err(failure) if failure.is_busy() => true,
        Err(failure) => return Err(failure),
    };
    let outcome = if is_stuck { "not free within" } else { "free after" };
    Ok(Finding {
        check: "write lock",
        detail: format!("{outcome} {} ms", waited.as_millis()),
        health: ailing_if(
            is_stuck,
            "a program holds it: end its transaction, or let it go on if it is stopped (lsof names \
             who has the file open)",
        ),
    })
}

fn file_system(path: &Path) -> Finding {
    let check = "file system";
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs::read_to_string("/proc/self/mountinfo") {
        Ok(mounts) => {
            let kind = kind_of(&path, &mounts).unwrap_or("unknown");
            let is_network = NETWORKS.iter().any(|network| kind.starts_with(network));
            let remedy = "locks and shared memory are not to be trusted on a network file system: \
                          move the file to a local disk";
            Finding { check, detail: kind.into(), health: ailing_if(is_network, remedy) }
        }
        Err(error) => {
            let reason = format!("/proc/self/mountinfo: {error}");
            Finding { check, detail: "unknown".into(), health: Health::Unknown { reason } }
        }
    }
}

/// The kind of the file system that `path` is on, by Linux's list of mounts.
fn kind_of<'m>(path: &Path, mounts: &'m str) -> Option<&'m str> {
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?.replace("\\040", " ");
        Some((PathBuf::from(point), system.split(' ').next()?))
    });
    let around = mounts.filter(|(point, _)| path.starts_with(point));
    // Of several at one point the last hides the others.
    around.max_by_key(|(point, _)| point.as_os_str().len()).map(|(_, kind)| kind)
}

fn ailing_if(is_ailing: bool, remedy: &str) -> Health {
    if is_ailing { Health::Ailing { remedy: remedy.into() } } else { Health::Well }
}

fn mib(pages: i64, page_size: i64) -> String {
    format!("{:.1} MiB", (pages.max(0) * page_size) as f64 / 1_048_576.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_names_the_file_system() {
        let mounts = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                      30 22 0:40 / /srv/my\\040data rw - nfs4 host:/data rw\n\
                      31 22 0:41 / /srv rw shared:7 master:2 - xfs /dev/sdb1 rw";
        let kind = |path: &str| kind_of(Path::new(path), mounts);
        assert_eq!(kind("/var/q.db"), Some("ext4"));
        assert_eq!(kind("/srv/q.db"), Some("xfs"));
        assert_eq!(kind("/srv/my data/q.db"), Some("nfs4"));
        assert_eq!(kind("q.db"), None);
    }
}
