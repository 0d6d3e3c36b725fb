//! The libraries, and how each is called.

use std::{env, path::PathBuf, process::Stdio, time::Duration};

use kit::Figures;
use tokio::{process::Command, time::timeout};

use crate::Result;

/// Longer than any task should take.
const LIMIT: Duration = Duration::from_secs(120);

/// A library on one of the databases.
#[derive(Debug)]
pub(crate) struct Library {
    /// As the programs know it.
    pub(crate) key: &'static str,
    /// As the tables show it.
    pub(crate) name: &'static str,
    pub(crate) program: &'static Program,
    /// The package whose version counts.
    pub(crate) package: &'static str,
    pub(crate) abilities: &'static [Ability],
    /// How it is set here.
    pub(crate) setting: &'static str,
    /// What becomes of a finished message.
    pub(crate) finished: &'static str,
}

/// What not every library can do, or is not asked for twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ability {
    /// Enqueue a message by one call.
    Singles,
    /// Enqueue many messages by one call.
    Batches,
    /// Run handlers in a worker of its own.
    Worker,
    /// Claim many messages by one call and finish them by another.
    Consumers,
    /// Serve a queue that another process fills.
    Processes,
}

/// A program, with a lock file of its own.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its folder in this workspace's; empty for this one.
    folder: &'static str,
    binary: &'static str,
    lock: &'static str,
}

use Ability::{Batches, Consumers, Processes, Singles, Worker};

static OWN: Program =
    Program { folder: "", binary: "pgqrs-peers", lock: include_str!("../Cargo.lock") };
static SQLX_0_8: Program = Program {
    folder: "sqlx-0.8",
    binary: "pgqrs-peers-sqlx-0_8",
    lock: include_str!("../sqlx-0.8/Cargo.lock"),
};
static EFFECTUM: Program = Program {
    folder: "effectum",
    binary: "pgqrs-peers-effectum",
    lock: include_str!("../effectum/Cargo.lock"),
};
static HONKER: Program = Program {
    folder: "honker",
    binary: "pgqrs-peers-honker",
    lock: include_str!("../honker/Cargo.lock"),
};

/// On Postgres; ours first.
pub(crate) static ON_POSTGRES: &[Library] = &[
    Library {
        key: "ours",
        name: "pgqrs",
        program: &OWN,
        package: "pgqrs-postgres",
        abilities: &[Singles, Batches, Worker, Consumers, Processes],
        setting: "as it comes: 8 connections, as many messages in memory as handlers",
        finished: "archived",
    },
    Library {
        key: "ours-prefetch",
        name: "pgqrs, prefetch 500",
        program: &OWN,
        package: "pgqrs-postgres",
        abilities: &[Worker],
        setting: "the worker alone, with 500 messages in memory",
        finished: "archived",
    },
    Library {
        key: "graphile",
        name: "graphile_worker",
        program: &OWN,
        package: "graphile_worker",
        abilities: &[Singles, Batches, Worker, Processes],
        setting: "local queue of 500, completions in batches of 5 ms",
        finished: "deleted",
    },
    Library {
        key: "pgmq-delete",
        name: "pgmq, delete",
        program: &OWN,
        package: "pgmq",
        abilities: &[Singles, Batches, Consumers, Processes],
        setting: "its SQL without the extension; waits with `read_with_poll`",
        finished: "deleted",
    },
    Library {
        key: "pgmq-archive",
        name: "pgmq, archive",
        program: &OWN,
        package: "pgmq",
        abilities: &[Singles, Batches, Consumers, Processes],
        setting: "the same",
        finished: "archived",
    },
    Library {
        key: "apalis-postgres",
        name: "apalis-postgres",
        program: &OWN,
        package: "apalis-postgres",
        abilities: &[Singles, Batches, Worker, Processes],
        setting: "batches of 100, NOTIFY and a look each 100 ms, handlers spawned",
        finished: "marked, stay in the table",
    },
    Library {
        key: "published",
        name: "pgqrs 0.15.3",
        program: &SQLX_0_8,
        package: "pgqrs",
        abilities: &[Singles, Batches, Consumers, Processes],
        setting: "as it comes",
        finished: "archived",
    },
    Library {
        key: "sqlxmq",
        name: "sqlxmq",
        program: &SQLX_0_8,
        package: "sqlxmq",
        abilities: &[Singles, Worker, Processes],
        setting: "32 to 64 jobs at once",
        finished: "deleted",
    },
    Library {
        key: "underway",
        name: "underway",
        program: &SQLX_0_8,
        package: "underway",
        abilities: &[Singles, Batches, Worker, Processes],
        setting: "8 workers of 8 tasks",
        finished: "marked, stay in the table",
    },
];

