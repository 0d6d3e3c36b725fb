//! The libraries' databases on Postgres.

use std::{cell::RefCell, collections::HashSet, time::Duration};

use pgqrs_testkit::server::{self, Cluster};
use tokio_postgres::{Client, NoTls};

use crate::{
    Result,
    cases::{Ground, Scenarios, install},
    cost::{Cost, parent, processor_time},
    libraries::{Library, ON_POSTGRES},
};

/// A server, and the templates that are on it.
pub(crate) struct Postgres {
    url: String,
    admin: Client,
    /// The server's first process, if it is our own.
    postmaster: Option<String>,
    templates: RefCell<HashSet<String>>,
    _cluster: Option<Cluster>,
}

impl Postgres {
    /// The server of the URL, or else one of our own, with its data in memory.
    pub(crate) async fn start(url: Option<&str>) -> Result<Self> {
        let cluster = match url {
            Some(_) => None,
            None => Some(Cluster::start(settings()).await?),
        };
        let url = cluster.as_ref().map(Cluster::url).or(url.map(str::to_owned)).unwrap_or_default();
        let (admin, connection) = tokio_postgres::connect(&url, NoTls).await?;
        tokio::spawn(connection);
        let session: i32 = admin.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
        let postmaster = cluster.as_ref().and_then(|_| parent(session));
        Ok(Self { url, admin, postmaster, templates: RefCell::default(), _cluster: cluster })
    }

    /// The server's version, and whether it syncs.
    pub(crate) async fn describe(&self) -> Result<String> {
        let sql = "SELECT current_setting('server_version'), current_setting('fsync')";
        let row = self.admin.query_one(sql, &[]).await?;
        let (version, fsync): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        Ok(format!("Postgres {version}, fsync {fsync}"))
    }

    /// A database in which the library is installed and has so many messages.
    async fn template(&self, library: &Library, messages: usize) -> Result<String> {
        let name = format!("peers_{}_{messages}", library.key.replace('-', "_"));
        if self.templates.borrow_mut().insert(name.clone()) {
            self.admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name}")).await?;
            self.admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await?;
            let url = with_database(&self.url, &name);
            install(library, &url, messages).await?;
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute("VACUUM ANALYZE").await?;
        }
        self.wait_for_sessions_to_end(&name).await?;
        Ok(name)
    }

    async fn wait_for_sessions_to_end(&self, database: &str) -> Result<()> {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = $1 AND backend_type = 'client backend'";
        for _ in 0..500 {
            let sessions: i64 = self.admin.query_one(sql, &[&database]).await?.try_get(0)?;
            if sessions == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("sessions of {database} do not end").into())
    }
}

impl Ground for Postgres {
    const SCENARIOS: Scenarios = Scenarios {
        enqueue: "postgres-enqueue",
        drain: "postgres-drain",
        pick_up: "postgres-pick-up",
    };
    const LIBRARIES: &'static [Library] = ON_POSTGRES;
    const CONSUMERS: usize = 4;

    async fn on_copy<T>(
        &self,
        library: &Library,
        messages: usize,
        work: impl AsyncFnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        const NAME: &str = "peers_turn";
        let template = self.template(library, messages).await?;
        self.admin.batch_execute(&format!("CREATE DATABASE {NAME} TEMPLATE {template}")).await?;
        let outcome = work(&with_database(&self.url, NAME)).await;
        self.admin.batch_execute(&format!("DROP DATABASE {NAME} WITH (FORCE)")).await?;
        outcome
    }

    async fn usage(&self, url: &str) -> Result<Cost> {
        let (_, database) = url.rsplit_once('/').unwrap_or_default();
        let database = database.split('?').next().unwrap_or_default();
        self.wait_for_sessions_to_end(database).await?;
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8,
                          xact_commit::float8
                   FROM pg_stat_database WHERE datname = $1";
        let row = self.admin.query_one(sql, &[&database]).await?;
        // Sessions are children of the postmaster, and have ended; so have the libraries' programs.
        let server = self.postmaster.as_deref().and_then(processor_time);
        Ok(Cost {
            wal: Some(row.try_get(0)?),
            commits: Some(row.try_get(1)?),
            server: server.map(|(_, ended)| ended),
            client: processor_time("self").map(|(_, ended)| ended),
            statements: None,
        })
    }
}

fn settings() -> server::Options {
    let settings = [
        "max_connections = 300",
        "shared_buffers = 1GB",
        "max_wal_size = 8GB",
        "checkpoint_timeout = 1h",
    ];
    server::Options { settings: settings.map(str::to_owned).to_vec(), ..Default::default() }
}

fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = url.split_at(url.find('?').unwrap_or(url.len()));
    let host = address.find("://").map_or(0, |at| at + 3);
    let end = address[host..].find('/').map_or(address.len(), |at| host + at);
    format!("{}/{name}{parameters}", &address[..end])
}
