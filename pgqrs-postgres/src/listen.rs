//! Wake-ups between processes: NOTIFY after what may have made messages ready, LISTEN on a
//! connection of its own.
//!
//! NOTIFY takes a lock on the whole server at commit, so it is sent apart from the work that it
//! tells of, without payload, and at most once per [`WINDOW`] and queue: the first right behind its
//! enqueue, on the same connection, without a way there and back in between. A listener is trusted when
//! a notification of its own has come back: through a transaction pooler LISTEN succeeds and then
//! nothing ever arrives.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use pgqrs::{Backoff, QueueName, Reach, Result, Signals, Wakeups};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Notifications,
    error::{TOO_LATE, from_driver, unavailable},
    known,
    migrate::checksum,
    pool::params,
    store::Inner,
    url::Target,
};

/// At most one NOTIFY per queue and store in this time; the first goes out at once.
const WINDOW: Duration = Duration::from_millis(5);
/// How long a self-test waits for its own notification.
const SELF_TEST: Duration = Duration::from_secs(3);
/// How often a listener is tested again.
const TEST_EVERY: Duration = Duration::from_secs(60);
/// How often a listener looks whether new queues are waited for, or none any more.
const LOOK: Duration = Duration::from_millis(50);

/// The signals of a store, fed by its own calls and by its listener.
pub(crate) struct Listener {
    pub(crate) signals: Signals,
    pub(crate) mode: Notifications,
    config: Config,
    tls: MakeRustlsConnect,
    schema: String,
    waited_for: Mutex<WaitedFor>,
    sent: Mutex<HashMap<QueueName, Sent>>,
}

/// The queues to listen for, and whether a task does.
#[derive(Debug, Default)]
struct WaitedFor {
    queues: HashSet<QueueName>,
    is_listening: bool,
}

/// When the last NOTIFY of a queue went out, and whether one more is to follow.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    is_pending: bool,
}

impl Listener {
    pub(crate) fn new(target: Target, schema: &str, mode: Notifications) -> Result<Self> {
        Ok(Self {
            signals: Signals::default(),
            mode,
            tls: target.tls.connector()?,
            config: target.config,
            schema: schema.to_owned(),
            waited_for: Mutex::default(),
            sent: Mutex::default(),
        })
    }

    /// The channel of a queue: fits 63 bytes whatever the names are.
    fn channel(&self, queue: &QueueName) -> String {
        format!("pgqrs_{:016x}", checksum(&format!("{} {queue}", self.schema)))
    }

    /// Whether a NOTIFY of `queue` may go out now; the caller sends it then.
    fn is_turn(&self, queue: &QueueName) -> bool {
        let (mut sent, now) = (lock(&self.sent), Instant::now());
        let last = sent.get(queue);
        let is_turn = last.is_none_or(|last| !last.is_pending && now >= last.at + WINDOW);
        if is_turn {
            sent.insert(queue.clone(), Sent { at: now, is_pending: false });
        }
        is_turn
    }

    /// When the caller is to send the next one; `None` if somebody else is to.
    fn next_turn(&self, queue: &QueueName) -> Option<Instant> {
        let mut sent = lock(&self.sent);
        let last = sent.get_mut(queue).filter(|last| !last.is_pending)?;
        last.is_pending = true;
        Some(last.at + WINDOW)
    }
}

/// Wakes whoever waits for `queue` in this process: their next claim begins at once.
pub(crate) fn wake(store: &Inner, queue: &QueueName) {
    known::told(store, queue);
    store.listener.signals.notify(queue);
}

/// Wakes whoever waits for `queue`, here and in other processes. Returns at once.
pub(crate) fn notify(store: &Arc<Inner>, queue: &QueueName) {
    wake(store, queue);
    if store.listener.mode == Notifications::Off {
        return;
    }
    let is_turn = store.listener.is_turn(queue);
    let later = if is_turn { None } else { store.listener.next_turn(queue) };
    if !is_turn && later.is_none() {
        return;
    }
    let (store, queue) = (store.clone(), queue.clone());
    tokio::spawn(async move {
        // Timers end up to a millisecond late: nothing waits for one without need.
        if let Some(later) = later {
            tokio::time::sleep_until(later).await;
            let sent = Sent { at: Instant::now(), is_pending: false };
            lock(&store.listener.sent).insert(queue.clone(), sent);
        }
        if let Err(error) = send(&store, &queue).await {
            tracing::debug!(%error, "could not notify; others find the message by polling");
        }
    });
}

