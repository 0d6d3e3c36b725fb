//! A Postgres server with a data folder of its own.

use std::{
    fmt, fs,
    fs::OpenOptions,
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    Context, Database, Error, Result, account::Account, blocking, lifeline::Lifeline,
    locate::Programs, run, shared,
};

/// What a crash of the machine may take with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Anything: `fsync` is off. A crash of the server alone loses nothing.
    #[default]
    Fast,
    /// Nothing: `fsync` is on, as in production.
    Durable,
}

/// How a [`Cluster`] is to be.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What a crash may lose.
    pub durability: Durability,
    /// Further lines for `postgresql.conf`, such as `"max_connections = 20"`.
    pub settings: Vec<String>,
    /// Lines for `pg_hba.conf`, such as `"host all bob 127.0.0.1/32 scram-sha-256"`. They come
    /// before the server's own, which trust everybody.
    pub hba: Vec<String>,
}

/// A server of the test's own. It is stopped, and its data removed, after the value was dropped
/// or its process died.
pub struct Cluster {
    folder: PathBuf,
    port: u16,
    programs: Programs,
    account: Account,
    _lifeline: Lifeline,
}

impl Cluster {
    /// Starts a server, which takes about half a second.
    pub async fn start(options: Options) -> Result<Self> {
        blocking(move || Self::create(&Programs::find()?, &shared::folder()?, &options)).await
    }

    /// Where the server's own database `postgres` is.
    pub fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The TCP port on 127.0.0.1, the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates an empty database.
    pub async fn database(&self) -> Result<Database> {
        Database::create(&self.url()).await
    }

    /// Kills every process of the server with SIGKILL: a crash.
    pub async fn kill(&self) -> Result<()> {
        let pid_file = self.data().join("postmaster.pid");
        let port = self.port;
        blocking(move || {
            let text = fs::read_to_string(&pid_file).context("cannot read", &pid_file)?;
            let postmaster = text.lines().next().and_then(pid);
            let postmaster = postmaster.ok_or_else(|| Error::new("postmaster.pid has no pid"))?;
            // Stopped first, so that it forks no child that we do not see.
            signal(postmaster, Signal::STOP)?;
            let children = children(postmaster)?;
            for process in children.into_iter().chain([postmaster]) {
                signal(process, Signal::KILL)?;
            }
            wait_until("the killed server still listens", || !answers(port))?;
            // Its process may stay as a zombie, which a new postmaster takes for a live one.
            fs::remove_file(&pid_file).context("cannot remove", &pid_file)
        })
        .await
    }

    /// Stops the server in good order; open connections are closed.
    pub async fn stop(&self) -> Result<()> {
        let mut command = self.account.command(self.programs.path("pg_ctl"));
        command.args(["stop", "-s", "-m", "fast", "-D"]).arg(self.data());
        blocking(move || run(&mut command).map(drop)).await
    }

    /// Starts the server again after [`stop`](Self::stop) or [`kill`](Self::kill), on its data
    /// and its port.
    pub async fn restart(&self) -> Result<()> {
        let (programs, folder, account) =
            (self.programs.clone(), self.folder.clone(), self.account);
        let port = self.port;
        blocking(move || {
            // The last of the killed processes may hold the shared memory for a moment.
            let mut result = Ok(());
            let started = wait_until("the server does not start again", || {
                result = launch(&programs, &folder, account, port);
                result.is_ok()
            });
            result.and(started)
        })
        .await
    }

