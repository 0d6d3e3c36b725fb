//! The work, the same for all libraries.

use std::time::Duration;

use kit::{Figures, HANDLERS};

use crate::{
    Options, Result,
    contest::{Contest, Sample},
    cost::Cost,
    libraries::{Ability, Library},
    report::Report,
};

/// So many messages come first in a latency and do not count: workers start, connections are made.
const WARM_UP: usize = 50;

/// A database system, with its libraries.
pub(crate) trait Ground {
    /// What the cases are called here.
    const SCENARIOS: Scenarios;
    /// Ours first.
    const LIBRARIES: &'static [Library];
    /// How many consumers drain at once.
    const CONSUMERS: usize;

    /// Does work on a new database, given by its URL or path, in which the library is installed and
    /// has so many messages.
    async fn on_copy<T>(
        &self,
        library: &Library,
        messages: usize,
        work: impl AsyncFnOnce(&str) -> Result<T>,
    ) -> Result<T>;

    /// What was used so far.
    async fn usage(&self, url: &str) -> Result<Cost>;
}

/// Names of the cases' groups.
#[derive(Debug)]
pub(crate) struct Scenarios {
    pub(crate) enqueue: &'static str,
    pub(crate) drain: &'static str,
    pub(crate) pick_up: &'static str,
}

/// Batches by few tasks, single messages by one and by many.
pub(crate) async fn enqueue<G: Ground>(
    ground: &G,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    for (case, batch, tasks) in [
        ("one by one, 1 task", 1, 1),
        ("one by one, 64 tasks", 1, 64),
        ("batches of 100, 4 tasks", 100, 4),
    ] {
        let needed = if batch > 1 { Ability::Batches } else { Ability::Singles };
        let work = words(&format!("enqueue {batch} {tasks} {} {}", u64::MAX, options.millis()));
        let turn = async |ground: &G, library: &Library| {
            ground
                .on_copy(library, 0, async |url| {
                    let figures = measured(ground, library, url, &work).await?;
                    let stored = unfinished(library, url).await?;
                    let enqueued = figures.0.messages;
                    if stored != enqueued {
                        return Err(format!("enqueued {enqueued}, stored {stored}").into());
                    }
                    Ok(rate(figures))
                })
                .await
        };
        contest(ground, options, report, G::SCENARIOS.enqueue, case, &[needed], turn).await?;
    }
    Ok(())
}

/// By workers with handlers that do nothing, and by consumers in batches.
pub(crate) async fn drain<G: Ground>(
    ground: &G,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let (messages, millis, consumers) = (options.messages, options.millis(), G::CONSUMERS);
    let case = format!("worker, {HANDLERS} handlers, {messages} waiting");
    let mut cases = vec![(case, Ability::Worker, words(&format!("work {messages} {millis}")))];
    for batch in [100, 10, 1] {
        let case = format!("consumers: {consumers}, batches of {batch}, {messages} waiting");
        let work = words(&format!("consume {batch} {consumers} {messages} {millis}"));
        cases.push((case, Ability::Consumers, work));
    }
    for (case, needed, work) in cases {
        let turn = async |ground: &G, library: &Library| {
            ground
                .on_copy(library, messages, async |url| {
                    let figures = measured(ground, library, url, &work).await?;
                    let left = unfinished(library, url).await?;
                    check_handled(&figures.0, messages, left)?;
                    Ok(rate(figures))
                })
                .await
        };
        contest(ground, options, report, G::SCENARIOS.drain, &case, &[needed], turn).await?;
    }
    Ok(())
}

