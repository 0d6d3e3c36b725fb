//! The application's own tables by sqlx, its queue by us, in one file.

use std::error::Error;

use pgqrs_sqlite::rusqlite;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = pgqrs_sqlite::connect("sqlite:///app.db").await?;
    pgqrs::admin(&store).create_queue("tasks").await?;
    let pool = sqlx::SqlitePool::connect("sqlite://app.db").await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS orders (id INTEGER)").execute(&pool).await?;

    let mut connection = rusqlite::Connection::open("app.db")?;
    let tx = connection.transaction()?;
    store.enqueue_in(&tx, pgqrs::enqueue().message(&"pack it").to("tasks").command()?)?;
    tx.commit()?;
    Ok(())
}
