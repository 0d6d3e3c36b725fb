//! The ranges of the archive: who makes and drops them, and who never waits for that.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use std::{pin::pin, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use pgqrs::{
    Action, ArchiveFilter, BatchSize, Claim, Enqueue, Json, MessageId, NewMessage, Outcome,
    QueueChanges, QueueName, Retention, Settle, Settlement, Store, Sweep, Swept, UpdateQueue,
};
use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::server::{Database, database};
use tokio_postgres::{Client, NoTls};

/// Ids in the smallest range.
const RANGE: i64 = 1 << 18;
/// Seconds that the queue `q` keeps its archive for; `kept` keeps it for ever.
const RETENTION: i64 = 60;

#[tokio::test]
async fn sweeps_make_two_ranges_ahead_and_no_more() {
    let scene = scene().await;
    assert!(scene.ranges().await.is_empty());
    for expected in [1, 2, 2] {
        scene.sweep(0).await;
        assert_eq!(scene.ranges().await.len(), expected);
    }
    assert_eq!(scene.ranges().await, [RANGE, 2 * RANGE]);
    scene.draw_upto(RANGE).await;
    let archived = scene.archive("q", 0).await;
    assert_eq!(scene.partition_of(archived).await, format!("archive_{RANGE}"));
    scene.sweep(0).await;
    assert_eq!(scene.ranges().await, [RANGE, 2 * RANGE, 3 * RANGE]);
    scene.store.verify().await.unwrap();
}

#[tokio::test]
async fn what_outruns_the_sweeps_goes_to_the_default_partition() {
    let scene = scene().await;
    scene.sweep(0).await;
    scene.draw_upto(10 * RANGE + 1).await;
    let archived = scene.archive("q", 0).await;
    assert_eq!(scene.partition_of(archived).await, "archive_default");
    scene.sweep(0).await;
    assert_eq!(scene.ranges().await, [RANGE, 11 * RANGE], "what is empty may be filled yet");
    assert_eq!(scene.archived(0).await, [archived]);
}

#[tokio::test]
async fn a_backlog_from_before_the_first_sweep_has_its_ranges() {
    let scene = scene().await;
    scene.draw_upto(RANGE).await;
    scene.enqueue("q", 0).await;
    scene.draw_upto(100 * RANGE).await;
    scene.sweep(0).await;
    let archived = scene.settle("q", 0).await;
    assert_eq!(scene.partition_of(archived).await, format!("archive_{RANGE}"));
}

#[tokio::test]
async fn ranges_grow_with_the_archive() {
    let scene = scene().await;
    let mut drawn = 1;
    while drawn < 1_000_000_000 {
        scene.sweep(0).await;
        scene.sweep(0).await;
        drawn = *scene.ranges().await.last().unwrap() + 1;
        scene.draw_upto(drawn).await;
        scene.archive("kept", 0).await;
    }
    let ranges = scene.ranges().await.len();
    assert!(ranges <= 32, "{ranges} for a billion ids");
}

#[tokio::test]
async fn a_range_past_its_retention_is_dropped_with_its_messages() {
    let scene = scene().await;
    scene.archive("q", 0).await;
    scene.archive_in_full_range(&["q", "q", "q"], 0).await;
    let above = scene.archive("q", 0).await;
    scene.sweep(RETENTION - 1).await;
    assert_eq!(scene.archived(RETENTION - 1).await.len(), 5);
    assert_eq!(scene.sweep(RETENTION).await.archive_removed, 1, "in the default partition");
    assert_eq!(scene.ranges().await, [2, 3, 4].map(|n| n * RANGE));
    assert_eq!(scene.messages().await, 4, "those of the range are not yet removed");
    assert_eq!(scene.sweep(RETENTION).await.archive_removed, 3);
    assert_eq!(scene.count("pg_class WHERE relname = 'archive_262144'").await, 0);
    assert_eq!(scene.sweep(RETENTION).await, Swept::default());
    assert_eq!(scene.count(&format!("pgqrs.messages WHERE id = {}", above.0)).await, 1);
    assert_eq!(scene.messages().await, 1);
    scene.store.verify().await.unwrap();
}