/// From an enqueue to its handler, when nothing else is going on.
pub(crate) async fn pick_up<G: Ground>(
    ground: &G,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let messages = WARM_UP + options.pick_ups;
    let limit = Duration::from_secs(10) + Duration::from_millis(30) * messages as u32;
    let limit = limit.as_millis();
    let scenario = G::SCENARIOS.pick_up;
    let latencies = |figures: Figures| -> Result<Sample> {
        check_handled(&figures, messages, 0)?;
        let ages = figures.ages.into_iter().skip(WARM_UP).map(Duration::from_secs_f64);
        Ok(Sample::latencies(ages.collect()))
    };
    let work = words(&format!("work {messages} {limit}"));
    let offer = words(&format!("offer {messages}"));
    let turn = async |ground: &G, library: &Library| {
        ground
            .on_copy(library, 0, async |url| {
                let both = futures::try_join!(library.call(url, &work), library.call(url, &offer))?;
                latencies(both.0)
            })
            .await
    };
    contest(ground, options, report, scenario, "another process", &[Ability::Processes], turn)
        .await?;
    let both = words(&format!("work-and-offer {messages} {limit}"));
    let turn = async |ground: &G, library: &Library| {
        ground.on_copy(library, 0, async |url| latencies(library.call(url, &both).await?)).await
    };
    contest(ground, options, report, scenario, "the same process", &[Ability::Singles], turn).await
}

/// Makes what the library needs in an empty database, and enqueues so many messages there.
pub(crate) async fn install(library: &Library, url: &str, messages: usize) -> Result<()> {
    /// More than that takes too long to be worth waiting for.
    const MILLIS: u32 = 100_000;
    library.call(url, &words("install")).await?;
    if messages == 0 {
        return Ok(());
    }
    let (batch, tasks) = if library.can(Ability::Batches) { (1_000, 2) } else { (1, 64) };
    library.call(url, &words(&format!("enqueue {batch} {tasks} {messages} {MILLIS}"))).await?;
    let stored = unfinished(library, url).await?;
    if stored == messages {
        return Ok(());
    }
    Err(format!("{}: enqueued {messages} messages, stored {stored}", library.name).into())
}

/// Lets the libraries that are able to, and are asked for, have their turns.
async fn contest<G: Ground>(
    ground: &G,
    options: &Options,
    report: &mut Report,
    scenario: &'static str,
    case: &str,
    needed: &[Ability],
    turn: impl AsyncFn(&G, &Library) -> Result<Sample>,
) -> Result<()> {
    let turn = &turn;
    let mut contest = Contest::new(scenario, case);
    for library in G::LIBRARIES {
        if options.wants(library) && needed.iter().all(|&ability| library.can(ability)) {
            contest = contest.contender(library.name, move || turn(ground, library));
        }
    }
    contest.run(options.rounds, report).await
}

/// What a task yields, and what it costs.
async fn measured<G: Ground>(
    ground: &G,
    library: &Library,
    url: &str,
    task: &[String],
) -> Result<(Figures, Cost)> {
    let before = ground.usage(url).await?;
    let figures = library.call(url, task).await?;
    let cost = ground.usage(url).await?.since(&before, figures.messages.max(1));
    Ok((figures, cost))
}

fn rate((figures, cost): (Figures, Cost)) -> Sample {
    let took = Duration::from_secs_f64(figures.seconds.max(1e-6));
    Sample { cost, ..Sample::rate(figures.messages, took) }
}

async fn unfinished(library: &Library, url: &str) -> Result<usize> {
    Ok(library.call(url, &words("unfinished")).await?.messages)
}

/// Every message was handled once; what was not handled is still there.
fn check_handled(figures: &Figures, messages: usize, left: usize) -> Result<()> {
    let Figures { messages: handled, repeated, .. } = *figures;
    if repeated > 0 {
        return Err(format!("{repeated} of {handled} messages were handled twice").into());
    }
    if handled == messages && left > 0 {
        return Err(format!("all {messages} messages were handled, {left} are not finished").into());
    }
    if handled + left < messages {
        return Err(format!("{messages} messages: {handled} handled, {left} left").into());
    }
    Ok(())
}

fn words(task: &str) -> Vec<String> {
    task.split_whitespace().map(str::to_owned).collect()
}
