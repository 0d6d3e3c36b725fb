//! The one cluster that all test processes of this user share.

use std::{
    env,
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{
    Context, Error, Result,
    account::Account,
    cluster::{Cluster, Options},
    locate::Programs,
};

/// Room that a data folder in memory must find, in bytes.
const ROOM: u64 = 2 << 30;

/// The URL of the shared server, which this process then uses until its end.
pub(super) fn url() -> Result<String> {
    static SHARED: OnceLock<Result<Cluster>> = OnceLock::new();
    if let Ok(url) = env::var("PGQRS_TEST_POSTGRES_URL") {
        return Ok(url);
    }
    SHARED.get_or_init(join_or_start).as_ref().map(Cluster::url).map_err(Error::clone)
}

/// The folder of this user's servers: in memory where there is room, owned by their account.
pub(super) fn folder() -> Result<PathBuf> {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    let parent = if room > ROOM { memory.to_owned() } else { env::temp_dir() };
    let folder = parent.join(format!("pgqrs-testkit-{}", rustix::process::geteuid().as_raw()));
    fs::create_dir_all(&folder).context("cannot create", &folder)?;
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).context("cannot chmod", &folder)?;
    Account::for_servers()?.own(&folder)?;
    Ok(folder)
}

/// An exclusive lock of the name in the folder, among processes, until the file is dropped.
pub(super) fn lock(folder: &Path, name: &str) -> Result<File> {
    let path = folder.join(name);
    let file = File::options().create(true).append(true).open(&path);
    let file = file.context("cannot open", &path)?;
    file.lock().context("cannot lock", &path)?;
    Ok(file)
}

fn join_or_start() -> Result<Cluster> {
    let folder = folder()?;
    let programs = Programs::find()?;
    let _lock = lock(&folder, &format!("lock-{}", programs.major))?;
    // "<folder> <port>" of the server started last, which may be gone.
    let note = folder.join(format!("shared-{}", programs.major));
    let running = fs::read_to_string(&note).ok().and_then(|text| {
        let (folder, port) = text.rsplit_once(' ')?;
        Cluster::join(&programs, Path::new(folder), port.parse().ok()?).ok()
    });
    if let Some(cluster) = running {
        return Ok(cluster);
    }
    let cluster = Cluster::create(&programs, &folder, &Options::default())?;
    let text = format!("{} {}", cluster.folder().display(), cluster.port());
    fs::write(&note, text).context("cannot write", &note)?;
    Ok(cluster)
}
