//! The project's own tasks. `cargo xtask` lists them.

mod checks;
mod prerequisites;
mod python;
mod size;
mod steps;

use std::{env, path::PathBuf, process::ExitCode};

const HELP: &str = "\
cargo xtask test [--quick] [--postgres VERSION,…]
    Everything that CI checks. Installs what is missing, or says what to install.
    --quick          leaves out doc tests, rustdoc, the quickstart, sqlx, Python, and
                     the oldest and newest Postgres
    --postgres 14,16 runs all Postgres tests on these major versions too
cargo xtask wheel
    Builds the Python wheel for others, and tries it on every Python that is found
cargo xtask size
    Checks the sizes of the source files and crates

Not checked here: that it builds with the oldest Rust, `rust-version` in Cargo.toml.
";

/// What went wrong, for a person to read.
type Failure = String;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        None | Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        Some("test") => options(&arguments[1..]).and_then(|options| checks::run(&options)),
        Some("wheel") if arguments.len() == 1 => python::wheel(),
        Some("size") if arguments.len() == 1 => size::check(),
        Some(_) => Err(unknown(&arguments)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

fn options(arguments: &[String]) -> Result<checks::Options, Failure> {
    let mut options = checks::Options::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), argument.split_once('=')) {
            ("--quick", _) => options.scope = checks::Scope::Quick,
            ("--postgres", _) => {
                let list = arguments.next().ok_or("--postgres wants versions, such as 13,18")?;
                options.postgres = versions(list)?;
            }
            (_, Some(("--postgres", list))) => options.postgres = versions(list)?,
            _ => return Err(unknown(std::slice::from_ref(argument))),
        }
    }
    Ok(options)
}

fn versions(list: &str) -> Result<Vec<u32>, Failure> {
    let parse = |version: &str| version.trim().parse().ok();
    let versions: Option<Vec<u32>> = list.split(',').map(parse).collect();
    versions.ok_or_else(|| format!("--postgres {list}: no list of major versions, such as 13,18"))
}

fn unknown(arguments: &[String]) -> Failure {
    format!("no such task or option: {}\n\n{HELP}", arguments.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<checks::Options, Failure> {
        options(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_in_both_forms() {
        let options = parse("--quick --postgres 13,18").unwrap();
        assert_eq!((options.scope, options.postgres), (checks::Scope::Quick, vec![13, 18]));
        assert_eq!(parse("--postgres=16").unwrap().postgres, [16]);
    }

    #[test]
    fn mistakes_are_named() {
        for line in ["--fast", "--postgres", "--postgres new", "--postgres=13;14"] {
            assert!(parse(line).unwrap_err().contains(line.split('=').next().unwrap()), "{line}");
        }
    }
}
