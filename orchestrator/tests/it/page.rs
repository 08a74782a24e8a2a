//! The report as one HTML page, without a browser: what it contains, how large it is, and that text stays
//! text.

use crate::{
    cli::{Sandbox, THRESHOLD, threshold_records},
    common::{documents::root, files_below, mock, plan},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};
use testbed::{
    measure::End,
    outcome::Outcome,
    report::html::{self, MOST_BYTES, Stage},
    results::{
        client::{self, ProbeWindow},
        parts::{self, Folder},
        record::{AppliedChange, Downtime, Measured, Phase, Record, RoundTrip, RoundTrips, SentWhileRunning},
        store,
        telemetry::{self, GuestReport, PageWriteTimes},
    },
};

/// Returns the folder of a run that is stored in git.
pub(crate) fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../results").join(name)
}

/// Returns the page of a run that is stored in git.
fn page_of(name: &str) -> String {
    let folder = kept(name);
    let printed = Sandbox::new().testbed(&["report", "--format", "html", folder.to_str().unwrap()]);
    printed.exits(0).stdout()
}

/// A tag of a page: its name and its attributes.
struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
}

/// Returns the opening tags of a page, as a browser would find them, ignoring the content of style and
/// script.
fn tags(page: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let name_ends = rest.find([' ', '>']).unwrap();
        let mut tag = Tag { name: rest[..name_ends].to_owned(), attributes: Vec::new() };
        rest = rest[name_ends..].trim_start();
        while !rest.starts_with('>') {
            let ends = rest.find(['=', ' ', '>']).unwrap();
            let name = rest[..ends].to_owned();
            assert!(!name.is_empty(), "no template writes this in a {}: {rest:.60}", tag.name);
            rest = &rest[ends..];
            let mut value = String::new();
            if let Some(quoted) = rest.strip_prefix("=\"") {
                let ends = quoted.find('"').unwrap();
                quoted[..ends].clone_into(&mut value);
                rest = &quoted[ends + 1..];
            }
            tag.attributes.push((name, value));
            rest = rest.trim_start();
        }
        if ["script", "style"].contains(&tag.name.as_str()) {
            rest = &rest[rest.find("</").unwrap()..];
        }
        tags.push(tag);
    }
    tags
}

/// Requires that a page has no elements and attributes except those that the templates write, and that
/// nothing in it leads elsewhere.
#[track_caller]
fn assert_is_inert(page: &str) {
    const ELEMENTS: &str = " a article b body button caption circle code dd details div dl dt figcaption \
        figure g h1 h2 h3 head header html i input label li line link main meta ol p path polygon polyline \
        pre rect script section span strong style summary svg table tbody td text th thead title tr ul \
        wbr ";
    const ATTRIBUTES: &str = " aria-hidden aria-label aria-labelledby autocomplete charset class content d \
        data-csv data-filter data-fixed data-from data-full data-log data-marks data-name data-to data-unit \
        data-v data-view dx height hidden href http-equiv id lang name open points preserveAspectRatio r rel \
        role scope tabindex title transform type viewBox width x x1 x2 y y1 y2 ";
    let known = |list: &str, name: &str| list.contains(&format!(" {name} "));
    let tags = tags(page);
    assert_eq!(tags.iter().filter(|tag| tag.name == "script").count(), 1);
    assert_eq!(tags.iter().filter(|tag| tag.name == "style").count(), 1);
    for Tag { name, attributes } in tags {
        assert!(known(ELEMENTS, &name), "the element {name} {attributes:?}");
        for (attribute, value) in attributes {
            assert!(known(ATTRIBUTES, &attribute), "the attribute {attribute}={value} of {name}");
            if attribute == "href" {
                assert!(value.starts_with('#') || value == "data:,", "{value}");
            }
        }
    }
}

