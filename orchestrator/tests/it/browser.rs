//! The HTML page in a real browser: Debian's Chromium, driven by its driver.
//!
//! `.ci/run` installs both, and the accessibility checker axe-core into `target/axe`.

use crate::{
    common::browser::{Browser, ENTER, LEFT, RIGHT, TAB, until},
    page::{hostile_run, kept, large_run, probed_run, two_runs},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// The elements that must be reachable by keyboard.
const FOCUSABLE: &str = "[...document.querySelectorAll('a[href], button, input, summary, [tabindex=\"0\"]')]\
    .filter(element => element.checkVisibility())";

/// Opens the page of the reference run of the threshold. Returns nothing if no browser is installed.
fn threshold() -> Option<(Browser, PathBuf)> {
    let browser = Browser::start()?;
    let folder = kept("reference/icclab-threshold-tcg").canonicalize().unwrap();
    let page = crate::cli::Sandbox::new().testbed(&["report", "--format", "html", folder.to_str().unwrap()]);
    let file = browser.folder.path().join("report.html");
    fs::write(&file, page.exits(0).stdout()).unwrap();
    browser.open(&file);
    Some((browser, file))
}

#[test]
fn a_browser_leaves_nothing_behind() {
    let Some((browser, _)) = threshold() else { return };
    let folder = browser.folder.path().to_owned();
    let is_chromiums = |entry: fs::DirEntry| entry.file_name().to_string_lossy().contains("org.chromium");
    let entries = || fs::read_dir(&folder).unwrap().map(Result::unwrap);
    until("the browser has temporary files", || entries().any(is_chromiums));
    drop(browser);
    assert!(!folder.exists());
}

/// Requires that the page has written nothing to the console and has requested nothing but itself.
#[track_caller]
fn assert_quiet(browser: &Browser, file: &std::path::Path) {
    let console = browser.console();
    assert!(console.is_empty(), "{console:?}");
    let address = format!("file://{}", file.display());
    let inside = |url: &String| {
        url.split('#').next() == Some(&address) || url.starts_with("data:") || url.starts_with("blob:")
    };
    let outside: Vec<String> = browser.requested().into_iter().filter(|url| !inside(url)).collect();
    assert!(outside.is_empty(), "{outside:?}");
}

/// Returns the texts in the first column of the visible rows of the matrix.
fn first_column(browser: &Browser) -> Vec<String> {
    let texts = browser.run(
        "return [...document.getElementById('r1-matrix-table').tBodies[0].rows].filter(row => !row.hidden)\
         .map(row => row.cells[0].textContent);",
    );
    serde_json::from_value(texts).unwrap()
}

#[test]
fn tables_are_sorted_filtered_and_saved_by_keyboard() {
    let Some((browser, file)) = threshold() else { return };
    let focus = |selector: &str| browser.run(&format!("document.querySelector('{selector}').focus();"));
    focus("#r1-matrix-table th button");
    browser.press(ENTER);
    assert_eq!(first_column(&browser)[..3], ["0", "16MB/s", "32MB/s"]);
    browser.press(ENTER);
    assert_eq!(first_column(&browser)[..3], ["128MB/s", "112MB/s", "104MB/s"], "by value, not by text");
    let sorted =
        browser.run("return document.querySelector('#r1-matrix-table th').getAttribute('aria-sort');");
    assert_eq!(sorted, "descending");
    // Figures that were not measured are at the end in both directions.
    focus("#r1-matrix-table th:nth-child(3) button");
    for _ in 0..2 {
        browser.press(ENTER);
        let shown = first_column(&browser);
        assert!(shown[9..].iter().all(|rate| ["112MB/s", "128MB/s"].contains(&rate.as_str())), "{shown:?}");
    }

    focus("[data-filter=r1-matrix-table]");
    browser.type_text("not-conv");
    assert_eq!(first_column(&browser).len(), 2);
    let status = browser.run("return document.querySelector('#r1-matrix .shown').textContent;");
    assert_eq!(status, "2 of 11 rows");

    focus("[data-csv=r1-matrix-table]");
    browser.press(ENTER);
    let saved = browser.folder.path().join("r1-matrix-table.csv");
    until("the CSV is saved", || saved.exists());
    let saved = fs::read_to_string(saved).unwrap();
    assert!(saved.starts_with("stress.rate,outcome,\"total time, s\","), "{saved}");
    assert_eq!(saved.lines().count(), 3, "the rows that are shown: {saved}");
    assert_quiet(&browser, &file);
}

#[test]
fn values_are_read_off_by_pointer_and_keyboard() {
    let Some((browser, file)) = threshold() else { return };
    let readout = |section: &str| {
        let text =
            browser.run(&format!("return document.querySelector('#r1-{section} .readout').textContent;"));
        text.as_str().unwrap().to_owned()
    };
    // A mark of the threshold figure, by keyboard.
    browser.run("document.querySelector('#r1-threshold [tabindex=\"0\"][role=img]').focus();");
    let first = readout("threshold");
    assert!(first.starts_with("0 MB/s"), "{first}");
    browser.press(RIGHT);
    assert!(readout("threshold") != first);
    browser.press(LEFT);
    assert_eq!(readout("threshold"), first);
    // By pointer.
    let place = browser.run(
        "const mark = [...document.querySelectorAll('#r1-threshold .mark')]\
         .find(mark => mark.ariaLabel.includes('104 MB/s, measured: Data'));\
         mark.scrollIntoView({ block: 'center' });\
         const box = mark.firstElementChild.getBoundingClientRect();\
         return [Math.round(box.x + box.width / 2), Math.round(box.y + box.height / 2)];",
    );
    browser.point(place[0].as_i64().unwrap(), place[1].as_i64().unwrap());
    until("the value is shown", || readout("threshold") == "104 MB/s, measured: Data sent, MB 1579");

    // The timeline of the attempt that is initially open.
    let box_of_timeline = browser.run(
        "const over = document.querySelector('.attempt[open] .over');\
         over.scrollIntoView({ block: 'center' });\
         const { x, y, width, height } = over.getBoundingClientRect();\
         return [Math.round(x + width / 2), Math.round(y + height / 2)];",
    );
    browser.point(box_of_timeline[0].as_i64().unwrap(), box_of_timeline[1].as_i64().unwrap());
    until("the values are shown", || readout("attempts").contains("Rates, MB/s: sent, by pass 11"));
    browser.run("document.querySelector('.attempt[open] .over').focus();");
    let before = readout("attempts");
    browser.press(RIGHT);
    let after = readout("attempts");
    assert!(after != before && after.contains("; pass "), "{after}");
    let view =
        || browser.run("return document.querySelector('.attempt[open] .over').getAttribute('viewBox');");
    let whole = view();
    browser.press('+');
    let closer = view();
    assert!(closer != whole);
    browser.press('0');
    assert_eq!(view(), whole);
    // Its numbers are available as a table.
    browser.run(
        "[...document.querySelectorAll('.attempt[open] .tools button')]\
         .find(button => button.textContent === 'Numbers').click();",
    );
    let rows = browser.run("return document.querySelectorAll('.attempt[open] tbody tr').length;");
    assert!(rows.as_u64().unwrap() > 50, "{rows}");
    assert_quiet(&browser, &file);
}

#[test]
fn a_lost_reply_is_read_off_as_missing() {
    let Some(browser) = Browser::start() else { return };
    let page = probed_run(true).testbed(&["report", "--format", "html", "run"]).stdout();
    let file = browser.folder.path().join("report.html");
    fs::write(&file, page).unwrap();
    browser.open(&file);
    let at = |ms: f64| {
        let text = browser.run(&format!(
            "const over = document.querySelector('.attempt[open] .over');\
             const [from, width] = [0, 2].map(i => over.getAttribute('viewBox').split(' ')[i] * 1);\
             const box = over.getBoundingClientRect();\
             const clientX = box.x + ({ms} - from) / width * box.width;\
             over.dispatchEvent(new PointerEvent('pointermove', {{ clientX }}));\
             return document.querySelector('.attempt[open] .readout').textContent;"
        ));
        text.as_str().unwrap().to_owned()
    };
    let [answered, lost, peak] = [at(2_000.0), at(4_100.0), at(5_025.0)];
    assert!(answered.contains("Round trips of a client, ms: longest 0.50"), "{answered}");
    assert!(peak.contains("Round trips of a client, ms: longest 250"), "{peak}");
    assert!(!lost.contains("Round trips"), "{lost}");
    assert!(lost.contains("Requests of a client without a reply, %: lost 100"), "{lost}");
    assert_quiet(&browser, &file);
}

#[test]
fn the_keyboard_reaches_everything() {
    let Some((browser, file)) = threshold() else { return };
    browser.run("document.querySelectorAll('details').forEach(details => details.open = true);");
    // Opening a timeline adds its buttons.
    until("the timelines are prepared", || {
        browser.run("return document.querySelectorAll('.timeline:not([data-ready])').length;") == 0
    });
    let count = browser.run(&format!(
        "const all = {FOCUSABLE}; all.forEach((element, i) => element.dataset.number = i); return all.length;"
    ));
    let count = count.as_u64().unwrap();
    assert!(count > 100, "{count}");
    let mut reached = BTreeSet::new();
    for _ in 0..count + 5 {
        browser.press(TAB);
        let number = browser.run("return document.activeElement.dataset.number ?? null;");
        reached.extend(number.as_str().map(|number| number.parse::<u64>().unwrap()));
    }
    let missed: Vec<u64> = (0..count).filter(|number| !reached.contains(number)).collect();
    let names = browser.run(&format!(
        "return {missed:?}.map(number => document.querySelector(`[data-number=\"${{number}}\"]`).outerHTML);"
    ));
    assert!(missed.is_empty(), "{names}");
    assert_quiet(&browser, &file);
}

#[test]
fn a_timeline_of_a_large_page_is_unpacked_when_it_is_opened() {
    let Some(browser) = Browser::start() else { return };
    let page = large_run().testbed(&["report", "--format", "html", "run"]).exits(0).stdout();
    let file = browser.folder.path().join("report.html");
    fs::write(&file, page).unwrap();
    browser.open(&file);
    let ms = browser.run("return performance.getEntriesByType('navigation')[0].duration;");
    println!("a page of a thousand attempts is loaded in {ms} ms");
    browser.run("location.hash = 'r1-a999';");
    until("the timeline is shown", || {
        let curves = "#r1-a999 .timeline[data-ready] path[data-name=memory]";
        browser.run(&format!("return document.querySelectorAll('{curves}').length;")) == 1
    });
    assert_quiet(&browser, &file);
}

/// Light and dark, wide and as narrow as a phone.
#[test]
fn the_page_has_no_serious_accessibility_fault() {
    let axe =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/axe/node_modules/axe-core/axe.min.js");
    let Ok(axe) = fs::read_to_string(&axe) else {
        println!("skipped: axe-core is not installed: see .ci/run");
        return;
    };
    let Some((browser, first)) = threshold() else { return };
    let second = browser.folder.path().join("two.html");
    let page = two_runs().testbed(&["report", "--format", "html", "run", "other"]).stdout();
    fs::write(&second, page).unwrap();
    let third = browser.folder.path().join("probed.html");
    fs::write(&third, probed_run(true).testbed(&["report", "--format", "html", "run"]).stdout()).unwrap();
    for file in [first, second, third] {
        browser.open(&file);
        browser.run(
            "document.querySelectorAll('#r1-threshold details').forEach(details => details.open = true);",
        );
        assert_quiet(&browser, &file);
        browser.run(&axe);
        for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 390)] {
            let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
            browser.emulate("setEmulatedMedia", &json!({ "features": features }));
            let screen =
                json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500 });
            browser.emulate("setDeviceMetricsOverride", &screen);
            assert_accessible(&browser, &format!("{}, {scheme}, {width}", file.display()));
        }
    }
}

