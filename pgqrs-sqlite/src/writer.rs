//! The thread that writes: it takes the requests that are waiting into one transaction, commits, and
//! then answers them all. One that fails sinks nobody else.

use std::{
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use pgqrs::{Error, Result};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{
    checkpoint::Checkpoints,
    connection::patiently,
    error::{Failure, Outcome},
    gaps::Gaps,
    pace::{AWAKE, Pace, Waiting},
    sql,
    tx::Tx,
};

/// How many requests may wait before callers are held back.
const WAITING: usize = 1_024;
/// How many requests share a commit at most.
const PER_COMMIT: usize = 1_024;
/// How long a transaction takes in further requests: what other processes may have to wait.
const LONGEST_TURN: Duration = Duration::from_millis(5);

/// The handle of the thread, which ends with the last one.
#[derive(Clone)]
pub(crate) struct Writer {
    requests: mpsc::Sender<Box<dyn Request>>,
    pace: Arc<Pace>,
}

/// A call as the thread sees it.
trait Request: Send {
    /// Runs in the transaction, and may be run again after a rollback.
    fn run(&mut self, tx: &Tx<'_>) -> Verdict;
    /// Tells the caller, once it is known what became of the transaction.
    fn answer(self: Box<Self>, commit: Result<(), Failure>);
}

/// Whether what a request wrote shall stay; if not, SQLite's error if it is to blame.
enum Verdict {
    Keep,
    Undo(Option<Arc<rusqlite::Error>>),
}

struct Call<W, T> {
    work: W,
    outcome: Option<Outcome<T>>,
    caller: oneshot::Sender<Outcome<T>>,
}

impl<W, T> Request for Call<W, T>
where
    W: Fn(&Tx<'_>) -> Outcome<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &Tx<'_>) -> Verdict {
        let is_gone = self.caller.is_closed();
        let outcome =
            if is_gone { Err(ended("the caller is gone").into()) } else { (self.work)(tx) };
        let verdict = match &outcome {
            Ok(_) => Verdict::Keep,
            Err(Failure::Sqlite(error)) => Verdict::Undo(Some(error.clone())),
            Err(Failure::Queue(_)) => Verdict::Undo(None),
        };
        self.outcome = Some(outcome);
        verdict
    }

    fn answer(self: Box<Self>, commit: Result<(), Failure>) {
        let outcome = match (self.outcome, commit) {
            (Some(Ok(_)) | None, Err(failure)) => Err(failure),
            (Some(outcome), _) => outcome,
            (None, Ok(())) => Err(ended("its writer has ended").into()),
        };
        // A caller that is gone wants no answer.
        let _ = self.caller.send(outcome);
    }
}

impl Writer {
    /// Starts the thread on `connection`.
    pub(crate) fn start(
        connection: Connection,
        patience: Duration,
        checkpoints: Checkpoints,
    ) -> Result<(Self, thread::JoinHandle<()>)> {
        let (requests, waiting) = mpsc::channel(WAITING);
        let pace = Arc::<Pace>::default();
        let seen = pace.clone();
        let thread = thread::Builder::new()
            .name("pgqrs-sqlite".into())
            .spawn(move || {
                let tx = Tx::new(&connection);
                let (gaps, last_idle, pace) = (Gaps::default(), None, seen);
                Turns { tx, waiting, patience, gaps, last_idle, pace, checkpoints }.take_all();
            })
            .map_err(|error| Error::Backend {
                reason: "the system refuses another thread".into(),
                source: Some(Box::new(error)),
            })?;
        Ok((Self { requests, pace }, thread))
    }

    /// Runs `work` in a transaction, again if that must be begun anew, and answers once it is
    /// committed. If the caller is dropped, `work` takes effect wholly or not at all.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let waiting = Waiting::new(&self.pace);
        let (caller, mut answered) = oneshot::channel();
        let sent = self.requests.send(Box::new(Call { work, outcome: None, caller })).await;
        sent.map_err(|_| ended("its writer has ended"))?;
        let asked = Instant::now();
        while waiting.may_be_answered_soon() && asked.elapsed() < AWAKE {
            if let Ok(outcome) = answered.try_recv() {
                return Ok(outcome?);
            }
            tokio::task::yield_now().await;
        }
        Ok(answered.await.map_err(|_| ended("its writer has ended"))??)
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

fn ended(reason: &str) -> Error {
    Error::Unavailable { reason: reason.into(), source: None }
}

/// The thread's side: one turn, one transaction.
struct Turns<'c> {
    tx: Tx<'c>,
    waiting: mpsc::Receiver<Box<dyn Request>>,
    patience: Duration,
    gaps: Gaps,
    /// How long it was idle before its last turn, if that was a lone caller's.
    last_idle: Option<Duration>,
    pace: Arc<Pace>,
    checkpoints: Checkpoints,
}

impl Turns<'_> {
    fn take_all(mut self) {
        let mut turn = Vec::new();
        while let Some(request) = self.next_request() {
            turn.push(request);
            let before = self.tx.connection.total_changes();
            let outcome = self.take(&mut turn);
            self.last_idle = self.last_idle.filter(|_| turn.len() == 1);
            for request in turn.drain(..) {
                request.answer(outcome.as_ref().map(|_| ()).map_err(Failure::shared));
            }
            if self.tx.connection.total_changes() != before {
                self.checkpoints.written();
            }
        }
    }

    fn next_request(&mut self) -> Option<Box<dyn Request>> {
        if let Ok(request) = self.waiting.try_recv() {
            self.gaps.leave();
            return Some(request);
        }
        let idle = Instant::now();
        let request = self.look_for_request(idle).or_else(|| self.waiting.blocking_recv());
        let idle = idle.elapsed();
        self.last_idle = Some(idle);
        self.gaps.left(idle);
        request
    }

    /// Looks for a while if that was worth it the last time. Among many callers it is not: they need
    /// the processor to ask.
    fn look_for_request(&mut self, idle: Instant) -> Option<Box<dyn Request>> {
        let is_worth_it = self.last_idle.is_some_and(|last| last < AWAKE);
        while is_worth_it && idle.elapsed() < AWAKE {
            if let Ok(request) = self.waiting.try_recv() {
                return Some(request);
            }
            thread::yield_now();
        }
        None
    }

    /// Takes a turn that has its first request.
    fn take(&mut self, turn: &mut Vec<Box<dyn Request>>) -> Outcome<()> {
        if let Err(failure) = self.begin() {
            let _ = self.undo();
            // They have waited as long as this one.
            turn.extend(std::iter::from_fn(|| self.waiting.try_recv().ok()).take(WAITING));
            return Err(failure);
        }
        let started = Instant::now();
        let outcome = match self.run_together(turn, started) {
            Ok(Together::Kept) => self.tx.run(sql::COMMIT, ()).map(drop),
            Ok(Together::Spoilt) => self.run_apart(turn),
            Err(failure) => Err(failure),
        };
        if outcome.is_err() {
            // Nothing is left to do about a rollback that fails: the next turn's BEGIN reports it.
            let _ = self.undo();
        }
        let took = started.elapsed();
        self.gaps.held(took);
        self.pace.took(took);
        outcome
    }

    /// Runs requests while some are waiting, none of them protected from the others.
    fn run_together(
        &mut self,
        turn: &mut Vec<Box<dyn Request>>,
        started: Instant,
    ) -> Outcome<Together> {
        let mut next = 0;
        while let Some(request) = turn.get_mut(next) {
            let before = self.tx.connection.total_changes();
            if let Verdict::Undo(error) = request.run(&self.tx)
                && (error.is_some() || self.tx.connection.total_changes() != before)
            {
                return Ok(Together::Spoilt);
            }
            next += 1;
            if next < PER_COMMIT && started.elapsed() < LONGEST_TURN {
                turn.extend(self.waiting.try_recv().ok());
            }
        }
        self.tx.flush()?;
        Ok(Together::Kept)
    }

    /// Runs a turn again in which one failed after it had written, each request in a savepoint of
    /// its own. A savepoint copies every page that is written after it, so they are the exception.
    fn run_apart(&mut self, turn: &mut [Box<dyn Request>]) -> Outcome<()> {
        self.undo()?;
        self.begin()?;
        for request in turn {
            self.tx.run(sql::SAVEPOINT, ())?;
            match request.run(&self.tx) {
                // What follows may be undone, and this not.
                Verdict::Keep => self.tx.flush()?,
                Verdict::Undo(Some(error)) if self.tx.connection.is_autocommit() => {
                    return Err(Failure::Sqlite(error));
                }
                Verdict::Undo(_) => {
                    self.tx.run(sql::ROLLBACK_TO_SAVEPOINT, ())?;
                    self.tx.forget();
                }
            }
            self.tx.run(sql::RELEASE_SAVEPOINT, ())?;
        }
        self.tx.run(sql::COMMIT, ()).map(drop)
    }

    fn begin(&mut self) -> Outcome<()> {
        let Self { tx, gaps, patience, .. } = self;
        patiently(*patience, || {
            let begun = tx.run(sql::BEGIN, ());
            if begun.as_ref().is_err_and(Failure::is_busy) {
                gaps.contended();
            }
            begun
        })?;
        tx.begun()
    }

    fn undo(&self) -> Outcome<()> {
        self.tx.forget();
        // A full disk and the like have undone the transaction already.
        if self.tx.connection.is_autocommit() {
            return Ok(());
        }
        self.tx.run(sql::ROLLBACK, ()).map(drop)
    }
}