#[test]
fn the_page_answers_first_and_needs_no_other_file() {
    let page = page_of("reference/icclab-threshold-tcg");
    assert_is_inert(&page);
    let sentence = "Pre-copy converged at every dirty rate up to 104MB/s; at 112MB/s and above it never did.";
    let answer = page.find(sentence).expect("the answer");
    let sections = ["threshold", "matrix", "downtime", "attempts", "environment", "notes", "repeat"];
    let places =
        sections.map(|id| page.find(&format!("<section id=\"r1-{id}\"")).unwrap_or_else(|| panic!("{id}")));
    assert!(answer < places[0] && places.is_sorted(), "{answer} {places:?}");
    assert!(!page.contains("<section id=\"r1-heat-map\""), "one axis has no heat map");
    for text in [
        // A measured value, a published one, the edge, and a figure that was not measured.
        "104 MB/s, measured: Total time, s 14.2",
        "96 MB/s, published: Data sent, MB 943",
        "edge: 104 to 112 MB/s",
        "112 MB/s: not-converged 1",
        "✗ not-converged",
        "end of pre-copy",
        "testbed run matrix.yaml",
        "ICCLab (ZHAW), An analysis",
        "no guest boots under KVM here",
        "Content-Security-Policy",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

/// A figure that was not measured is absent rather than zero.
#[test]
fn what_was_not_measured_is_not_drawn() {
    let mut records = threshold_records();
    for record in &mut records {
        record.measured.downtime_ms = Downtime::default();
        record.measured.transferred.qemu_bytes = None;
        record.measured.iterations.clear();
    }
    let page = Sandbox::with_run(THRESHOLD, records).testbed(&["report", "--format", "html", "run"]);
    let page = page.stdout();
    assert!(!page.contains("<section id=\"r1-downtime\""));
    assert!(!page.contains("measured: Data sent"), "only predicted and published");
    assert!(!page.contains("Memory left"));
    assert!(page.contains("measured: Total time"));
}

#[test]
fn what_the_model_does_not_cover_is_not_predicted() {
    for (mode, is_predicted) in
        [("precopy", true), ("postcopy", false), ("file", false), ("cpr-transfer", false)]
    {
        let matrix =
            format!("name: one\nmigrate: {{ mode: {mode} }}\naxes: {{ stress.rate: [1MB/s, 2MB/s] }}\n");
        let plan = plan(&matrix);
        let record = |cell| mock::record(&plan, cell, 1, Outcome::Converged, 1_500.0);
        let page =
            Sandbox::with_run(&matrix, [0, 1].map(record)).testbed(&["report", "--format", "html", "run"]);
        let page = page.stdout();
        assert_eq!(page.contains("<i class=\"key predicted\">"), is_predicted, "{mode}");
        assert_eq!(page.contains("class=\"curve g0\" points=\""), is_predicted, "{mode}");
    }
}

/// There is room for the words about the edge wherever it is.
#[test]
fn the_edge_is_named_where_there_is_room() {
    for (rates, place) in
        [([80, 90, 100, 110], "before"), ([1, 10, 20, 110], "after"), ([1, 20, 100, 110], "within")]
    {
        let rates_text = rates.map(|rate| format!("{rate}MB/s")).join(", ");
        let matrix = format!("name: edge\naxes: {{ stress.rate: [{rates_text}] }}\n");
        let plan = plan(&matrix);
        let record = |(cell, outcome)| mock::record(&plan, cell, 1, outcome, 1_500.0);
        let outcomes = [Outcome::Converged, Outcome::Converged, Outcome::NotConverged, Outcome::NotConverged];
        let sandbox = Sandbox::with_run(&matrix, outcomes.into_iter().enumerate().map(record));
        let page = sandbox.testbed(&["report", "--format", "html", "run"]).stdout();
        assert!(page.contains(&format!("<text class=\"edge {place}\"")), "{rates:?}");
        assert!(page.contains(&format!("edge: {} to {} MB/s", rates[1], rates[2])), "{rates:?}");
    }
}

/// Returns a sandbox with two runs: `run`, which has two axes and is not complete, and `other`.
pub(crate) fn two_runs() -> Sandbox {
    let matrix = "name: two\naxes: { link.delay: [0, 10ms], stress.rate: [1MB/s, 2MB/s] }\n";
    let plan = plan(matrix);
    let record = |(cell, outcome)| mock::record(&plan, cell, 1, outcome, 1_500.0 + cell as f64 * 1_000.0);
    let outcomes = [Outcome::Converged, Outcome::NotConverged, Outcome::Converged];
    let sandbox = Sandbox::with_run(matrix, outcomes.into_iter().enumerate().map(record));
    sandbox.add_run("other", THRESHOLD, threshold_records());
    sandbox
}

#[test]
fn two_axes_have_a_heat_map_and_several_runs_share_a_page() {
    let sandbox = two_runs();
    let page = sandbox.testbed(&["report", "--format", "html", "run", "other"]).stdout();
    assert_is_inert(&page);
    let map = &page[page.find("<section id=\"r1-heat-map\"").expect("a heat map")..];
    let map = &map[..map.find("</section>").unwrap()];
    for text in ["<td class=\"h0\">1.5</td>", "<td class=\"h6\">3.5</td>", "✗ not-converged", "· not tried"]
    {
        assert!(map.contains(text), "{text}: {map}");
    }
    assert!(page.contains("Incomplete: 3 of 4 attempts"));
    assert!(page.contains("<article id=\"r2-run\""), "the other run follows");
    assert!(!page.contains("<section id=\"r2-heat-map\""));
}

/// Texts that would become markup, script or another file if a page did not escape them.
const HOSTILE: [&str; 6] = [
    "<script>window.pwned=1</script>",
    "\"><img src=x onerror=window.pwned=1>",
    "' onload='window.pwned=1",
    "</style></script><svg onload=window.pwned=1>",
    "<!--<a href=javascript:window.pwned=1>",
    "\u{202e}txet\u{1b}[31m",
];

/// Returns a sandbox with a run that has hostile text wherever a guest, QEMU, a host, a matrix or somebody
/// who edits records can put one.
pub(crate) fn hostile_run() -> Sandbox {
    let all = HOSTILE.join(" ");
    let quoted = serde_json::to_string(&all).unwrap();
    let matrix = format!(
        "name: hostile\ndescription: {quoted}\naxes: {{ guest.cpu: [{quoted}, plain] }}\n\
         reference: {{ source: {quoted}, rows: [{{ where: guest.cpu == plain, total_time: 1s }}] }}\n\
         expect: [{{ outcome: converged }}]\n# </pre></code>{}\n",
        HOSTILE[0]
    );
    let plan = plan(&matrix);
    let mut records: Vec<Record> =
        (0..2).map(|cell| mock::record(&plan, cell, 1, Outcome::Failed, 1_500.0)).collect();
    let mut strange = records[0].clone();
    strange.cell.clone_from(&all);
    strange.axes = [(all.clone(), all.clone())].into_iter().collect();
    records.push(strange);
    for record in &mut records {
        record.reason = Some(all.clone());
        record.version = Some(all.clone());
        record.measured.disagreements = vec![all.clone()];
        record.measured.link = Some(all.clone());
        record.measured.timeline = vec![AppliedChange {
            due_ms: 1.0,
            began_ms: 1.0,
            done_ms: 2.0,
            link: Some(all.clone()),
            ..AppliedChange::default()
        }];
    }
    let sandbox = Sandbox::new();
    // The name of a folder can be anything but a slash.
    let folder = all.replace('/', "");
    let folder: String = folder.chars().take(120).collect();
    sandbox.add_run(&folder, &matrix, records);
    let path = sandbox.path(&folder);
    let mut environment = serde_json::to_value(mock::environment()).unwrap();
    poison(&mut environment, &all);
    fs::write(path.join(store::ENVIRONMENT), environment.to_string()).unwrap();
    let samples = path.join("attempts").join("guest.cpu=plain.1");
    fs::create_dir_all(&samples).unwrap();
    fs::write(samples.join("samples.jsonl"), format!("{}\n", json!({ "at_ms": all }))).unwrap();
    fs::rename(path, sandbox.path("run")).unwrap();
    sandbox
}

/// Replaces the texts of an environment that a host can choose.
fn poison(value: &mut Value, text: &str) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let is_free = [
                    "version",
                    "qemu",
                    "machine_type",
                    "reason",
                    "trial",
                    "guest_kernel",
                    "kernel",
                    "guest_digest",
                    "cpu_model",
                    "kind",
                    "no_emulator",
                ];
                match value {
                    Value::String(_) if is_free.contains(&key.as_str()) => *value = json!(text),
                    value if key == "features" => *value = json!([text]),
                    value => poison(value, text),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| poison(value, text)),
        _ => {}
    }
}

