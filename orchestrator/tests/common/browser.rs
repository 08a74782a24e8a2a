//! A headless Chromium, driven through its driver.
//!
//! The driver speaks JSON over HTTP, so this client is small. The crates for it bring an asynchronous HTTP
//! stack, or a licence that deny.toml does not allow, for the little that a test needs: navigate, run a
//! script, press keys, move the pointer, read logs.

use super::real::skipped;
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a test waits for something to appear. It is long, because hosts may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The keys that tests press, as the driver encodes them.
pub(crate) const TAB: char = '\u{E004}';
pub(crate) const ENTER: char = '\u{E007}';
pub(crate) const LEFT: char = '\u{E012}';
pub(crate) const RIGHT: char = '\u{E014}';

/// A browser with one window. Ends with this value.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// The profile, the folder of downloads, and the temporary files of driver and browser.
    pub(crate) folder: TempDir,
}

impl Browser {
    /// Starts a browser. If none is installed, prints why the test is skipped and returns nothing.
    pub(crate) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromedriver");
        // Both leave files there when they are killed.
        command.env("TMPDIR", folder.path());
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut driver) = command.spawn() else {
            return skipped("chromedriver is not installed (Debian's package chromium-driver)");
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            line.split_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        // A driver may block if its output is not read.
        thread::spawn(move || lines.for_each(drop));
        let mut browser =
            Self { driver, port: port.expect("chromedriver says its port"), session: String::new(), folder };
        let profile = browser.folder.path().join("profile");
        let options = json!({
            // Tests may run as root, for whom Chromium has no sandbox, and where /dev/shm is small.
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                "--disable-background-networking", "--no-first-run", "--window-size=1280,900",
                format!("--user-data-dir={}", profile.display())],
            "prefs": { "download.default_directory": browser.folder.path() },
        });
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            // Less than the time to wait for an answer.
            "timeouts": { "script": 110_000 },
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = browser.request("POST", "/session", &capabilities);
        match session["sessionId"].as_str() {
            Some(id) => id.clone_into(&mut browser.session),
            None => return skipped(&format!("Chromium does not start: {session}")),
        }
        Some(browser)
    }

    /// Sends a request to the driver and returns the value of its answer.
    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            answer.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body).unwrap();
        serde_json::from_slice::<Value>(&body).unwrap()["value"].take()
    }

    #[track_caller]
    fn post(&self, command: &str, body: &Value) -> Value {
        let value = self.request("POST", &format!("/session/{}/{command}", self.session), body);
        assert!(value.get("error").is_none(), "{command}: {value}");
        value
    }

    /// Opens a file. The requests of the browser's own first page are discarded.
    #[track_caller]
    pub(crate) fn open(&self, file: &Path) {
        self.post("url", &json!({ "url": "about:blank" }));
        self.requested();
        self.post("url", &json!({ "url": format!("file://{}", file.display()) }));
    }

    /// Opens an address. Earlier requests of the browser are discarded.
    #[track_caller]
    pub(crate) fn visit(&self, address: &str) {
        self.requested();
        self.post("url", &json!({ "url": address }));
    }

    /// Runs the body of a function in the page and returns what it returns.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs the body of a function in the page. Its last argument is the function to call at the end.
    #[track_caller]
    pub(crate) fn run_async(&self, script: &str) -> Value {
        self.post("execute/async", &json!({ "script": script, "args": [] }))
    }

    /// Presses and releases a key.
    #[track_caller]
    pub(crate) fn press(&self, key: char) {
        self.type_text(&key.to_string());
    }

    /// Types a text where the keyboard's focus is.
    #[track_caller]
    pub(crate) fn type_text(&self, text: &str) {
        let keys = text.chars().flat_map(|key| {
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
        });
        let keys: Vec<Value> = keys.collect();
        self.post("actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": keys }] }));
    }

    /// Moves the pointer to a place in the window.
    #[track_caller]
    pub(crate) fn point(&self, x: i64, y: i64) {
        let to = json!({ "type": "pointerMove", "duration": 0, "x": x, "y": y, "origin": "viewport" });
        self.post("actions", &json!({ "actions": [{ "type": "pointer", "id": "mouse", "actions": [to] }] }));
    }

    /// Makes the browser report another color scheme or width.
    #[track_caller]
    pub(crate) fn emulate(&self, command: &str, parameters: &Value) {
        self.post(
            "goog/cdp/execute",
            &json!({ "cmd": format!("Emulation.{command}"), "params": parameters }),
        );
    }

    /// Returns what the page has written to the console since the last call.
    #[track_caller]
    pub(crate) fn console(&self) -> Vec<Value> {
        self.post("se/log", &json!({ "type": "browser" })).as_array().unwrap().clone()
    }

    /// Returns the addresses that were requested since the last call.
    #[track_caller]
    pub(crate) fn requested(&self) -> Vec<String> {
        let log = self.post("se/log", &json!({ "type": "performance" }));
        let events = log.as_array().unwrap().iter().map(|entry| {
            serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap()["message"].take()
        });
        let requests = events.filter(|event| event["method"] == "Network.requestWillBeSent");
        requests.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }
}

/// Waits until a condition holds. Fails if it does not for a long time.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser with the session.
        let deleted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.request("DELETE", &format!("/session/{}", self.session), &Value::Null)
        }));
        drop(deleted);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // The last process of the browser may still write into the folder.
        let start = Instant::now();
        while fs::remove_dir_all(self.folder.path()).is_err()
            && self.folder.path().exists()
            && start.elapsed() < PATIENCE
        {
            thread::sleep(Duration::from_millis(50));
        }
    }
}
