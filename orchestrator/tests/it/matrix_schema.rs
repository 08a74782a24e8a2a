//! The JSON Schema of matrix files: it has every key, describes each, and has no dangling references.

use serde_json::{Value, json};
use testbed::matrix::{File, schema};

fn root() -> Value {
    schema().to_value()
}

/// Calls `visit` for every value in the document, with the path to it.
fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, value);
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| walk(value, &format!("{path}/{key}"), visit));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| walk(value, &format!("{path}/{i}"), visit));
        }
        _ => {}
    }
}

#[test]
fn every_key_is_present_and_described() {
    let root = root();
    let keys: Vec<&String> = root["properties"].as_object().unwrap().keys().collect();
    let mut expected = [
        "name",
        "description",
        "guest",
        "link",
        "storage",
        "storage_link",
        "probe",
        "stress",
        "migrate",
        "timeline",
        "axes",
        "include",
        "exclude",
        "repeat",
        "order",
        "seed",
        "expect",
        "reference",
    ];
    let mut found: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    walk(&root, "", &mut |path, value| {
        let parts: Vec<&str> = path.rsplit('/').collect();
        let is_property =
            parts.get(1) == Some(&"properties") && !path.contains("axes") && !path.contains("Overrides");
        assert!(!is_property || value.get("description").is_some(), "{path} has no description: {value}");
    });
}

#[test]
fn every_reference_resolves() {
    let root = root();
    let mut references = 0;
    walk(&root, "", &mut |path, value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            references += 1;
            assert!(root.pointer(reference.trim_start_matches('#')).is_some(), "{path}: {reference}");
        }
    });
    assert!(references > 20);
}

#[test]
fn axes_and_include_have_the_schema_of_each_setting() {
    let root = root();
    let axes = &root["properties"]["axes"];
    assert!(axes["properties"]["stress.rate"]["items"]["$ref"].is_string(), "{axes}");
    assert_eq!(axes["additionalProperties"]["items"]["$ref"], "#/$defs/Overrides");
    assert!(root["$defs"]["Overrides"]["properties"]["link.delay"].is_object());
    assert_eq!(root["$defs"]["Overrides"]["additionalProperties"], false);
    assert_eq!(root["required"], serde_json::json!(["name"]));
}

/// Returns quantities and words as people write them, of every kind and in several spellings each.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let prefixes =
        ["", "k", "K", "m", "M", "g", "G", "T", "ki", "Ki", "KI", "kI", "mi", "Mi", "MI", "Gi", "ti"];
    let stems = [
        "", "B", "b", "bit", "Bit", "BIT", "bits", "B/s", "b/s", "B/S", "b/S", "/s", "Bps", "bps", "BPS",
        "bit/s", "Bits/sec", "bits/S", "B/sec", "b/sec", "byte", "bytes", "Bytes/s", "ps", "s", "S", "sec",
        "SECS", "in", "IN", "inutes", "sec/s",
    ];
    for prefix in prefixes {
        texts.extend(stems.iter().map(|stem| format!("8{prefix}{stem}")));
    }
    let times = "ns us \u{b5}s \u{3bc}s NS usec msecs second minute hr hours day d D h H w y Ms mS nsec days";
    texts.extend(times.split(' ').map(|unit| format!("8 {unit}")));
    let others = [
        "",
        " ",
        "0",
        "0.0",
        "00",
        " 0 ",
        "0.",
        ".5",
        "8",
        "8.0",
        "-8",
        "+8s",
        "8 MB ",
        "\t8\tMB",
        "8.0MB",
        "8.MB",
        ".8MB",
        "8,0MB",
        "1e3B",
        "8MB8MB",
        "1m30s",
        "1h 30m",
        "1min30sec",
        "1m 30",
        "30s1m",
        "1m30",
        "1d2h3m4s5ms",
        "8%",
        "8 %",
        " 8.5% ",
        "8.%",
        ".5%",
        "0%",
        "%",
        "8 percent",
        "none",
        "None",
        " NONE ",
        "non",
        "null",
        "true",
        "True",
        "YES",
        "no",
        "On",
        "off",
        "1",
        "unlimited",
        "Unlimited",
        " UNLIMITED ",
        "un-limited",
        "infinite",
        "auto",
        "KVM",
        "kvm ",
        "Tcg",
        "kwm",
        "precopy",
        "pre-copy",
        "Pre_Copy",
        "PRE COPY",
        "postcopy",
        "tbf",
        "TBF",
        "Htb",
        "pareto_normal",
        "pareto-normal",
        "ParetoNormal",
        "Normal",
        "random",
        "Random",
        " random",
        "zero",
        "ZERO",
        "zeros",
        "compressible:25%",
        "Compressible:25%",
        "compressible:25.5%",
        "compressible",
        "compressible:2 %",
        "hot-cold:90%/10%",
        "hot_cold:90%/10%",
        "HotCold:90%/10%",
        "hot-cold:90%",
        "hot cold:90%/10%",
        "sequential",
        "4KiB",
        "4kib",
        "4 KiB",
        "2MIB",
        "2-mib",
        "4096",
        "never",
        "Never",
        "burst",
        "page",
        "Word",
    ];
    texts.extend(others.map(Into::into));
    texts
}

