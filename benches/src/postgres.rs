//! Contests on Postgres.

mod drain;
mod enqueue;
mod flat;
mod floor;
mod run_loop;
mod snapshot;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use pgqrs::admin;
use pgqrs_postgres::{Options, PostgresStore};
use pgqrs_testkit::server::{self, Cluster};
use tokio_postgres::{Client, NoTls};

pub(crate) use drain::{drain, drain_in_child};
pub(crate) use enqueue::enqueue;
pub(crate) use flat::flat;
pub(crate) use run_loop::{idle, offer_bare, processes, run_loop};
pub(crate) use snapshot::snapshot;

use crate::{
    Result,
    contest::Sample,
    cost::{Cost, parent, processor_time},
    ours::QUEUE,
};

/// The server, and how it is measured.
pub(crate) struct Postgres {
    url: String,
    admin: Client,
    has_statements: bool,
    /// The server's first process, if it runs on this machine.
    postmaster: Option<String>,
    _cluster: Option<Cluster>,
}

impl Postgres {
    /// The server of the URL, or else one of our own, in memory where the system has such a folder.
    pub(crate) async fn start(url: Option<&str>) -> Result<Self> {
        let cluster = match url {
            Some(_) => None,
            None => Some(Cluster::start(settings()).await?),
        };
        let url = cluster.as_ref().map(Cluster::url).or(url.map(str::to_owned)).unwrap_or_default();
        let admin = connect(&url).await?;
        let loaded = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
                      SELECT count(*) FROM pg_stat_statements";
        let has_statements = admin.batch_execute(loaded).await.is_ok();
        let session: i32 = admin.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
        let postmaster = cluster.as_ref().and_then(|_| parent(session));
        Ok(Self { url, admin, has_statements, postmaster, _cluster: cluster })
    }

    /// The server's version, and whether it syncs.
    pub(crate) async fn describe(&self) -> Result<String> {
        let sql = "SELECT version(), current_setting('fsync'), current_setting('shared_buffers')";
        let row = self.admin.query_one(sql, &[]).await?;
        let (version, fsync, buffers): (String, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let version = version.split(',').next().unwrap_or_default();
        Ok(format!("{version}; fsync {fsync}, shared_buffers {buffers}"))
    }

    /// Does work in a database of its own.
    async fn on_fresh_database<T>(
        &self,
        work: impl AsyncFnOnce(&Database<'_>) -> Result<T>,
    ) -> Result<T> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pgqrs_bench_{}_{number}", std::process::id());
        self.admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await?;
        let database = Database { server: self, url: with_database(&self.url, &name), name };
        let outcome = work(&database).await;
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", database.name);
        self.admin.batch_execute(&drop).await?;
        outcome
    }
}

/// A database, dropped after use.
struct Database<'p> {
    server: &'p Postgres,
    url: String,
    name: String,
}

impl Database<'_> {
    /// Our store on it, installed, with an empty queue.
    async fn store(&self) -> Result<PostgresStore> {
        let store = pgqrs_postgres::connect(&self.url).await?;
        admin(&store).install().await?;
        admin(&store).create_queue(QUEUE).await?;
        Ok(store)
    }

    /// Our store on it, installed before, all its connections made.
    async fn warm_store(&self) -> Result<PostgresStore> {
        let store = pgqrs_postgres::connect(&self.url).await?;
        let calls = (0..connections()).map(|_| async { admin(&store).queues().await });
        futures::future::try_join_all(calls).await?;
        Ok(store)
    }

    async fn client(&self) -> Result<Client> {
        connect(&self.url).await
    }

    async fn clients(&self, count: usize) -> Result<Vec<Client>> {
        futures::future::try_join_all((0..count).map(|_| self.client())).await
    }

    /// What `work` yields, and what it costs per message. All sessions are to be closed before it
    /// and when it ends: the server counts what a session did when that is gone.
    async fn measured(
        &self,
        messages: usize,
        work: impl AsyncFnOnce() -> Result<Sample>,
    ) -> Result<Sample> {
        let before = self.usage().await?;
        let mut sample = work().await?;
        let after = self.usage().await?;
        sample.cost = after.since(&before, messages);
        Ok(sample)
    }

    async fn usage(&self) -> Result<Cost> {
        self.wait_for_sessions_to_end().await?;
        let Postgres { admin, has_statements, postmaster, .. } = self.server;
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8,
                          xact_commit::float8
                   FROM pg_stat_database WHERE datname = $1";
        let row = admin.query_one(sql, &[&self.name]).await?;
        let mut usage =
            Cost { wal: Some(row.try_get(0)?), commits: Some(row.try_get(1)?), ..Cost::default() };
        if *has_statements {
            usage.statements = Some(self.statements().await?);
        }
        // Sessions are children of the postmaster, and have ended.
        usage.server = postmaster.as_deref().and_then(processor_time).map(|(_, ended)| ended);
        usage.client = processor_time("self").map(|(own, _)| own);
        Ok(usage)
    }

    /// How many statements have run in it.
    async fn statements(&self) -> Result<f64> {
        let sql = "SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements
                   WHERE dbid = (SELECT oid FROM pg_database WHERE datname = $1)";
        Ok(self.server.admin.query_one(sql, &[&self.name]).await?.try_get(0)?)
    }

    async fn wait_for_sessions_to_end(&self) -> Result<()> {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = $1 AND backend_type = 'client backend'";
        for _ in 0..500 {
            let sessions: i64 =
                self.server.admin.query_one(sql, &[&self.name]).await?.try_get(0)?;
            if sessions == 0 {
                // Before 15 a collector process counts, a moment later.
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("sessions of the turn before do not end".into())
    }
}

/// How many connections our store's pool has.
fn connections() -> usize {
    Options::default().pool_size
}

fn settings() -> server::Options {
    let settings = [
        "max_connections = 300",
        "shared_buffers = 1GB",
        "max_wal_size = 8GB",
        "checkpoint_timeout = 1h",
        "shared_preload_libraries = 'pg_stat_statements'",
    ];
    server::Options { settings: settings.map(str::to_owned).to_vec(), ..Default::default() }
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = url.split_at(url.find('?').unwrap_or(url.len()));
    let host = address.find("://").map_or(0, |at| at + 3);
    let end = address[host..].find('/').map_or(address.len(), |at| host + at);
    format!("{}/{name}{parameters}", &address[..end])
}
