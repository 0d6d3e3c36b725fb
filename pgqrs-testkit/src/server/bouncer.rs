//! PgBouncer in transaction mode, in front of a server.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use tokio_postgres::config::{Config, Host};

use super::{
    Context, Error, Result,
    account::Account,
    blocking,
    cluster::{answers, free_port, wait_until},
    run,
    url::Url,
};

/// Server connections that all clients share.
const POOL: usize = 4;

/// Ends PgBouncer, which is `$1` with the settings `$2`, when the standard input ends.
const WATCHDOG: &str = r#"
trap '' HUP INT
"$1" -q "$2" </dev/null &
cat >/dev/null
kill -9 $!
wait
"#;

/// Starts PgBouncer in front of the database of the URL, with transaction pooling and four server
/// connections for all clients. Any client may connect, without a password.
///
/// Named prepared statements, LISTEN and session locks do not work through it, or only by chance.
pub async fn bouncer(url: &str) -> Result<Bouncer> {
    let url = url.to_owned();
    blocking(move || Bouncer::start(&url)).await
}

/// A running PgBouncer. It ends with this value, or with its process.
#[derive(Debug)]
pub struct Bouncer {
    url: String,
    watchdog: Child,
    _folder: TempDir,
}

impl Bouncer {
    /// Where the database is, through PgBouncer.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn start(url: &str) -> Result<Self> {
        let program = program()?;
        let version = version(&run(Command::new(&program).arg("--version"))?);
        let account = Account::for_servers()?;
        let folder = tempfile::tempdir().context("cannot create a folder in", &env::temp_dir())?;
        let readable = Permissions::from_mode(0o755);
        fs::set_permissions(&folder, readable).context("cannot chmod", folder.path())?;
        let port = free_port()?;
        let ini = folder.path().join("pgbouncer.ini");
        fs::write(&ini, settings(&url.parse()?, port, version)?).context("cannot write", &ini)?;
        account.own(&ini)?;

        let mut watchdog = account.command("/bin/sh");
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(program).arg(&ini);
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let watchdog = watchdog.spawn().context("cannot run", Path::new("/bin/sh"))?;
        let host = format!("127.0.0.1:{port}");
        let url = Url { host: &host, ..Url::parse(url)? }.to_string();
        let bouncer = Self { url, watchdog, _folder: folder };
        wait_until("PgBouncer does not listen", || answers(port))?;
        Ok(bouncer)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // Nothing is left to be done about a failure.
        let _ended = self.watchdog.wait();
    }
}

fn program() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file()).ok_or_else(
        || {
            Error::new(
                "PgBouncer is not installed: apt-get install pgbouncer, brew install pgbouncer",
            )
        },
    )
}

fn settings(config: &Config, port: u16, version: (u32, u32)) -> Result<String> {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(folder)) => folder.display().to_string(),
        None => return Err(Error::new("the URL names no host")),
    };
    let server_port = config.get_ports().first().unwrap_or(&5432);
    let database = config.get_dbname().unwrap_or("postgres");
    let user = config.get_user().unwrap_or("postgres");
    let password = match config.get_password() {
        Some(password) => format!(" password='{}'", String::from_utf8_lossy(password)),
        None => String::new(),
    };
    // From 1.21 on it can carry named statements over; older ones, which are in use, cannot.
    let prepared = if version < (1, 21) { "" } else { "max_prepared_statements = 0\n" };
    Ok(format!(
        "[databases]\n\
         {database} = host={host} port={server_port} user={user}{password}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         pool_mode = transaction\n\
         default_pool_size = {POOL}\n\
         max_client_conn = 500\n\
         ignore_startup_parameters = extra_float_digits\n\
         {prepared}"
    ))
}

/// The 1 and 18 of `PgBouncer 1.18.0`.
fn version(text: &str) -> (u32, u32) {
    let number = text.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}
