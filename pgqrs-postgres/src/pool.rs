//! Connections: a pool, a timeout on everything, and no connection reused whose call was cut short.

use std::{
    fmt,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use pgqrs::{Error, Result};
use tokio::time::timeout;
use tokio_postgres::{
    Config, Row,
    error::{DbError, Severity, SqlState},
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    Options, StatementMode,
    error::{TOO_LATE, from_driver, from_pool, sqlstate, unavailable},
    pooler::{self, Link},
    session::SESSION,
    url::Target,
};

/// Parameters of a statement, each with its type: poolers may not let us ask the server for it.
pub(crate) type Params<'a> = [&'a dyn Typed];

/// A value that knows which Postgres type it is sent as.
pub trait Typed: ToSql + Sync {
    /// That type.
    fn pg_type(&self) -> Type;
}

macro_rules! typed {
    ($($type:ty: $one:ident, $many:ident;)*) => {$(
        typed!(@ $one: $type, Option<$type>);
        typed!(@ $many: Vec<$type>, Option<Vec<$type>>, Vec<Option<$type>>);
    )*};
    (@ $pg:ident: $($type:ty),*) => {$(
        impl Typed for $type {
            fn pg_type(&self) -> Type {
                Type::$pg
            }
        }
    )*};
}

typed! {
    bool: BOOL, BOOL_ARRAY;
    i16: INT2, INT2_ARRAY;
    i32: INT4, INT4_ARRAY;
    i64: INT8, INT8_ARRAY;
    &str: TEXT, TEXT_ARRAY;
    String: TEXT, TEXT_ARRAY;
    DateTime<Utc>: TIMESTAMPTZ, TIMESTAMPTZ_ARRAY;
}

/// The parameters of a statement.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$(&$value as &dyn $crate::pool::Typed),*] };
}
pub(crate) use params;

/// The connections of a store.
pub(crate) struct Pool {
    pool: deadpool_postgres::Pool,
    pub(crate) config: Config,
    pub(crate) tls: MakeRustlsConnect,
    mode: StatementMode,
    /// Whether statements go unnamed at present.
    unnamed: AtomicBool,
    pub(crate) connect_timeout: Duration,
    call_timeout: Duration,
    statement_timeout: Option<Duration>,
    lock_timeout: Option<Duration>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Pool {
    /// Looks what stands between, and makes the pool for that. In [`StatementMode::Auto`]
    /// statements are prepared if it is nothing.
    pub(crate) async fn connect(target: Target, options: &Options) -> Result<Self> {
        let (tls, config) = (target.tls.connector()?, target.config);
        let link = timeout(options.connect_timeout, pooler::probe(&config, &tls)).await;
        let link = link.map_err(|_| unavailable(TOO_LATE.into()))??;
        let mut of_session = config.clone();
        if link == Link::Direct {
            let limits = limits(options.statement_timeout, options.lock_timeout);
            let limits = limits.map(|(name, limit)| format!(" -c {name}={limit}"));
            let options = config.get_options().unwrap_or_default().to_owned();
            of_session.options(limits.fold(options, |options, limit| options + &limit));
        }
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(of_session, tls.clone(), recycling);
        let settle_in = Hook::async_fn(move |client, _| {
            Box::pin(async move {
                match link {
                    Link::Direct => client.batch_execute(SESSION).await.map_err(HookError::Backend),
                    Link::Pooled => Ok(()),
                }
            })
        });
        let pool = deadpool_postgres::Pool::builder(manager)
            .post_create(settle_in)
            .max_size(options.pool_size.max(1))
            // Few sessions that are warm, rather than all in turns.
            .queue_mode(QueueMode::Lifo)
            .timeouts(Timeouts {
                wait: Some(options.call_timeout),
                create: Some(options.connect_timeout),
                recycle: Some(options.connect_timeout),
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::Backend { reason: error.to_string(), source: None })?;
        let Options { statements: mode, connect_timeout, call_timeout, .. } = *options;
        let Options { statement_timeout, lock_timeout, .. } = *options;
        let unnamed = match mode {
            StatementMode::Prepared => false,
            StatementMode::Unnamed => true,
            StatementMode::Auto => link == Link::Pooled,
        };
        if unnamed && mode == StatementMode::Auto {
            tracing::info!("a pooler stands between: statements go unnamed");
        }
        let unnamed = AtomicBool::new(unnamed);
        Ok(Self {
            pool,
            config,
            tls,
            mode,
            unnamed,
            connect_timeout,
            call_timeout,
            statement_timeout,
            lock_timeout,
        })
    }

    /// How long a call may take.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// Runs one statement by itself.
    pub(crate) async fn query(&self, sql: &str, params: &Params<'_>) -> Result<Vec<Row>> {
        let mut session = self.session().await?;
        let rows = session.query(sql, params).await;
        session.finish();
        rows
    }

    /// Runs one statement by itself that answers with one row.
    pub(crate) async fn query_one(&self, sql: &str, params: &Params<'_>) -> Result<Row> {
        only(self.query(sql, params).await?)
    }

    /// Whether statements go unnamed at present.
    pub(crate) fn is_unnamed(&self) -> bool {
        self.unnamed.load(Ordering::Relaxed)
    }

    /// Begins a transaction, to be ended by [`Session::end`]. Dropped, it is rolled back.
    pub(crate) async fn begin(&self) -> Result<Session<'_>> {
        self.begin_with(self.statement_timeout).await
    }

    /// Begins a transaction whose statements may take ten times as long.
    pub(crate) async fn begin_long(&self) -> Result<Session<'_>> {
        let mut session = self.begin_with(self.statement_timeout.map(|limit| limit * 10)).await?;
        session.timeout *= 10;
        Ok(session)
    }