#[test]
fn text_from_elsewhere_stays_text() {
    let sandbox = hostile_run();
    let page = sandbox.testbed(&["report", "--format", "html", "run"]).stdout();
    assert_is_inert(&page);
    assert!(page.contains("&lt;script&gt;window.pwned=1&lt;/script&gt;"));
    let escaped = page.matches("&lt;img src=x onerror=window.pwned=1&gt;").count();
    assert!(escaped > 20, "the hostile text is in {escaped} places");
    assert!(!page.contains(['\u{202e}', '\u{1b}']), "characters that nobody sees are shown");
    assert!(page.contains("samples.jsonl, line 1: "), "samples that cannot be read are a note");
}

/// Returns a sandbox with a run of 1,000 attempts, each with ten seconds of samples and a peak between them.
pub(crate) fn large_run() -> Sandbox {
    let rates: Vec<String> = (1..=200).map(|rate| format!("{rate}MB/s")).collect();
    let matrix = format!("name: large\naxes: {{ stress.rate: [{}] }}\nrepeat: 5\n", rates.join(", "));
    let plan = plan(&matrix);
    let attempts = plan.attempts();
    let records = attempts.iter().map(|a| mock::record(&plan, a.cell, a.number, Outcome::Converged, 9_000.0));
    let sandbox = Sandbox::with_run(&matrix, records);
    for attempt in &attempts {
        let cell = &plan.cells[attempt.cell].id;
        let folder = store::attempt_path(&sandbox.path("run"), cell, attempt.number);
        fs::create_dir_all(&folder).unwrap();
        let seed = (attempt.cell * 5 + attempt.number as usize) as u64;
        fs::write(folder.join("samples.jsonl"), samples(seed, 200)).unwrap();
        telemetry::write(&folder, &reports(seed, 200)).unwrap();
        client::write(&folder, &windows(seed, 200)).unwrap();
    }
    sandbox
}