/// The channel of a NOTIFY to be sent right behind a statement that makes messages of `queue` ready,
/// if one may go out now. A pooler may give the two to different connections: then it waits for the
/// commit.
pub(crate) fn notice(store: &Inner, queue: &QueueName) -> Option<String> {
    let listener = &store.listener;
    let may_follow = listener.mode == Notifications::On && !store.pool.is_unnamed();
    (may_follow && listener.is_turn(queue)).then(|| listener.channel(queue))
}

/// Wakes whoever waits for a queue that this store has lately told of or waits for itself: what was
/// freed is one of theirs, or is found by polling.
pub(crate) fn notify_all(store: &Arc<Inner>) {
    store.listener.signals.notify_all();
    let waited_for = lock(&store.listener.waited_for).queues.clone();
    let told_of = lock(&store.listener.sent).keys().cloned().collect();
    waited_for.union(&told_of).for_each(|queue| notify(store, queue));
}

/// Sends a NOTIFY and waits until it is out.
pub(crate) async fn send(store: &Inner, queue: &QueueName) -> Result<()> {
    send_to(store, &store.listener.channel(queue)).await
}

async fn send_to(store: &Inner, channel: &str) -> Result<()> {
    store.pool.query(&store.sql.notify, params![channel]).await.map(drop)
}

/// Wake-ups for `queue`; a listener works while anybody in this process has some.
pub(crate) fn subscribe(store: &Arc<Inner>, queue: &QueueName) -> Wakeups {
    let listener = &store.listener;
    let wakeups = listener.signals.subscribe(queue);
    if listener.mode == Notifications::On && tokio::runtime::Handle::try_current().is_ok() {
        let mut waited_for = lock(&listener.waited_for);
        waited_for.queues.insert(queue.clone());
        if !waited_for.is_listening {
            waited_for.is_listening = true;
            tokio::spawn(listen(Arc::downgrade(store)));
        }
    }
    wakeups
}

async fn listen(store: Weak<Inner>) {
    let mut errors = 0;
    let pauses =
        Backoff::Exponential { base: Duration::from_millis(200), max: Duration::from_secs(10) };
    while let Some(inner) = store.upgrade() {
        let (config, tls) = (inner.listener.config.clone(), inner.listener.tls.clone());
        drop(inner);
        let began = Instant::now();
        match session(&store, config, tls).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "lost the LISTEN connection; polling until it is back")
            }
        }
        if let Some(inner) = store.upgrade() {
            inner.listener.signals.set_reach(Reach::Process);
            // Something may have been missed.
            inner.listener.signals.notify_all();
        }
        errors = if began.elapsed() > TEST_EVERY { 1 } else { errors + 1 };
        sleep(pauses.delay(errors).duration()).await;
    }
}

