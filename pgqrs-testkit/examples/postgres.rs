//! Starts a throwaway Postgres database, prints its URL, and drops it when standard input ends:
//! for programs that are not Rust, and for looking around by hand.
//!
//! ```console
//! $ cargo run -p pgqrs-testkit --example postgres
//! postgresql://postgres@127.0.0.1:40213/test_1
//! ```

use std::io::Read;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), pgqrs_testkit::server::Error> {
    let database = pgqrs_testkit::server::database().await?;
    println!("{}", database.url());
    // An error of the input is an end of it too.
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    Ok(())
}