#[tokio::test]
async fn messages_of_a_dropped_range_are_removed_over_several_sweeps() {
    let scene = scene().await;
    scene.archive_in_full_range(&["q"], 0).await;
    scene.archive("q", 0).await;
    let more = "INSERT INTO pgqrs.archive (id, archived_at, queue_id, attempts, outcome)
                SELECT n, 'epoch', 1, 1, 'done' FROM generate_series(300000, 359999) n;
                INSERT INTO pgqrs.messages
                    (id, queue_id, priority, max_attempts, enqueued_at, payload)
                SELECT n, 1, 4, 5, 'epoch', '{}' FROM generate_series(300000, 359999) n;
                SELECT brin_summarize_new_values(inhrelid)
                FROM pg_inherits WHERE inhparent = 'pgqrs.archive_age'::regclass";
    scene.client.batch_execute(more).await.unwrap();
    scene.sweep(RETENTION).await;
    assert_eq!(scene.sweep(RETENTION).await.archive_removed, 50_000);
    assert_eq!(scene.sweep(RETENTION).await.archive_removed, 10_001);
    assert_eq!((scene.messages().await, scene.count("pgqrs.retired").await), (1, 0));
}

#[tokio::test]
async fn a_range_with_one_younger_message_stays_until_that_is_past() {
    let scene = scene().await;
    scene.archive_in_full_range(&["q", "q", "q"], 0).await;
    let above = scene.archive("q", 0).await;
    let younger = "UPDATE pgqrs.archive SET archived_at = 'epoch'::timestamptz + interval '30 s'
                   WHERE id = (SELECT id FROM pgqrs.archive ORDER BY id LIMIT 1 OFFSET 1)";
    scene.client.execute(younger, &[]).await.unwrap();
    scene.sweep(RETENTION).await;
    assert_eq!(scene.archived(RETENTION).await.len(), 1);
    assert!(scene.ranges().await.contains(&RANGE));
    scene.sweep(RETENTION + 30).await;
    assert!(!scene.ranges().await.contains(&RANGE));
    assert_eq!(scene.archived(0).await, [above]);
}

#[tokio::test]
async fn a_range_with_a_kept_dead_letter_stays_and_the_others_are_removed_one_by_one() {
    let scene = scene().await;
    let ids = scene.archive_in_full_range(&["q", "kept", "q"], 0).await;
    let above = scene.archive("q", RETENTION).await;
    let dead = "UPDATE pgqrs.archive SET outcome = 'dead' WHERE id = $1";
    scene.client.execute(dead, &[&ids[1].0]).await.unwrap();
    let last = 2 * RETENTION;
    assert_eq!(scene.sweep(last - 1).await, Swept::default());
    assert!(scene.ranges().await.contains(&RANGE));
    assert_eq!(scene.sweep(last).await.archive_removed, 2);
    assert_eq!(scene.sweep(last).await, Swept::default());
    let letters = scene.page(last).await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].id, letters[0].outcome), (ids[1], Outcome::Dead));
    assert_eq!(scene.archived(last - 1).await, [ids[1], above]);
    assert_eq!(scene.messages().await, 2);
}

/// A range of which messages are live, waiting for their turn, is in use yet.
#[tokio::test]
async fn a_range_stays_while_nothing_above_it_is_past() {
    let scene = scene().await;
    scene.archive_in_full_range(&["q"], 0).await;
    scene.sweep(RETENTION).await;
    assert!(scene.ranges().await.contains(&RANGE));
    scene.archive("q", 1).await;
    scene.sweep(RETENTION).await;
    assert!(scene.ranges().await.contains(&RANGE));
    scene.sweep(RETENTION + 1).await;
    assert!(!scene.ranges().await.contains(&RANGE));
}