/// Returns a function that returns random numbers below its argument.
fn random(mut seed: u64) -> impl FnMut(u64) -> u64 {
    // One of Knuth's generators, whose upper bits are random enough for a curve.
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

/// Returns this many reports of a guest, different for each seed.
fn reports(seed: u64, count: u64) -> Vec<GuestReport> {
    let mut random = random(seed);
    let mut report = |i| GuestReport {
        at_ms: i as f64 * 50.0 - 500.0 + random(2_000) as f64 / 1e3,
        end: End::Source,
        clock_ms: i as f64 * 50.0,
        dirtied_bytes: i * 1_000_000 + random(50_000),
        longest_stall_ms: 1.0 + random(9_000) as f64 / 1e3,
        longest_page_write_ms: 0.5 + random(5_000) as f64 / 1e3,
        page_write: Some(PageWriteTimes {
            median_ms: 0.000_3 + random(100) as f64 / 1e6,
            p99_ms: 0.004 + random(4_000) as f64 / 1e6,
            p999_ms: 0.03 + random(90_000) as f64 / 1e6,
        }),
        disk: None,
    };
    (0..count).map(&mut report).collect()
}

/// Returns this many windows of a probe, different for each seed.
fn windows(seed: u64, count: u64) -> Vec<ProbeWindow> {
    let mut random = random(seed);
    let mut window = |i| {
        let unanswered = random(40) / 37;
        ProbeWindow {
            at_ms: i as f64 * 50.0 - 500.0,
            duration_ms: 50.0,
            requests: 5,
            unanswered,
            longest_round_trip_ms: Some(0.2 + random(3_000) as f64 / 1e3),
        }
    };
    (0..count).map(&mut window).collect()
}

/// Returns this many samples of a migration, different for each seed, with a peak of 7777 MB.
fn samples(seed: u64, count: u64) -> String {
    let mut random = random(seed);
    let (mut transferred, mut remaining, mut lines) = (0, 1_070_000_000u64, String::new());
    for i in 0..count {
        transferred += 5_000_000 + random(1_200_000);
        remaining = remaining.saturating_sub(random(11_000_000)) + random(40) / 39 * 200_000_000;
        let left = if i == 123 { 7_777_000_000 } else { remaining };
        let sample = json!({
            "at_ms": i as f64 * 50.0 + random(3_000) as f64 / 1e3, "status": "active",
            "transferred_bytes": transferred, "remaining_bytes": left,
            "normal_pages": transferred / 4096, "zero_pages": 0, "pass": 1 + i / 10,
            "dirty_rate_bytes_per_s": 16_000_000 + random(90) * 100_000, "mbit_per_s": 930.0,
            "throttle_percent": 0,
        });
        let _ = writeln!(lines, "{sample}");
    }
    lines
}

#[test]
fn a_page_of_a_thousand_attempts_is_small_and_keeps_peaks() {
    let sandbox = large_run();
    let page = sandbox.testbed(&["report", "--format", "html", "run"]).exits(0).stdout();
    assert!(page.len() <= MOST_BYTES, "{} bytes", page.len());
    assert_eq!(page.matches("data-pack=").count(), 1_000);
    assert_eq!(highest(&unpacked(&page, 999)), PEAK);
}

/// Three minutes of samples.
#[test]
fn a_long_curve_is_thinned_and_keeps_its_peak() {
    let plan = plan(THRESHOLD);
    let sandbox = Sandbox::with_run(THRESHOLD, [mock::record(&plan, 0, 1, Outcome::Converged, 190_000.0)]);
    let folder = store::attempt_path(&sandbox.path("run"), &plan.cells[0].id, 1);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("samples.jsonl"), samples(1, 4_000)).unwrap();
    let page = sandbox.testbed(&["report", "--format", "html", "run"]).stdout();
    assert!(page.contains("Each curve is thinned to at most 800 points"));
    assert_eq!(highest(&page), PEAK);
}

#[test]
fn the_parts_of_a_run_are_one_page() {
    let sandbox = Sandbox::with_parts();
    let page = sandbox.testbed(&["report", "--format", "html", "p1", "p2", "p3"]).exits(0).stdout();
    assert_is_inert(&page);
    assert_eq!(page.matches("<article").count(), 1);
    for text in
        ["parts: 1/3 in p1, 2/3 in p2, 3/3 in p3", "testbed run matrix.yaml --shard 2/3", "<h3>p3</h3>"]
    {
        assert!(page.contains(text), "{text}");
    }
}

/// A run in progress: its page says so, shows the attempt in progress, and may connect to its server.
#[test]
fn the_page_of_a_run_in_progress_shows_the_attempt_in_progress() {
    let plan = plan(THRESHOLD);
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records().into_iter().take(1));
    let folder = store::attempt_path(&sandbox.path("run"), &plan.cells[1].id, 1);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("samples.jsonl"), samples(1, 60)).unwrap();
    let run = parts::gather(vec![Folder::read(&sandbox.path("run")).unwrap()], |_, _| String::new());
    let running = html::page(&run, Stage::Running { script: "connect()" });
    assert!(running.contains("In progress: 1 of ") && running.contains("… in progress"));
    assert!(running.contains("<script>connect()</script>") && running.contains("; connect-src 'self'\""));
    assert_eq!(running.matches("data-name=\"memory\"").count(), 1);
    let ended = html::page(&run, Stage::Ended);
    assert!(ended.contains("Incomplete: 1 of ") && !ended.contains("… in progress"));
    assert!(!ended.contains("connect-src"));
}

