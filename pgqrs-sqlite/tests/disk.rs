//! The disk: full, and not filled by what is long over.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use pgqrs::{BatchSize, QueueChanges, QueueName, Retention, Store, Sweep, UpdateQueue};
use pgqrs_sqlite::SqliteStore;
use rusqlite::Connection;

async fn with_queue(path: &Path) -> SqliteStore {
    let url = format!("sqlite:///{}?synchronous=normal", path.display());
    let store = pgqrs_sqlite::connect(&url).await.unwrap();
    pgqrs::admin(&store).create_queue("tasks").await.unwrap();
    store
}

fn pages(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection.query_row("PRAGMA page_count", (), |row| row.get(0)).unwrap()
}

/// Free pages are used again, so no vacuum is needed to keep the file from growing.
#[tokio::test]
async fn a_queue_with_a_retention_keeps_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let store = with_queue(&path).await;
    let retention = Some(Retention::For(Duration::from_secs(10)));
    let changes = QueueChanges { retention, ..QueueChanges::default() };
    let queue = QueueName::new("tasks").unwrap();
    store.update_queue(UpdateQueue { queue, changes }).await.unwrap();

    let messages = vec!["x".repeat(500); 200];
    let consumer = pgqrs::consumer("disk", 0, "tasks").create(&store).await.unwrap();
    let limit = BatchSize::MAX;
    let mut sizes = Vec::new();
    for second in 0..100 {
        let now = DateTime::<Utc>::UNIX_EPOCH + Duration::from_secs(1_000_000 + second);
        pgqrs::enqueue().messages(&messages).to("tasks").at(now).execute(&store).await.unwrap();
        let dequeue = pgqrs::dequeue().worker(&*consumer).batch(200).at(now);
        let claimed = dequeue.fetch_all(&store).await.unwrap();
        let archive = |message: &pgqrs::Message| pgqrs::Settlement {
            receipt: message.receipt,
            action: pgqrs::Action::Archive,
        };
        let settlements = claimed.iter().map(archive).collect();
        let settle = pgqrs::Settle { settlements, now: Some(now) };
        assert!(store.settle(settle).await.unwrap().iter().all(Result::is_ok));
        store.sweep(Sweep { limit, now: Some(now) }).await.unwrap();
        sizes.push(pages(&path));
    }
    let (early, late) = (sizes[20], sizes[99]);
    assert!(late <= early + early / 10, "{early} pages have become {late}: {sizes:?}");
}

/// The writer itself copies only once 4,000 pages are missing, which these messages do not fill.
#[tokio::test]
async fn the_log_is_copied_into_the_file_beside_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let store = with_queue(&path).await;
    let messages = vec!["x".repeat(1_000); 1_000];
    for _ in 0..8 {
        pgqrs::enqueue().messages(&messages).to("tasks").execute(&store).await.unwrap();
    }
    let connection = Connection::open(&path).unwrap();
    let pages = || {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        connection.query_row("PRAGMA wal_checkpoint(NOOP)", (), read).unwrap()
    };
    let begun = Instant::now();
    loop {
        let (log, copied) = pages();
        assert!(log < 4_000, "{log} pages of log");
        if log - copied < 1_000 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{copied} of {log} pages are copied");
        tokio::task::yield_now().await;
    }
}

#[cfg(target_os = "linux")]
mod full {
    use std::{
        env, fs,
        io::Write as _,
        path::PathBuf,
        process::{Command, Stdio},
    };

    use pgqrs::{Error, MetricsFilter};

    use super::*;

    const FOLDER: &str = "PGQRS_CHILD_FOLDER";

    /// A child in a namespace of its own mounts a small file system in memory, which goes with it.
    #[test]
    fn a_full_disk_is_named_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mount = format!("mount -t tmpfs -o size=6m tmpfs '{}'", folder.path().display());
        let inside = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--mount", "sh", "-c"]);
            command.arg(format!("{mount} && {script}")).env(FOLDER, folder.path());
            command.stdin(Stdio::null()).output()
        };
        if !inside("true").is_ok_and(|output| output.status.success()) {
            // Not by a macro of std's, whose output the test harness keeps to itself.
            let said = "NOT RUN: a_full_disk_is_named_and_loses_nothing may mount no tmpfs here\n";
            std::io::stderr().write_all(said.as_bytes()).unwrap();
            return;
        }
        let program = env::current_exe().unwrap();
        let test = "--exact full::child_fills_the_disk --ignored --nocapture";
        let output = inside(&format!("exec '{}' {test}", program.display())).unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{complaints}");
        assert!(said.contains("1 passed"), "{said}");
    }

    #[tokio::test]
    #[ignore = "a child of a_full_disk_is_named_and_loses_nothing"]
    async fn child_fills_the_disk() {
        let folder = PathBuf::from(env::var_os(FOLDER).expect("run by the test above only"));
        let path = folder.join("q.db");
        let store = with_queue(&path).await;
        let reserve = folder.join("reserve");
        fs::write(&reserve, vec![7; 2 * 1024 * 1024]).unwrap();
        let live = async || store.metrics(MetricsFilter::default()).await.unwrap()[0].live();
        let messages = vec!["x".repeat(10_000); 10];
        let enqueue =
            async || pgqrs::enqueue().messages(&messages).to("tasks").execute(&store).await;

        let mut acknowledged = 0;
        let error = loop {
            match enqueue().await {
                Ok(ids) => acknowledged += ids.len() as u64,
                Err(error) => break error,
            }
            assert!(acknowledged < 10_000, "the disk is never full");
        };
        assert!(matches!(error, Error::Backend { .. }), "{error:?}");
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert_eq!(live().await, acknowledged, "all that was acknowledged, and nothing else");

        fs::remove_file(&reserve).unwrap();
        acknowledged += enqueue().await.unwrap().len() as u64;
        assert_eq!(live().await, acknowledged);
        let connection = Connection::open(&path).unwrap();
        let check = "PRAGMA integrity_check";
        let answer: String = connection.query_row(check, (), |row| row.get(0)).unwrap();
        assert_eq!(answer, "ok");
    }
}
