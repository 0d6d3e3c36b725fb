//! Random programs, run on a store and on a small model of the contract, and compared.
//!
//! A program is a sequence of steps: enqueue, claim, settle by current, used and forged receipts,
//! advance time to just before, at or after the instants at which something changes, crash, register
//! again, sweep, redrive and so on. The model predicts every row that a read shows after each step.
//! It does not predict the order of a claim: it checks the order rules on what the store handed out,
//! and goes on from there. A failing program is shrunk before it is reported.
//!
//! All time is injected; nothing waits.

mod claim;
mod order;
mod program;
mod run;
mod shrink;
mod spec;

use std::{fmt, ops::RangeInclusive, panic::AssertUnwindSafe, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use pgqrs::{QueueName, Store};

pub use program::{Advance, Claimant, Draft, Pick, Program, SLOTS, Step};
use run::Run;

/// Expands to the test `model`, which runs random programs on a store of the author's.
///
/// `fresh` is an async function that returns a store on an empty database, and a guard that drops
/// the database. `PGQRS_MODEL_PROGRAMS` sets how many programs run (256 by default), and
/// `PGQRS_MODEL_SEED` replays a failure: it is printed with one.
///
/// ```
/// async fn fresh() -> (pgqrs::MemoryStore, ()) {
///     (pgqrs::MemoryStore::new(), ())
/// }
///
/// pgqrs_testkit::model!(fresh);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! model {
    ($fresh:path) => {
        #[test]
        fn model() {
            $crate::model::check($fresh, $crate::model::Config::from_env());
        }
    };
}

/// How much to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How many programs.
    pub programs: u64,
    /// How many steps each.
    pub steps: RangeInclusive<usize>,
    /// The first program's seed; the others count on from it.
    pub seed: u64,
}

impl Config {
    /// 256 programs of 50 to 80 steps from a random seed, or as `PGQRS_MODEL_PROGRAMS` and
    /// `PGQRS_MODEL_SEED` say.
    pub fn from_env() -> Self {
        let number = |name| std::env::var(name).ok()?.parse().ok();
        Self {
            programs: number("PGQRS_MODEL_PROGRAMS").unwrap_or(256),
            steps: 50..=80,
            seed: number("PGQRS_MODEL_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32)),
        }
    }
}

/// Where store and model part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// The number of the step, from 1.
    pub step: usize,
    /// The clause, what the model expects, what the store did.
    pub difference: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after step {}: {}", self.step, self.difference)
    }
}

/// A program that fails, shrunk.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its seed, before it was shrunk.
    pub seed: u64,
    /// A small program that still fails.
    pub program: Program,
    /// How it fails.
    pub divergence: Divergence,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the store and the model differ {}\n", self.divergence)?;
        writeln!(f, "the smallest program found:\n{}", self.program)?;
        write!(f, "replay: PGQRS_MODEL_SEED={} PGQRS_MODEL_PROGRAMS=1", self.seed)
    }
}

/// Runs `config.programs` programs on one store from `fresh`, each on a queue of its own.
///
/// # Panics
/// If one fails, with the smallest failing program found and its seed.
pub fn check<S, G>(fresh: impl AsyncFnOnce() -> (S, G), config: Config)
where
    S: Store + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no tokio runtime: {error}"));
    let outcome = runtime.block_on(async {
        let (store, _guard) = fresh().await;
        store.install().await.unwrap_or_else(|error| panic!("install: {error}"));
        find_failure(Arc::new(store), config).await
    });
    if let Some(failure) = outcome {
        panic!("{failure}");
    }
}

/// Runs programs on `store` until one fails; shrinks and returns that one.
pub async fn find_failure(store: Arc<dyn Store>, config: Config) -> Option<Failure> {
    let mut session = Session::new(store);
    for seed in config.seed..config.seed + config.programs {
        let draft = shrink::Draft::draw(seed, &config.steps);
        if let Err(divergence) = session.run(&draft.program()).await {
            let (program, divergence) = draft.shrink(&mut session, divergence).await;
            return Some(Failure { seed, program, divergence });
        }
    }
    None
}

/// Runs one program on a store that no other program has been run on.
///
/// # Errors
/// Where the store and the model part.
pub async fn run(store: Arc<dyn Store>, program: &Program) -> Result<(), Divergence> {
    Session::new(store).run(program).await
}

/// Runs programs on one store, one after the other: each has a queue of its own, and begins later
/// than the one before ended.
#[derive(Debug)]
pub struct Session {
    store: Arc<dyn Store>,
    now: DateTime<Utc>,
    queues: u64,
}

impl Session {
    /// A session on a store whose queues nobody else uses.
    pub fn new(store: Arc<dyn Store>) -> Self {
        // In the future, so that a time of the store's own clock shows.
        let now = DateTime::from_timestamp(2_000_000_000, 1_000).unwrap_or_default();
        Self { store, now, queues: 0 }
    }

    /// Runs one program.
    ///
    /// # Errors
    /// Where the store and the model part.
    pub async fn run(&mut self, program: &Program) -> Result<(), Divergence> {
        self.queues += 1;
        let failed = |step, difference| Divergence { step, difference };
        let queue = QueueName::new(format!("q{}", self.queues));
        let queue = queue.map_err(|error| failed(0, error.to_string()))?;
        let store = Arc::clone(&self.store);
        let mut run =
            Run::begin(&store, queue, self.now).await.map_err(|error| failed(0, error))?;
        let mut outcome = Ok(());
        for (number, step) in (1..).zip(&program.steps) {
            let checked = async {
                run.step(step).await?;
                run.compare().await
            };
            if let Err(difference) = catch_panic(checked).await {
                outcome = Err(failed(number, difference));
                break;
            }
        }
        self.now = run.now + TimeDelta::seconds(1);
        let ended = run.end().await.map_err(|error| failed(program.steps.len(), error));
        outcome.and(ended)
    }
}

/// Runs `check`; a panic in it is a difference like any other.
async fn catch_panic(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let caught = AssertUnwindSafe(check).catch_unwind().await;
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("the store panicked: {}", text.unwrap_or_default()))
    })
}