    /// The limits hold for the transaction alone: a pooler hands the session on after it.
    async fn begin_with(&self, statement_timeout: Option<Duration>) -> Result<Session<'_>> {
        let mut session = self.session().await?;
        let limits = limits(statement_timeout, self.lock_timeout);
        let limits = limits.map(|(name, limit)| format!("; SET LOCAL {name} = {limit}"));
        session.batch(&limits.fold(String::from("BEGIN"), |begin, limit| begin + &limit)).await?;
        Ok(session)
    }

    /// Whether the call that failed with `error` did nothing and may be repeated at once. Notices
    /// signs of a pooler that mixes up prepared statements.
    pub(crate) fn may_repeat(&self, error: &Error) -> bool {
        let Some(code) = sqlstate(error) else {
            return false;
        };
        let mixed_up = [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT];
        if mixed_up.contains(&code) && self.mode == StatementMode::Auto {
            let first = !self.unnamed.swap(true, Ordering::Relaxed);
            if first {
                tracing::warn!(%error, "a pooler mixes up prepared statements: sending them unnamed");
            }
            return first;
        }
        [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE].contains(&code)
    }

    /// A connection for statements that each stand by themselves, given back by
    /// [`Session::finish`].
    pub(crate) async fn session(&self) -> Result<Session<'_>> {
        let object = Some(self.pool.get().await.map_err(from_pool)?);
        let timeout = self.call_timeout;
        Ok(Session { pool: self, object, timeout, busy: false, behind: None })
    }
}

/// A connection in use. It goes back to the pool by [`finish`](Self::finish) and
/// [`end`](Self::end) only; dropped before that it is closed, and what it was doing cancelled.
pub(crate) struct Session<'p> {
    pool: &'p Pool,
    object: Option<Object>,
    timeout: Duration,
    /// A statement is on its way, unanswered.
    busy: bool,
    /// What goes out right behind the next statement: a statement and its parameter.
    behind: Option<(&'p str, String)>,
}

