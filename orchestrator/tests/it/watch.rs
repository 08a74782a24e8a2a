//! The live page: what viewers see of a run in progress, and who gets an answer.

use crate::{
    cli::{Sandbox, THRESHOLD, threshold_records},
    common::{
        browser::{Browser, until},
        viewer::{Viewer, address_of, parts, request, send},
    },
};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{setsockopt, sockopt::RcvBuf},
    },
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};
use testbed::results::store;

/// The largest number of connections that are answered at a time.
const MOST_CONNECTIONS: usize = 64;

/// A run in a folder to which the test writes, and the program that shows it.
struct Watched {
    sandbox: Sandbox,
    watch: Child,
    address: String,
    port: u16,
}

impl Watched {
    /// Shows a run with its first two results, at an address.
    fn start(address: &str) -> Self {
        let sandbox = Sandbox::with_run(THRESHOLD, threshold_records().into_iter().take(2));
        let mut command = sandbox.command(&["watch", "run", address]);
        let mut watch = command.stderr(Stdio::piped()).spawn().unwrap();
        let address = address_of(&mut watch);
        let port = parts(&address).0.rsplit(':').next().unwrap().parse().unwrap();
        Self { sandbox, watch, address, port }
    }

    fn run(&self) -> PathBuf {
        self.sandbox.path("run")
    }

    /// Begins an attempt, and returns the file for its samples.
    fn begin(&self, name: &str) -> File {
        let folder = self.run().join("attempts").join(name);
        fs::create_dir_all(&folder).unwrap();
        File::create(folder.join("samples.jsonl")).unwrap()
    }

    /// Appends a record.
    fn record(&self, index: usize) {
        let line = serde_json::to_string(&threshold_records()[index]).unwrap() + "\n";
        let mut cells = OpenOptions::new().append(true).open(self.run().join(store::CELLS)).unwrap();
        cells.write_all(line.as_bytes()).unwrap();
    }

    fn page(&self) -> String {
        let (status, text) = request(self.port, "GET", "/", &["Host: localhost"]);
        assert_eq!(status, 200, "{text:.500}");
        text
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.watch.id().cast_signed()), Signal::SIGKILL);
        let _ = self.watch.wait();
    }
}

/// Writes samples at these times, in milliseconds.
fn write_samples(file: &mut File, times: std::ops::Range<u32>) {
    for at_ms in times {
        let sample = json!({
            "at_ms": f64::from(at_ms), "status": "active", "transferred_bytes": 7, "remaining_bytes": 9,
            "normal_pages": 0, "zero_pages": 0, "pass": 1, "dirty_rate_bytes_per_s": 3, "mbit_per_s": 1.5,
            "throttle_percent": 0,
        });
        writeln!(file, "{sample}").unwrap();
    }
}

/// Returns a line about a window of the client's probe that began at this time; `None` stands for no reply.
fn window(at_ms: f64, longest_round_trip_ms: Option<f64>) -> String {
    let mut window = json!({ "at_ms": at_ms, "duration_ms": 50.0, "requests": 5, "unanswered": 5 });
    if let Some(ms) = longest_round_trip_ms {
        window["unanswered"] = 0.into();
        window["longest_round_trip_ms"] = ms.into();
        window["median_round_trip_ms"] = (ms / 2.0).into();
    }
    format!("{window}\n")
}

#[test]
fn viewers_see_what_the_client_sees() {
    let watched = Watched::start("127.0.0.1:0");
    let mut early = Viewer::join(&watched.address);
    let mut samples = watched.begin("stress.rate=128MBps.1");
    early.until_attempt("stress.rate=128MBps #1");
    let folder = watched.run().join("attempts/stress.rate=128MBps.1");
    let mut windows = File::create(folder.join("probe-live.jsonl")).unwrap();
    write!(windows, "{}{}", window(0.5, Some(1.0)), window(50.5, None)).unwrap();
    let expected = [json!([0.5, 50.0, 5.0, 0.0, 1.0, 0.5]), json!([50.5, 50.0, 5.0, 5.0, null, null])];
    assert_eq!(early.windows(2), expected, "no reply is no round trip of 0");
    // A reply that arrives late, and one to a window that was not known before.
    write!(windows, "{}{}", window(50.5, Some(70.0)), window(150.5, Some(2.0))).unwrap();
    let changed = json!([50.5, 50.0, 5.0, 0.0, 70.0, 35.0]);
    assert_eq!(early.windows(2), [changed.clone(), json!([150.5, 50.0, 5.0, 0.0, 2.0, 1.0])]);
    let mut late = Viewer::join(&watched.address);
    late.until_attempt("stress.rate=128MBps #1");
    assert_eq!(late.windows(4)[2], changed);
    // The page of a viewer that joins shows them too.
    write_samples(&mut samples, 0..200);
    assert!(watched.page().contains("Round trips of a client, ms"));
}

