//! The results format: what every released version wrote is still read, and described by the JSON Schema.
//!
//! `tests/formats` has a results folder of each version: three kinds from before records stated one, then one
//! for each version, by its number. A new version adds its folder, made by a real run; none is ever changed.

use crate::common::{self, golden};
use jsonschema::Validator;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use testbed::results::{environment::Environment, record::Record, samples, store};

const FORMATS: [&str; 4] = ["unversioned-first", "unversioned-clocks", "unversioned-obtained", "1"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

fn testbed(args: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    // Without a stressor no guest can be started, whatever a test gets wrong.
    command.env(testbed::image::STRESSOR_VARIABLE, "absent-stressor");
    command.args(args).current_dir(directory).output().unwrap()
}

/// What the program prints; it must succeed.
#[track_caller]
fn printed(args: &[&str], directory: &Path) -> String {
    let Output { status, stdout, stderr } = testbed(args, directory);
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The lines of a file that must be JSON.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The schema that `testbed schema --records` prints.
fn schema() -> Value {
    serde_json::from_str(&printed(&["schema", "--records"], &folder(""))).unwrap()
}

fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::new(schema).unwrap_or_else(|e| panic!("{e}"))
}

/// A validator of one of the schema's definitions.
fn validator_of(definition: &str) -> Validator {
    let mut schema = schema();
    let root = schema.as_object_mut().unwrap();
    root.retain(|key, _| ["$schema", "$defs"].contains(&key.as_str()));
    root.insert("$ref".into(), format!("#/$defs/{definition}").into());
    validator(&schema)
}

#[track_caller]
fn assert_valid(validator: &Validator, value: &Value, place: &Path) {
    let errors: Vec<String> =
        validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{}: {:.600}", place.display(), errors.join("\n"));
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

/// Without the keys whose value is `null`: absent and `null` are the same.
fn known(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(|value| *value = known(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| *value = known(value.take())),
        _ => {}
    }
    value
}

#[test]
fn nothing_is_lost_or_made_up_when_results_of_any_version_are_read() {
    for name in FORMATS {
        let records = lines(&folder(name).join(store::CELLS));
        let report = printed(&["report", name, "--format", "json"], &folder(""));
        let mut report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(known(report["records"].take()), known(records.into()), "{name}");

        let mut stored = json(&folder(name).join(store::ENVIRONMENT));
        // It was of the whole run at first; now each record says it of its link.
        stored.as_object_mut().unwrap().shift_remove("link_backend");
        let environment = store::environment(&folder(name)).unwrap().unwrap();
        assert_eq!(known(serde_json::to_value(&environment).unwrap()), known(stored), "{name}");
    }
}

#[test]
fn results_of_every_version_are_as_the_schema_says() {
    let (record, environment) = (validator(&schema()), validator_of("Environment"));
    for name in FORMATS {
        for value in lines(&folder(name).join(store::CELLS)) {
            assert_valid(&record, &value, &folder(name));
        }
        assert_valid(&environment, &json(&folder(name).join(store::ENVIRONMENT)), &folder(name));
    }
}

/// Every results folder at or below `place`.
fn results_below(place: &Path, found: &mut Vec<PathBuf>) {
    if place.join(store::MATRIX).exists() {
        found.push(place.into());
    }
    for entry in fs::read_dir(place).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            results_below(&entry.path(), found);
        }
    }
}

