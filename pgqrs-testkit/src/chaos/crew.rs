//! The processes of a run: started, killed, started again, replaced, ended.

use std::{env, path::PathBuf, process::Stdio};

use fastrand::Rng;
use pgqrs::QueueName;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Plan, Program, Role, TASK, Task};
use crate::history::{
    Event, Record,
    actor::{Failure, Identity},
    read,
};

/// All processes of a run.
#[derive(Debug)]
pub(super) struct Crew {
    program: Program,
    queue: QueueName,
    rng: Rng,
    folder: TempDir,
    logs: Vec<PathBuf>,
    /// Those that are killed and started again.
    members: Vec<Member>,
    /// Those whose identity another process has taken over.
    zombies: Vec<Child>,
}

/// One place in the crew, which one process after the other takes.
#[derive(Debug)]
struct Member {
    role: Role,
    child: Child,
    /// The histories of the processes that had this place; the last one is still written.
    logs: Vec<PathBuf>,
}

impl Crew {
    pub(super) fn start(
        plan: Plan,
        program: Program,
        queue: QueueName,
        rng: Rng,
    ) -> Result<Self, Failure> {
        let (folder, logs) = (tempfile::tempdir()?, Vec::new());
        let (members, zombies) = (Vec::new(), Vec::new());
        let mut crew = Self { program, queue, rng, folder, logs, members, zombies };
        let producers = plan.processes.div_ceil(4);
        for number in 0..plan.processes {
            let role = match number.checked_sub(producers) {
                None => Role::Produce(
                    plan.messages / producers + usize::from(number < plan.messages % producers),
                ),
                Some(consumer) if consumer % 2 == 0 => {
                    Role::Consume(Identity::Port(consumer as u16 + 1))
                }
                Some(_) => Role::Consume(Identity::Ephemeral),
            };
            let (child, log) = crew.spawn(role)?;
            crew.members.push(Member { role, child, logs: vec![log] });
        }
        Ok(crew)
    }

    /// Kills a process that is at work, with SIGKILL, and starts another one in its place.
    pub(super) async fn kill_and_restart(&mut self) -> Result<(), Failure> {
        let mut working = Vec::new();
        for (place, member) in self.members.iter_mut().enumerate() {
            if member.child.try_wait()?.is_none() {
                working.push(place);
            }
        }
        let Some(place) = self.rng.choice(working) else { return Ok(()) };
        self.members[place].child.kill().await?;
        let role = match self.members[place].role {
            Role::Produce(count) => {
                Role::Produce(count.saturating_sub(enqueued(&self.members[place].logs)?))
            }
            consume => consume,
        };
        let (child, log) = self.spawn(role)?;
        self.members[place].child = child;
        self.members[place].logs.push(log);
        Ok(())
    }

    /// Starts another process under the identity of a worker, which goes on as a zombie.
    pub(super) fn replace_one(&mut self) -> Result<(), Failure> {
        let registered = |member: &Member| matches!(member.role, Role::Consume(Identity::Port(_)));
        let Some(place) = self.members.iter().position(registered) else { return Ok(()) };
        let (child, log) = self.spawn(self.members[place].role)?;
        self.zombies.push(std::mem::replace(&mut self.members[place].child, child));
        self.members[place].logs.push(log);
        Ok(())
    }

    /// No process has failed by itself.
    pub(super) fn check_health(&mut self) -> Result<(), Failure> {
        let zombies = self.zombies.iter_mut();
        for child in self.members.iter_mut().map(|member| &mut member.child).chain(zombies) {
            if let Some(status) = child.try_wait()?.filter(|status| !status.success()) {
                return Err(Failure::Process(format!("a process failed: {status}")));
            }
        }
        Ok(())
    }

    pub(super) fn producers_have_ended(&mut self) -> bool {
        let produces = |member: &&mut Member| matches!(member.role, Role::Produce(_));
        let mut producers = self.members.iter_mut().filter(produces);
        producers.all(|member| matches!(member.child.try_wait(), Ok(Some(_))))
    }

    /// Lets every process end, and returns the history of each that ever ran.
    pub(super) async fn end(mut self) -> Result<Vec<Vec<Record>>, Failure> {
        let members = std::mem::take(&mut self.members).into_iter().map(|member| member.child);
        for mut child in members.chain(std::mem::take(&mut self.zombies)) {
            drop(child.stdin.take());
            let status = child.wait().await?;
            if !status.success() {
                return Err(Failure::Process(format!("a process failed: {status}")));
            }
        }
        // A process that was killed before it began has no history.
        let written = self.logs.iter().filter(|log| log.exists());
        Ok(written.map(|log| read(log)).collect::<Result<_, _>>()?)
    }

    fn spawn(&mut self, role: Role) -> Result<(Child, PathBuf), Failure> {
        let log = self.folder.path().join(format!("{}.jsonl", self.logs.len()));
        self.logs.push(log.clone());
        let task = Task {
            role,
            url: self.program.url.clone(),
            queue: self.queue.clone(),
            log: log.clone(),
            seed: self.rng.u64(..),
        };
        let child = Command::new(env::current_exe()?)
            .args([self.program.test, "--exact", "--nocapture", "--include-ignored"])
            .env(TASK, serde_json::to_string(&task).map_err(std::io::Error::from)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok((child, log))
    }
}

/// How many messages these histories were told were enqueued.
fn enqueued(logs: &[PathBuf]) -> Result<usize, Failure> {
    let mut count = 0;
    for log in logs.iter().filter(|log| log.exists()) {
        for record in read(log)? {
            if let Event::Enqueued(ids) = record.event {
                count += ids.len();
            }
        }
    }
    Ok(count)
}
