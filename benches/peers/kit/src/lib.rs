//! What a library does in a comparison, and the command line of the programs that do it.
//!
//! Libraries that cannot share a lock file live in programs of their own. Each of them implements [`Peer`] for its
//! libraries and calls [`serve`]; what was measured comes out as one line of JSON.

mod message;
mod serve;
mod tally;

use std::error::Error;

pub use message::Message;
pub use serve::{Call, Figures, Task, exit, serve, unknown};
pub use tally::{Seen, Tally};

/// The result of everything here.
pub type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The queue that everything happens in.
pub const QUEUE: &str = "bench";

/// How many handlers a library's worker may run at once.
pub const HANDLERS: usize = 64;

/// How many connections a library gets where it leaves that to its user.
pub const CONNECTIONS: u32 = 16;

/// A library, connected to a database.
pub trait Peer: Sized + Send + Sync + 'static {
    /// Makes in an empty database what the library needs.
    fn install(url: &str) -> impl Future<Output = Result> + Send;

    /// Connects to a database that is installed.
    fn open(url: &str) -> impl Future<Output = Result<Self>> + Send;

    /// Enqueues one message by one call.
    fn enqueue(&self, message: Message) -> impl Future<Output = Result> + Send;

    /// Enqueues messages by one call.
    fn enqueue_batch(&self, messages: Vec<Message>) -> impl Future<Output = Result> + Send {
        let _ = messages;
        async { Err("this library has no batches".into()) }
    }

    /// Runs the library's own worker, set as its documentation advises for throughput, with [`HANDLERS`] handlers that
    /// do no more than tell the tally, until that is done.
    fn work(&self, tally: &Tally) -> impl Future<Output = Result> + Send {
        let _ = tally;
        async { Err("this library has no worker".into()) }
    }

    /// Claims messages in batches and finishes each batch by one call, on so many consumers at once, until the tally is
    /// done.
    fn consume(
        &self,
        batch: usize,
        consumers: usize,
        tally: &Tally,
    ) -> impl Future<Output = Result> + Send {
        let _ = (batch, consumers, tally);
        async { Err("this library claims no batches".into()) }
    }

    /// How many messages are not finished.
    fn unfinished(&self) -> impl Future<Output = Result<u64>> + Send;
}
