//! A long life: speed, memory and file of one store while the archive is swept behind it.

use std::{fs, time::Duration};

use pgqrs::{BatchSize, QueueChanges, QueueName, Retention, Store, Sweep, UpdateQueue};

use super::Place;
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    ours::{self, QUEUE},
    report::Report,
};

const SCENARIO: &str = "sqlite-steady";
/// How often it is looked at the file and at memory.
const STAGES: usize = 10;

pub(crate) async fn steady(place: &Place, options: &Options, report: &mut Report) -> Result<()> {
    let messages = options.scaled(1_000_000);
    Contest::new(SCENARIO, format!("{place}: {messages} messages, retention of a second"))
        .contender("ours", || turn(place, messages))
        .run(1, report)
        .await
}

async fn turn(place: &Place, messages: usize) -> Result<Sample> {
    let file = place.file()?;
    let store = file.store().await?;
    let retention = Some(Retention::For(Duration::from_secs(1)));
    let changes = QueueChanges { retention, ..QueueChanges::default() };
    store.update_queue(UpdateQueue { queue: QueueName::new(QUEUE)?, changes }).await?;
    let mut stages = Vec::new();
    for stage in ours::shares(messages, STAGES) {
        let mut took = Duration::ZERO;
        for batch in ours::batches(stage, 1_000) {
            took += ours::enqueue_batches(&store, batch, 1_000, 1).await?;
            took += ours::drain(&store, batch, 100, 1).await?.took;
            store.sweep(Sweep { limit: BatchSize::MAX, now: None }).await?;
        }
        let size = fs::metadata(&file.path)?.len() as f64 / 1_048_576.0;
        stages.push((stage as f64 / took.as_secs_f64(), size, resident()?));
    }
    let (second, last) = match stages[..] {
        [_, second, .., last] => (second, last),
        _ => return Err("there are too few messages".into()),
    };
    let figures = vec![
        ("messages/s in the second tenth", second.0),
        ("messages/s in the last tenth", last.0),
        ("MiB of file after the second tenth", second.1),
        ("MiB of file at the end", last.1),
        ("MiB of memory after the second tenth", second.2),
        ("MiB of memory at the end", last.2),
    ];
    Ok(Sample { figures, ..Sample::default() })
}

/// The process's resident memory in MiB.
fn resident() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS")?;
    Ok(kib.trim().parse::<f64>()? / 1_024.0)
}
