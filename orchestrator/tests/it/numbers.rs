//! Numbers in tampered results: none ends a report with a panic, and impossible ones are refused.

use crate::{
    cli::{Sandbox, THRESHOLD, threshold_records},
    common::plan,
};
use serde_json::{Value, json};
use std::{fs, path::Path};
use tempfile::TempDir;
use testbed::{
    layout::Screen,
    report::{self, FigureName, FormatName},
    results::{
        client::PROBE,
        parts::{self, Folder},
        samples::SAMPLES,
        store,
        telemetry::TELEMETRY,
    },
    run::environment,
};

const MATRIX: &str = "name: n\nlink: { rate: 400mbit }\naxes: { stress.rate: [1MB/s, 40MB/s] }\nexpect:\n  \
                      - { total_time: < 1h, downtime.client: < 1s, transferred: < 1GB }\n  \
                      - { relative_to: stress.rate == 1MB/s, total_time: < 200% }\n";

/// The files of an attempt, with a line of each kind.
const FILES: [(&str, &str); 3] = [
    (
        SAMPLES,
        r#"{"at_ms":50.0,"status":"active","transferred_bytes":7,"remaining_bytes":9,"normal_pages":1,
            "zero_pages":1,"pass":1,"dirty_rate_bytes_per_s":3,"mbit_per_s":1.5,"postcopy_bytes":1,
            "disk":{"copied_bytes":1,"remaining_bytes":1,"sent_bytes":1},"throttle_percent":1}"#,
    ),
    (
        TELEMETRY,
        r#"{"at_ms":50.0,"end":"source","clock_ms":50.0,"dirtied_bytes":8192,"longest_stall_ms":0.5,
            "longest_page_write_ms":0.1,"page_write":{"median_ms":0.1,"p99_ms":0.2,"p999_ms":0.3},
            "disk":{"written_bytes":1,"read_bytes":1,"longest_write_ms":1.0,"longest_read_ms":1.0}}"#,
    ),
    (PROBE, r#"{"at_ms":50.0,"duration_ms":50.0,"requests":5,"unanswered":1,"longest_round_trip_ms":0.4}"#),
];

/// Figures that the record of the format's version lacks.
const MORE: &str = r#"{"past_deadline_ms":1.0,"storage":{"bulk_ms":1.0,"bulk_bytes":1,"memory_ms":1.0,
    "switchover_ms":1.0,"write_rate":1.0,"read_rate":1.0,"longest_write_ms":1.0,"longest_read_ms":1.0},
    "aids":{"throttle_percent":1,"throttled_ms":1.0,"compression_ratio":1.0,"multifd_bytes":1,
    "connection_bytes":[1,2],"xbzrle_pages":3,"xbzrle_bytes":9000,"xbzrle_misses":1,"xbzrle_overflows":1},
    "cpu":{"source_ms":1.0,"destination_ms":1.0,"source_ms_per_gb":1.0,"destination_ms_per_gb":1.0},
    "postcopy":{"started_ms":1.0,"duration_ms":1.0,"bytes":1,"page_requests":1,"all_blocked_ms":1,
    "vcpus_blocked_ms":[1,2],"fault_latency_us":1.0,"fault_latencies":[1,2],"write_latencies":[1,2],
    "rate":1.0,"recoveries":1,"paused_ms":1.0},
    "file":{"bytes":1,"allocated_bytes":1,"save_ms":1.0,"load_ms":1.0}}"#;

/// A results folder with two attempts that have nearly every figure.
struct Tampered {
    dir: TempDir,
    records: Vec<Value>,
    lines: Vec<Value>,
}

impl Tampered {
    fn new() -> Self {
        let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/1");
        let text = fs::read_to_string(formats.join(store::CELLS)).unwrap();
        let mut known: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let more: Value = serde_json::from_str(MORE).unwrap();
        known.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        known["downtime_ms"]["client_at_least"] = json!(1.0);
        known["transferred"]["while_running"] = json!({ "bytes": 1, "duration_ms": 1.0 });
        known["transferred"]["storage"] = json!({ "source_bytes": 1, "destination_bytes": 1 });
        known["timeline"][1]["link_bits_per_s"] = json!(1);
        let record = |cell: &testbed::matrix::Cell| {
            let mut record = known.clone();
            (record["cell"], record["axes"]) = (json!(cell.id), json!(cell.axes));
            record["settings"] = json!(cell.settings);
            record
        };
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(store::MATRIX), MATRIX).unwrap();
        let records = plan(MATRIX).cells.iter().map(record).collect();
        let lines = FILES.iter().map(|(_, line)| serde_json::from_str(line).unwrap()).collect();
        Self { dir, records, lines }
    }

    /// Writes the records, and three lines of each file of the first attempt.
    fn write(&self) {
        let of = |values: &mut dyn Iterator<Item = &Value>| {
            values.map(|value| value.to_string() + "\n").collect::<String>()
        };
        fs::write(self.dir.path().join(store::CELLS), of(&mut self.records.iter())).unwrap();
        let attempt = store::attempt_path(self.dir.path(), self.records[0]["cell"].as_str().unwrap(), 1);
        fs::create_dir_all(&attempt).unwrap();
        for ((name, line), last) in FILES.iter().zip(&self.lines) {
            let mut first: Value = serde_json::from_str(line).unwrap();
            let mut second = first.clone();
            (first["at_ms"], second["at_ms"]) = (json!(0.0), json!(100.0));
            fs::write(attempt.join(name), of(&mut [&first, &second, last].into_iter())).unwrap();
        }
    }

    /// Reports the run in every format. Returns whether its records can be read.
    fn is_reported(&self, formats: &[FormatName]) -> bool {
        self.write();
        let Ok(folder) = Folder::read(self.dir.path()) else { return false };
        let runs = parts::gather(vec![folder], environment::backend);
        for format in formats {
            let _ = format.format(Screen::default()).stored(&runs);
        }
        for figure in FigureName::ALL {
            let _ = report::svg(figure).stored(&runs);
        }
        true
    }
}