/// What is left of an old range after it was dropped goes to the default partition.
#[tokio::test]
async fn a_message_that_outlives_its_range_is_archived_all_the_same() {
    let scene = scene().await;
    scene.archive_in_full_range(&["q"], 0).await;
    scene.archive("q", 0).await;
    scene.draw_upto(2 * RANGE - 10).await;
    scene.enqueue("q", 0).await;
    scene.draw_upto(2 * RANGE + 10).await;
    scene.sweep(RETENTION).await;
    assert!(!scene.ranges().await.contains(&RANGE));
    let late = scene.settle("q", RETENTION).await;
    assert_eq!(scene.partition_of(late).await, "archive_default");
    assert_eq!(scene.archived(RETENTION).await, [late]);
}

#[tokio::test]
async fn an_archive_does_not_wait_for_a_sweep_behind_a_reader() {
    let scene = scene().await;
    scene.archive_in_full_range(&["q"], 0).await;
    scene.archive("q", 0).await;
    let before = scene.ranges().await;
    let mut reader = scene.connect().await;
    let reading = reader.transaction().await.unwrap();
    reading.query("SELECT count(*) FROM pgqrs.archive", &[]).await.unwrap();

    // What asks for the archive alone would have to wait, and others behind it.
    let wait = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass";
    let (swept, archived) = tokio::join!(scene.sweep(RETENTION), async {
        let archived = scene.archive("kept", RETENTION).await;
        let row = scene.client.query_one(wait, &[&"pgqrs.archive"]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 0);
        archived
    });
    assert_eq!(swept, Swept::default());
    assert_eq!(scene.ranges().await, before, "nothing was made or dropped");
    assert_eq!(scene.archived(RETENTION).await, [archived]);
    reading.commit().await.unwrap();
    scene.sweep(RETENTION).await;
    assert_eq!(before, [1, 2, 3].map(|n| n * RANGE));
    assert_eq!(scene.ranges().await, [2, 3, 4].map(|n| n * RANGE));
}

#[tokio::test]
async fn a_sweep_gives_up_behind_an_archive_in_an_open_transaction() {
    let scene = scene().await;
    scene.archive_in_full_range(&["q"], 0).await;
    scene.archive("q", 0).await;
    let mut caller = scene.connect().await;
    let open = caller.transaction().await.unwrap();
    open.batch_execute("LOCK TABLE ONLY pgqrs.archive IN ROW EXCLUSIVE MODE").await.unwrap();
    assert_eq!(scene.sweep(RETENTION).await, Swept::default());
    assert!(scene.ranges().await.contains(&RANGE));
    open.commit().await.unwrap();
    scene.sweep(RETENTION).await;
    assert!(!scene.ranges().await.contains(&RANGE));
}

/// Nobody else may archive into a range that a sweep waits for.
#[tokio::test]
async fn a_sweep_does_not_wait_for_a_range_into_which_an_open_transaction_archives() {
    let scene = scene().await;
    scene.archive_in_full_range(&["q"], 0).await;
    scene.archive("q", 0).await;
    scene.draw_upto(2 * RANGE - 10).await;
    let late = scene.enqueue("q", 0).await;
    scene.draw_upto(2 * RANGE + 200).await;
    let settle = scene.claim("q", 0).await;
    let mut caller = scene.connect().await;
    let open = caller.transaction().await.unwrap();
    scene.store.settle_in(&open, settle).await.unwrap()[0].unwrap();

    let waits = "pg_locks l JOIN pg_database d ON d.oid = l.database
                 WHERE NOT granted AND datname = current_database()";
    let mut sweep = pin!(scene.sweep(RETENTION));
    let swept = loop {
        tokio::select! {
            swept = &mut sweep => break swept,
            waiting = scene.count(waits) => assert_eq!(waiting, 0, "the sweep waits"),
        }
    };
    assert_eq!(swept, Swept::default());
    assert!(scene.ranges().await.contains(&RANGE));
    open.commit().await.unwrap();
    assert_eq!(scene.partition_of(late).await, format!("archive_{RANGE}"));
    scene.sweep(RETENTION).await;
    assert!(!scene.ranges().await.contains(&RANGE));
}

