//! Processes that are killed in the middle of their work, and the check of what they leave.
//!
//! The parent starts producers and consumers as processes of their own: the same test program, told
//! to run one test, whose body is [`child`]. It kills them at random moments, starts them again, and
//! has one replaced under its own identity while it still runs. Each process writes its history to a
//! file, before and after each call, so that what a killed process may have done is known.
//!
//! ```no_run
//! # async fn connect(url: String) -> pgqrs::MemoryStore { pgqrs::MemoryStore::new() }
//! use pgqrs_testkit::chaos::{self, Plan, Program};
//!
//! #[test]
//! fn chaos() {
//!     let url = "sqlite:///jobs.db".to_owned();
//!     chaos::check(Plan::of(4), Program { test: "chaos_child", url }, connect);
//! }
//!
//! #[test]
//! #[ignore = "the body of the processes that the test `chaos` starts"]
//! fn chaos_child() {
//!     chaos::child(connect);
//! }
//! ```

mod crew;

use std::{
    env, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use fastrand::Rng;
use pgqrs::{CreateQueue, MetricsFilter, QueueName, QueueSettings, Store};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Runtime, time::Instant};

use crate::history::{
    self, FinalState, Log, Report, Violation,
    actor::{Actor, Drained, Failure, Identity, few_are_left},
};
use crew::Crew;

/// The variable that tells a child what to do: a [`Task`] as JSON.
const TASK: &str = "PGQRS_CHAOS_TASK";
/// After this a run that has not ended is stuck.
const PATIENCE: Duration = Duration::from_secs(600);

/// How much chaos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How many processes work at a time: a quarter of them enqueue, of the others every second
    /// one is a registered worker.
    pub processes: usize,
    /// How many messages are enqueued.
    pub messages: usize,
    /// How many processes are killed, spread over the run.
    pub kills: usize,
    /// The seed of the parent's dice. Runs differ all the same.
    pub seed: u64,
}

impl Plan {
    /// So many processes, 20,000 messages or as many as `PGQRS_CHAOS_MESSAGES` says, and three
    /// kills for each process or as many as `PGQRS_CHAOS_KILLS` says.
    pub fn of(processes: usize) -> Self {
        let number = |name: &str| env::var(name).ok().and_then(|number| number.parse().ok());
        let messages = number("PGQRS_CHAOS_MESSAGES").unwrap_or(20_000);
        let kills = number("PGQRS_CHAOS_KILLS").unwrap_or(3 * processes);
        Self { processes, messages, kills, seed: fastrand::u64(..) }
    }
}

/// What the processes run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The full name of the test, in the same test program, whose body is [`child`].
    pub test: &'static str,
    /// The URL that [`child`] gives to its `connect`.
    pub url: String,
}

/// The body of the parent test: connects as its children do, runs the plan and checks the history.
///
/// # Panics
/// If the history shows a violation.
pub fn check<S>(plan: Plan, program: Program, connect: impl AsyncFnOnce(String) -> S)
where
    S: Store + 'static,
{
    check_after_each_kill(plan, program, connect, || ());
}

/// The same, and calls `after_kill` after each kill, to look at what a dead process has left.
///
/// # Panics
/// If the history shows a violation.
pub fn check_after_each_kill<S>(
    plan: Plan,
    program: Program,
    connect: impl AsyncFnOnce(String) -> S,
    after_kill: impl FnMut(),
) where
    S: Store + 'static,
{
    let report = runtime().block_on(async {
        let store: Arc<dyn Store> = Arc::new(connect(program.url.clone()).await);
        store.install().await.unwrap_or_else(|error| panic!("install: {error}"));
        reported(try_run(plan, store, program, after_kill).await)
    });
    println!("{report}");
    report.assert_clean();
}

/// Runs the plan on the queue `chaos` of `store`, which it creates, and checks the history. A call
/// or a process that fails is reported as [`Violation::Stuck`].
pub async fn run(plan: Plan, store: Arc<dyn Store>, program: Program) -> Report {
    reported(try_run(plan, store, program, || ()).await)
}

fn reported(outcome: Result<Report, Failure>) -> Report {
    outcome.unwrap_or_else(|failure| {
        let violations = vec![Violation::Stuck(failure.to_string())];
        Report { violations, ..Report::default() }
    })
}

