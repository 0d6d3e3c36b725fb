//! Run loops in processes of their own, which share a queue.

use std::{
    env,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, stdin},
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Result,
    ours::{Ours, QUEUE, warm_up},
};

/// A worker ends when it has had nothing to do for this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Processes that are ready to work.
pub(crate) struct Crew {
    children: Vec<Child>,
}

impl Crew {
    /// Starts `size` processes, each with a run loop of so many handlers, and waits until all are
    /// warm.
    pub(crate) async fn start(url: &str, size: usize, concurrency: usize) -> Result<Self> {
        let mut children = Vec::with_capacity(size);
        for _ in 0..size {
            let mut command = Command::new(env::current_exe()?);
            command.args(["--work", &concurrency.to_string(), "--url", url]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            children.push(command.spawn()?);
        }
        for child in &mut children {
            let mut ready = [0];
            child.stdout.as_mut().ok_or("no output")?.read_exact(&mut ready).await?;
        }
        Ok(Self { children })
    }

    /// Lets them work until the queue is empty; how long it took from here to the last message.
    pub(crate) async fn drain(mut self, messages: usize) -> Result<Duration> {
        let started = micros();
        for child in &mut self.children {
            child.stdin.as_mut().ok_or("no input")?.write_all(b"\n").await?;
        }
        let (mut handled, mut last) = (0, started);
        for child in &mut self.children {
            let mut told = String::new();
            child.stdout.as_mut().ok_or("no output")?.read_to_string(&mut told).await?;
            let (count, at) = told.trim().split_once(' ').ok_or("a worker failed")?;
            handled += count.parse::<usize>()?;
            last = last.max(at.parse()?);
        }
        if handled != messages {
            return Err(format!("{handled} handled, not {messages}").into());
        }
        Ok(Duration::from_micros(last - started))
    }
}

/// A worker's side.
pub(crate) async fn work<S: Ours>(store: &S, concurrency: usize) -> Result<()> {
    warm_up(store).await?;
    println!();
    BufReader::new(stdin()).lines().next_line().await?;
    let (last, stop) = (Arc::new(AtomicU64::new(micros())), CancellationToken::new());
    let watching = {
        let (last, stop) = (last.clone(), stop.clone());
        async move {
            while Duration::from_micros(micros() - last.load(Ordering::Relaxed)) < PATIENCE {
                tokio::time::sleep(PATIENCE / 10).await;
            }
            stop.cancel();
            Ok(())
        }
    };
    let touched = last.clone();
    let handle = pgqrs::dequeue().from(QUEUE).handle(move |_| {
        touched.store(micros(), Ordering::Relaxed);
        async { Ok(()) }
    });
    let polling = handle.concurrency(concurrency).until(stop).poll(store);
    let (report, ()) = futures::try_join!(polling, watching)?;
    println!("{} {}", report.handled, last.load(Ordering::Relaxed));
    Ok(())
}

fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}
