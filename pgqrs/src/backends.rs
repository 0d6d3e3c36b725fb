//! Backends chosen by a URL at run time: a value that the program makes, not a global.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{Error, Result, Store};

/// A kind of store that a URL can name.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync {
    /// The schemes it serves, without `://`.
    fn schemes(&self) -> &'static [&'static str];

    /// Opens the store that `url` names.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`], [`Error::Unavailable`], [`Error::PermissionDenied`] and what else the
    /// backend documents.
    async fn connect(&self, url: &str) -> Result<Arc<dyn Store>>;
}

/// The backends of a program.
///
/// ```
/// # use std::sync::Arc;
/// # #[derive(Debug)] struct Memory;
/// # #[async_trait::async_trait]
/// # impl pgqrs::Backend for Memory {
/// #     fn schemes(&self) -> &'static [&'static str] { &["memory"] }
/// #     async fn connect(&self, _: &str) -> pgqrs::Result<Arc<dyn pgqrs::Store>> {
/// #         Ok(Arc::new(pgqrs::MemoryStore::new()))
/// #     }
/// # }
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// // A program with databases says `&[&pgqrs_postgres::Postgres, &pgqrs_sqlite::Sqlite]`.
/// let backends = pgqrs::Backends::new(&[&Memory]);
/// let store = backends.connect("memory://").await?;
/// pgqrs::admin(&store).create_queue("tasks").await?;
///
/// let error = backends.connect("mysql://localhost").await.unwrap_err();
/// assert!(error.to_string().contains("known schemes: memory"));
/// # Ok::<_, pgqrs::Error>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Backends<'a> {
    backends: &'a [&'a dyn Backend],
}

impl<'a> Backends<'a> {
    /// These backends, asked in order.
    pub fn new(backends: &'a [&'a dyn Backend]) -> Self {
        Self { backends }
    }

    /// Opens the store that `url` names.
    ///
    /// # Errors
    /// [`Error::UnknownScheme`] lists the known ones; otherwise what the backend answers.
    pub async fn connect(&self, url: &str) -> Result<Arc<dyn Store>> {
        let scheme = url.split_once(':').map_or(url, |(scheme, _)| scheme);
        let serves = |backend: &&&dyn Backend| {
            backend.schemes().iter().any(|known| known.eq_ignore_ascii_case(scheme))
        };
        match self.backends.iter().find(serves) {
            Some(backend) => backend.connect(url).await,
            None => Err(Error::UnknownScheme {
                scheme: scheme.chars().take(32).collect(),
                known: self
                    .backends
                    .iter()
                    .flat_map(|backend| backend.schemes())
                    .copied()
                    .collect(),
            }),
        }
    }
}
