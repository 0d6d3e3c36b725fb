//! Run loops in processes of their own, to be frozen, killed and asked to stop.
//!
//! The parent starts them as it does in [`chaos`](crate::chaos): the same test program, told to run
//! one test, whose body is [`child`]. A child handles the messages of the queue [`QUEUE`] until it
//! is asked to stop, and tells what it does line by line.

mod checks;

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

pub use checks::{
    a_frozen_worker_settles_nothing_late, a_killed_workers_messages_are_handled_within_20_seconds,
    a_worker_asked_to_stop_under_load_leaves_nothing_leased, add, all_archived, assert_adds_up,
    until,
};
use pgqrs::{Receipt, Store};
pub use rustix::process::Signal;
use rustix::process::{Pid, WaitOptions, kill_process, waitpid};
use serde::{Deserialize, Serialize};

use crate::chaos::Program;

/// The queue that the workers serve.
pub const QUEUE: &str = "tasks";
/// The variable that tells a child what to do: [`Work`] and URL as JSON.
const TASK: &str = "PGQRS_WORKER_TASK";

/// How a worker works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// How many handlers run at once.
    pub concurrency: usize,
    /// How long each takes.
    pub takes: Duration,
    /// How long messages are leased.
    pub lease: Duration,
}

/// What a worker has told so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// The receipts of the messages whose handlers began.
    pub began: Vec<Receipt>,
    /// Those whose handlers ended by themselves.
    pub ended: Vec<Receipt>,
    /// The report of its end: handled, failed, dead, released, lost, unsettled.
    pub report: Option<[u64; 6]>,
}

/// A running worker. It is killed with this value.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    told: Arc<Mutex<Told>>,
    reading: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a worker.
    ///
    /// # Panics
    /// If the process cannot be started.
    pub fn start(program: &Program, work: Work) -> Self {
        let task = serde_json::to_string(&(work, &program.url));
        let spawned = env::current_exe().and_then(|test| {
            Command::new(test)
                .args([program.test, "--exact", "--nocapture", "--include-ignored"])
                .env(TASK, task.map_err(std::io::Error::from)?)
                .stdout(Stdio::piped())
                .spawn()
        });
        let mut child = spawned.unwrap_or_else(|error| panic!("no worker: {error}"));
        let told = Arc::new(Mutex::new(Told::default()));
        let (noted, output) = (told.clone(), child.stdout.take());
        let reading = thread::spawn(move || {
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()) {
                note(&line.unwrap_or_default(), &mut lock(&noted));
            }
        });
        Self { child, told, reading: Some(reading) }
    }

    /// What it has told so far.
    pub fn told(&self) -> Told {
        lock(&self.told).clone()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn signal(&self, signal: Signal) {
        let sent = self.pid().map(|pid| kill_process(pid, signal));
        assert!(matches!(sent, Some(Ok(()))), "{signal:?} was not sent: {sent:?}");
    }

    /// Freezes it, and returns when none of its threads runs any more. [`Signal::CONT`] lets it go on.
    ///
    /// # Panics
    /// If it has ended.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let stopped = waitpid(self.pid(), WaitOptions::UNTRACED);
        let is_stopped = matches!(&stopped, Ok(Some((_, status))) if status.stopped());
        assert!(is_stopped, "the worker did not stop: {stopped:?}");
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Panics
    /// If it fails.
    pub async fn stop(mut self) -> Told {
        self.signal(Signal::TERM);
        let ended = || self.child.try_wait().ok().flatten();
        let status = until("the worker's end", Duration::from_secs(60), ended).await;
        assert!(status.success(), "a worker failed: {status}");
        self.reading.take().map(JoinHandle::join);
        self.told()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of the test that the processes run. Does nothing unless a parent started it.
///
/// # Panics
/// If the loop fails.
pub fn child<S>(connect: impl AsyncFnOnce(String) -> S)
where
    S: Store + Clone + 'static,
{
    let Ok(task) = env::var(TASK) else { return };
    let task = serde_json::from_str(&task);
    let (work, url): (Work, String) = task.unwrap_or_else(|error| panic!("{TASK}: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no tokio runtime: {error}"));
    let report = runtime.block_on(async {
        let stop = pgqrs::shutdown_signal().unwrap_or_else(|error| panic!("{error}"));
        let store = connect(url).await;
        let handler = move |message: pgqrs::Message| async move {
            let (id, token) = (message.receipt.id, message.receipt.token);
            println!("began {id} {token}.");
            tokio::time::sleep(work.takes).await;
            println!("ended {id} {token}.");
            Ok(())
        };
        let handle = pgqrs::dequeue().from(QUEUE).with_vt(work.lease).handle(handler);
        handle.concurrency(work.concurrency).until(stop).poll(&store).await
    });
    let report = report.unwrap_or_else(|error| panic!("the loop failed: {error}"));
    let pgqrs::Report { handled, failed, dead, released, lost, unsettled, .. } = report;
    println!("report {handled} {failed} {dead} {released} {lost} {unsettled}.");
}

/// Notes a line; one cut short by the worker's death tells nothing, nor do those of the test harness.
fn note(line: &str, told: &mut Told) {
    let Some((what, numbers)) = line.strip_suffix('.').and_then(|line| line.split_once(' ')) else {
        return;
    };
    let numbers: Vec<i64> = numbers.split(' ').filter_map(|number| number.parse().ok()).collect();
    match (what, &numbers[..]) {
        ("began", &[id, token]) => told.began.push(Receipt { id: id.into(), token }),
        ("ended", &[id, token]) => told.ended.push(Receipt { id: id.into(), token }),
        ("report", counts) => {
            let counts: Vec<u64> = counts.iter().map(|count| count.unsigned_abs()).collect();
            told.report = counts.try_into().ok();
        }
        _ => {}
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
