//! Several processes on one file. A child is this test binary, told by its environment to run one
//! of the ignored tests below.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::HashSet,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use pgqrs::{ArchiveFilter, BatchSize, MetricsFilter, Page, QueueName, Store};
use pgqrs_sqlite::SqliteStore;
use rusqlite::Connection;

const PATH: &str = "PGQRS_CHILD_PATH";

fn child(test: &str, path: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command.env(PATH, path).stdout(Stdio::piped());
    command
}

fn spawn_all(count: usize, test: &str, path: &Path) -> Vec<Child> {
    (0..count).map(|_| child(test, path).spawn().unwrap()).collect()
}

/// Waits for all and returns their lines.
fn lines(children: Vec<Child>) -> Vec<String> {
    let mut lines = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "a child failed:\n{text}");
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

fn path() -> std::path::PathBuf {
    env::var_os(PATH).expect("run by a test of this file only").into()
}

async fn connect(path: &Path) -> SqliteStore {
    pgqrs_sqlite::connect(&format!("sqlite:///{}", path.display())).await.unwrap()
}

async fn with_queue(path: &Path) -> SqliteStore {
    let store = connect(path).await;
    pgqrs::admin(&store).create_queue("tasks").await.unwrap();
    store
}

async fn enqueue(store: &SqliteStore, count: usize) -> Vec<i64> {
    let messages = vec!["a message"; count];
    let ids = pgqrs::enqueue().messages(&messages).to("tasks").execute(store).await.unwrap();
    ids.into_iter().map(|id| id.0).collect()
}

fn assert_intact(path: &Path) {
    let connection = Connection::open(path).unwrap();
    let answer: String =
        connection.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
}

#[test]
fn eight_processes_that_install_at_once_leave_one_schema() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    lines(spawn_all(8, "child_installs", &path));
    let connection = Connection::open(&path).unwrap();
    let sql = "SELECT count(*) FROM pgqrs_migrations";
    let applied: i64 = connection.query_row(sql, (), |row| row.get(0)).unwrap();
    assert_eq!(applied, 1);
}

#[tokio::test]
#[ignore = "a child of eight_processes_that_install_at_once_leave_one_schema"]
async fn child_installs() {
    connect(&path()).await.verify().await.unwrap();
}

#[tokio::test]
async fn four_processes_hammering_one_file_never_see_it_busy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let store = with_queue(&path).await;
    let children = spawn_all(4, "child_hammers", &path);
    tokio::task::spawn_blocking(|| lines(children)).await.unwrap();
    let metrics = store.metrics(MetricsFilter::default()).await.unwrap();
    assert_eq!((metrics[0].live(), metrics[0].archived), (0, 4 * 400));
}

/// Each round enqueues, claims and archives, and so takes the write lock three times.
#[tokio::test]
#[ignore = "a child of four_processes_hammering_one_file_never_see_it_busy"]
async fn child_hammers() {
    let store = connect(&path()).await;
    let handle = || pgqrs::dequeue().from("tasks").batch(2).handle(|_| async { Ok(()) });
    for _ in 0..200 {
        enqueue(&store, 2).await;
        handle().execute(&store).await.unwrap();
    }
    while handle().execute(&store).await.unwrap() > 0 {}
}

#[tokio::test]
async fn a_busy_process_lets_another_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let store = with_queue(&path).await;
    let mut hog = child("child_hogs", &path).spawn().unwrap();
    let mut lines = BufReader::new(hog.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("hogging")));
    for _ in 0..20 {
        enqueue(&store, 1).await;
    }
    hog.kill().unwrap();
    hog.wait().unwrap();
}

/// Keeps the writer's queue filled, so that the lock is taken again as soon as it is free.
#[tokio::test]
#[ignore = "a child of a_busy_process_lets_another_in"]
async fn child_hogs() {
    let store = connect(&path()).await;
    for _ in 0..8 {
        let store = store.clone();
        tokio::spawn(async move {
            loop {
                enqueue(&store, 500).await;
            }
        });
    }
    enqueue(&store, 1).await;
    println!("hogging");
    std::future::pending().await
}