#[tokio::test]
async fn partitions_are_made_and_dropped_under_a_short_lock_timeout() {
    let scene = scene().await;
    let note = "CREATE TABLE public.noted (tag text, lock_timeout text, statement_timeout text);
        CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO public.noted VALUES (tg_tag, current_setting(''lock_timeout''),
                                                current_setting(''statement_timeout'')); END';
        CREATE EVENT TRIGGER note ON ddl_command_start EXECUTE FUNCTION public.note()";
    scene.client.batch_execute(note).await.unwrap();
    scene.archive_in_full_range(&["q"], 0).await;
    scene.archive("q", 0).await;
    scene.sweep(RETENTION).await;
    scene.sweep(RETENTION).await;
    let noted =
        "SELECT DISTINCT tag, lock_timeout, statement_timeout FROM public.noted ORDER BY tag";
    let noted = scene.client.query(noted, &[]).await.unwrap();
    let noted: Vec<[&str; 3]> = noted.iter().map(|row| [0, 1, 2].map(|n| row.get(n))).collect();
    let limits = ["ALTER TABLE", "CREATE TABLE", "DROP TABLE"].map(|tag| [tag, "100ms", "200ms"]);
    assert_eq!(noted, limits);
}

#[tokio::test]
async fn a_role_that_may_not_make_tables_sweeps_row_by_row() {
    let scene = scene().await;
    let in_range = scene.archive_in_full_range(&["q"], 0).await[0];
    let above = scene.archive("q", RETENTION).await;
    let before = scene.ranges().await;
    let role = scene.database.name().to_owned();
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgqrs TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgqrs TO {role};
         GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA pgqrs TO {role}"
    );
    scene.client.batch_execute(&grants).await.unwrap();
    let url = scene.database.url().replace("//postgres@", &format!("//{role}@"));
    let app = Scene { store: pgqrs_postgres::connect(&url).await.unwrap(), ..scene };
    app.draw_upto(100 * RANGE).await;
    let in_default = app.archive("q", 0).await;
    assert_eq!(app.partition_of(in_default).await, "archive_default");
    assert_eq!(app.sweep(RETENTION).await, Swept { archive_removed: 1, ..Swept::default() });
    assert_eq!(app.archived(0).await, [in_range, above]);
    assert_eq!(app.sweep(2 * RETENTION).await, Swept { archive_removed: 1, ..Swept::default() });
    assert_eq!(app.archived(0).await, [above]);
    assert_eq!((app.messages().await, app.ranges().await), (1, before));
    app.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeps_at_once_make_and_drop_each_range_once() {
    let scene = scene().await;
    scene.archive_in_full_range(&["q", "q"], 0).await;
    scene.archive("q", 0).await;
    let url = scene.database.url();
    let stores: Vec<_> = join_all((0..8).map(|_| pgqrs_postgres::connect(url))).await;
    let stores: Vec<_> = stores.into_iter().map(Result::unwrap).collect();
    let mut removed = 0;
    for _ in 0..3 {
        let sweeps = stores.iter().map(|store| store.sweep(sweep_at(RETENTION)));
        for swept in join_all(sweeps).await {
            removed += swept.unwrap().archive_removed;
        }
    }
    removed += scene.sweep(RETENTION).await.archive_removed;
    assert_eq!((removed, scene.messages().await), (2, 1));
    assert_eq!(scene.ranges().await, [2, 3, 4].map(|n| n * RANGE));
    assert_eq!(scene.count("pgqrs.retired").await, 0);
}

struct Scene {
    store: PostgresStore,
    client: Client,
    database: Database,
}

async fn scene() -> Scene {
    let database = database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    store.install().await.unwrap();
    for queue in ["q", "kept"] {
        pgqrs::admin(&store).create_queue(queue).await.unwrap();
    }
    let retention = Some(Retention::For(Duration::from_secs(RETENTION.unsigned_abs())));
    let changes = QueueChanges { retention, ..QueueChanges::default() };
    store.update_queue(UpdateQueue { queue: name("q"), changes }).await.unwrap();
    let client = connect(&database).await;
    Scene { store, client, database }
}