/// The files of an attempt that is made again are not those of its interrupted record.
#[test]
fn an_interrupted_record_does_not_show_the_attempt_made_again() {
    let plan = plan(THRESHOLD);
    let mut at_boot = mock::record(&plan, 0, 1, Outcome::Interrupted, 9_000.0);
    at_boot.measured = Measured::default();
    let sandbox = Sandbox::with_run(THRESHOLD, [at_boot.clone()]);
    let folder = store::attempt_path(&sandbox.path("run"), &plan.cells[0].id, 1);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("samples.jsonl"), samples(1, 60)).unwrap();
    let set = |path: &Path, age_s| {
        let modified = SystemTime::now() - Duration::from_secs(age_s);
        fs::File::open(path).unwrap().set_modified(modified).unwrap();
    };
    let cells = sandbox.path("run").join(store::CELLS);
    let page = |stage| {
        let run = parts::gather(vec![Folder::read(&sandbox.path("run")).unwrap()], |_, _| String::new());
        html::page(&run, stage)
    };
    let curves = |page: &str| page.matches("data-name=\"memory\"").count();
    // The record is newer than the files.
    set(&folder, 20);
    set(&cells, 10);
    for stage in [Stage::Running { script: "" }, Stage::Ended] {
        let page = page(stage);
        assert_eq!((curves(&page), page.contains("… in progress")), (1, false));
    }
    // The attempt is being made again.
    set(&cells, 30);
    let running = page(Stage::Running { script: "" });
    assert_eq!((curves(&running), running.contains("… in progress")), (1, true));
    let record = running.split("… interrupted").last().unwrap();
    assert_eq!(curves(record), 0, "the interrupted record has the curves of the other attempt");
    // It has a result.
    let records = [at_boot, mock::record(&plan, 0, 1, Outcome::Converged, 9_000.0)];
    let again = Sandbox::with_run(THRESHOLD, records);
    fs::create_dir_all(store::attempt_path(&again.path("run"), &plan.cells[0].id, 1)).unwrap();
    let samples_of = |sandbox: &Sandbox| {
        store::attempt_path(&sandbox.path("run"), &plan.cells[0].id, 1).join("samples.jsonl")
    };
    fs::write(samples_of(&again), samples(1, 60)).unwrap();
    let page = again.testbed(&["report", "--format", "html", "run"]).stdout();
    assert_eq!(curves(&page), 1);
}

/// An expectation without attempts neither holds nor fails.
#[test]
fn expectations_that_were_not_tried_do_not_count_as_held() {
    let sandbox = Sandbox::with_run(THRESHOLD, []);
    let page = sandbox.testbed(&["report", "--format", "html", "run"]).stdout();
    assert!(page.contains("No migration has been measured."));
    let count = plan(THRESHOLD).expect.len();
    assert!(page.contains(&format!("Expectations: <strong>0 of 0</strong> hold, {count} not tried")));
    assert!(page.contains("<span class=\"outcome none\">? not tried</span>"));
}

/// The reports of the guest are drawn, including the time before the migration, but no disk if there is none.
#[test]
fn the_reports_of_the_guest_are_drawn() {
    let plan = plan(THRESHOLD);
    let sandbox = Sandbox::with_run(THRESHOLD, [mock::record(&plan, 0, 1, Outcome::Converged, 9_000.0)]);
    let folder = store::attempt_path(&sandbox.path("run"), &plan.cells[0].id, 1);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("samples.jsonl"), samples(1, 180)).unwrap();
    let report = |i: u32| GuestReport {
        at_ms: f64::from(i) * 50.0 - 1_000.0,
        end: End::Source,
        clock_ms: f64::from(i) * 50.0,
        dirtied_bytes: u64::from(i) * 2_000_000,
        longest_stall_ms: if i == 77 { 123.0 } else { 1.0 },
        longest_page_write_ms: 0.5,
        page_write: (i != 100).then_some(PageWriteTimes { median_ms: 0.000_4, p99_ms: 0.02, p999_ms: 0.1 }),
        disk: None,
    };
    telemetry::write(&folder, &(0..200).map(report).collect::<Vec<_>>()).unwrap();
    let page = sandbox.testbed(&["report", "--format", "html", "run"]).stdout();
    let lane = |title: &str| page.split(&format!("<b>{title}</b>")).nth(1).expect("a lane").to_owned();
    let delays = lane("Longest delays in the guest, ms");
    let delays = delays.split("</svg></div>").next().unwrap();
    assert!(
        delays.contains("data-name=\"between two writes\"") && !delays.contains("to the disk"),
        "{delays}"
    );
    // Percentiles on a logarithmic axis, with a gap where nothing was written.
    let writes = lane("Time to write a page in the guest, ms");
    let writes = writes.split("</svg></div>").next().unwrap();
    for name in ["longest", "99.9 %", "99 %", "median"] {
        let curve = writes.split(&format!("data-name=\"{name}\" data-unit=\"")).nth(1).expect(name);
        let curve = curve.split("></path>").next().unwrap();
        assert!(curve.contains("data-log=\"\"") || curve.contains(" data-log "), "{curve:.60}");
        assert_eq!(curve.matches('m').count(), 1, "{curve}");
    }
    // 123 ms in steps of 0.1, and 40 MB/s.
    assert!(delays.contains(" 1220"), "{delays}");
    let rate = lane("Rates, MB/s").split("data-name=\"dirty rate achieved\"").nth(1).unwrap().to_owned();
    assert!(rate.contains("d=\"M-900 400l"), "{}", &rate[..120]);
}

