//! Random programs, compared with the model after every step.

use pgqrs_testkit::model::{Config, check};

#[test]
fn random_programs_agree_with_the_model() {
    check(
        async || {
            let database = pgqrs_testkit::server::database().await.unwrap();
            (pgqrs_postgres::connect(database.url()).await.unwrap(), database)
        },
        Config::from_env(),
    );
}