    /// Makes and starts a server in a new folder below `parent`.
    pub(super) fn create(programs: &Programs, parent: &Path, options: &Options) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("{}-{}-{number}", programs.major, process::id()));
        let account = Account::for_servers()?;
        fs::create_dir(&folder).context("cannot create", &folder)?;
        account.own(&folder)?;
        let lifeline = Lifeline::start(&folder, &programs.path("pg_ctl"), account)?;

        let data = folder.join("data");
        let mut initdb = account.command(programs.path("initdb"));
        initdb.args(["--auth=trust", "--no-sync", "--username=postgres", "--encoding=UTF8"]);
        run(initdb.args(["--locale=C", "-D"]).arg(&data))?;
        configure(&data.join("postgresql.conf"), options)?;
        let hba = data.join("pg_hba.conf");
        let own = fs::read_to_string(&hba).context("cannot read", &hba)?;
        fs::write(&hba, format!("{}\n{own}", options.hba.join("\n")))
            .context("cannot write", &hba)?;

        // Another process may take the port between our look and the server's start.
        let mut attempts = 3;
        loop {
            let port = free_port()?;
            attempts -= 1;
            match launch(programs, &folder, account, port) {
                Ok(()) => {
                    let programs = programs.clone();
                    return Ok(Self { folder, port, programs, account, _lifeline: lifeline });
                }
                Err(error) if attempts == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// The running server in `folder`, shared with its other users.
    pub(super) fn join(programs: &Programs, folder: &Path, port: u16) -> Result<Self> {
        let lifeline = Lifeline::join(folder).context("cannot join", folder)?;
        if !answers(port) {
            return Err(Error::new(format!("the server in {} is gone", folder.display())));
        }
        let account = Account::for_servers()?;
        let (folder, programs) = (folder.to_owned(), programs.clone());
        Ok(Self { folder, port, programs, account, _lifeline: lifeline })
    }

    /// The folder with the server's data and log.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("url", &self.url()).field("folder", &self.folder).finish()
    }
}

/// A TCP port of 127.0.0.1 that is free now.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    Ok(address.map_err(|error| Error::new(format!("no free TCP port: {error}")))?.port())
}

/// Whether somebody listens on the port of 127.0.0.1.
pub(super) fn answers(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Waits up to 10 s for the condition.
pub(super) fn wait_until(otherwise: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        if Instant::now() > deadline {
            return Err(Error::new(otherwise));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn configure(file: &Path, options: &Options) -> Result<()> {
    let mut settings = vec![
        "listen_addresses = '127.0.0.1'",
        "unix_socket_directories = ''",
        "max_connections = 200",
        "shared_buffers = 128MB",
        "timezone = 'UTC'",
        "log_timezone = 'UTC'",
    ];
    if options.durability == Durability::Fast {
        settings.extend(["fsync = off", "full_page_writes = off"]);
    }
    settings.extend(options.settings.iter().map(String::as_str));
    let mut conf = OpenOptions::new().append(true).open(file).context("cannot open", file)?;
    writeln!(conf, "\n{}", settings.join("\n")).context("cannot write", file)
}

fn launch(programs: &Programs, folder: &Path, account: Account, port: u16) -> Result<()> {
    let log = folder.join("log");
    let mut command = account.command(programs.path("pg_ctl"));
    command.args(["start", "-s", "-w", "-t", "30", "-l"]).arg(&log);
    command.arg("-o").arg(format!("-p {port}")).arg("-D").arg(folder.join("data"));
    // The server inherits these: a pipe would keep whoever reads it waiting for the server's end.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().context("cannot run", Path::new("pg_ctl"))?;
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    Err(Error::new(format!("Postgres does not start; its log {}:\n{said}", log.display())))
}

fn pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.trim().parse().ok()?)
}

fn children(parent: Pid) -> Result<Vec<Pid>> {
    let parent = parent.as_raw_nonzero();
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let listed = match listed {
        Ok(listed) => listed,
        Err(_) => run(process::Command::new("pgrep").arg("-P").arg(parent.to_string()))?,
    };
    Ok(listed.split_whitespace().filter_map(pid).collect())
}

fn signal(process: Pid, signal: Signal) -> Result<()> {
    match kill_process(process, signal) {
        // It ended by itself.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(Error::new(format!("cannot kill {process:?}: {error}"))),
    }
}
