//! The latency of wake-ups.

use std::{path::Path, time::Duration};

use super::{Place, Synchronous, floor::Floor};
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    latency::{
        Kind, Producer, WARM_UP, after_warm_up, age, ended, offer_from_child, paced, pick_up,
        stamped,
    },
    report::Report,
};

const SCENARIO: &str = "sqlite-wake";
const LOOK: Duration = Duration::from_millis(1);

pub(crate) async fn wake(place: &Place, options: &Options, report: &mut Report) -> Result<()> {
    let messages = WARM_UP + options.scaled(200);
    Contest::new(SCENARIO, format!("{place}: enqueue to handler, idle, another process"))
        .contender("ours", || ours(place, messages))
        .contender("bare, data_version every 1 ms", || bare(place, messages))
        .run(options.rounds, report)
        .await?;
    Contest::new(SCENARIO, format!("{place}: enqueue to handler, idle, the same process"))
        .contender("ours", || own(place, messages))
        .run(options.rounds, report)
        .await
}

async fn ours(place: &Place, messages: usize) -> Result<Sample> {
    let file = place.file()?;
    let store = file.store().await?;
    let ages = pick_up(&store, Producer::Process(&file.url()), messages).await?;
    Ok(after_warm_up(ages))
}

async fn own(place: &Place, messages: usize) -> Result<Sample> {
    let file = place.file()?;
    let store = file.store().await?;
    Ok(after_warm_up(pick_up(&store, Producer::Own, messages).await?))
}

async fn bare(place: &Place, messages: usize) -> Result<Sample> {
    let file = place.file()?;
    let mut floor = file.floor()?;
    let child = offer_from_child(&file.url(), Kind::Bare, messages)?;
    let (mut ages, mut seen): (Vec<Duration>, _) = (Vec::new(), floor.data_version()?);
    while ages.len() < messages {
        tokio::time::sleep(LOOK).await;
        let version = floor.data_version()?;
        if std::mem::replace(&mut seen, version) != version {
            for (_, payload) in floor.transaction(|floor| floor.claim(100))? {
                ages.extend(age(&serde_json::from_str(&payload)?));
            }
        }
    }
    ended(child).await?;
    Ok(after_warm_up(ages))
}

/// The child's side of the bare latency.
pub(crate) async fn offer_bare(url: &str, messages: usize) -> Result<()> {
    let (path, parameters) = url.split_once('?').unwrap_or((url, ""));
    let path = path.strip_prefix("sqlite:///").ok_or("no sqlite URL")?;
    let full = parameters == "synchronous=full";
    let synchronous = if full { Synchronous::Full } else { Synchronous::Normal };
    let mut floor = Floor::open(Path::new(path), synchronous)?;
    paced(messages, async || {
        let payload = stamped(Duration::ZERO).to_string();
        floor.transaction(|floor| floor.enqueue(&payload)).map(drop)
    })
    .await
}
