//! What a URL says.

use std::{path::PathBuf, str::FromStr, time::Duration};

use pgqrs::{Error, Result};

const FORMS: &str =
    "sqlite:///relative.db, sqlite:////absolute/path.db or sqlite::memory: is expected";
const LONGEST_BUSY_TIMEOUT: u64 = 60 * 60 * 1_000;

/// Where the database is and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) place: Place,
    pub(crate) synchronous: Synchronous,
    pub(crate) busy_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    File(PathBuf),
}

/// When a commit reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Synchronous {
    Normal = 1,
    Full = 2,
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("sqlite:").ok_or_else(|| invalid(FORMS))?;
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let place = match place.strip_prefix("//") {
            None if place == ":memory:" => Place::Memory,
            None => return Err(invalid(FORMS)),
            Some(path) => match path.strip_prefix('/').unwrap_or(path) {
                "" => return Err(invalid(format!("the path is missing; {FORMS}"))),
                ":memory:" => Place::Memory,
                path => Place::File(PathBuf::from(decoded(path)?)),
            },
        };
        let mut target =
            Self { place, synchronous: Synchronous::Full, busy_timeout: Duration::from_secs(5) };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            target.set(parameter)?;
        }
        Ok(target)
    }
}

impl Target {
    fn set(&mut self, parameter: &str) -> Result<()> {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (name, value) {
            ("synchronous", "full") => self.synchronous = Synchronous::Full,
            ("synchronous", "normal") => self.synchronous = Synchronous::Normal,
            ("synchronous", _) => {
                return Err(invalid(format!("synchronous is full or normal, not {value:?}")));
            }
            ("busy_timeout", _) => {
                let millis = value.parse().ok().filter(|millis| *millis <= LONGEST_BUSY_TIMEOUT);
                let millis = millis.ok_or_else(|| {
                    invalid(format!("busy_timeout is 0 to 3600000 milliseconds, not {value:?}"))
                })?;
                self.busy_timeout = Duration::from_millis(millis);
            }
            _ => {
                let known = "synchronous=full|normal and busy_timeout=<milliseconds>";
                return Err(invalid(format!("unknown parameter {name:?}; known are {known}")));
            }
        }
        Ok(())
    }
}

pub(crate) fn invalid(reason: impl Into<String>) -> Error {
    Error::InvalidUrl { reason: reason.into() }
}

/// `path` with its %XX replaced by the bytes they stand for.
fn decoded(path: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) if high + low > 0 => bytes.push((high * 16 + low) as u8),
            _ => {
                return Err(invalid(format!(
                    "{path:?} has a % that is not followed by two hexadecimal digits, or names NUL"
                )));
            }
        }
    }
    if bytes.contains(&0) {
        return Err(invalid(format!("{path:?} contains NUL")));
    }
    String::from_utf8(bytes).map_err(|_| invalid(format!("{path:?} is not UTF-8 once decoded")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        url.parse::<Target>().unwrap().place
    }

    fn reason(url: &str) -> String {
        url.parse::<Target>().unwrap_err().to_string()
    }

    #[test]
    fn three_slashes_are_relative_and_four_absolute() {
        assert_eq!(place("sqlite:///x.db"), Place::File("x.db".into()));
        assert_eq!(place("sqlite://x.db"), Place::File("x.db".into()));
        assert_eq!(place("sqlite:////x.db"), Place::File("/x.db".into()));
        assert_eq!(place("sqlite:////a%20b/%C3%A9?synchronous=full"), Place::File("/a b/é".into()));
    }

    #[test]
    fn memory_has_three_spellings() {
        for url in ["sqlite::memory:", "sqlite://:memory:", "sqlite:///:memory:?busy_timeout=1"] {
            assert_eq!(place(url), Place::Memory, "{url}");
        }
    }

    #[test]
    fn parameters_are_read() {
        let target: Target = "sqlite:///x?synchronous=normal&busy_timeout=20".parse().unwrap();
        assert_eq!(target.synchronous, Synchronous::Normal);
        assert_eq!(target.busy_timeout, Duration::from_millis(20));
        let target: Target = "sqlite:///x".parse().unwrap();
        assert_eq!(target.synchronous, Synchronous::Full);
        assert_eq!(target.busy_timeout, Duration::from_secs(5));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_expected() {
        for url in ["postgres://x", "sqlite:", "sqlite:x.db", "sqlite://", "sqlite:///"] {
            assert!(reason(url).contains("sqlite:///relative.db"), "{url}: {}", reason(url));
        }
        assert!(
            reason("sqlite:///x?sync=full").contains("synchronous=full|normal and busy_timeout")
        );
        assert!(reason("sqlite:///x?synchronous=off").contains("full or normal"));
        assert!(reason("sqlite:///x?busy_timeout=5s").contains("milliseconds"));
        assert!(reason("sqlite:///x?busy_timeout=3600001").contains("3600000"));
        assert!(reason("sqlite:///%zz").contains('%') && reason("sqlite:///a%00").contains("NUL"));
    }
}