/// Listens until nobody waits any more (`Ok`) or the connection fails.
async fn session(
    store: &Weak<Inner>,
    config: Config,
    tls: MakeRustlsConnect,
) -> Result<(), tokio_postgres::Error> {
    let (client, mut notifications, mut reading) = open(config, tls).await?;
    let own = own_channel();
    client.batch_execute(&format!("LISTEN {own}")).await?;
    let mut channels = HashMap::new();
    let mut next_test = Instant::now();
    let mut testing: Option<Instant> = None;
    loop {
        let Some(inner) = store.upgrade() else { return Ok(()) };
        let listener = &inner.listener;
        if is_over(listener) {
            return Ok(());
        }
        let is_new = listen_to_new(&client, listener, &mut channels).await?;
        if is_new || Instant::now() >= next_test {
            next_test = Instant::now() + TEST_EVERY;
            testing = Some(self_test(&inner, &own));
        }
        if testing.is_some_and(|since| since.elapsed() > SELF_TEST) {
            testing = None;
            listener.signals.set_reach(Reach::Process);
            tracing::warn!(
                "a notification did not come back: a pooler between? Polling instead; give \
                 Options::listen_url a direct connection"
            );
        }
        drop(inner);
        let heard = tokio::select! {
            heard = timeout(LOOK, notifications.recv()) => heard,
            ended = &mut reading => return ended.unwrap_or(Ok(())),
        };
        let Some(inner) = store.upgrade() else { return Ok(()) };
        if let Ok(Some(channel)) = heard {
            if testing.take().is_some() {
                inner.listener.signals.set_reach(Reach::Everywhere);
            }
            if let Some(queue) = channels.get(&channel) {
                wake(&inner, queue);
            }
        }
    }
}

type Reading = AbortOnDropHandle<Result<(), tokio_postgres::Error>>;

/// A connection, the channels whose notifications it hears, and the task that reads them.
async fn open(
    config: Config,
    tls: MakeRustlsConnect,
) -> Result<(Client, UnboundedReceiver<String>, Reading), tokio_postgres::Error> {
    let (client, mut connection) = config.connect(tls).await?;
    let (heard, notifications) = tokio::sync::mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        // Ends with the connection, which drops `heard`.
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => {
                    if heard.send(notification.channel().to_owned()).is_err() {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    Ok((client, notifications, AbortOnDropHandle::new(reading)))
}

/// Whether a notification of this store comes back on a connection that listens.
pub(crate) async fn is_heard(store: &Inner) -> Result<bool> {
    let listener = &store.listener;
    let channel = own_channel();
    let listening = async {
        let (client, notifications, reading) =
            open(listener.config.clone(), listener.tls.clone()).await?;
        client.batch_execute(&format!("LISTEN {channel}")).await?;
        Ok::<_, tokio_postgres::Error>((client, notifications, reading))
    };
    let listening = timeout(store.pool.connect_timeout, listening).await;
    let listening = listening.map_err(|_| unavailable(TOO_LATE.into()))?;
    let (_client, mut notifications, _reading) = listening.map_err(from_driver)?;
    send_to(store, &channel).await?;
    Ok(matches!(timeout(SELF_TEST, notifications.recv()).await, Ok(Some(_))))
}

/// Whether the listener is to end because nobody waits.
fn is_over(listener: &Listener) -> bool {
    let mut waited_for = lock(&listener.waited_for);
    let is_over = !listener.signals.has_subscribers();
    if is_over {
        *waited_for = WaitedFor::default();
        listener.signals.set_reach(Reach::Process);
    }
    is_over
}

/// Listens to the channels of queues that are newly waited for; whether there are any.
async fn listen_to_new(
    client: &Client,
    listener: &Listener,
    channels: &mut HashMap<String, QueueName>,
) -> Result<bool, tokio_postgres::Error> {
    let queues = lock(&listener.waited_for).queues.clone();
    let mut is_new = false;
    for queue in queues {
        let channel = listener.channel(&queue);
        if let Entry::Vacant(entry) = channels.entry(channel) {
            let channel = entry.key();
            client.batch_execute(&format!("LISTEN {channel}")).await?;
            // What was enqueued before it took effect.
            listener.signals.notify(&queue);
            entry.insert(queue);
            is_new = true;
        }
    }
    Ok(is_new)
}

/// A channel on which nobody else listens, nor waits for messages.
fn own_channel() -> String {
    format!("pgqrs_{:016x}", checksum(&format!("{} {:?}", std::process::id(), Instant::now())))
}

/// Sends a notification to the listener's own channel, by another connection.
fn self_test(store: &Arc<Inner>, own: &str) -> Instant {
    let (store, own) = (store.clone(), own.to_owned());
    tokio::spawn(async move { send_to(&store, &own).await });
    Instant::now()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
