//! A TCP proxy that fails on demand, as networks do.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream, lookup_host,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_postgres::config::{Config, Host};

use super::{Error, Result, url::Url};

/// Starts a proxy in front of the server of the URL.
pub async fn proxy(url: &str) -> Result<Proxy> {
    Proxy::start(url).await.map_err(|error| Error::new(format!("no proxy for {url:?}: {error}")))
}

/// What a [`Proxy`] does with its connections, those that stand and new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Forwards.
    Pass,
    /// Accepts, and keeps what it is sent until it passes again.
    Stall,
    /// Closes.
    Cut,
}

/// A running proxy. Its connections close with this value, or with the runtime it was started on.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    mode: Arc<watch::Sender<Mode>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Where the server is, through the proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Changes what happens to the connections. It begins with [`Mode::Pass`].
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    async fn start(url: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let config: Config = url.parse()?;
        let Some(Host::Tcp(host)) = config.get_hosts().first() else {
            return Err("it names no TCP host".into());
        };
        let port = *config.get_ports().first().unwrap_or(&5432);
        let target = lookup_host((host.as_str(), port)).await?.next().ok_or("host unknown")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let url = Url { host: &address, ..Url::parse(url)? }.to_string();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let accepting = tokio::spawn(accept(listener, target, mode.clone()));
        Ok(Self { url, mode, accepting })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves for ever; dropped, it takes its connections along.
async fn accept(listener: TcpListener, target: SocketAddr, mode: Arc<watch::Sender<Mode>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(serve(client, target, mode.subscribe()));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// One connection, until an end closes it or the mode cuts it.
async fn serve(client: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    let forward = mode.clone();
    let both_ways = async {
        let passing = forward.clone().wait_for(|mode| *mode == Mode::Pass).await.is_ok();
        if let (true, Ok(server)) = (passing, TcpStream::connect(target).await) {
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = pump(from_client, to_server, forward.clone()) => {}
                () = pump(from_server, to_client, forward) => {}
            }
        }
    };
    tokio::select! {
        () = both_ways => {}
        _cut = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// Forwards one direction while the mode is to pass.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let passing = mode.wait_for(|mode| *mode == Mode::Pass).await.is_ok();
        if !passing || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