/// Returns a sandbox with a run of one attempt, whose probe saw round trips of half a millisecond and one of
/// 250. If `are_lost` is set, no request from 4.0 to 4.2 s was answered.
pub(crate) fn probed_run(are_lost: bool) -> Sandbox {
    let plan = plan(THRESHOLD);
    let sandbox = Sandbox::with_run(THRESHOLD, [mock::record(&plan, 0, 1, Outcome::Converged, 9_000.0)]);
    let folder = store::attempt_path(&sandbox.path("run"), &plan.cells[0].id, 1);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("samples.jsonl"), samples(1, 180)).unwrap();
    let window = |i: u32| {
        let is_lost = are_lost && (100..104).contains(&i);
        ProbeWindow {
            at_ms: f64::from(i) * 50.0 - 1_000.0,
            duration_ms: 50.0,
            requests: 5,
            unanswered: if is_lost { 5 } else { 0 },
            longest_round_trip_ms: (!is_lost).then_some(if i == 120 { 250.0 } else { 0.5 }),
        }
    };
    client::write(&folder, &(0..200).map(window).collect::<Vec<_>>()).unwrap();
    sandbox
}

/// The observations of the probe are drawn. Where no request was answered, no round trip is drawn, but the
/// loss is.
#[test]
fn the_round_trips_of_a_client_are_drawn() {
    let page = |are_lost| probed_run(are_lost).testbed(&["report", "--format", "html", "run"]).stdout();
    let title = "Requests of a client without a reply, %";
    assert!(!page(false).contains(title), "none was lost");
    let page = page(true);
    assert!(page.contains(title));
    let curve = page.split("<b>Round trips of a client, ms</b>").nth(1).expect("a lane");
    let curve = curve.split(" d=\"").nth(1).unwrap().split('"').next().unwrap();
    let pieces: Vec<&str> = curve.split('m').collect();
    assert_eq!(pieces.len(), 2, "{curve}");
    // From the end of the last window with a reply to the next one. The peak follows it: 2.7 decades.
    assert!(pieces[0].ends_with("50 0") && pieces[1].starts_with("200 0"), "{curve}");
    assert!(pieces[1].contains(" 2699"), "{curve}");
}

/// A client that never got an answer waited at least until its probe ended.
#[test]
fn a_gap_that_is_still_open_has_no_upper_bound() {
    let matrix = "name: one\nrepeat: 2\n";
    let plan = plan(matrix);
    let record = |attempt, client, client_at_least| {
        let mut record = mock::record(&plan, 0, attempt, Outcome::Converged, 1_500.0);
        record.measured.downtime_ms = Downtime { client, client_at_least, ..Downtime::default() };
        record
    };
    let (closed, open) = ((Some(200.0), Some(190.0)), (None, Some(4_990.0)));
    for (attempts, answer, cell) in [
        ([closed, open], "a client of the guest waited 200 to at least 4990 ms.", ">190–&gt;4990<"),
        ([open, open], "a client of the guest waited at least 4990 ms.", ">&gt;4990<"),
        ([closed, closed], "a client of the guest waited 200 ms.", ">190–200<"),
    ] {
        let records =
            attempts.iter().zip([1, 2]).map(|((most, least), number)| record(number, *most, *least));
        let page =
            Sandbox::with_run(matrix, records).testbed(&["report", "--format", "html", "run"]).stdout();
        let section = page.split("<section id=\"r1-downtime\"").nth(1).expect("downtimes");
        let section = section.split("</section>").next().unwrap();
        assert!(page.contains(answer), "{answer}");
        assert!(section.contains(cell), "{cell}: {section}");
        let is_open = attempts.contains(&open);
        assert!(!is_open || section.contains("x2=\"100%\""), "{section}");
        assert_eq!(section.contains("is a lower bound only"), is_open, "{section}");
    }
}

/// Between hosts, the guest's downtime is known as exactly as the ways of its telemetry.
#[test]
fn the_bounds_of_the_guests_downtime_include_half_of_the_difference_of_the_round_trips() {
    let matrix = "name: one\n";
    let mut record = mock::record(&plan(matrix), 0, 1, Outcome::Converged, 1_500.0);
    record.measured.downtime_ms = Downtime { guest: Some(64.0), ..Downtime::default() };
    let trip = |least_ms| RoundTrip { least_ms, median_ms: least_ms };
    for (source_ms, destination_ms, bounds) in
        [(0.1, 0.1, "63–65"), (2.0, 22.0, "53–75"), (22.0, 2.0, "53–75")]
    {
        let (source, destination) = (trip(source_ms), trip(destination_ms));
        record.measured.round_trips = Some(RoundTrips { controller: trip(0.1), source, destination });
        let sandbox = Sandbox::with_run(matrix, [record.clone()]);
        let page = sandbox.testbed(&["report", "--format", "html", "run"]).stdout();
        assert!(page.contains(&format!(">{bounds}<")), "{source_ms} {destination_ms}");
    }
}

