//! The libraries that are built on sqlx 0.8, whose SQLite is another than ours.

mod published;
mod sqlxmq;
mod underway;

use std::process::ExitCode;

use clap::Parser;
use kit::{Call, serve};

#[tokio::main]
async fn main() -> ExitCode {
    let Call { library, url, task } = Call::parse();
    kit::exit(match library.as_str() {
        "published" => serve::<published::Published>(&url, task).await,
        "sqlxmq" => serve::<sqlxmq::Sqlxmq>(&url, task).await,
        "underway" => serve::<underway::Underway>(&url, task).await,
        other => Err(kit::unknown(other)),
    })
}