/// A number that no attempt can measure ends neither the page nor the program.
#[test]
fn the_page_says_why_a_tampered_record_cannot_be_shown() {
    let watched = Watched::start("127.0.0.1:0");
    let cells = watched.run().join(store::CELLS);
    let whole = fs::read_to_string(&cells).unwrap();
    let tampered = whole.replace("\"total_time_ms\":", "\"total_time_ms\":-1e300,\"was\":");
    fs::write(&cells, tampered).unwrap();
    let (status, text) = request(watched.port, "GET", "/", &["Host: localhost"]);
    assert_eq!(status, 500, "{text:.500}");
    assert!(text.contains("line 1: `total_time_ms` is -1e300"), "{text:.500}");
    fs::write(&cells, whole).unwrap();
    watched.page();
}

#[test]
fn viewers_that_join_late_see_everything_so_far() {
    let watched = Watched::start("127.0.0.1:0");
    let mut early = Viewer::join(&watched.address);
    let before = early.next_of("page")["version"].clone();
    let mut samples = watched.begin("stress.rate=128MBps.1");
    write_samples(&mut samples, 0..50);
    early.until_attempt("stress.rate=128MBps #1");
    assert_eq!(early.samples(50).len(), 50);
    write_samples(&mut samples, 50..60);

    let mut late = Viewer::join(&watched.address);
    late.until_attempt("stress.rate=128MBps #1");
    let seen = late.samples(60);
    assert_eq!(seen, (0..60).map(f64::from).collect::<Vec<_>>());
    assert!(!watched.page().contains("the deadline of 20s passed"));

    watched.record(2);
    for viewer in [&mut early, &mut late] {
        let after = viewer.next_of("page")["version"].clone();
        assert_ne!(after, before);
        assert_eq!(viewer.next_of("attempt")["name"], Value::Null);
    }
    assert!(watched.page().contains("the deadline of 20s passed"));
}

#[test]
fn the_live_page_answers_only_reading_requests_from_this_host() {
    let watched = Watched::start("127.0.0.1:0");
    let own = format!("Host: localhost:{}", watched.port);
    for (method, path, headers, status) in [
        ("GET", "/", &[own.as_str()][..], 200),
        ("HEAD", "/", &[&own], 200),
        ("GET", "/", &["Host: evil.example"], 403),
        ("GET", "/events", &["Host: evil.example"], 403),
        ("GET", "/events", &[&own, "Origin: http://evil.example"], 403),
        ("GET", "/events", &[&own, "Sec-Fetch-Site: cross-site"], 403),
        ("POST", "/", &[&own], 405),
        ("DELETE", "/", &[&own], 405),
        ("GET", "/matrix.yaml", &[&own], 404),
        ("GET", "/../../etc/passwd", &[&own], 404),
    ] {
        let (found, text) = request(watched.port, method, path, headers);
        assert_eq!(found, status, "{method} {path} {headers:?}: {text:.500}");
        assert!(text.contains("x-frame-options: DENY\r\n"), "{text:.500}");
        assert!(!text.to_lowercase().contains("access-control-allow"), "{text:.500}");
    }
    assert!(watched.page().contains("connect-src 'self'"));
}