/// Somebody may have edited a record, or a clock may have jumped.
#[test]
fn absurd_times_and_values_are_drawn_somewhere() {
    let plan = plan(THRESHOLD);
    let mut record = mock::record(&plan, 0, 1, Outcome::Converged, 9_000.0);
    record.measured.phases_ms = [(Phase::Boot, 1e18), (Phase::Migrate, 1e19)].into_iter().collect();
    let sandbox = Sandbox::with_run(THRESHOLD, [record]);
    let folder = store::attempt_path(&sandbox.path("run"), &plan.cells[0].id, 1);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("samples.jsonl"), samples(1, 180)).unwrap();
    let report = |at_ms, longest_stall_ms| GuestReport {
        at_ms,
        longest_stall_ms,
        clock_ms: at_ms.clamp(0.0, 1e6),
        ..reports(1, 1)[0]
    };
    let absurd = [report(-1e19, 1e-300), report(50.0, 1e19), report(1e19, 2.0)];
    telemetry::write(&folder, &absurd).unwrap();
    let page = sandbox.testbed(&["report", "--format", "html", "run"]).stdout();
    let curve = page.split("data-name=\"between two writes\"").nth(1).expect("a curve");
    assert!(curve.contains(" d=\"M-1000000000 0l"), "{curve:.90}");
}

/// A disk that is copied: the phases of the copy, and what remains to be copied.
#[test]
fn the_copy_of_a_disk_is_drawn() {
    let plan = plan(THRESHOLD);
    let mut record = mock::record(&plan, 0, 1, Outcome::Converged, 9_000.0);
    record.measured.phases_ms = [(Phase::Boot, 500.0), (Phase::Migrate, 9_100.0)].into_iter().collect();
    let storage = &mut record.measured.storage;
    (storage.bulk_ms, storage.memory_ms, storage.switchover_ms) = (Some(3_000.0), Some(5_500.0), Some(100.0));
    let sandbox = Sandbox::with_run(THRESHOLD, [record]);
    let folder = store::attempt_path(&sandbox.path("run"), &plan.cells[0].id, 1);
    fs::create_dir_all(&folder).unwrap();
    let sample = |i: u64| {
        let disk = json!({ "copied_bytes": i * 2_000_000, "remaining_bytes": (100 - i) * 2_000_000 });
        json!({ "at_ms": i * 50, "status": "mirroring", "disk": disk, "throttle_percent": 0 }).to_string()
            + "\n"
    };
    fs::write(folder.join("samples.jsonl"), (0..100).map(sample).collect::<String>()).unwrap();
    let page = sandbox.testbed(&["report", "--format", "html", "run"]).stdout();
    for (name, from, width) in
        [("copy", 0, 3_000), ("kept up to date", 3_000, 5_500), ("handed over", 8_500, 100)]
    {
        let place =
            format!("x=\"{from}\" y=\"0\" height=\"1\" width=\"{width}\"><title>disk: {name}</title>");
        assert!(page.contains(&place), "{place}");
    }
    // 200 MB in steps of 1 MB.
    let curve = page.split("data-name=\"disk\" ").nth(1).expect("a curve");
    assert!(curve.starts_with("data-unit=\"1\" d=\"M0 200l50-2 50-2"), "{curve:.60}");
    assert!(!page.contains("data-name=\"memory\""), "nothing is known of it");
}

/// A file through which a guest migrates: saving and loading are distinguished, and what the source has not
/// reported is not a rate.
#[test]
fn the_way_through_a_file_is_drawn() {
    let matrix = "name: one\nmigrate: { mode: file }\n";
    let plan = plan(matrix);
    let mut record = mock::record(&plan, 0, 1, Outcome::Converged, 9_000.0);
    record.measured.phases_ms = [(Phase::Boot, 500.0), (Phase::Migrate, 9_100.0)].into_iter().collect();
    (record.measured.file.save_ms, record.measured.file.load_ms) = (Some(6_000.0), Some(3_000.0));
    let sandbox = Sandbox::with_run(matrix, [record]);
    let folder = store::attempt_path(&sandbox.path("run"), &plan.cells[0].id, 1);
    fs::create_dir_all(&folder).unwrap();
    let lines = samples(1, 180);
    let lines = lines.lines().enumerate().map(|(number, line)| {
        if number < 120 {
            return format!("{line}\n");
        }
        let at_ms = serde_json::from_str::<Value>(line).unwrap()["at_ms"].clone();
        json!({ "at_ms": at_ms, "status": "loading", "throttle_percent": 0 }).to_string() + "\n"
    });
    fs::write(folder.join("samples.jsonl"), lines.collect::<String>()).unwrap();
    let page = sandbox.testbed(&["report", "--format", "html", "run"]).stdout();
    for (name, from, width) in [("saving", 0, 6_000), ("loading", 6_000, 3_000)] {
        let place =
            format!("x=\"{from}\" y=\"0\" height=\"1\" width=\"{width}\"><title>file: {name}</title>");
        assert!(page.contains(&place), "{place}");
    }
    let last_ms = |curve: &str| -> i64 {
        let path = page.split(&format!("data-name=\"{curve}\"")).nth(1).expect("a curve");
        let d = path.split("d=\"").nth(1).unwrap().split('"').next().unwrap();
        let numbers = d.replace(['M', 'm', 'l'], " ").replace('-', " -");
        numbers.split_whitespace().step_by(2).map(|x| x.parse::<i64>().unwrap()).sum()
    };
    assert!(
        last_ms("sent") <= 6_000 && last_ms("memory") <= 6_000,
        "{} {}",
        last_ms("sent"),
        last_ms("memory")
    );
}

