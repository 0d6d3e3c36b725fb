//! A queue at work on a SQLite file, no server needed:
//!
//! ```text
//! cargo run -p pgqrs-sqlite --example quickstart [-- FOLDER] [--db FILE]
//! ```
//!
//! One message for every file of the folder; two workers hash the files and count their lines. One
//! message fails twice, one can never succeed, and one takes its worker down with it.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};
use pgqrs::{
    ArchiveFilter, ArchivedMessage, Backoff, BatchSize, HandlerError, LiveMessages, Message,
    MessageId, Outcome, Page, QueueSettings, Store,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

type Result<T, E = HandlerError> = std::result::Result<T, E>;

const QUEUE: &str = "files";
const LEASE: Duration = Duration::from_secs(1); // short, so that a lost worker's are back soon
const MAX_FILES: usize = 2_000;
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The payload of a message.
#[derive(Serialize, Deserialize)]
struct Job {
    path: PathBuf,
    trouble: Option<Trouble>,
}

/// What goes wrong on purpose.
#[derive(Serialize, Deserialize)]
enum Trouble {
    FailsTwice,
    TakesItsWorkerDown,
}

#[tokio::main]
async fn main() -> Result<()> {
    let (folder, database) = arguments()?;
    let jobs = jobs(&folder)?;
    println!("{} messages for {} in {}\n", jobs.len(), folder.display(), database.display());
    let store = pgqrs_sqlite::connect(&format!("sqlite:///{}", database.display())).await?;
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} have ended, {elapsed}")?;
    let bar = ProgressBar::new(jobs.len() as u64).with_style(style);
    let run = Run { store: Arc::new(store), bar, findings: Arc::default() };

    create_queue(&*run.store).await?;
    pgqrs::enqueue().messages(&jobs).to(QUEUE).execute(&run.store).await?;

    let workers = [("worker-1", 3001), ("worker-2", 3002)];
    let workers = workers.map(|(host, port)| tokio::spawn(work(run.clone(), host, port)));
    let all_ended = async {
        for worker in workers {
            worker.await??;
        }
        Ok(())
    };
    tokio::try_join!(all_ended, watch(&run))?;
    report(&run).await
}

/// What the tasks share.
#[derive(Clone)]
struct Run {
    store: Arc<dyn Store>,
    bar: ProgressBar,
    findings: Arc<Mutex<Findings>>,
}

/// What the workers found. A file whose message is delivered twice counts once.
type Findings = HashMap<MessageId, Finding>;

struct Finding {
    bytes: usize,
    lines: usize,
    digest: [u8; 32],
}

