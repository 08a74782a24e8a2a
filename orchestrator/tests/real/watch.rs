//! The live page of a run with real guests.

use crate::common::{
    browser::{Browser, until},
    real::{SMALL, TestDir, ready},
    viewer::Viewer,
};
use testbed::results::samples;

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
        let mut times = Vec::new();
        loop {
            let event = viewer.next();
            match event["kind"].as_str().unwrap() {
                "samples" => times.extend(event["points"].as_array().unwrap().iter().map(|p| p[0].clone())),
                "end" => return times,
                _ => {}
            }
        }
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
    for times in seen {
        let times: Vec<f64> = times.iter().map(|time| time.as_f64().unwrap()).collect();
        assert_eq!(times, written, "a viewer has missed samples");
    }
}
