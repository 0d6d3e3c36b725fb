//! What stands between this program and the server.

use pgqrs::Result;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    error::{TOO_LATE, column, from_driver, unavailable},
    pool::{Pool, only},
    sql_operations::PROCESS,
};

/// How connections reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// Directly, or so that it cannot be told from that.
    Direct,
    /// Through a pooler.
    Pooled,
}

/// When a pooler hands a connection to the next client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// There is no pooler.
    None,
    /// When the client has gone.
    Session,
    /// When a transaction has ended.
    Transaction,
}

/// Whether a pooler stands between. One refuses an option for the session, or keeps it to itself.
///
/// # Errors
/// What the server says about this user or database, or that it cannot be reached.
pub(crate) async fn probe(config: &Config, tls: &MakeRustlsConnect) -> Result<Link> {
    let mut config = config.clone();
    config.options(format!("{} -c pgqrs.direct=on", config.get_options().unwrap_or_default()));
    let probe = async {
        let (client, _connection) = connect(&config, tls).await?;
        let direct = "SELECT current_setting('pgqrs.direct', true)";
        client.query_typed_one(direct, &[]).await?.try_get::<_, Option<String>>(0)
    };
    match probe.await {
        Ok(Some(_)) => Ok(Link::Direct),
        Ok(None) => Ok(Link::Pooled),
        Err(error) if error.code().is_some_and(is_about_the_option) => Ok(Link::Pooled),
        Err(error) => Err(from_driver(error)),
    }
}

/// How connections are shared, as two of them see it.
pub(crate) async fn detect(pool: &Pool) -> Result<Pooling> {
    let late = |_| unavailable(TOO_LATE.into());
    let (config, tls) = (&pool.config, &pool.tls);
    if timeout(pool.connect_timeout, probe(config, tls)).await.map_err(late)?? == Link::Direct {
        return Ok(Pooling::None);
    }
    timeout(pool.connect_timeout, share(config, tls)).await.map_err(late)?
}

async fn share(config: &Config, tls: &MakeRustlsConnect) -> Result<Pooling> {
    let (one, _connection) = connect(config, tls).await.map_err(from_driver)?;
    let (other, _connection) = connect(config, tls).await.map_err(from_driver)?;
    let mut before = process(&one).await?;
    for _ in 0..5 {
        // In transaction mode it gets the connection that the first one has just left.
        other.batch_execute("BEGIN").await.map_err(from_driver)?;
        let (others, now) = (process(&other).await?, process(&one).await?);
        other.batch_execute("ROLLBACK").await.map_err(from_driver)?;
        if others == before || now != before {
            return Ok(Pooling::Transaction);
        }
        before = now;
    }
    Ok(Pooling::Session)
}

async fn process(client: &Client) -> Result<i32> {
    column(&only(client.query_typed(PROCESS, &[]).await.map_err(from_driver)?)?, "pid")
}

type Driving = AbortOnDropHandle<Result<(), tokio_postgres::Error>>;

async fn connect(
    config: &Config,
    tls: &MakeRustlsConnect,
) -> Result<(Client, Driving), tokio_postgres::Error> {
    let (client, connection) = config.connect(tls.clone()).await?;
    Ok((client, AbortOnDropHandle::new(tokio::spawn(connection))))
}

/// Not about user, database, or a server without room or on its way down.
fn is_about_the_option(code: &SqlState) -> bool {
    !["28", "3D", "53", "57"].iter().any(|class| code.code().starts_with(class))
}