impl Scene {
    async fn connect(&self) -> Client {
        connect(&self.database).await
    }

    async fn sweep(&self, second: i64) -> Swept {
        self.store.sweep(sweep_at(second)).await.unwrap()
    }

    /// As if so many numbers had been drawn.
    async fn draw_upto(&self, number: i64) {
        self.client.query("SELECT setval('pgqrs.sequence', $1)", &[&number]).await.unwrap();
    }

    async fn enqueue(&self, queue: &str, second: i64) -> MessageId {
        let messages = vec![NewMessage::new(Json::new(&second).unwrap())];
        let enqueue = Enqueue { queue: name(queue), messages, now: at(second) };
        self.store.enqueue(enqueue).await.unwrap()[0]
    }

    /// Claims a message, and says how to archive it.
    async fn claim(&self, queue: &str, second: i64) -> Settle {
        let limit = BatchSize::new(1).unwrap();
        let claim =
            Claim { queue: name(queue), worker: None, limit, timeout: None, now: at(second) };
        let receipt = self.store.claim(claim).await.unwrap().messages[0].receipt;
        let settlements = vec![Settlement { receipt, action: Action::Archive }];
        Settle { settlements, now: at(second) }
    }

    /// Claims a message and archives it.
    async fn settle(&self, queue: &str, second: i64) -> MessageId {
        let settle = self.claim(queue, second).await;
        let id = settle.settlements[0].receipt.id;
        self.store.settle(settle).await.unwrap()[0].unwrap();
        id
    }

    async fn archive(&self, queue: &str, second: i64) -> MessageId {
        self.enqueue(queue, second).await;
        self.settle(queue, second).await
    }

    /// Archives a message in each of the queues, all in the range that begins at [`RANGE`], and
    /// draws the rest of the range. The two that follow are there.
    async fn archive_in_full_range(&self, queues: &[&str], second: i64) -> Vec<MessageId> {
        self.sweep(second).await;
        self.sweep(second).await;
        self.draw_upto(RANGE + 100).await;
        let mut ids = Vec::new();
        for queue in queues {
            ids.push(self.archive(queue, second).await);
        }
        self.sweep(second).await;
        self.draw_upto(2 * RANGE + 100).await;
        ids
    }

    async fn page(&self, second: i64) -> Vec<pgqrs::ArchivedMessage> {
        let filter = ArchiveFilter { now: at(second), ..ArchiveFilter::default() };
        self.store.archive(filter).await.unwrap()
    }

    async fn archived(&self, second: i64) -> Vec<MessageId> {
        self.page(second).await.iter().map(|message| message.id).collect()
    }

    async fn count(&self, rows: &str) -> i64 {
        self.client.query_one(&format!("SELECT count(*) FROM {rows}"), &[]).await.unwrap().get(0)
    }

    async fn messages(&self) -> i64 {
        self.count("pgqrs.messages").await
    }

    async fn partition_of(&self, id: MessageId) -> String {
        let sql =
            "SELECT c.relname::text FROM pgqrs.archive a JOIN pg_class c ON c.oid = a.tableoid
                   WHERE id = $1";
        self.client.query_one(sql, &[&id.0]).await.unwrap().get(0)
    }

    /// Where the ranges begin.
    async fn ranges(&self) -> Vec<i64> {
        let sql = "SELECT substring(relname from '\\d+')::bigint AS lower FROM pg_inherits
                   JOIN pg_class c ON c.oid = inhrelid AND relname <> 'archive_default'
                   WHERE inhparent = 'pgqrs.archive'::regclass ORDER BY lower";
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

async fn connect(database: &Database) -> Client {
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn sweep_at(second: i64) -> Sweep {
    Sweep { now: at(second), ..Sweep::default() }
}

fn at(second: i64) -> Option<DateTime<Utc>> {
    Some(DateTime::UNIX_EPOCH + TimeDelta::seconds(second))
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).unwrap()
}