/// Creates the queue, empty: one of an earlier run is deleted with its archive.
async fn create_queue(store: &dyn Store) -> Result<()> {
    let admin = pgqrs::admin(store);
    match admin.delete_queue(QUEUE, LiveMessages::Delete).await {
        Ok(()) | Err(pgqrs::Error::QueueNotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let retry = Backoff::Fixed(Duration::from_millis(200));
    admin.create_queue_with(QUEUE, QueueSettings { retry, ..QueueSettings::default() }).await?;
    Ok(())
}

/// A managed worker: takes and handles batches until no message is live any more.
async fn work(run: Run, host: &str, port: u16) -> Result<()> {
    let consumer = pgqrs::consumer(host, port, QUEUE).create(&run.store).await?;
    let crash = Notify::new();
    loop {
        let batch = pgqrs::dequeue()
            .worker(&*consumer)
            .batch(4)
            .with_vt(LEASE)
            .handle(|msg| handle(&run, host, msg, &crash))
            .execute(&run.store);
        let archived = tokio::select! {
            archived = batch => archived?,
            () = crash.notified() => {
                say(&run, &format!("{host}: gone in mid-lease"));
                return Ok(()); // as if killed: neither settles nor shuts down
            }
        };
        if archived == 0 {
            if pgqrs::admin(&run.store).queue_metrics(QUEUE).await?.live() == 0 {
                return Ok(consumer.shutdown().await?);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// After `Ok` the message is archived; after an error it is tried again, up to its maximum.
async fn handle(run: &Run, host: &str, msg: Message, crash: &Notify) -> Result<()> {
    let outcome = process(run, &msg, crash).await;
    let Message { id, attempts, max_attempts, .. } = msg;
    let attempt = format!("{host}: message {id}, attempt {attempts} of {max_attempts}");
    match &outcome {
        Err(error) => say(run, &format!("{attempt}: {error}")),
        Ok(()) if attempts > 1 => say(run, &format!("{attempt}: done")),
        Ok(()) => {}
    }
    outcome
}

async fn process(run: &Run, msg: &Message, crash: &Notify) -> Result<()> {
    let Job { path, trouble } = Job::deserialize(&msg.payload)?;
    match trouble {
        Some(Trouble::FailsTwice) if msg.attempts <= 2 => return Err("the disk is busy".into()),
        Some(Trouble::TakesItsWorkerDown) if msg.attempts == 1 => {
            crash.notify_one();
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    let finding = tokio::task::spawn_blocking(move || read(&path)).await??;
    run.findings.lock().unwrap_or_else(PoisonError::into_inner).insert(msg.id, finding);
    Ok(())
}

fn read(path: &Path) -> io::Result<Finding> {
    let content = fs::read(path)?;
    let lines = content.split_inclusive(|&byte| byte == b'\n').count();
    Ok(Finding { bytes: content.len(), lines, digest: Sha256::digest(&content).into() })
}

/// Moves the progress bar until no message is live any more.
async fn watch(run: &Run) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    loop {
        ticks.tick().await;
        let metrics = pgqrs::admin(&run.store).queue_metrics(QUEUE).await?;
        run.bar.set_position(metrics.archived + metrics.dead);
        if metrics.live() == 0 {
            run.bar.finish();
            return Ok(());
        }
    }
}

/// Prints a line above the progress bar.
fn say(run: &Run, line: &str) {
    run.bar.suspend(|| println!("{line}"));
}

/// The archive tells which messages ended how; lines and bytes are the workers' findings.
async fn report(run: &Run) -> Result<()> {
    let (queue, page) = (QUEUE.try_into()?, Page::first(BatchSize::MAX));
    let everything = ArchiveFilter { queue: Some(queue), page, ..ArchiveFilter::default() };
    let archive = pgqrs::admin(&run.store).archive(everything).await?;
    let metrics = pgqrs::admin(&run.store).queue_metrics(QUEUE).await?;
    let findings = run.findings.lock().unwrap_or_else(PoisonError::into_inner);
    println!("\nThe archive: what is done\n{}", totals(&archive, &findings));
    println!("\nThe archive: what took more than one attempt\n{}", troubles(&archive));
    let mut numbers = table(["ready", "delayed", "leased", "archived", "dead"]);
    let pgqrs::QueueMetrics { ready, delayed, leased, archived, dead, .. } = metrics;
    numbers.add_row([ready, delayed, leased, archived, dead]);
    println!("\nThe queue\n{numbers}");
    Ok(())
}

fn totals(archive: &[ArchivedMessage], findings: &Findings) -> Table {
    let mut totals = BTreeMap::<String, Total>::new();
    let (mut all, mut digests) = (Total::default(), Sha256::new());
    for message in archive.iter().filter(|message| message.outcome == Outcome::Done) {
        let Some(finding) = findings.get(&message.id) else { continue };
        let path = path(message);
        let extension = path.extension().unwrap_or("(none)".as_ref()).to_string_lossy();
        for total in [totals.entry(extension.into_owned()).or_default(), &mut all] {
            total.files += 1;
            total.lines += finding.lines;
            total.bytes += finding.bytes;
        }
        digests.update(finding.digest);
    }
    let digest: String = digests.finalize().iter().take(4).map(|b| format!("{b:02x}")).collect();
    let sum = (format!("all (sha-256 of their hashes: {digest}…)"), all);
    let mut table = table(["extension", "files", "lines", "bytes"]);
    for (name, Total { files, lines, bytes }) in totals.into_iter().chain([sum]) {
        table.add_row([name, files.to_string(), lines.to_string(), bytes.to_string()]);
    }
    table
}

#[derive(Default)]
struct Total {
    files: usize,
    lines: usize,
    bytes: usize,
}

fn troubles(archive: &[ArchivedMessage]) -> Table {
    let mut table = table(["message", "file", "attempts", "outcome", "last error"]);
    for message in archive.iter().filter(|message| message.attempts > 1) {
        table.add_row([
            message.id.to_string(),
            path(message).file_name().unwrap_or_default().to_string_lossy().into_owned(),
            message.attempts.to_string(),
            format!("{:?}", message.outcome).to_lowercase(),
            message.last_error.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn path(message: &ArchivedMessage) -> PathBuf {
    message.payload.parse().map(|job: Job| job.path).unwrap_or_default()
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// A job for every file, with the trouble among them.
fn jobs(folder: &Path) -> io::Result<Vec<Job>> {
    let mut paths = paths(folder.to_owned())?;
    let count = paths.len();
    paths.push(folder.join("no-such-file"));
    let trouble = |index| match index {
        _ if index == count / 4 => Some(Trouble::FailsTwice),
        _ if index == count / 2 => Some(Trouble::TakesItsWorkerDown),
        _ => None,
    };
    let job = |(index, path)| Job { path, trouble: trouble(index) };
    Ok(paths.into_iter().enumerate().map(job).collect())
}

/// The files under `folder`: no links, nothing hidden, no build products, nothing large.
fn paths(folder: PathBuf) -> io::Result<Vec<PathBuf>> {
    let (mut folders, mut paths) = (vec![folder], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (kind, name) = (entry.file_type()?, entry.file_name());
            if kind.is_dir() && name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                folders.push(entry.path());
            } else if kind.is_file() && entry.metadata()?.len() <= MAX_FILE_BYTES {
                paths.push(entry.path());
            }
        }
    }
    paths.sort();
    paths.truncate(MAX_FILES);
    Ok(paths)
}

/// The folder and the database: of the command line, or else this repository and a temporary file,
/// which each run begins anew.
fn arguments() -> Result<(PathBuf, PathBuf)> {
    let mut folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut database = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--db" => database = Some(arguments.next().ok_or("--db wants a file")?.into()),
            path => folder = path.into(),
        }
    }
    let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok((folder, database.map_or_else(temporary, Ok)?))
}

/// What an earlier run, perhaps of an earlier version, has left there is removed.
fn temporary() -> io::Result<PathBuf> {
    let database = std::env::temp_dir().join("pgqrs-quickstart.db");
    for suffix in ["", "-wal", "-shm"] {
        match fs::remove_file(format!("{}{suffix}", database.display())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(database)
}