/// E2 and S2 under kill -9: each round kills a child in the middle of its writes.
#[tokio::test]
async fn nothing_acknowledged_is_lost_to_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let store = with_queue(&path).await;
    let mut enqueued = HashSet::new();
    let mut archived = HashSet::new();
    for round in 0..10 {
        let mut child = child("child_is_killed", &path).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wanted = 20 + 13 * round;
        for line in lines.by_ref().map(Result::unwrap) {
            wanted -= usize::from(note(&line, &mut enqueued, &mut archived));
            if wanted == 0 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died.
        for line in lines.map_while(Result::ok) {
            note(&line, &mut enqueued, &mut archived);
        }
        assert_intact(&path);
    }
    assert!(enqueued.len() > 200 && archived.len() > 50, "the children have worked");

    let queue = Some(QueueName::new("tasks").unwrap());
    let page = Page::first(BatchSize::MAX);
    let filter = ArchiveFilter { queue: queue.clone(), page, ..ArchiveFilter::default() };
    let done: HashSet<i64> =
        store.archive(filter).await.unwrap().iter().map(|message| message.id.0).collect();
    let filter = pgqrs::MessageFilter { queue, page, ..pgqrs::MessageFilter::default() };
    let live: HashSet<i64> =
        store.messages(filter).await.unwrap().iter().map(|message| message.id.0).collect();
    assert!(archived.is_subset(&done), "an acknowledged archive is lost");
    assert!(live.is_disjoint(&done), "a message is live and archived");
    assert!(enqueued.iter().all(|id| live.contains(id) || done.contains(id)), "a message is lost");
}

/// Notes what a child has acknowledged; a line cut short by its death tells nothing.
fn note(line: &str, enqueued: &mut HashSet<i64>, archived: &mut HashSet<i64>) -> bool {
    let Some((what, id)) = line.strip_suffix('.').and_then(|line| line.split_once(' ')) else {
        return false;
    };
    match (what, id.parse()) {
        ("enqueued", Ok(id)) => enqueued.insert(id),
        ("archived", Ok(id)) => archived.insert(id),
        _ => false,
    }
}

#[tokio::test]
#[ignore = "a child of nothing_acknowledged_is_lost_to_kill_9"]
async fn child_is_killed() {
    let store = connect(&path()).await;
    let consumer = pgqrs::consumer("child", 0, "tasks").create(&store).await.unwrap();
    let mut out = std::io::stdout();
    loop {
        for id in enqueue(&store, 3).await {
            writeln!(out, "enqueued {id}.").unwrap();
        }
        let message = pgqrs::dequeue().worker(&*consumer).fetch_one(&store).await.unwrap();
        let id = message.unwrap().id;
        consumer.archive(id).await.unwrap();
        writeln!(out, "archived {id}.").unwrap();
    }
}

#[cfg(unix)]
mod read_only {
    use std::{fs, os::unix::fs::PermissionsExt, os::unix::process::CommandExt};

    use super::*;

    const NOBODY: u32 = 65_534;

    /// Root may write everywhere, so the child gives the privilege up; it runs a copy of this
    /// binary that everybody may execute.
    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        drop(with_queue(&path).await);
        let program = folder.path().join("child");
        fs::copy(env::current_exe().unwrap(), &program).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&program, 0o755);
        set(&path, 0o444);
        set(folder.path(), 0o555);

        let mut command = Command::new(&program);
        command.args(["--exact", "read_only::child_is_refused", "--ignored", "--nocapture"]);
        command.env(PATH, &path).stdout(Stdio::piped());
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(folder.path()).unwrap());
        if owner == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        let children = vec![command.spawn().unwrap()];
        let refused = lines(children);
        set(folder.path(), 0o755);
        let refused = refused.iter().filter(|line| line.contains("permission denied"));
        assert_eq!(refused.count(), 2, "an existing file, and one to be made");
    }

    #[tokio::test]
    #[ignore = "a child of a_file_that_cannot_be_written_is_refused"]
    async fn child_is_refused() {
        for path in [path(), path().with_file_name("new.db")] {
            let url = format!("sqlite:///{}", path.display());
            println!("{}", pgqrs_sqlite::connect(&url).await.unwrap_err());
        }
    }
}
