//! Ends a server with its users, however they end.
//!
//! A FIFO that every user holds open for writing, and a detached shell that reads it. At the end
//! of the file the last user is gone, also after `kill -9`, and the shell stops the server.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags, open};

use super::{Context, Error, Result, account::Account, run};

const NAME: &str = "lifeline";

/// Waits for the first user, then for the end of the last; `$1` is the FIFO, `$2` the server's
/// folder, `$3` is pg_ctl. The second read serves users that came between the end of the first
/// one and the removal of the FIFO: after that nobody can come.
const WATCHDOG: &str = r#"
trap '' HUP INT
exec 3<"$1"
cat <&3 >/dev/null
rm -f "$1"
cat <&3 >/dev/null
"$3" stop -s -m immediate -D "$2/data"
rm -rf "$2"
"#;

/// One user's hold on a server. The server ends some time after the last hold was dropped.
#[derive(Debug)]
pub(super) struct Lifeline {
    _fifo: File,
}

impl Lifeline {
    /// Starts the watchdog of the server in `folder`, which removes the folder in the end.
    pub(super) fn start(folder: &Path, pg_ctl: &Path, account: Account) -> Result<Self> {
        let fifo = folder.join(NAME);
        run(account.command("mkfifo").arg(&fifo))?;
        let mut watchdog = account.command("/bin/sh");
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(&fifo).arg(folder).arg(pg_ctl);
        watchdog.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut watchdog = watchdog.spawn().context("cannot watch", folder)?;
        thread::spawn(move || watchdog.wait());

        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match Self::join(folder) {
                Ok(lifeline) => return Ok(lifeline),
                Err(error) if Instant::now() > deadline => {
                    return Err(Error::new(format!("no watchdog on {}: {error}", fifo.display())));
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Holds on to the server in `folder`; an error when its watchdog is gone or going.
    pub(super) fn join(folder: &Path) -> io::Result<Self> {
        // Without a reader a blocking open would wait for ever.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo = open(folder.join(NAME), flags, Mode::empty())?;
        Ok(Self { _fifo: File::from(fifo) })
    }
}
