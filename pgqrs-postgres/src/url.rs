//! Connection URLs: libpq's, with the TLS parameters that the driver does not know, and our schema.

use pgqrs::{Error, Result};
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use crate::tls::{Tls, Trust};

/// What a URL says.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) config: Config,
    pub(crate) tls: Tls,
    pub(crate) schema: Option<String>,
}

/// Parses `url`.
///
/// # Errors
/// `InvalidUrl`, which never repeats the URL: it may hold a password.
pub(crate) fn parse(url: &str) -> Result<Target> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(invalid("it must begin with postgresql:// or postgres://"));
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut root, mut schema, mut rest) = ("prefer".to_owned(), None, None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = decode(value)?,
            Some(("sslrootcert", value)) => root = Some(decode(value)?),
            Some(("pgqrs_schema", value)) => schema = Some(decode(value)?),
            _ => rest.push(pair),
        }
    }
    let mut config: Config = format!("{base}?{}", rest.join("&")).parse().map_err(|_| {
        invalid(
            "expected postgresql://user:password@host:port/database?parameter=value with libpq's \
             parameters; percent-encode special characters in user and password",
        )
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host("localhost");
    }
    // libpq's rules: `require` verifies once it is told which root to trust.
    let (ssl_mode, trust) = match mode.as_str() {
        "disable" => (SslMode::Disable, Trust::Anything),
        "allow" | "prefer" => (SslMode::Prefer, Trust::Anything),
        "require" if root.is_none() => (SslMode::Require, Trust::Anything),
        "require" | "verify-ca" => (SslMode::Require, Trust::Chain),
        "verify-full" => (SslMode::Require, Trust::ChainAndName),
        _ => {
            return Err(invalid(
                "sslmode must be disable, allow, prefer, require, verify-ca or verify-full",
            ));
        }
    };
    let local = |host: &Host| !matches!(host, Host::Tcp(_));
    let is_local = !config.get_hosts().is_empty() && config.get_hosts().iter().all(local);
    config.ssl_mode(if is_local { SslMode::Disable } else { ssl_mode });
    Ok(Target { config, tls: Tls { trust, root }, schema })
}

pub(crate) fn invalid(reason: impl Into<String>) -> Error {
    Error::InvalidUrl { reason: reason.into() }
}

fn decode(value: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
                _ => return Err(invalid("% must be followed by two hexadecimal digits")),
            },
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid("parameters must be UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_its_own_parameters_off() {
        let url = "postgresql://u:p@h/db?sslmode=verify-ca&sslrootcert=%2Fca.pem&pgqrs_schema=a%20b\
                   &application_name=app";
        let target = parse(url).unwrap();
        assert_eq!(target.schema.as_deref(), Some("a b"));
        assert_eq!(target.tls, Tls { trust: Trust::Chain, root: Some("/ca.pem".into()) });
        assert_eq!(target.config.get_application_name(), Some("app"));
        assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
    }

    #[test]
    fn sslmode_follows_libpq() {
        let tls = |query: &str| {
            let target = parse(&format!("postgres://h/db?{query}")).unwrap();
            (target.config.get_ssl_mode(), target.tls.trust)
        };
        assert_eq!(tls(""), (SslMode::Prefer, Trust::Anything));
        assert_eq!(tls("sslmode=disable"), (SslMode::Disable, Trust::Anything));
        assert_eq!(tls("sslmode=require"), (SslMode::Require, Trust::Anything));
        assert_eq!(tls("sslmode=require&sslrootcert=x"), (SslMode::Require, Trust::Chain));
        assert_eq!(tls("sslmode=verify-full"), (SslMode::Require, Trust::ChainAndName));
        let socket = parse("postgresql://%2Ftmp/db?sslmode=require").unwrap();
        assert_eq!(socket.config.get_ssl_mode(), SslMode::Disable);
    }

    #[test]
    fn bad_urls_never_repeat_the_password() {
        for url in [
            "mysql://u:secret@h/db",
            "postgres://u:sec?ret@h:x/db",
            "postgres://u:secret@h:port/db",
            "postgres://u:secret@h/db?sslmode=maybe",
            "postgres://u:secret@h/db?pgqrs_schema=%zz",
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(!error.contains("secret") && !error.contains("ret@"), "{error}");
        }
    }
}