#[test]
fn every_run_that_is_kept_in_the_repository_is_read_and_as_the_schema_says() {
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

#[test]
fn samples_of_an_attempt_are_read_and_as_the_schema_says() {
    let samples = samples::read(&folder("1"), "migrate.max_passes=2", 1).unwrap().unwrap();
    assert_eq!(samples.len(), 40);
    assert!(samples.is_sorted_by_key(|sample| (sample.pass, sample.transferred_bytes)));
    let file = store::attempt_path(&folder("1"), "migrate.max_passes=2", 1).join(samples::SAMPLES);
    let validator = validator_of("Sample");
    for value in lines(&file) {
        assert_valid(&validator, &value, &file);
    }
    assert_eq!(samples::read(&folder("1"), "migrate.max_passes=none", 1).unwrap(), None);
}

#[test]
fn the_schema_refuses_what_is_no_record() {
    let validator = validator(&schema());
    let record = lines(&folder("1").join(store::CELLS)).remove(0);
    assert!(validator.is_valid(&record));
    let spoilt = |pointer: &str, value: Value| {
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
        assert!(!validator.is_valid(&spoilt(pointer, value.clone())), "{pointer} = {value}");
    }
    for key in ["cell", "attempt", "outcome", "started_at", "settings", "wall_time_ms"] {
        let mut record = record.clone();
        record.as_object_mut().unwrap().shift_remove(key);
        assert!(!validator.is_valid(&record), "without {key}");
    }
}

#[test]
fn every_property_of_the_results_is_described() {
    let schema = schema();
    let definitions = schema["$defs"].as_object().unwrap();
    let own = ["Environment", "Lab", "Node", "Choice", "Measured", "Downtime", "Stress", "Pass", "Sample"];
    let named = own.iter().filter_map(|name| definitions.get(*name));
    for object in std::iter::once(&schema).chain(named) {
        for (name, property) in object["properties"].as_object().unwrap() {
            assert!(property.get("description").is_some(), "{name}: {property}");
        }
    }
}

/// A copy of the results of format 1 in a directory of its own, with something replaced in a file of it.
fn changed(file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let run = place.path().join("run");
    fs::create_dir(&run).unwrap();
    for name in [store::MATRIX, store::SELECTION, store::CELLS, store::ENVIRONMENT] {
        let text = fs::read_to_string(folder("1").join(name)).unwrap();
        let text = if name == file { text.replace(from, to) } else { text };
        fs::write(run.join(name), text).unwrap();
    }
    place
}

#[test]
fn records_of_a_newer_version_are_refused_and_the_versions_are_named() {
    let newer = format!(
        "it is in results format 7; testbed {} reads formats up to 1: read it with the version that wrote it, or a \
         newer one\n",
        env!("CARGO_PKG_VERSION")
    );
    // One that would read as a record of this version, and one that would not.
    for to in ["\"format\":7,\"cell\":", "\"format\":7,\"name\":"] {
        let place = changed(store::CELLS, "\"format\":1,\"cell\":", to);
        let before = fs::read(place.path().join("run/cells.jsonl")).unwrap();
        for args in [&["report", "run"][..], &["report", "run", "--json"], &["run", "--resume", "run"]] {
            let Output { status, stdout, stderr } = testbed(args, place.path());
            let stderr = String::from_utf8(stderr).unwrap();
            assert_eq!(status.code(), Some(2), "{args:?}: {stderr}");
            assert_eq!(stderr, format!("error: run/cells.jsonl, line 1: {newer}"), "{args:?}");
            assert!(stdout.is_empty());
        }
        assert_eq!(fs::read(place.path().join("run/cells.jsonl")).unwrap(), before);
    }
    let place = changed(store::ENVIRONMENT, "\"format\": 1", "\"format\": 7");
    let error = store::environment(&place.path().join("run")).unwrap_err().to_string();
    assert!(error.ends_with(newer.trim_end()) && error.contains("environment.json"), "{error}");
}

#[test]
fn what_is_written_states_its_version() {
    let plan = common::plan("name: n\n");
    let record: Record = common::mock::record(&plan, 0, 1, testbed::outcome::Outcome::Converged, 4000.0);
    let environment: Environment = common::mock::environment();
    for value in [serde_json::to_value(record).unwrap(), serde_json::to_value(environment).unwrap()] {
        assert_eq!(value.as_object().unwrap().iter().next(), Some((&"format".into(), &1.into())));
    }
}
