//! The live page of a run with real guests.

use crate::common::{
    browser::{Browser, until},
    real::{SMALL, TestDir, ready},
    viewer::Viewer,
};
use serde_json::Value;
use testbed::results::{
    client::{self, LiveWindow, ProbeWindow},
    samples,
};

/// Returns a window of the client's probe as viewers get it.
fn live_window(event: &Value) -> LiveWindow {
    LiveWindow {
        window: ProbeWindow {
            at_ms: event[0].as_f64().unwrap(),
            duration_ms: event[1].as_f64().unwrap(),
            requests: event[2].as_f64().unwrap() as u64,
            unanswered: event[3].as_f64().unwrap() as u64,
            longest_round_trip_ms: event[4].as_f64(),
        },
        median_round_trip_ms: event[5].as_f64(),
    }
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn viewers_follow_a_real_run_to_its_end() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, SMALL);
    let mut run = dir.start(&["matrix.yaml", "--out", "run", "--watch", "127.0.0.1:0"]);
    let address = run.wait_for("the address of the page", |dir| {
        let told = dir.stderr();
        Some(told.lines().find_map(|line| line.strip_prefix("live page: "))?.to_owned())
    });
    let mut first = Viewer::join(&address);
    let browser = Browser::start();
    if let Some(browser) = &browser {
        browser.visit(&address);
    }
    run.wait_for("a sample of the migration", |dir| dir.migrates("base.1").then_some(()));
    let mut second = Viewer::join(&address);
    let all = |viewer: &mut Viewer| {
        let (mut times, mut windows, mut is_in_progress) = (Vec::new(), Vec::new(), false);
        loop {
            let event = viewer.next();
            match event["kind"].as_str().unwrap() {
                "samples" => times.extend(event["points"].as_array().unwrap().iter().map(|p| p[0].clone())),
                "attempt" => is_in_progress = event["name"] != Value::Null,
                "client" => {
                    assert!(is_in_progress, "the client is shown too late");
                    windows.extend(event["windows"].as_array().unwrap().iter().map(live_window));
                }
                "end" => break,
                _ => {}
            }
        }
        assert!(!windows.is_empty(), "the client is not shown");
        (times, client::latest(windows))
    };
    let seen = [all(&mut first), all(&mut second)];
    drop((first, second));
    if let Some(browser) = &browser {
        let ended = "return document.querySelector('#live')?.dataset.ended === 'yes' && \
                     document.querySelector('#r1-matrix-table')?.textContent.includes('converged');";
        until("the browser shows the end", || browser.run(ended) == true);
        let console = browser.console();
        assert!(console.is_empty(), "{console:?}");
    }
    assert_eq!(run.ended().code(), Some(0), "{}", dir.shown());
    let written = samples::read(&dir.folder(), "base", 1).unwrap().unwrap();
    let written: Vec<f64> =
        written.iter().filter(|sample| sample.memory.is_some()).map(|sample| sample.at_ms).collect();
    let kept = client::read(&dir.folder(), "base", 1).unwrap().unwrap();
    for (times, windows) in seen {
        let times: Vec<f64> = times.iter().map(|time| time.as_f64().unwrap()).collect();
        assert_eq!(times, written, "a viewer has missed samples");
        // A reply may have arrived later, for a request that had counted as lost.
        let is_same = |(live, kept): (&LiveWindow, &ProbeWindow)| {
            let figures = |window: &ProbeWindow| (window.requests, window.longest_round_trip_ms);
            live.window.unanswered > 0 || figures(&live.window) == figures(kept)
        };
        let is_part = |part: &[ProbeWindow]| windows.iter().zip(part).all(is_same);
        assert!(kept.windows(windows.len()).any(is_part), "{windows:#?} are not in {kept:#?}");
    }
    assert!(!dir.folder().join("attempts/base.1/probe-live.jsonl").exists());
}