/// Returns the paths of all numbers in a value, without settings and numbers of versions and attempts.
fn numbers(value: &Value) -> Vec<String> {
    let below = |name: &str, value: &Value| {
        numbers(value).into_iter().map(|path| format!("/{name}{path}")).collect::<Vec<_>>()
    };
    match value {
        Value::Number(_) => vec![String::new()],
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(at, item)| below(&at.to_string(), item)).collect()
        }
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !["settings", "format", "attempt"].contains(&name.as_str()))
            .flat_map(|(name, field)| below(name, field))
            .collect(),
        _ => Vec::new(),
    }
}

/// Returns the most extreme values that a number may have.
fn extremes(path: &str, number: &Value) -> Vec<Value> {
    let mut extremes = vec![json!(0), json!(u64::MAX)];
    if number.is_f64() {
        extremes.extend([json!(1e-300), json!(-1000)]);
    }
    if ["at_ms", "/from_ms", "/began_ms"].iter().any(|moment| path.ends_with(moment)) {
        extremes.push(json!(-1.8e19));
    }
    extremes
}

#[test]
fn every_format_shows_the_most_extreme_numbers() {
    let known = Tampered::new();
    let paths = numbers(&known.records[0]);
    assert!(paths.len() > 100, "{paths:?}");
    for at in 0..5 {
        // All numbers of one attempt at a time, and then of both.
        for changed in [0..1, 1..2, 0..2] {
            let mut tampered = Tampered::new();
            let lines = tampered.lines.iter_mut().filter(|_| changed.start == 0);
            for value in tampered.records[changed.clone()].iter_mut().chain(lines) {
                for path in numbers(value) {
                    let number = value.pointer_mut(&path).unwrap();
                    let extremes = extremes(&path, number);
                    *number = extremes[at % extremes.len()].clone();
                }
            }
            assert!(tampered.is_reported(&FormatName::ALL), "{at}");
        }
    }
    for path in paths {
        for extreme in extremes(&path, known.records[0].pointer(&path).unwrap()) {
            let mut tampered = Tampered::new();
            *tampered.records[0].pointer_mut(&path).unwrap() = extreme.clone();
            assert!(tampered.is_reported(&[FormatName::Html]), "{path}: {extreme}");
        }
    }
    for (at, line) in known.lines.iter().enumerate() {
        for path in numbers(line) {
            for extreme in extremes(&path, line.pointer(&path).unwrap()) {
                let mut tampered = Tampered::new();
                *tampered.lines[at].pointer_mut(&path).unwrap() = extreme.clone();
                assert!(tampered.is_reported(&[FormatName::Html]), "{path}: {extreme}");
            }
        }
    }
}

/// Returns a sandbox with a run whose second record has this text in place of a figure.
fn with_total_time(number: &str) -> Sandbox {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    let cells = sandbox.path("run").join(store::CELLS);
    let text = fs::read_to_string(&cells).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (before, rest) = lines[1].split_once("\"total_time_ms\":").unwrap();
    let (_, after) = rest.split_once(',').unwrap();
    lines[1] = format!("{before}\"total_time_ms\":{number},{after}");
    fs::write(cells, lines.join("\n") + "\n").unwrap();
    sandbox
}

#[test]
fn a_record_with_an_impossible_number_is_refused() {
    for (number, why) in [
        ("-1e12", "`total_time_ms` is -1000000000000, but cannot be negative"),
        ("-1e300", "`total_time_ms` is -1e300, which is more than anything can be"),
        ("1e300", "`total_time_ms` is 1e300, which is more than anything can be"),
        ("1e999", "number out of range"),
    ] {
        let sandbox = with_total_time(number);
        for format in FormatName::ALL {
            let finished = sandbox.testbed(&["report", "run", "--format", format.name()]);
            finished.exits(2).says(&format!("error: run/cells.jsonl, line 2: {why}")).prints_nothing();
        }
        sandbox.testbed(&["run", "--resume", "run"]).exits(2).says(why).prints_nothing();
    }
    let unmeasured = with_total_time("null");
    unmeasured.testbed(&["report", "run"]).exits(0);
}

#[test]
fn samples_with_an_impossible_number_are_not_drawn() {
    for (at, (name, path)) in
        FILES.iter().map(|(name, _)| name).zip(["/at_ms", "/clock_ms", "/requests"]).enumerate()
    {
        let mut tampered = Tampered::new();
        *tampered.lines[at].pointer_mut(path).unwrap() = json!(1e30);
        tampered.write();
        let folder = Folder::read(tampered.dir.path()).unwrap();
        let runs = parts::gather(vec![folder], environment::backend);
        let page = FormatName::Html.format(Screen::default()).stored(&runs).unwrap().text;
        assert!(
            page.as_str().contains("not drawn: ") && page.as_str().contains(&format!("{name}, line 3: "))
        );
    }
}
