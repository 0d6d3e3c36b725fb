//! What the thread costs that looks for the commits of other processes.

use std::{fs, time::Duration};

use pgqrs::{QueueName, Store};

use super::Place;
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    ours::QUEUE,
    report::Report,
};

const SCENARIO: &str = "sqlite-watcher";
/// The thread's name, cut to what the kernel keeps.
const THREAD: &str = "pgqrs-sqlite-wa";

pub(crate) async fn watcher(place: &Place, options: &Options, report: &mut Report) -> Result<()> {
    Contest::new(SCENARIO, format!("{place}: nothing happens"))
        .contender("ours", || turn(place))
        .run(options.rounds, report)
        .await
}

async fn turn(place: &Place) -> Result<Sample> {
    let file = place.file()?;
    let store = file.store().await?;
    let _wakeups = store.wakeups(&QueueName::new(QUEUE)?);
    // It is alert for 60 seconds after it has begun.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let alert = share_of_a_core(Duration::from_secs(20)).await?;
    tokio::time::sleep(Duration::from_secs(40)).await;
    let drowsy = share_of_a_core(Duration::from_secs(10)).await?;
    let figures = vec![("% of a core, alert", alert), ("% of a core, drowsy", drowsy)];
    Ok(Sample { figures, ..Sample::default() })
}

async fn share_of_a_core(time: Duration) -> Result<f64> {
    let before = processor_time()?;
    tokio::time::sleep(time).await;
    Ok((processor_time()? - before).as_secs_f64() / time.as_secs_f64() * 100.0)
}

/// What the thread has used so far, by the scheduler's clock, in nanoseconds.
fn processor_time() -> Result<Duration> {
    for thread in fs::read_dir("/proc/self/task")? {
        let folder = thread?.path();
        if fs::read_to_string(folder.join("comm"))?.trim() == THREAD {
            let times = fs::read_to_string(folder.join("schedstat"))?;
            let used = times.split(' ').next().ok_or("no schedstat")?;
            return Ok(Duration::from_nanos(used.parse()?));
        }
    }
    Err("the thread does not run".into())
}
