//! The parts of a `postgresql://` URL, as written, so that one of them can be replaced.

use std::fmt;

use super::{Error, Result};

/// A URL's parts; together they are the URL again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Url<'a> {
    /// The scheme, the user and the password: `postgresql://user:password@`.
    pub(super) login: &'a str,
    /// Host and port.
    pub(super) host: &'a str,
    /// The database's name, or nothing.
    pub(super) database: &'a str,
    /// The parameters with their `?`, or nothing.
    pub(super) parameters: &'a str,
}

impl<'a> Url<'a> {
    pub(super) fn parse(url: &'a str) -> Result<Self> {
        let scheme = url.find("://").map(|at| at + 3);
        let scheme =
            scheme.ok_or_else(|| Error::new(format!("{url:?} is no postgresql:// URL")))?;
        let (address, parameters) = url.split_at(url.find('?').unwrap_or(url.len()));
        let end = address[scheme..].find('/').map_or(address.len(), |at| scheme + at);
        let host = address[..end].rfind('@').map_or(scheme, |at| at + 1);
        Ok(Self {
            login: &url[..host],
            host: &url[host..end],
            database: address[end..].trim_start_matches('/'),
            parameters,
        })
    }
}

impl fmt::Display for Url<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { login, host, database, parameters } = self;
        write!(f, "{login}{host}/{database}{parameters}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_is_replaced_and_the_others_stay() {
        for (url, expected) in [
            ("postgresql://h", "postgresql://h/new"),
            ("postgresql://u:p@h:1/old", "postgresql://u:p@h:1/new"),
            ("postgres://h/old?sslmode=require", "postgres://h/new?sslmode=require"),
            ("postgres://%2Ftmp?port=5433", "postgres://%2Ftmp/new?port=5433"),
        ] {
            let replaced = Url { database: "new", ..Url::parse(url).unwrap() };
            assert_eq!(replaced.to_string(), expected);
        }
        let parsed = Url::parse("postgres://u:p%40@h:1/d").unwrap();
        let replaced = Url { host: "[::1]:2", ..parsed };
        assert_eq!(replaced.to_string(), "postgres://u:p%40@[::1]:2/d");
        assert!(Url::parse("host=localhost").is_err());
    }
}
