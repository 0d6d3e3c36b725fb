//! `sslmode` and `sslrootcert`, against a server with a certificate for `localhost`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use std::io::Write as _;

use pgqrs::Error;
use pgqrs_testkit::server::{Cluster, Options};
use tokio_postgres::NoTls;

/// Runs as the server, in its data directory.
const CERTIFICATES: &str = "
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt &&
openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr &&
echo subjectAltName=DNS:localhost > names &&
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names \
    -out server.crt &&
chmod 600 server.key";

#[tokio::test]
async fn sslmode_and_sslrootcert_do_what_libpq_says() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let root = encrypt(&cluster.url()).await;
    let root = root.path().display().to_string();
    let (_, path) = cluster.url().split_once('@').map(|(_, rest)| ((), rest.to_owned())).unwrap();
    let (_, database) = path.split_once('/').unwrap();
    let connect = async |host: &str, query: &str| {
        let port = cluster.port();
        let url = format!("postgresql://postgres@{host}:{port}/{database}?{query}");
        pgqrs_postgres::connect(&url).await.map(drop)
    };

    connect("localhost", "sslmode=disable").await.unwrap();
    connect("localhost", "sslmode=prefer").await.unwrap();
    connect("localhost", "sslmode=require").await.unwrap();
    connect("localhost", &format!("sslmode=verify-full&sslrootcert={root}")).await.unwrap();
    // The certificate is for another name: verify-ca does not mind, and verify-full does.
    connect("127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={root}")).await.unwrap();
    connect("127.0.0.1", &format!("sslmode=require&sslrootcert={root}")).await.unwrap();
    let refused = [
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={root}")),
        ("localhost", "sslmode=verify-full".into()),
        ("localhost", "sslmode=verify-ca".into()),
    ];
    for (host, query) in refused {
        let error = connect(host, &query).await.unwrap_err();
        assert!(error.to_string().contains("check sslmode and sslrootcert"), "{query}: {error}");
    }
    let error = connect("localhost", "sslmode=verify-full&sslrootcert=/missing").await.unwrap_err();
    assert!(matches!(error, Error::InvalidUrl { .. }), "{error:?}");
}

/// Turns TLS on, for all but connections that ask for none, and returns the authority's certificate.
async fn encrypt(url: &str) -> tempfile::NamedTempFile {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let script = CERTIFICATES.replace('\'', "''");
    let make = format!("COPY (SELECT) TO PROGRAM '({script}) >openssl.log 2>&1'");
    client.batch_execute(&make).await.unwrap();
    client.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    while client.query_one("SHOW ssl", &[]).await.unwrap().get::<_, String>(0) != "on" {
        tokio::task::yield_now().await;
    }
    let certificate = client.query_one("SELECT pg_read_file('ca.crt')", &[]).await.unwrap();
    let mut root = tempfile::NamedTempFile::new().unwrap();
    root.write_all(certificate.get::<_, String>(0).as_bytes()).unwrap();
    root
}