/// In post-copy, the guest runs at the destination before its memory has arrived.
#[test]
fn a_guest_that_moves_by_postcopy_runs_before_its_memory_has_arrived() {
    let plan = plan(THRESHOLD);
    let mut record = mock::record(&plan, 0, 1, Outcome::Converged, 5_386.0);
    record.measured.phases_ms = [(Phase::Boot, 500.0), (Phase::Migrate, 5_400.0)].into_iter().collect();
    record.measured.transferred.while_running = Some(SentWhileRunning { bytes: 1, duration_ms: 50.0 });
    let page = |record: &Record| {
        let sandbox = Sandbox::with_run(THRESHOLD, [record.clone()]);
        sandbox.testbed(&["report", "--format", "html", "run"]).stdout()
    };
    let precopy = page(&record);
    assert!(precopy.contains("5.386 s: the guest runs at the destination"));
    assert!(!precopy.contains("all memory has arrived"));
    record.measured.postcopy.duration_ms = Some(5_095.0);
    let postcopy = page(&record);
    for text in [
        "0.291 s: the guest runs at the destination",
        "5.386 s: all memory has arrived",
        "<rect class=\"switchover\" x=\"50\" y=\"0\" height=\"1\" width=\"241\">",
    ] {
        assert!(postcopy.contains(text), "{text}");
    }
}

/// The peak of [`samples`] in steps of 10 MB.
const PEAK: i64 = 778;

/// Returns the highest point of the first curve of remaining memory, in steps of its vertical axis.
fn highest(timeline: &str) -> i64 {
    let path = timeline.split("data-name=\"memory\"").nth(1).unwrap();
    let d = path.split("d=\"").nth(1).unwrap().split('"').next().unwrap();
    let numbers = d.replace(['M', 'l'], " ").replace('-', " -");
    let steps = numbers.split_whitespace().skip(1).step_by(2).map(|step| step.parse::<i64>().unwrap());
    let mut y = 0;
    let values = steps.map(|step| {
        y += step;
        y
    });
    values.max().unwrap()
}

/// Returns the timeline of an attempt of a page that has compressed them, by its number from 0.
fn unpacked(page: &str, number: usize) -> String {
    let packed = page.split("<template id=\"").nth(1 + number / 50).unwrap();
    let packed = packed.split_once('>').unwrap().1.split('<').next().unwrap();
    let packed = data_encoding::BASE64.decode(packed.as_bytes()).unwrap();
    let mut text = String::new();
    flate2::read::DeflateDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    text.split('\u{1e}').nth(number % 50).unwrap().to_owned()
}

/// The page of a run is written beside it when the run ends, even if the run has nothing left to do.
#[test]
fn a_run_writes_its_page() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    sandbox.testbed(&["run", "--resume", "run"]);
    let page = sandbox.read("run/report.html");
    assert_is_inert(&page);
    let stored = sandbox.testbed(&["report", "--format", "html", "run"]).stdout();
    assert_eq!(page, stored, "the same page as from the stored records");
}

/// Returns the runs that are stored in git: the folder of each, below the top folder, and its results
/// folders. The parts of a run in parts are in a folder of their own.
fn kept_runs() -> BTreeMap<PathBuf, Vec<PathBuf>> {
    let mut runs: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for kind in ["reference", "slurm", "vagrant"] {
        let records = files_below(&root().join("results").join(kind), |_| true).into_iter();
        for records in records.filter(|path| path.file_name() == Some(store::CELLS.as_ref())) {
            let folder = records.parent().unwrap().strip_prefix(root()).unwrap().to_owned();
            let is_part = folder.file_name().unwrap().to_str().unwrap().starts_with("part-");
            let run = if is_part { folder.parent().unwrap().to_owned() } else { folder.clone() };
            runs.entry(run).or_default().push(folder);
        }
    }
    runs
}

/// Each run that is stored in git has its page beside it, as the program makes it now, and results/README.md
/// links to it. With `UPDATE_GOLDEN=1`, the pages are made anew.
#[test]
fn kept_pages_are_those_that_the_program_makes() {
    let readme = fs::read_to_string(kept("README.md")).unwrap();
    let runs = kept_runs();
    assert!(runs.len() >= 7, "{runs:?}");
    for (run, mut folders) in runs {
        folders.sort_unstable();
        let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
        command.args(["report", "--format", "html"]).args(&folders).current_dir(root());
        let output = command.output().unwrap();
        let made = String::from_utf8(output.stdout).unwrap();
        assert!(made.len() <= MOST_BYTES && made.ends_with("</html>"), "{}", run.display());
        let page = run.join(store::REPORT);
        let path = root().join(&page);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &made).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == made, "{}: make it again with UPDATE_GOLDEN=1, see CONTRIBUTING.md", page.display());
        let link = page.strip_prefix("results").unwrap().display().to_string();
        assert!(readme.contains(&format!("]({link})")), "results/README.md has no link to {link}");
    }
}