impl<'p> Session<'p> {
    /// Has this statement, with its one parameter, sent right behind the next one, as a transaction
    /// of its own. Nobody waits for it: the connection may go on with the next statement before it is
    /// answered. Only where statements are prepared.
    pub(crate) fn send_behind(&mut self, statement: Option<(&'p str, String)>) {
        self.behind = statement;
    }

    /// Runs a statement.
    pub(crate) async fn query(&mut self, sql: &str, params: &Params<'_>) -> Result<Vec<Row>> {
        let Some(client) = &self.object else {
            return Err(unavailable("the connection was given back".into()));
        };
        let (unnamed, behind) = (self.pool.is_unnamed(), self.behind.take());
        let answer = async {
            let typed = params.iter().map(|value| (*value as &(dyn ToSql + Sync), value.pg_type()));
            if unnamed {
                return client.query_typed(sql, &typed.collect::<Vec<_>>()).await;
            }
            let (values, types): (Vec<_>, Vec<_>) = typed.unzip();
            let statement = client.prepare_typed_cached(sql, &types).await?;
            let Some((sql, parameter)) = &behind else {
                return client.query(&statement, &values).await;
            };
            let follower = client.prepare_typed_cached(sql, &[Type::TEXT]).await?;
            let parameter: &[&(dyn ToSql + Sync)] = &[parameter];
            let mut answer = pin!(client.query(&statement, &values));
            // Each is sent when it is first asked for its answer.
            tokio::select! {
                biased;
                rows = &mut answer => rows,
                _ = client.query(&follower, parameter) => answer.await,
            }
        };
        within(self.timeout, &mut self.busy, answer).await
    }

    /// Runs a statement that answers with one row.
    pub(crate) async fn query_one(&mut self, sql: &str, params: &Params<'_>) -> Result<Row> {
        only(self.query(sql, params).await?)
    }

    /// Runs statements without parameters.
    pub(crate) async fn batch(&mut self, sql: &str) -> Result<()> {
        let Some(client) = &self.object else {
            return Err(unavailable("the connection was given back".into()));
        };
        within(self.timeout, &mut self.busy, client.batch_execute(sql)).await
    }

    /// Ends a transaction: commits on `Ok`, else rolls back.
    pub(crate) async fn end<T>(mut self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.batch("COMMIT").await?,
            Err(_) if self.busy => return result,
            Err(_) => self.batch("ROLLBACK").await?,
        }
        self.finish();
        result
    }

    /// Gives the connection back, unless a statement is still on its way.
    pub(crate) fn finish(mut self) {
        if !self.busy {
            drop(self.object.take());
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else {
            return;
        };
        let client = Object::take(object);
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && self.busy
        {
            let (cancel, tls) = (client.cancel_token(), self.pool.tls.clone());
            runtime.spawn(async move {
                // Without an answer nothing is lost: the connection is closed all the same.
                let _ = timeout(Duration::from_secs(5), cancel.cancel_query(tls)).await;
                drop(client);
            });
        }
    }
}

/// Waits for an answer. `busy` stays set without one: on timeout, when the connection fails or is
/// closed, and when the caller drops the call.
async fn within<T>(
    limit: Duration,
    busy: &mut bool,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    *busy = true;
    let answer = timeout(limit, answer)
        .await
        .map_err(|_| unavailable(format!("the server did not answer within {limit:?}")))?;
    *busy = answer.as_ref().is_err_and(ends_session);
    answer.map_err(from_driver)
}

/// Whether the connection is of no more use: it failed, or the server said that it closes it.
fn ends_session(error: &tokio_postgres::Error) -> bool {
    let severity = error.as_db_error().map(DbError::parsed_severity);
    severity.is_none_or(|severity| matches!(severity, Some(Severity::Fatal | Severity::Panic)))
}

/// The server's settings for these limits, in milliseconds; 0 would be none.
fn limits(
    statement: Option<Duration>,
    lock: Option<Duration>,
) -> impl Iterator<Item = (&'static str, u128)> {
    let limits = [("statement_timeout", statement), ("lock_timeout", lock)];
    let set = |(name, limit): (_, Option<Duration>)| Some((name, limit?.as_millis().max(1)));
    limits.into_iter().filter_map(set)
}

/// The one row of an answer.
pub(crate) fn only<R>(rows: Vec<R>) -> Result<R> {
    let missing = || Error::Backend { reason: "a statement gave no row".into(), source: None };
    rows.into_iter().next().ok_or_else(missing)
}
