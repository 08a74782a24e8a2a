//! The live page: the report of a run, kept up to date in browsers while the run is in progress.
//!
//! ```text
//! results folder --poll--> follow --> hub --> server --/events--> live.js in each browser
//!       \------------------- read when the page is asked for ------/--> page
//! ```
//!
//! `follow` reads the files of a results folder and nothing else, so it makes no difference whether the run
//! is made by this process, by another one, or has ended. It runs in a thread of its own with a low priority,
//! and reads the files only while there are viewers. `hub` keeps what viewers have to know: the version of
//! the report, the samples of the attempt in progress, and what its client's probe sees. Each viewer gets
//! what it lacks, so that one that joins late, reloads or is slow sees everything so far.
//!
//! `server` answers with the page and its events, for reading only, and `guard` decides whether to answer.
//! Nothing here can make a run fail: once it listens, its errors are those of single requests.

use netem::measure::{Endpoint, written};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Builder;

mod follow;
mod guard;
mod hub;
mod server;

/// The default address to listen on: only this host can connect.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8060";

/// The default port.
const DEFAULT_PORT: u16 = 8060;
/// By how much the priority of the thread that serves the page is lowered (its `nice` value).
const NICE: i32 = 10;
/// How long viewers may take to fetch the last version of the page before the server ends.
const FAREWELL: Duration = Duration::from_secs(10);

/// An error starting to serve the page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is invalid.
    #[error("`{0}` is not an address to listen on: {1}")]
    Address(String, String),
    /// It is not possible to listen on the address.
    #[error("cannot listen on {0}: {1}; choose another address, or port 0 for any that is free")]
    Bind(String, io::Error),
    /// The system refused another operation.
    #[error("cannot serve the live page: {0}")]
    Start(#[from] io::Error),
}

/// A listening socket, before there is a folder to show.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    /// What the address has to contain; absent if only this host can connect.
    token: Option<String>,
}

impl Listener {
    /// Listens on an address: a host name or an IP address, with or without a port, or just a port of this
    /// host.
    ///
    /// # Errors
    /// If the text is not an address, or if listening on it fails.
    pub fn bind(text: &str) -> Result<Self, Error> {
        let invalid = |error: String| Error::Address(text.to_owned(), error);
        let addresses = if let Ok(port) = text.parse::<u16>() {
            vec![SocketAddr::from(([127, 0, 0, 1], port))]
        } else {
            let endpoint: Endpoint =
                text.parse().map_err(|error: netem::measure::EndpointError| invalid(error.to_string()))?;
            let port = endpoint.port.unwrap_or(DEFAULT_PORT);
            endpoint.resolve(port).map_err(|error| invalid(error.to_string()))?
        };
        let socket =
            TcpListener::bind(&addresses[..]).map_err(|error| Error::Bind(text.to_owned(), error))?;
        let address = socket.local_addr()?;
        let token = if address.ip().is_loopback() { None } else { Some(guard::token()?) };
        Ok(Self { socket, address, token })
    }

    /// Returns the address of the page, for a browser.
    pub fn url(&self) -> String {
        let host = if self.address.ip().is_unspecified() {
            let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
            format!("{}:{}", name.unwrap_or_else(|| "localhost".into()), self.address.port())
        } else {
            written(self.address)
        };
        match &self.token {
            Some(token) => format!("http://{host}/{token}/"),
            None => format!("http://{host}/"),
        }
    }

    /// Serves the page of a results folder in a thread of its own, until the result is dropped.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn serve(self, folder: &Path) -> Result<Server, Error> {
        let Self { socket, token, .. } = self;
        socket.set_nonblocking(true)?;
        let hub = Arc::new(hub::Hub::new(folder));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let served = Arc::clone(&hub);
        thread::Builder::new().name("watch".into()).spawn(move || {
            // The threads that it starts inherit the priority: a run takes precedence.
            let _ = rustix::process::setpriority_process(None, NICE);
            let follower = follow::Follower::new(served.folder());
            runtime.block_on(async {
                tokio::join!(
                    follow::follow(follower, &served),
                    server::serve(socket, server::app(Arc::clone(&served), token)),
                )
            })
        })?;
        Ok(Server { hub })
    }
}

/// A page that is being served. When it is dropped, viewers get the last version of the page.
#[derive(Debug)]
pub struct Server {
    hub: Arc<hub::Hub>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.hub.request_end();
        let deadline = Instant::now() + FAREWELL;
        // A viewer with the last version closes its connection.
        while self.hub.has_viewers() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }
}
