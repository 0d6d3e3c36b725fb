//! Calls in a transaction of sqlx, of either version.

#![cfg(all(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

macro_rules! version {
    ($module:ident, $sqlx:ident) => {
        mod $module {
            use $sqlx::{Connection as _, PgConnection};
            use pgqrs::{
                Action, Delay, Enqueue, Error, Json, Message, MetricsFilter, NewMessage,
                QueueMetrics, QueueName, RetryDecision, Settle, Settled, Settlement, Store,
            };
            use pgqrs_postgres::PostgresStore;
            use pgqrs_testkit::server::{Database, bouncer, database};

            #[tokio::test]
            async fn a_message_appears_when_the_caller_commits() {
                let (store, mut client, _database) = scene().await;
                let mut transaction = client.begin().await.unwrap();
                let command = pgqrs::enqueue()
                    .messages(&["a", "b"])
                    .to("q")
                    .headers(&serde_json::json!({"k": "v"}))
                    .priority(7)
                    .command()
                    .unwrap();
                let ids = store.enqueue_in(&mut *transaction, command).await.unwrap();
                assert_eq!(metrics(&store).await.live(), 0, "it was seen before the commit");
                transaction.commit().await.unwrap();
                let messages = claim(&store).await;
                assert_eq!(messages.iter().map(|message| message.id).collect::<Vec<_>>(), ids);
                assert_eq!((messages[1].priority.level(), &messages[1].headers["k"]), (7, &"v".into()));
            }

            #[tokio::test]
            async fn a_message_vanishes_when_the_caller_rolls_back() {
                let (store, mut client, _database) = scene().await;
                let mut transaction = client.begin().await.unwrap();
                store.enqueue_in(&mut *transaction, one("never")).await.unwrap();
                transaction.rollback().await.unwrap();
                assert_eq!(metrics(&store).await.live(), 0);
            }

            #[tokio::test]
            async fn an_effect_and_its_archive_are_one_commit() {
                let (store, mut client, _database) = scene().await;
                store.enqueue(one("work")).await.unwrap();
                let message = claim(&store).await.remove(0);
                for is_committed in [false, true] {
                    let mut transaction = client.begin().await.unwrap();
                    let effect = $sqlx::query("INSERT INTO effects VALUES (1)");
                    effect.execute(&mut *transaction).await.unwrap();
                    store.archive_in(&mut *transaction, message.receipt).await.unwrap();
                    match is_committed {
                        true => transaction.commit().await.unwrap(),
                        false => transaction.rollback().await.unwrap(),
                    }
                    let effects = $sqlx::query_scalar("SELECT count(*) FROM effects");
                    let effects: i64 = effects.fetch_one(&mut client).await.unwrap();
                    let archived = metrics(&store).await.archived;
                    let expected = u64::from(is_committed);
                    assert_eq!((effects.unsigned_abs(), archived), (expected, expected));
                }
            }

            #[tokio::test]
            async fn every_way_to_settle_waits_for_the_commit() {
                let (store, mut client, _database) = scene().await;
                let messages = (0..4).map(|_| one("work").messages.remove(0)).collect();
                store.enqueue(Enqueue { messages, ..one("") }).await.unwrap();
                let retry = RetryDecision::RetryAfter(Delay::seconds(60).unwrap());
                let extended = pgqrs::VisibilityTimeout::seconds(60).unwrap();
                let actions = [
                    Action::Delete,
                    Action::Release(Delay::ZERO),
                    Action::Fail { error: "once".into(), retry },
                    Action::Extend(extended),
                ];
                let settlements = claim(&store).await.into_iter().zip(actions);
                let settlements = settlements
                    .map(|(message, action)| Settlement { receipt: message.receipt, action })
                    .collect();
                let mut transaction = client.begin().await.unwrap();
                let settle = Settle { settlements, now: None };
                let outcomes = store.settle_in(&mut *transaction, settle).await.unwrap();
                let expected = [Settled::Deleted, Settled::Released, Settled::Retrying];
                assert_eq!(outcomes[..3], expected.map(Ok));
                assert!(matches!(outcomes[3], Ok(Settled::Extended(_))), "{outcomes:?}");
                assert_eq!(metrics(&store).await.leased, 4, "it was seen before the commit");
                transaction.commit().await.unwrap();
                let after = metrics(&store).await;
                assert_eq!((after.leased, after.ready, after.delayed), (1, 1, 1));
            }

            #[tokio::test]
            async fn errors_are_the_typed_ones() {
                let (store, mut client, database) = scene().await;
                let mut transaction = client.begin().await.unwrap();
                let nowhere = Enqueue { queue: QueueName::new("nowhere").unwrap(), ..one("x") };
                let error = store.enqueue_in(&mut *transaction, nowhere).await.unwrap_err();
                assert!(matches!(error, Error::QueueNotFound { .. }), "{error:?}");
                let lost = pgqrs::Receipt { id: pgqrs::MessageId(1), token: 1 };
                let error = store.archive_in(&mut *transaction, lost).await.unwrap_err();
                assert!(matches!(error, Error::LeaseLost { .. }), "{error:?}");
                // Neither has spoilt the transaction.
                store.enqueue_in(&mut *transaction, one("taken")).await.unwrap();
                transaction.commit().await.unwrap();
                assert_eq!(metrics(&store).await.live(), 1);

                let mut other = PgConnection::connect(database.url()).await.unwrap();
                $sqlx::query("DROP SCHEMA pgqrs CASCADE").execute(&mut other).await.unwrap();
                let mut transaction = client.begin().await.unwrap();
                let error = store.enqueue_in(&mut *transaction, one("x")).await.unwrap_err();
                assert!(matches!(error, Error::SchemaMissing { .. }), "{error:?}");
            }

            #[tokio::test]
            async fn a_transaction_through_a_pooler_serves() {
                let (store, _client, database) = scene().await;
                let bouncer = bouncer(database.url()).await.unwrap();
                for round in 0..10 {
                    let mut client = PgConnection::connect(bouncer.url()).await.unwrap();
                    let mut transaction = client.begin().await.unwrap();
                    store.enqueue_in(&mut *transaction, one("through")).await.unwrap();
                    transaction.commit().await.unwrap();
                    let message = claim(&store).await.remove(0);
                    let mut transaction = client.begin().await.unwrap();
                    store.archive_in(&mut *transaction, message.receipt).await.unwrap();
                    transaction.commit().await.unwrap();
                    assert_eq!(metrics(&store).await.archived, round + 1);
                }
            }

            async fn scene() -> (PostgresStore, PgConnection, Database) {
                let database = database().await.unwrap();
                let store = pgqrs_postgres::connect(database.url()).await.unwrap();
                store.install().await.unwrap();
                pgqrs::admin(&store).create_queue("q").await.unwrap();
                let mut client = PgConnection::connect(database.url()).await.unwrap();
                let table = $sqlx::query("CREATE TABLE effects (n int)");
                table.execute(&mut client).await.unwrap();
                (store, client, database)
            }

            async fn claim(store: &PostgresStore) -> Vec<Message> {
                pgqrs::dequeue().from("q").batch(10).fetch_all(store).await.unwrap()
            }

            async fn metrics(store: &PostgresStore) -> QueueMetrics {
                store.metrics(MetricsFilter::default()).await.unwrap().remove(0)
            }

            fn one(payload: &str) -> Enqueue {
                let queue = QueueName::new("q").unwrap();
                let message = NewMessage::new(Json::new(payload).unwrap());
                Enqueue { queue, messages: vec![message], now: None }
            }
        }
    };
}

version!(v0_8, sqlx_0_8);
version!(v0_9, sqlx_0_9);
