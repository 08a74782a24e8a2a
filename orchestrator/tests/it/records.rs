//! The results format: results of every released version can still be read and match the JSON Schema.
//!
//! `tests/formats` has results folders from real runs: three of results that state no version, then one for
//! each version, named by its number. A new version of the format adds a folder; existing folders are never
//! changed.

use crate::common::{self, golden};
use jsonschema::Validator;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use testbed::{
    measure::End,
    results::{
        client::{self, ProbeWindow},
        environment::Environment,
        record::Record,
        samples, store,
        telemetry::{self, DiskReport, GuestReport, PageWriteTimes},
    },
};

const FORMATS: [&str; 4] = ["unversioned-first", "unversioned-clocks", "unversioned-obtained", "1"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

fn testbed(args: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    // Without a stressor, a test cannot start a guest by mistake.
    command.env(testbed::image::STRESSOR_VARIABLE, "absent-stressor");
    command.env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
    command.args(args).current_dir(directory).output().unwrap()
}

/// Runs the program, which must accept its arguments, and returns its standard output. A report exits with 1
/// if the run is not complete.
#[track_caller]
fn printed(args: &[&str], directory: &Path) -> String {
    let Output { status, stdout, stderr } = testbed(args, directory);
    assert!(matches!(status.code(), Some(0 | 1)), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Parses each line of a file as JSON.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Returns the schema that `testbed schema --records` prints.
fn schema() -> Value {
    serde_json::from_str(&printed(&["schema", "--records"], &folder(""))).unwrap()
}

fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::new(schema).unwrap_or_else(|e| panic!("{e}"))
}

/// Returns a validator for one of the schema's definitions.
fn validator_of(definition: &str) -> Validator {
    let mut schema = schema();
    let root = schema.as_object_mut().unwrap();
    root.retain(|key, _| ["$schema", "$defs"].contains(&key.as_str()));
    root.insert("$ref".into(), format!("#/$defs/{definition}").into());
    validator(&schema)
}

#[track_caller]
fn assert_valid(validator: &Validator, value: &Value, path: &Path) {
    let errors: Vec<String> =
        validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{}: {:.600}", path.display(), errors.join("\n"));
}

#[test]
fn results_of_every_version_are_reported() {
    let kept: Vec<String> = fs::read_dir(folder(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(kept.len() == FORMATS.len() && kept.iter().all(|name| FORMATS.contains(&name.as_str())));
    for name in FORMATS {
        golden(&format!("formats/{name}.txt"), &printed(&["report", name], &folder("")));
    }
}

/// Removes the keys whose value is `null`, which means the same as an absent key.
fn without_nulls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(|value| *value = without_nulls(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| *value = without_nulls(value.take())),
        _ => {}
    }
    value
}

#[test]
fn reading_results_of_any_version_neither_loses_nor_invents_values() {
    for name in FORMATS {
        let records = lines(&folder(name).join(store::CELLS));
        let report = printed(&["report", name, "--format", "json"], &folder(""));
        let mut report: Value = serde_json::from_str(&report).unwrap();
        for record in report["records"].as_array_mut().unwrap() {
            // Only the report has the numbers of the settings.
            for key in ["axes_as_numbers", "settings_as_numbers"] {
                assert!(record.as_object_mut().unwrap().shift_remove(key).is_some(), "{key}");
            }
        }
        assert_eq!(without_nulls(report["records"].take()), without_nulls(records.into()), "{name}");

        let mut stored = json(&folder(name).join(store::ENVIRONMENT));
        // In the oldest results the backend was stated for the whole run; now each record states it.
        stored.as_object_mut().unwrap().shift_remove("link_backend");
        let environment = store::environment(&folder(name)).unwrap().unwrap();
        let environment = serde_json::to_value(&environment).unwrap();
        assert_eq!(without_nulls(environment), without_nulls(stored), "{name}");
    }
}

#[test]
fn results_of_every_version_match_the_schema() {
    let (record, environment) = (validator(&schema()), validator_of("Environment"));
    for name in FORMATS {
        for value in lines(&folder(name).join(store::CELLS)) {
            assert_valid(&record, &value, &folder(name));
        }
        assert_valid(&environment, &json(&folder(name).join(store::ENVIRONMENT)), &folder(name));
    }
}

/// Finds every results folder at or below `folder`.
fn results_below(folder: &Path, found: &mut Vec<PathBuf>) {
    if folder.join(store::MATRIX).exists() {
        found.push(folder.into());
    }
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            results_below(&entry.path(), found);
        }
    }
}

#[test]
fn all_results_in_the_repository_can_be_read_and_match_the_schema() {
    let (record, environment) = (validator(&schema()), validator_of("Environment"));
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results");
    let mut folders = Vec::new();
    for kind in ["reference", "slurm", "vagrant"] {
        results_below(&results.join(kind), &mut folders);
    }
    assert!(folders.len() >= 8, "{folders:?}");
    for folder in folders {
        let (_, records) = store::read(&folder).unwrap();
        let values = lines(&folder.join(store::CELLS));
        assert!(!records.is_empty() && records.len() == values.len());
        for value in &values {
            assert_valid(&record, value, &folder);
        }
        assert!(store::environment(&folder).unwrap().is_some());
        assert_valid(&environment, &json(&folder.join(store::ENVIRONMENT)), &folder);
    }
}

/// In the run of `xbzrle` with the largest cache, QEMU counts 2,193,219 pages that were in the cache. All but
/// 5,610 of them were sent in full, and so were all but 1.7 of 8,962 MB.
#[test]
fn no_output_shows_pages_that_xbzrle_sent_in_full_as_deltas() {
    let run = "results/reference/guestperf-tcg/compr-xbzrle";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let shown = |format: &str| printed(&["report", run, "--format", format], root);
    for format in ["table", "markdown", "html"] {
        let text = shown(format);
        let (deltas, hits) = (["5610", "5,610"], ["2193219", "2,193,219"]);
        assert!(deltas.iter().any(|deltas| text.contains(deltas)), "{format}");
        assert!(!hits.iter().any(|hits| text.contains(hits)), "{format}");
    }
    let report: Value = serde_json::from_str(&shown("json")).unwrap();
    let aids = &report["records"][3]["aids"];
    let rows: Vec<Value> = csv::Reader::from_reader(shown("csv").as_bytes())
        .deserialize::<std::collections::BTreeMap<String, String>>()
        .map(|row| serde_json::to_value(row.unwrap()).unwrap())
        .collect();
    for (name, value) in [
        ("xbzrle_deltas", 5_610_u64),
        ("xbzrle_delta_bytes", 1_698_588),
        ("xbzrle_pages", 2_193_219),
        ("xbzrle_bytes", 8_962_145_052),
        ("xbzrle_overflows", 2_187_609),
    ] {
        assert_eq!(aids[name], value, "{name}");
        assert_eq!(rows[3][name], value.to_string(), "{name}");
    }
}

/// A run of an older version, which recorded a duration of 0 for attempts that were skipped.
#[test]
fn no_output_shows_a_duration_of_attempts_that_were_skipped() {
    let run = "results/reference/guestperf-tcg/compr-multifd-compression";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let shown = |format: &str| printed(&["report", run, "--format", format], root);
    let csv = shown("csv");
    let rows = csv::Reader::from_reader(csv.as_bytes())
        .deserialize::<std::collections::BTreeMap<String, String>>()
        .map(Result::unwrap)
        .collect::<Vec<_>>();
    let is_skipped = rows.iter().map(|row| row["outcome"] == "skipped").collect::<Vec<_>>();
    assert_eq!(is_skipped, [false, false, true, true]);
    let report: Value = serde_json::from_str(&shown("json")).unwrap();
    for (row, record) in rows.iter().zip(report["records"].as_array().unwrap()) {
        let is_skipped = row["outcome"] == "skipped";
        assert_eq!(row["wall_time_ms"].is_empty(), is_skipped, "{csv}");
        assert_eq!(record.get("wall_time_ms").is_none(), is_skipped, "{record:#}");
        assert_eq!(record.get("obtained").is_none(), is_skipped, "{record:#}");
    }
    assert_eq!(shown("junit").matches(" time=").count(), 2, "the two attempts that were made");
}

#[test]
fn samples_can_be_read_and_match_the_schema() {
    let samples = samples::read(&folder("1"), "migrate.max_passes=2", 1).unwrap().unwrap();
    assert_eq!(samples.len(), 40);
    assert!(
        samples
            .is_sorted_by_key(|sample| sample.memory.map(|memory| (memory.pass, memory.transferred_bytes)))
    );
    let file = store::attempt_path(&folder("1"), "migrate.max_passes=2", 1).join(samples::SAMPLES);
    let validator = validator_of("Sample");
    for value in lines(&file) {
        assert_valid(&validator, &value, &file);
    }
    assert_eq!(samples::read(&folder("1"), "migrate.max_passes=none", 1).unwrap(), None);
}

#[test]
fn reports_of_the_guest_are_read_back_and_match_the_schema() {
    let run = tempfile::tempdir().unwrap();
    let folder = store::attempt_path(run.path(), "base", 1);
    fs::create_dir_all(&folder).unwrap();
    let disk =
        DiskReport { written_bytes: 4096, read_bytes: 0, longest_write_ms: 1.25, longest_read_ms: 0.0 };
    let times = PageWriteTimes { median_ms: 0.000_3, p99_ms: 0.000_9, p999_ms: 0.001 };
    let report = |end, disk, page_write| GuestReport {
        at_ms: -0.5,
        end,
        clock_ms: 1_234.567,
        dirtied_bytes: 8192,
        longest_stall_ms: 0.125,
        longest_page_write_ms: 0.001,
        page_write,
        disk,
    };
    let reports = [report(End::Source, None, None), report(End::Destination, Some(disk), Some(times))];
    assert_eq!(telemetry::read(run.path(), "base", 1).unwrap(), None);
    telemetry::write(&folder, &reports).unwrap();
    assert_eq!(telemetry::read(run.path(), "base", 1).unwrap().unwrap(), reports);
    let file = folder.join(telemetry::TELEMETRY);
    let validator = validator_of("GuestReport");
    for value in lines(&file) {
        assert_valid(&validator, &value, &file);
    }
}

#[test]
fn what_the_probe_saw_is_read_back_and_matches_the_schema() {
    let run = tempfile::tempdir().unwrap();
    let folder = store::attempt_path(run.path(), "base", 1);
    fs::create_dir_all(&folder).unwrap();
    let window = |at_ms, unanswered, longest_round_trip_ms| ProbeWindow {
        at_ms,
        duration_ms: 50.0,
        requests: 5,
        unanswered,
        longest_round_trip_ms,
    };
    let windows = [window(-3.25, 0, Some(0.375)), window(46.75, 5, None)];
    assert_eq!(client::read(run.path(), "base", 1).unwrap(), None);
    client::write(&folder, &windows).unwrap();
    assert_eq!(client::read(run.path(), "base", 1).unwrap().unwrap(), windows);
    let file = folder.join(client::PROBE);
    let validator = validator_of("ProbeWindow");
    for value in lines(&file) {
        assert_valid(&validator, &value, &file);
    }
}

#[test]
fn the_schema_rejects_invalid_records() {
    let validator = validator(&schema());
    let record = lines(&folder("1").join(store::CELLS)).remove(0);
    assert!(validator.is_valid(&record));
    let changed = |pointer: &str, value: Value| {
        let mut record = record.clone();
        *record.pointer_mut(pointer).unwrap() = value;
        record
    };
    for (pointer, value) in [
        ("/outcome", Value::from("won")),
        ("/format", Value::from("one")),
        ("/total_time_ms", Value::from("3 s")),
        ("/downtime_ms/guest", Value::from([1.0])),
        ("/transferred/wire_bytes", Value::from(-1)),
        ("/settings/stress/rate", Value::from(40)),
        ("/obtained/qemu/clock", Value::from("sundial")),
    ] {
        assert!(!validator.is_valid(&changed(pointer, value.clone())), "{pointer} = {value}");
    }
    for key in ["cell", "attempt", "outcome", "started_at", "settings"] {
        let mut record = record.clone();
        record.as_object_mut().unwrap().shift_remove(key);
        assert!(!validator.is_valid(&record), "without {key}");
    }
}

#[test]
fn every_property_of_the_results_is_described() {
    let schema = schema();
    let definitions = schema["$defs"].as_object().unwrap();
    let own = [
        "Environment",
        "Lab",
        "Node",
        "AcceleratorChoice",
        "Measured",
        "Downtime",
        "Stress",
        "Pass",
        "Sample",
        "GuestReport",
        "PageWriteTimes",
        "ProbeWindow",
    ];
    let named = own.iter().filter_map(|name| definitions.get(*name));
    for object in std::iter::once(&schema).chain(named) {
        for (name, property) in object["properties"].as_object().unwrap() {
            assert!(property.get("description").is_some(), "{name}: {property}");
        }
    }
}

/// Returns a new directory with a copy of the results of format 1, with a text replaced in one of its files.
fn copy_with(file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    fs::create_dir(&run).unwrap();
    for name in [store::MATRIX, store::SELECTION, store::CELLS, store::ENVIRONMENT] {
        let text = fs::read_to_string(folder("1").join(name)).unwrap();
        let text = if name == file { text.replace(from, to) } else { text };
        fs::write(run.join(name), text).unwrap();
    }
    directory
}

#[test]
fn results_of_a_newer_version_are_refused_with_both_versions_named() {
    let newer = format!(
        "it uses results format 7, but testbed {} reads formats only up to 1; use the version of testbed \
         that wrote it, or a newer one\n",
        env!("CARGO_PKG_VERSION")
    );
    // The first would parse as a record of this version, the second would not.
    for to in ["\"format\":7,\"cell\":", "\"format\":7,\"name\":"] {
        let directory = copy_with(store::CELLS, "\"format\":1,\"cell\":", to);
        let before = fs::read(directory.path().join("run/cells.jsonl")).unwrap();
        for args in [&["report", "run"][..], &["report", "run", "--json"], &["run", "--resume", "run"]] {
            let Output { status, stdout, stderr } = testbed(args, directory.path());
            let stderr = String::from_utf8(stderr).unwrap();
            assert_eq!(status.code(), Some(2), "{args:?}: {stderr}");
            assert_eq!(stderr, format!("error: run/cells.jsonl, line 1: {newer}"), "{args:?}");
            assert!(stdout.is_empty());
        }
        assert_eq!(fs::read(directory.path().join("run/cells.jsonl")).unwrap(), before);
    }
    let directory = copy_with(store::ENVIRONMENT, "\"format\": 1", "\"format\": 7");
    let error = store::environment(&directory.path().join("run")).unwrap_err().to_string();
    assert!(error.ends_with(newer.trim_end()) && error.contains("environment.json"), "{error}");
}

#[test]
fn new_results_state_their_version_first() {
    let plan = common::plan("name: n\n");
    let record: Record = common::mock::record(&plan, 0, 1, testbed::outcome::Outcome::Converged, 4000.0);
    let environment: Environment = common::mock::environment();
    for value in [serde_json::to_value(record).unwrap(), serde_json::to_value(environment).unwrap()] {
        assert_eq!(value.as_object().unwrap().iter().next(), Some((&"format".into(), &1.into())));
    }
}