#[test]
fn the_schema_accepts_the_spellings_that_the_parser_accepts() {
    let validator = jsonschema::draft202012::new(&root()).unwrap_or_else(|error| panic!("{error}"));
    // One setting of each type. A quantity that may be of two kinds is ambiguous if one of the kinds is,
    // which the schema does not know.
    let settings = [
        ("guest.memory", false),
        ("guest.accel", false),
        ("guest.cpu", false),
        ("link.rate", false),
        ("link.shaper", false),
        ("link.delay", false),
        ("link.distribution", false),
        ("link.loss", false),
        ("link.limit", false),
        ("link.burst", false),
        ("link.loss_bursts", false),
        ("stress.rate", false),
        ("stress.working_set", true),
        ("stress.content", false),
        ("stress.write", false),
        ("stress.order", false),
        ("stress.page_size", false),
        ("stress.catch_up", false),
        ("stress.phases", false),
        ("migrate.mode", false),
        ("migrate.stall_detection", false),
        ("migrate.max_passes", false),
        ("migrate.max_bandwidth", true),
        ("timeline", false),
    ];
    for (setting, schema_may_accept_more) in settings {
        let mut accepted = 0;
        for text in texts() {
            let nested = match setting.split_once('.') {
                Some((section, name)) => json!({ "name": "n", section: { name: &text } }),
                None => json!({ "name": "n", setting: &text }),
            };
            let axis = json!({ "name": "n", "axes": { setting: [&text] } });
            for document in [nested, axis] {
                let parsed = File::parse(&document.to_string(), "n").is_ok();
                let valid = validator.is_valid(&document);
                assert!(valid || !parsed, "{setting}: the parser accepts `{text}`, but the schema does not");
                assert!(
                    parsed || !valid || schema_may_accept_more,
                    "{setting}: the schema accepts `{text}`, but the parser does not"
                );
                accepted += u32::from(parsed);
            }
        }
        assert!(accepted > 0, "{setting} accepts nothing");
    }
}

#[test]
fn the_schema_accepts_other_spellings_wherever_words_are_read() {
    let validator = jsonschema::draft202012::new(&root()).unwrap_or_else(|error| panic!("{error}"));
    let document = json!({
        "name": "n",
        "order": "Shuffled",
        "stress": { "working_set": "64Mi", "phases": [{ "rate": "Unlimited", "duration": "1m30s" }] },
        "link": { "rate": "NONE", "slots": { "min_delay": "1msec", "max_delay": "2msec", "bytes": "none" } },
        "timeline": "none",
        "axes": { "timeline": ["None"], "guest.accel": ["TCG"] },
        "include": [{ "migrate.mode": "pre-copy" }],
        "expect": [{ "outcome": "Not_Converged", "total_time": "<= 1m30s AND > 1 sec" }],
        "reference": { "source": "s", "rows": [{ "where": "link.rate == None", "outcome": "Converged" }] },
    });
    let parsed = File::parse(&document.to_string(), "n").map(|_| ());
    assert_eq!(parsed.map_err(|error| error.to_string()), Ok(()));
    assert!(validator.is_valid(&document), "{:?}", validator.iter_errors(&document).next());
    // Outside of settings, `none` is not a value.
    let document = json!({ "name": "n", "expect": [{ "downtime": "none" }] });
    assert!(File::parse(&document.to_string(), "n").is_err() && !validator.is_valid(&document));
}