enum Together {
    Kept,
    /// A request wrote something that it does not want.
    Spoilt,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Target;

    const FILL: &str = "INSERT INTO filler VALUES (zeroblob(100000))";

    fn writer() -> (Writer, thread::JoinHandle<()>) {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE filler (bytes BLOB); CREATE TABLE numbers (n INTEGER)")
            .unwrap();
        let target: Target = "sqlite::memory:".parse().unwrap();
        Writer::start(connection, Duration::ZERO, Checkpoints::start(target)).unwrap()
    }

    async fn count(writer: &Writer) -> i64 {
        let sql = "SELECT count(*) FROM numbers";
        writer.write(move |tx| tx.first(sql, (), |row| row.get(0))).await.unwrap().unwrap()
    }

    fn number(tx: &Tx<'_>) -> Outcome<usize> {
        tx.run("INSERT INTO numbers VALUES (1)", ())
    }

    #[tokio::test]
    async fn the_thread_ends_with_the_last_handle() {
        let (writer, thread) = writer();
        let clone = writer.clone();
        drop(writer);
        clone.write(number).await.unwrap();
        assert!(!thread.is_finished());
        drop(clone);
        thread.join().unwrap();
    }

    /// Requests that wait behind a slow one share its transaction.
    #[tokio::test]
    async fn one_failure_sinks_nobody_else() {
        let (writer, _) = writer();
        let (begun, running) = std::sync::mpsc::channel();
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let slow = writer.write(move |tx| {
            // Both ends are gone when it runs again.
            let _ = begun.send(());
            let _ = gate.recv();
            number(tx)
        });
        let failing = writer.write(|tx| {
            number(tx)?;
            tx.run("INSERT INTO nowhere VALUES (1)", ())
        });
        let good = writer.write(number);
        let open_gate = async move {
            tokio::task::spawn_blocking(move || running.recv().unwrap()).await.unwrap();
            go.send(()).unwrap();
        };
        let (slow, failing, good, ()) = tokio::join!(slow, failing, good, open_gate);
        slow.unwrap();
        good.unwrap();
        assert!(failing.unwrap_err().to_string().contains("nowhere"));
        assert_eq!(count(&writer).await, 2);
    }

