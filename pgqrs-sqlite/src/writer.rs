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
    connection::{LONGEST_LOOK, patiently},
    error::{Failure, Outcome, is_busy},
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
    ) -> Result<(Self, thread::JoinHandle<()>)> {
        let (requests, waiting) = mpsc::channel(WAITING);
        let turns = Turns { connection, waiting, patience, gaps: Gaps::default() };
        let thread = thread::Builder::new()
            .name("pgqrs-sqlite".into())
            .spawn(move || turns.take_all())
            .map_err(|error| Error::Backend {
                reason: "the system refuses another thread".into(),
                source: Some(Box::new(error)),
            })?;
        Ok((Self { requests }, thread))
    }

    /// Runs `work` in a transaction, again if that must be begun anew, and answers once it is
    /// committed. If the caller is dropped, `work` takes effect wholly or not at all.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let (caller, answered) = oneshot::channel();
        let sent = self.requests.send(Box::new(Call { work, outcome: None, caller })).await;
        sent.map_err(|_| ended("its writer has ended"))?;
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
struct Turns {
    connection: Connection,
    waiting: mpsc::Receiver<Box<dyn Request>>,
    patience: Duration,
    gaps: Gaps,
}

impl Turns {
    fn take_all(mut self) {
        let mut turn = Vec::new();
        while let Some(request) = self.next_request() {
            turn.push(request);
            let outcome = self.take(&mut turn);
            for request in turn.drain(..) {
                request.answer(outcome.as_ref().map(|_| ()).map_err(Failure::shared));
            }
        }
    }

    fn next_request(&mut self) -> Option<Box<dyn Request>> {
        if let Ok(request) = self.waiting.try_recv() {
            self.gaps.leave();
            return Some(request);
        }
        let idle = Instant::now();
        let request = self.waiting.blocking_recv();
        self.gaps.left(idle.elapsed());
        request
    }

    /// Takes a turn that has its first request.
    fn take(&mut self, turn: &mut Vec<Box<dyn Request>>) -> Outcome<()> {
        if let Err(failure) = self.begin() {
            // They have waited as long as this one.
            turn.extend(std::iter::from_fn(|| self.waiting.try_recv().ok()).take(WAITING));
            return Err(failure);
        }
        let started = Instant::now();
        let outcome = match self.run_together(turn, started) {
            Ok(Together::Kept) => self.execute("COMMIT"),
            Ok(Together::Spoilt) => self.run_apart(turn),
            Err(failure) => Err(failure),
        };
        if outcome.is_err() && !self.connection.is_autocommit() {
            // Nothing is left to do about a rollback that fails: the next turn's BEGIN reports it.
            let _ = self.execute("ROLLBACK");
        }
        self.gaps.held(started.elapsed());
        outcome
    }

    /// Runs requests while some are waiting, none of them protected from the others.
    fn run_together(
        &mut self,
        turn: &mut Vec<Box<dyn Request>>,
        started: Instant,
    ) -> Outcome<Together> {
        let tx = Tx::new(&self.connection);
        let mut next = 0;
        while let Some(request) = turn.get_mut(next) {
            let before = self.connection.total_changes();
            if let Verdict::Undo(error) = request.run(&tx)
                && (error.is_some() || self.connection.total_changes() != before)
            {
                return Ok(Together::Spoilt);
            }
            next += 1;
            if next < PER_COMMIT && started.elapsed() < LONGEST_TURN {
                turn.extend(self.waiting.try_recv().ok());
            }
        }
        tx.flush()?;
        Ok(Together::Kept)
    }

    /// Runs a turn again in which one failed after it had written, each request in a savepoint of
    /// its own. A savepoint copies every page that is written after it, so they are the exception.
    fn run_apart(&mut self, turn: &mut [Box<dyn Request>]) -> Outcome<()> {
        // A full disk and the like have undone the transaction already.
        if !self.connection.is_autocommit() {
            self.execute("ROLLBACK")?;
        }
        self.begin()?;
        let tx = Tx::new(&self.connection);
        for request in turn {
            self.execute("SAVEPOINT request")?;
            if let Verdict::Undo(error) = request.run(&tx) {
                match error {
                    Some(error) if self.connection.is_autocommit() => {
                        return Err(Failure::Sqlite(error));
                    }
                    _ => self.execute("ROLLBACK TO request")?,
                }
                tx.forget_queues();
            }
            self.execute("RELEASE request")?;
        }
        tx.flush()?;
        self.execute("COMMIT")
    }

    fn begin(&mut self) -> Outcome<()> {
        let Self { connection, gaps, patience, .. } = self;
        let begun = patiently(*patience, || {
            let begun = connection.prepare_cached("BEGIN IMMEDIATE")?.execute(());
            if begun.as_ref().is_err_and(is_busy) {
                gaps.contended();
            }
            begun.map(drop)
        });
        Ok(begun?)
    }

    fn execute(&self, sql: &str) -> Outcome<()> {
        self.connection.prepare_cached(sql)?.execute(())?;
        Ok(())
    }
}

enum Together {
    Kept,
    /// A request wrote something that it does not want.
    Spoilt,
}

/// Gaps between transactions, for the other processes on the file. SQLite's lock has no queue:
/// they only see it free if it is free for longer than they sleep between two looks.
#[derive(Debug, Default)]
struct Gaps {
    held: Duration,
    contended: Option<Instant>,
}

impl Gaps {
    const GAP: Duration = LONGEST_LOOK.saturating_add(Duration::from_micros(200));
    /// How long the lock may be held without a gap when others have been seen lately, and when not.
    const HELD_AMONG_OTHERS: Duration = Duration::from_millis(5);
    const HELD_ALONE: Duration = Duration::from_millis(50);
    const LATELY: Duration = Duration::from_secs(1);

    fn held(&mut self, time: Duration) {
        self.held += time;
    }

    fn contended(&mut self) {
        self.contended = Some(Instant::now());
    }

    fn left(&mut self, time: Duration) {
        if time >= Self::GAP {
            self.held = Duration::ZERO;
        }
    }

    fn leave(&mut self) {
        let others = self.contended.is_some_and(|seen| seen.elapsed() < Self::LATELY);
        let allowed = if others { Self::HELD_AMONG_OTHERS } else { Self::HELD_ALONE };
        if self.held >= allowed {
            thread::sleep(Self::GAP);
            self.held = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILL: &str = "INSERT INTO filler VALUES (zeroblob(100000))";

    fn writer() -> (Writer, thread::JoinHandle<()>) {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE filler (bytes BLOB); CREATE TABLE numbers (n INTEGER)")
            .unwrap();
        Writer::start(connection, Duration::ZERO).unwrap()
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
