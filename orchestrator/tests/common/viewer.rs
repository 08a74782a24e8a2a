//! A viewer of the live page without a browser: plain HTTP requests, and the stream of events.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Child,
    time::{Duration, Instant},
};

/// How long a viewer waits for anything. It is long, because hosts may be busy.
const PATIENCE: Duration = Duration::from_secs(300);

/// Returns the address of the page that a program has printed on its standard error, and continues to read,
/// so that the program does not block.
#[track_caller]
pub(crate) fn address_of(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines.by_ref().map_while(Result::ok) {
        if let Some(address) = line.strip_prefix("live page: ") {
            let address = address.to_owned();
            std::thread::spawn(move || lines.for_each(drop));
            return address;
        }
        seen.push(line);
    }
    panic!("no address: {seen:#?}");
}

/// Returns the host and port of an address, and its path.
pub(crate) fn parts(address: &str) -> (&str, &str) {
    let rest = address.strip_prefix("http://").unwrap();
    let slash = rest.find('/').unwrap();
    (&rest[..slash], &rest[slash..])
}

/// Sends a request to a port of this host. Returns the connection.
pub(crate) fn send(port: u16, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Requests a path with these headers. Returns the status and the complete answer.
pub(crate) fn request(port: u16, method: &str, path: &str, headers: &[&str]) -> (u16, String) {
    let headers = [headers, &["Connection: close"]].concat().join("\r\n");
    let text = format!("{method} {path} HTTP/1.1\r\n{headers}\r\n\r\n");
    let mut answer = String::new();
    send(port, &text).read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}

/// A viewer of the events of a page.
pub(crate) struct Viewer(BufReader<TcpStream>);

impl Viewer {
    pub(crate) fn join(address: &str) -> Self {
        let (host, path) = parts(address);
        let port = host.rsplit(':').next().unwrap().parse().unwrap();
        Self(BufReader::new(send(port, &format!("GET {path}events HTTP/1.1\r\nHost: {host}\r\n\r\n"))))
    }

    /// Waits for the next event, as long as [`PATIENCE`]. The server sends comments in between, so a read
    /// from the connection never takes that long.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no event for {PATIENCE:?}");
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            if let Some(json) = line.strip_prefix("data: ") {
                return serde_json::from_str(json).unwrap();
            }
        }
    }

    /// Waits for an event of this kind, skipping other events before it.
    #[track_caller]
    pub(crate) fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next();
            if event["kind"] == kind {
                return event;
            }
        }
    }

    /// Waits until this attempt is in progress.
    #[track_caller]
    pub(crate) fn until_attempt(&mut self, name: &str) {
        while self.next_of("attempt")["name"] != name {}
    }

    /// Waits for this number of windows of the client's probe in all.
    #[track_caller]
    pub(crate) fn windows(&mut self, count: usize) -> Vec<Value> {
        let mut windows = Vec::new();
        while windows.len() < count {
            windows.extend(self.next_of("client")["windows"].as_array().unwrap().iter().cloned());
        }
        windows
    }

    /// Waits for this number of samples in all. Returns their times in milliseconds.
    #[track_caller]
    pub(crate) fn samples(&mut self, count: usize) -> Vec<f64> {
        let mut times = Vec::new();
        while times.len() < count {
            let event = self.next_of("samples");
            times.extend(event["points"].as_array().unwrap().iter().map(|point| point[0].as_f64().unwrap()));
        }
        times
    }
}
