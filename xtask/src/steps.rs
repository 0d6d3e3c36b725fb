//! Runs steps one after the other, timed, and sums up.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{Failure, root};

/// What has run so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration, Result<(), Failure>)>,
}

impl Steps {
    /// Runs the work, whether or not earlier steps failed.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<(), Failure>) {
        println!("\n== {name}");
        let start = Instant::now();
        let result = work();
        if let Err(failure) = &result {
            eprintln!("{failure}");
        }
        self.done.push((name.to_owned(), start.elapsed(), result));
    }

    /// Whether a step failed.
    pub(crate) fn failed(&self) -> bool {
        self.done.iter().any(|(_, _, result)| result.is_err())
    }

    /// Prints a line for each step.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        println!("\n== summary");
        for (name, took, result) in &self.done {
            let verdict = if result.is_ok() { "ok" } else { "FAILED" };
            println!("{verdict:<6} {:>7.1} s  {name}", took.as_secs_f64());
        }
        if self.failed() { Err("\nNot everything passed.".into()) } else { Ok(()) }
    }
}

/// The command, in the workspace's folder.
pub(crate) fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).current_dir(root());
    command
}

/// Runs the command, showing it and what it prints.
pub(crate) fn show(command: &mut Command) -> Result<(), Failure> {
    let line = line(command);
    println!("$ {line}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` failed: {status}")),
        Err(error) => Err(format!("`{line}` cannot run: {error}")),
    }
}

/// Runs the command and returns what it prints.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let line = line(command);
    let output = command.output().map_err(|error| format!("`{line}` cannot run: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("`{line}` failed: {}\n{said}", output.status))
    }
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={:?}", name.to_string_lossy(), value?.to_string_lossy()))
    });
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned());
    set.chain(words).collect::<Vec<_>>().join(" ")
}
