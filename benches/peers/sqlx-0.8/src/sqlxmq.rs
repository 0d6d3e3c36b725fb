//! sqlxmq.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use ::sqlxmq::{CurrentJob, JobRegistry, job};
use kit::{CONNECTIONS, HANDLERS, Message, Peer, Result, Tally};
use serde_json::Value;
use sqlx::{Executor, PgPool, postgres::PgPoolOptions};

pub(crate) struct Sqlxmq {
    pool: PgPool,
}

#[job]
async fn handle(mut current_job: CurrentJob, tally: Tally) -> Result {
    let message: Message = current_job.json()?.ok_or("a job without a payload")?;
    tally.note(&message);
    current_job.complete().await?;
    Ok(())
}

impl Peer for Sqlxmq {
    async fn install(url: &str) -> Result {
        let pool = connect(url).await?;
        for file in migrations()? {
            pool.execute(fs::read_to_string(file)?.as_str()).await?;
        }
        Ok(())
    }

    async fn open(url: &str) -> Result<Self> {
        Ok(Self { pool: connect(url).await? })
    }

    async fn enqueue(&self, message: Message) -> Result {
        handle.builder().set_json(&message)?.spawn(&self.pool).await?;
        Ok(())
    }

    async fn work(&self, tally: &Tally) -> Result {
        let mut registry = JobRegistry::new(&[handle]);
        registry.set_context(tally.clone());
        let mut runner = registry.runner(&self.pool);
        let mut running = runner.set_concurrency(HANDLERS / 2, HANDLERS).run().await?;
        tally.done().await;
        running.stop().await;
        running.wait_jobs_finish(Duration::from_secs(5)).await;
        Ok(())
    }

    async fn unfinished(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM mq_msgs WHERE id <> uuid_nil()";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await?;
        Ok(count.try_into()?)
    }
}

async fn connect(url: &str) -> Result<PgPool> {
    Ok(PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?)
}

/// The files that its documentation asks its users to copy from the crate.
fn migrations() -> Result<Vec<PathBuf>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--offline", "--manifest-path", manifest])
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?;
    let package = packages.iter().find(|package| package["name"] == "sqlxmq");
    let path = package.and_then(|package| package["manifest_path"].as_str());
    let folder = PathBuf::from(path.ok_or("no sqlxmq")?).with_file_name("migrations");
    let files = fs::read_dir(folder)?.map(|file| -> Result<PathBuf> { Ok(file?.path()) });
    let mut files: Vec<PathBuf> = files.collect::<Result<_>>()?;
    files.retain(|file| file.to_string_lossy().ends_with(".up.sql"));
    files.sort();
    Ok(files)
}