    #[tokio::test]
    async fn a_full_disk_is_named_and_passes() {
        let (writer, _) = writer();
        let limit = |tx: &Tx<'_>, pages: i64| {
            Ok(tx.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?)
        };
        writer.write(move |tx| limit(tx, 20)).await.unwrap();
        let error = writer
            .write(|tx| {
                number(tx)?;
                tx.run(FILL, ())
            })
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Backend { .. }), "{error:?}");
        assert!(error.to_string().contains("disk is full"), "{error}");
        assert_eq!(count(&writer).await, 0);

        writer.write(move |tx| limit(tx, 1_000)).await.unwrap();
        writer.write(|tx| tx.run(FILL, ())).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_dropped_caller_asked_for_is_not_begun() {
        let (writer, _) = writer();
        let (begun, running) = std::sync::mpsc::channel();
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let busy = tokio::spawn({
            let writer = writer.clone();
            async move {
                let work = move |_: &Tx<'_>| {
                    begun.send(()).unwrap();
                    gate.recv().unwrap();
                    Ok(())
                };
                writer.write(work).await
            }
        });
        tokio::task::spawn_blocking(move || running.recv().unwrap()).await.unwrap();
        {
            let mut dropped = std::pin::pin!(writer.write(number));
            let once = std::future::poll_fn(|context| {
                assert!(dropped.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            });
            once.await;
        }
        go.send(()).unwrap();
        busy.await.unwrap().unwrap();
        assert_eq!(count(&writer).await, 0);
    }
}
