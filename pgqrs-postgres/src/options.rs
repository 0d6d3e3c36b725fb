//! What a caller may choose about a store beside its URL.

use std::time::Duration;

/// How a store connects and speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The schema of the tables, any name; `pgqrs` by default. `?pgqrs_schema=` in the URL
    /// overrides it.
    pub schema: String,
    /// How many connections at most; 8 by default.
    pub pool_size: usize,
    /// Whether statements are prepared.
    pub statements: StatementMode,
    /// Whether processes wake one another by LISTEN and NOTIFY; without it they poll.
    pub notifications: Notifications,
    /// Where to LISTEN, if the store's URL leads through a transaction pooler, which never
    /// delivers; by default the store's URL.
    pub listen_url: Option<String>,
    /// How long a connection may take to be made; 5 seconds by default.
    pub connect_timeout: Duration,
    /// How long a statement may take, and how long a call waits for a free connection; 30 seconds
    /// by default. Installation, deletion of a queue and purge may take ten times as long. The
    /// statement is cancelled then, and its connection closed.
    pub call_timeout: Duration,
    /// How long the server lets a statement run, and [ten times](Self::call_timeout) that where the
    /// call may take so long; by default what the server or the role has set. On a direct
    /// connection it is a setting of the session. Through a pooler it holds in transactions alone,
    /// as their SET LOCAL: for what is one statement, give it to the role (ALTER ROLE … SET).
    pub statement_timeout: Option<Duration>,
    /// How long a statement waits for a lock; as `statement_timeout`. It should be shorter.
    pub lock_timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            schema: "pgqrs".into(),
            pool_size: 8,
            statements: StatementMode::default(),
            notifications: Notifications::default(),
            listen_url: None,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
            statement_timeout: None,
            lock_timeout: None,
        }
    }
}

/// Whether processes wake one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Notifications {
    /// By LISTEN, on one connection per store while anything waits, and NOTIFY.
    #[default]
    On,
    /// Not at all: run loops poll.
    Off,
}

/// Whether statements are prepared once per connection, or sent anew each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StatementMode {
    /// Prepared: the fastest, on a direct connection or a pooler that follows prepared statements.
    Prepared,
    /// Unnamed: works through every transaction pooler, some 30 microseconds a statement dearer.
    Unnamed,
    /// Prepared on a direct connection; unnamed if a pooler is found in between at connect, or, with
    /// a warning, as soon as one shows.
    #[default]
    Auto,
}