#[test]
fn a_refused_request_ends_its_connection() {
    let watched = Watched::start("127.0.0.1:0");
    for (path, host, is_refused) in
        [("/", "localhost", false), ("/x", "localhost", true), ("/", "evil.example", true)]
    {
        let connection = send(watched.port, &format!("HEAD {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let lines = BufReader::new(connection).lines().map(Result::unwrap);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        assert_eq!(head.contains(&"connection: close".into()), is_refused, "{path} {host}: {head:#?}");
    }
}

#[test]
fn a_page_for_others_has_a_secret_in_its_address() {
    let watched = Watched::start("0.0.0.0:0");
    let (_, path) = parts(&watched.address);
    assert_eq!(path.len(), 34, "{path}");
    let wrong = format!("/{}/", "0".repeat(32));
    for (path, status) in [("/", 404), ("/events", 404), (&wrong, 404), (path, 200)] {
        let (found, text) = request(watched.port, "GET", path, &["Host: lab.example"]);
        assert_eq!(found, status, "{path}: {text:.500}");
    }
}

#[test]
fn the_number_of_connections_is_bounded() {
    let watched = Watched::start("127.0.0.1:0");
    let mut silent: Vec<Viewer> = (0..MOST_CONNECTIONS).map(|_| Viewer::join(&watched.address)).collect();
    for viewer in &mut silent {
        drop(viewer.next());
    }
    let waiting = send(watched.port, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    // It waits until another connection ends, and then gets an answer. A server without a limit would answer
    // within the time, so this can only miss a fault.
    let patience = waiting.read_timeout().unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!((&waiting).read(&mut [0]).is_err());
    waiting.set_read_timeout(patience).unwrap();
    drop(silent);
    let mut answer = String::new();
    (&waiting).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:.200}");
}

#[test]
fn clients_that_do_not_read_lose_their_connections() {
    let watched = Watched::start("127.0.0.1:0");
    // The answers are larger than what the kernel keeps for a connection.
    let requests = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    let idle: Vec<TcpStream> = (0..MOST_CONNECTIONS)
        .map(|_| {
            let mut connection = send(watched.port, "");
            setsockopt(&connection, RcvBuf, &4096).unwrap();
            connection.write_all(requests.as_bytes()).unwrap();
            connection
        })
        .collect();
    let page = watched.page();
    assert!(page.len() > 50_000, "the answers are too short: {}", page.len());
    drop(idle);
}

#[test]
fn an_address_that_is_taken_is_an_error_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    fs::write(sandbox.path("matrix.yaml"), THRESHOLD).unwrap();
    let before = sandbox.entries();
    for args in [
        &["run", "--watch", &address, "matrix.yaml"][..],
        &["run", "matrix.yaml", "--watch", &address],
        &["watch", "run", &address],
    ] {
        let finished = sandbox.testbed(args);
        finished.exits(2);
        finished.says(&format!("error: cannot listen on {address}: "));
        finished.says("choose another address, or port 0 for any that is free");
    }
    let bad = ["run", "--watch", "no such host", "matrix.yaml"];
    sandbox.testbed(&bad).exits(2).says("error: `no such host` is not an address to listen on: ");
    sandbox.testbed(&["watch", "matrix.yaml"]).exits(2).says("is not a results folder");
    assert_eq!(sandbox.entries(), before);
}

#[test]
fn a_run_that_is_watched_ends_as_without_viewers() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    let plain = sandbox.testbed(&["run", "--resume", "run", "--json"]).exits(0).stdout();
    let watched = sandbox.testbed(&["run", "--resume", "run", "--json", "--watch", "127.0.0.1:0"]);
    assert_eq!(watched.exits(0).stdout(), plain);
    assert!(watched.stderr().contains("live page: http://127.0.0.1:"), "{}", watched.stderr());
    // Without an address, the next argument is the matrix.
    fs::write(sandbox.path("matrix.yaml"), "name: n\nnonsense: 1\n").unwrap();
    sandbox.testbed(&["run", "--watch", "matrix.yaml"]).exits(2).says("matrix.yaml:2:1");
}

#[test]
fn a_browser_follows_a_run_and_keeps_what_the_reader_opened() {
    let Some(browser) = Browser::start() else { return };
    let watched = Watched::start("127.0.0.1:0");
    let count = || browser.run("return Number(document.getElementById('live')?.dataset.samples ?? -1);");
    let text = |id: &str| browser.run(&format!("return document.getElementById('{id}')?.textContent;"));
    browser.visit(&watched.address);
    let mut samples = watched.begin("stress.rate=128MBps.1");
    let name = "return document.querySelector('#live [role=status]')?.textContent;";
    until("the attempt is shown", || browser.run(name) == "stress.rate=128MBps #1");
    // As fast as a migration produces them, and faster than the page checks for them.
    for tenth in 0..20 {
        write_samples(&mut samples, tenth * 20..tenth * 20 + 20);
    }
    until("all samples are shown", || count() == 400);

    browser.run(
        "document.querySelector('#r1-matrix-table th button').click();\
         document.querySelector('#r1-threshold details').open = true;",
    );
    assert!(!text("r1-matrix-table").as_str().unwrap().contains("not-converged"));
    watched.record(2);
    until("the record is shown", || text("r1-matrix-table").to_string().contains("not-converged"));
    until("the attempt is over", || browser.run(name) == "Between two attempts");
    let kept = browser.run(
        "return [document.querySelector('#r1-threshold details').open,\
         document.querySelector('#r1-matrix-table th').getAttribute('aria-sort')];",
    );
    assert_eq!(kept, json!([true, "ascending"]));

    // A reload sees the attempt so far.
    let mut samples = watched.begin("stress.rate=0.2");
    write_samples(&mut samples, 0..30);
    browser.visit(&watched.address);
    until("the samples so far are shown", || count() == 30);
    let console = browser.console();
    assert!(console.is_empty(), "{console:?}");
    let requested = browser.requested();
    let is_own = |url: &String| url.starts_with(&watched.address) || url.starts_with("data:");
    assert!(requested.iter().all(is_own), "{requested:?}");
}

#[test]
fn a_browser_shows_what_the_client_sees() {
    let Some(browser) = Browser::start() else { return };
    let watched = Watched::start("127.0.0.1:0");
    browser.visit(&watched.address);
    let mut samples = watched.begin("stress.rate=128MBps.1");
    write_samples(&mut samples, 0..300);
    let shows = |count: u64| {
        until("the windows are shown", || {
            browser.run("return Number(document.getElementById('live')?.dataset.windows ?? -1);") == count
        });
    };
    let lane = |title: &str| {
        browser.run(&format!(
            "const lane = [...document.querySelectorAll('#live .lane')]\
             .find(lane => lane.firstElementChild.textContent.startsWith('{title}'));\
             return lane.checkVisibility() && [lane.innerText, \
               ...[...lane.querySelectorAll('path')].map(path => path.getAttribute('d'))];"
        ))
    };
    let [round_trips, lost] = ["Round trips of a client", "Requests of a client"];
    shows(0);
    assert_eq!([lane(round_trips), lane(lost)], [false, false], "without a probe, or by an older version");

    let folder = watched.run().join("attempts/stress.rate=128MBps.1");
    let mut windows = File::create(folder.join("probe-live.jsonl")).unwrap();
    // Only requests since the migration began are shown.
    write!(windows, "{}{}", window(-50.0, Some(500.0)), window(0.0, Some(1.0))).unwrap();
    write!(windows, "{}", window(50.0, Some(10.0))).unwrap();
    shows(2);
    assert_eq!(lane(lost), false, "nothing is lost");
    for (at_ms, longest) in [(100.0, None), (150.0, None), (200.0, Some(100.0)), (250.0, Some(0.0))] {
        write!(windows, "{}", window(at_ms, longest)).unwrap();
    }
    shows(6);
    let drawn = lane(round_trips);
    assert!(drawn[0].as_str().unwrap().contains("from 0.1 to 100"), "{drawn}");
    // The time axis ends with the last window, at 300 ms.
    assert_eq!(drawn[1], "M0.0 66.7H166.7V33.3H333.3M666.7 0.0H833.3", "the longest: {drawn}");
    assert_eq!(drawn[2].as_str().unwrap().matches('M').count(), 2, "the median: {drawn}");
    let drawn = lane(lost);
    assert!(drawn[1].as_str().unwrap().starts_with("M0.0 100.0"), "{drawn}");
    assert!(drawn[1].as_str().unwrap().contains("H333.3V0.0H500.0V0.0H666.7V100.0"), "{drawn}");

    // Replies that arrive late close the gap.
    write!(windows, "{}{}", window(100.0, Some(90.0)), window(150.0, Some(50.0))).unwrap();
    until("the gap is closed", || lane(round_trips)[1].as_str().unwrap().matches('M').count() == 1);
    assert_eq!(lane(lost), false);
    watched.record(2);
    until("the attempt is over", || lane(round_trips) == false);
    let console = browser.console();
    assert!(console.is_empty(), "{console:?}");
}