/// The body of the test that the processes run. Does nothing unless a parent started it.
///
/// # Panics
/// If a call of the store fails, except because it is unavailable.
pub fn child<S>(connect: impl AsyncFnOnce(String) -> S)
where
    S: Store + 'static,
{
    let Ok(task) = env::var(TASK) else { return };
    let task: Task =
        serde_json::from_str(&task).unwrap_or_else(|error| panic!("{TASK} {task}: {error}"));
    let log = Log::create(&task.log).unwrap_or_else(|error| panic!("{:?}: {error}", task.log));
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = stop.clone();
    thread::spawn(move || {
        // The parent closes the pipe when it wants an end, and the system when the parent is gone.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        stopper.store(true, Ordering::Relaxed);
    });
    let outcome = runtime().block_on(async {
        let store = Arc::new(connect(task.url).await);
        let rng = Rng::with_seed(task.seed);
        let mut actor = Actor { store, queue: task.queue, log, rng, stop };
        match task.role {
            Role::Produce(count) => actor.produce(count).await,
            Role::Consume(identity) => actor.consume(identity).await,
        }
    });
    outcome.unwrap_or_else(|failure| panic!("{:?}: {failure}", task.role));
}

/// What a child is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Task {
    role: Role,
    url: String,
    queue: QueueName,
    log: PathBuf,
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Role {
    /// Enqueue so many messages, then end.
    Produce(usize),
    /// Consume until the parent wants an end.
    Consume(Identity),
}

async fn try_run(
    plan: Plan,
    store: Arc<dyn Store>,
    program: Program,
    mut after_kill: impl FnMut(),
) -> Result<Report, Failure> {
    let queue = QueueName::new("chaos")?;
    let create =
        CreateQueue { queue: queue.clone(), settings: QueueSettings::default(), now: None };
    store.create_queue(create).await?;
    let mut rng = Rng::with_seed(plan.seed);
    let mut crew = Crew::start(plan, program, queue.clone(), rng.fork())?;

    let begun = Instant::now();
    let few = (plan.messages / 20).min(9_999);
    let mut kills = 0;
    loop {
        tokio::time::sleep(Duration::from_micros(rng.u64(1_000..30_000))).await;
        crew.check_health()?;
        if begun.elapsed() > PATIENCE {
            return Err(Failure::Process(format!("the run has not ended after {PATIENCE:?}")));
        }
        let processed = processed(&*store, &queue).await?;
        // Some messages are deleted, and so are not counted: the last kills must not wait for them.
        let next_kill = kills * plan.messages * 3 / 4 / plan.kills.max(1);
        if kills < plan.kills {
            if processed >= next_kill {
                crew.kill_and_restart().await?;
                after_kill();
                kills += 1;
                if kills == plan.kills.div_ceil(2) {
                    crew.replace_one()?;
                }
            }
        } else if crew.producers_have_ended() && few_are_left(&*store, &queue, few).await? {
            break;
        }
    }
    let mut histories = crew.end().await?;

    let stop = Arc::new(AtomicBool::new(false));
    let (log, rng) = (Log::in_memory(), rng.fork());
    let mut last = Actor { store: store.clone(), queue: queue.clone(), log, rng, stop };
    let drained = last.drain(Duration::from_secs(30)).await?;
    histories.push(last.log.into_records());
    let mut report = history::check(&histories, &FinalState::read(&*store, &queue).await?);
    if drained == Drained::GaveUp {
        let stuck = format!("{} messages are live and never delivered", report.live);
        report.violations.push(Violation::Stuck(stuck));
    }
    if report.enqueued < plan.messages {
        let found = format!("{} messages instead of {}", report.enqueued, plan.messages);
        report.violations.push(Violation::Stuck(found));
    }
    Ok(report)
}

/// How many messages have ended in the archive.
async fn processed(store: &dyn Store, queue: &QueueName) -> Result<usize, Failure> {
    let filter = MetricsFilter { queue: Some(queue.clone()), now: None };
    let metrics = store.metrics(filter).await?;
    Ok(metrics.iter().map(|metrics| (metrics.archived + metrics.dead) as usize).sum())
}

fn runtime() -> Runtime {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap_or_else(|error| panic!("no tokio runtime: {error}"))
}
