//! Connections: a pool, a timeout on everything, and no connection reused whose call was cut short.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, RecyclingMethod, Runtime, Timeouts,
};
use pgqrs::{Error, Result};
use tokio::time::timeout;
use tokio_postgres::{
    Config, Row,
    error::SqlState,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Options, StatementMode,
    error::{from_driver, from_pool, sqlstate, unavailable},
    session::SESSION,
    url::Target,
};

/// Parameters of a statement, each with its type: poolers may not let us ask the server for it.
pub(crate) type Params<'a> = [&'a dyn Typed];

/// A value that knows which Postgres type it is sent as.
pub(crate) trait Typed: ToSql + Sync {
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
    tls: MakeRustlsConnect,
    mode: StatementMode,
    /// Whether no pooler stands between: settings of a session are ours alone.
    direct: Arc<AtomicBool>,
    /// Whether statements go unnamed at present.
    unnamed: AtomicBool,
    connect_timeout: Duration,
    call_timeout: Duration,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(target: Target, options: &Options) -> Result<Self> {
        let tls = target.tls.connector()?;
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(target.config, tls.clone(), recycling);
        let direct = Arc::new(AtomicBool::new(false));
        let is_direct = direct.clone();
        let settle_in = Hook::async_fn(move |client, _| {
            let is_direct = is_direct.load(Ordering::Relaxed);
            Box::pin(async move {
                match is_direct {
                    true => client.batch_execute(SESSION).await.map_err(HookError::Backend),
                    false => Ok(()),
                }
            })
        });
        let pool = deadpool_postgres::Pool::builder(manager)
            .post_create(settle_in)
            .max_size(options.pool_size.max(1))
            .timeouts(Timeouts {
                wait: Some(options.call_timeout),
                create: Some(options.connect_timeout),
                recycle: Some(options.connect_timeout),
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::Backend { reason: error.to_string(), source: None })?;
        let Options { statements: mode, connect_timeout, call_timeout, .. } = *options;
        let unnamed = AtomicBool::new(mode != StatementMode::Prepared);
        Ok(Self { pool, tls, mode, direct, unnamed, connect_timeout, call_timeout })
    }

    /// Decides in [`StatementMode::Auto`] whether statements are prepared: if no pooler stands
    /// between. One refuses an option for the session, or keeps it to itself.
    pub(crate) async fn choose_mode(&self, mut config: Config) {
        if self.mode != StatementMode::Auto {
            return;
        }
        config.options(format!("{} -c pgqrs.direct=on", config.get_options().unwrap_or_default()));
        let probe = async {
            let (client, connection) = config.connect(self.tls.clone()).await?;
            let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
            let direct = "SELECT current_setting('pgqrs.direct', true)";
            client.query_typed_one(direct, &[]).await?.try_get::<_, Option<String>>(0)
        };
        let answer = timeout(self.connect_timeout, probe).await;
        if let Ok(Ok(Some(_))) = answer {
            self.unnamed.store(false, Ordering::Relaxed);
            self.direct.store(true, Ordering::Relaxed);
            // Those made so far lack the settings.
            self.pool.retain(|_, _| false);
        } else {
            tracing::info!(?answer, "a pooler stands between: statements go unnamed");
        }
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

    /// Begins a transaction, to be ended by [`Session::end`]. Dropped, it is rolled back.
    pub(crate) async fn begin(&self) -> Result<Session<'_>> {
        let mut session = self.session().await?;
        session.batch("BEGIN").await?;
        Ok(session)
    }

    /// Begins a transaction whose statements may take ten times as long.
    pub(crate) async fn begin_long(&self) -> Result<Session<'_>> {
        let mut session = self.begin().await?;
        session.timeout *= 10;
        Ok(session)
    }

    /// Whether the call that failed with `error` did nothing and may be repeated at once. Notices
    /// signs of a pooler that mixes up prepared statements.
    pub(crate) fn may_repeat(&self, error: &Error) -> bool {
        let Some(code) = sqlstate(error) else {
            return false;
        };
        let mixed_up = [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT];
        if mixed_up.contains(code) && self.mode == StatementMode::Auto {
            let first = !self.unnamed.swap(true, Ordering::Relaxed);
            if first {
                tracing::warn!(%error, "a pooler mixes up prepared statements: sending them unnamed");
            }
            return first;
        }
        [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE].contains(code)
    }

    /// A connection for statements that each stand by themselves, given back by
    /// [`Session::finish`].
    pub(crate) async fn session(&self) -> Result<Session<'_>> {
        let object = Some(self.pool.get().await.map_err(from_pool)?);
        Ok(Session { pool: self, object, timeout: self.call_timeout, busy: false })
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
}

impl Session<'_> {
    /// Runs a statement.
    pub(crate) async fn query(&mut self, sql: &str, params: &Params<'_>) -> Result<Vec<Row>> {
        let Some(client) = &self.object else {
            return Err(unavailable("the connection was given back".into()));
        };
        let unnamed = self.pool.unnamed.load(Ordering::Relaxed);
        let answer = async {
            let typed = params.iter().map(|value| (*value as &(dyn ToSql + Sync), value.pg_type()));
            if unnamed {
                return client.query_typed(sql, &typed.collect::<Vec<_>>()).await;
            }
            let (values, types): (Vec<_>, Vec<_>) = typed.unzip();
            let statement = client.prepare_typed_cached(sql, &types).await?;
            client.query(&statement, &values).await
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

/// Waits for an answer. `busy` stays set without one: on timeout, on failure of the connection, and
/// when the caller drops the call.
async fn within<T>(
    limit: Duration,
    busy: &mut bool,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    *busy = true;
    let answer = timeout(limit, answer)
        .await
        .map_err(|_| unavailable(format!("the server did not answer within {limit:?}")))?;
    *busy = answer.as_ref().is_err_and(|error| error.as_db_error().is_none());
    answer.map_err(from_driver)
}

fn only(rows: Vec<Row>) -> Result<Row> {
    let missing = || Error::Backend { reason: "a statement gave no row".into(), source: None };
    rows.into_iter().next().ok_or_else(missing)
}