/// Requires that axe-core, which has been loaded, finds no serious fault, and that the page does not scroll
/// sideways.
#[track_caller]
fn assert_accessible(browser: &Browser, what: &str) {
    let found = browser.run_async(
        "const done = arguments[arguments.length - 1];\
         const fault = ({ id, impact, nodes }) => \
           ({ id, impact, nodes: nodes.map(node => node.html.slice(0, 200)) });\
         axe.run().then(result => done(result.violations.map(fault)), error => done(String(error)));",
    );
    let found = found.as_array().unwrap_or_else(|| panic!("{found}")).clone();
    let is_serious = |fault: &&Value| matches!(fault["impact"].as_str(), Some("serious" | "critical"));
    let serious: Vec<&Value> = found.iter().filter(is_serious).collect();
    assert!(serious.is_empty(), "{what}: {serious:#?}");
    let wider = browser.run("return document.documentElement.scrollWidth > innerWidth;");
    assert_eq!(wider, false, "{what}: the page scrolls sideways");
}

#[test]
fn hostile_text_does_nothing_in_a_browser() {
    let Some(browser) = Browser::start() else { return };
    let page = hostile_run().testbed(&["report", "--format", "html", "run"]).stdout();
    let file = browser.folder.path().join("report.html");
    fs::write(&file, page).unwrap();
    browser.open(&file);
    browser.run("document.querySelectorAll('details').forEach(details => details.open = true);");
    assert_eq!(browser.run("return typeof window.pwned;"), "undefined");
    assert_eq!(browser.run("return document.querySelectorAll('img, iframe, object, script').length;"), 1);
    assert_quiet(&browser, &file);
}
