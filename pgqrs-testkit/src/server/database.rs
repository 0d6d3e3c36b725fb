//! An empty database for one test.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio_postgres::NoTls;

use super::{Error, Result, blocking, shared, url::Url};

/// Creates an empty database on the shared server. It is dropped with the value.
pub async fn database() -> Result<Database> {
    let server = blocking(shared::url).await?;
    Database::create(&server).await
}

/// A database that is dropped with this value, whoever is still connected.
#[derive(Debug)]
pub struct Database {
    server: String,
    name: String,
    url: String,
}

impl Database {
    /// Where the database is, by TCP: `postgresql://postgres@127.0.0.1:…/…`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates a database on the server of the URL.
    pub(super) async fn create(server: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Unique also on a server that outlives our process and its successors with its id.
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let name = format!("test_{micros}_{}_{number}", process::id());
        let url = Url { database: &name, ..Url::parse(server)? }.to_string();
        // Nobody can be connected to template0, which would make the copy fail.
        execute(server, &format!("CREATE DATABASE {name} TEMPLATE template0")).await?;
        Ok(Self { server: server.to_owned(), url, name })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A runtime cannot be entered twice in one thread.
        let dropped = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Error::new(error.to_string()))?;
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            runtime.block_on(execute(&server, &sql))
        });
        // A test that ends its server leaves nothing to drop.
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("database {} was not dropped: {error}", self.name);
        }
    }
}

/// Runs one statement on a connection of its own.
async fn execute(url: &str, sql: &str) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    let result = client.batch_execute(sql).await;
    drop(client);
    // Waits for the session's end, so that it does not count against max_connections.
    let _ended = connection.await;
    Ok(result?)
}