/// On SQLite; ours first.
pub(crate) static ON_SQLITE: &[Library] = &[
    Library {
        key: "ours",
        name: "pgqrs",
        program: &OWN,
        package: "pgqrs-sqlite",
        abilities: &[Singles, Batches, Worker, Consumers, Processes],
        setting: "synchronous normal; as many messages in memory as handlers",
        finished: "archived",
    },
    Library {
        key: "ours-prefetch",
        name: "pgqrs, prefetch 500",
        program: &OWN,
        package: "pgqrs-sqlite",
        abilities: &[Worker],
        setting: "the worker alone, with 500 messages in memory",
        finished: "archived",
    },
    Library {
        key: "honker",
        name: "honker",
        program: &HONKER,
        package: "honker",
        abilities: &[Singles, Batches, Consumers, Processes],
        setting: "as it comes: synchronous normal; batches are transactions",
        finished: "deleted",
    },
    Library {
        key: "effectum",
        name: "effectum",
        program: &EFFECTUM,
        package: "effectum",
        abilities: &[Singles, Batches, Worker],
        setting: "32 to 64 jobs at once; synchronous normal",
        finished: "marked, stay in the table",
    },
    Library {
        key: "apalis-sqlite",
        name: "apalis-sqlite",
        program: &OWN,
        package: "apalis-sqlite",
        abilities: &[Singles, Batches, Worker, Processes],
        setting: "batches of 100, woken by its own process and each 100 ms, handlers spawned; synchronous **off**, as its set-up has it",
        finished: "marked, stay in the table",
    },
    Library {
        key: "published",
        name: "pgqrs 0.15.3",
        program: &SQLX_0_8,
        package: "pgqrs",
        abilities: &[Singles, Batches, Consumers, Processes],
        setting: "as it comes",
        finished: "archived",
    },
];

impl Library {
    /// Whether it is what the others are compared with.
    pub(crate) fn is_ours(&self) -> bool {
        self.key.starts_with("ours")
    }

    pub(crate) fn can(&self, ability: Ability) -> bool {
        self.abilities.contains(&ability)
    }

    /// As the program's lock file has it.
    pub(crate) fn version(&self) -> &'static str {
        let package = format!("name = \"{}\"\nversion = \"", self.package);
        let version =
            self.program.lock.split_once(&package).and_then(|(_, rest)| rest.split('"').next());
        version.unwrap_or("?")
    }

    /// Lets the library do a task on a database, in a process of its own.
    pub(crate) async fn call(&self, url: &str, task: &[String]) -> Result<Figures> {
        let mut command = self.program.command()?;
        command.arg(self.key).arg(url).args(task);
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        let what = || format!("{} {}", self.key, task.join(" "));
        let output = timeout(LIMIT, command.output()).await;
        let output = output.map_err(|_| format!("{}: not done after {LIMIT:?}", what()))??;
        if !output.status.success() {
            return Err(format!("{}: {}", what(), output.status).into());
        }
        let last = output.stdout.trim_ascii().rsplit(|&byte| byte == b'\n').next();
        let figures = serde_json::from_slice(last.unwrap_or_default());
        figures.map_err(|error| format!("{}: {error}", what()).into())
    }
}

impl Program {
    fn command(&self) -> Result<Command> {
        let own = env::current_exe()?;
        if self.folder.is_empty() {
            let mut command = Command::new(own);
            command.arg("serve");
            return Ok(command);
        }
        Ok(Command::new(own.with_file_name(self.binary)))
    }

    async fn build(&self) -> Result<()> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let own = env::current_exe()?;
        let target = own.parent().and_then(|profile| profile.parent()).ok_or("no target folder")?;
        let mut command = Command::new("cargo");
        command.args(["build", "--release", "--locked", "--manifest-path"]);
        command.arg(root.join(self.folder).join("Cargo.toml"));
        command.arg("--target-dir").arg(target);
        let status = command.status().await?;
        if status.success() { Ok(()) } else { Err(format!("{}: {status}", self.folder).into()) }
    }
}

/// Builds the other programs, where they are out of date.
pub(crate) async fn build() -> Result<()> {
    for program in [&SQLX_0_8, &EFFECTUM, &HONKER] {
        program.build().await?;
    }
    Ok(())
}
