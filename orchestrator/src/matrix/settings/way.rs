//! The conditions on the settings of a migration that does not use the migration link.

use super::{Settings, SettingsError, StorageKind, field::Section as _, migrate::Migrate, value::Value};
use crate::mode::Mode;

/// The settings of how memory is sent over connections.
const OF_CONNECTIONS: &[&str] = &["transport", "tls", "zero_copy_send", "return_path", "switchover_ack"];

/// The settings that have an effect only while the guest runs at the source and its memory is sent.
/// `downtime_limit` may still be given for cells that do not need it.
const OF_PASSES: &[&str] = &[
    "max_passes",
    "stall_detection",
    "auto_converge",
    "dirty_limit",
    "xbzrle",
    "avail_switchover_bandwidth",
];

/// The settings that have an effect only if memory is sent.
const OF_MEMORY: &[&str] = &["max_bandwidth", "compress", "multifd", "zero_page_detection", "release_ram"];

/// Adds the errors in settings that have no effect with the mode, or that QEMU refuses with it.
pub(super) fn check(settings: &Settings, errors: &mut Vec<SettingsError>) {
    let migrate = &settings.migrate;
    match migrate.mode {
        Mode::File => {
            refuse(migrate, OF_CONNECTIONS, "a guest is saved to a file without a connection", errors);
            if !migrate.save_live {
                let why = "the guest is stopped before it is saved";
                let help = |name: &str| format!("add `save_live: true`, or remove `{name}`");
                refuse_unless(migrate, OF_PASSES, why, help, errors);
                refuse_changes(settings, why, help, errors);
            }
            if migrate.mapped_ram && migrate.multifd_compression.as_ref().is_some_and(|name| name != "none") {
                errors.push(SettingsError {
                    paths: vec!["migrate.multifd_compression".into(), "migrate.mapped_ram".into()],
                    message: "QEMU does not compress pages that have a fixed place in the file".into(),
                    help: Some("remove `multifd_compression` or `mapped_ram`".into()),
                });
            }
            if migrate.multifd && !migrate.mapped_ram {
                errors.push(SettingsError {
                    paths: vec!["migrate.multifd".into(), "migrate.mapped_ram".into()],
                    message: "`multifd` writes a file only with `mapped_ram`".into(),
                    help: Some("add `mapped_ram: true`, or remove `multifd`".into()),
                });
            }
        }
        Mode::CprTransfer => {
            for names in [OF_CONNECTIONS, OF_PASSES, OF_MEMORY] {
                refuse(migrate, names, "memory is handed over, and not sent", errors);
            }
            let help = |name: &str| format!("remove `{name}`, or use `mode: precopy`");
            refuse_changes(settings, "the guest is stopped before its memory is handed over", help, errors);
        }
        _ => {}
    }
    if migrate.mode.uses_link() {
        return;
    }
    refuse_link_changes(settings, errors);
    if settings.storage.kind == StorageKind::Block {
        errors.push(SettingsError {
            paths: vec!["storage.kind".into(), "migrate.mode".into()],
            message: "a disk of kind `block` is copied over the migration link, which this mode does not use"
                .into(),
            help: Some("write `kind: shared`, or use `mode: precopy`".into()),
        });
    }
}

/// Adds an error for each setting that changes the workload during a migration that stops the guest
/// immediately. `help` says how to correct it.
fn refuse_changes(
    settings: &Settings,
    why: &str,
    help: impl Fn(&str) -> String,
    errors: &mut Vec<SettingsError>,
) {
    let Settings { stress, timeline, .. } = settings;
    for (path, is_given) in [
        ("stress.phases", !stress.phases.is_empty()),
        ("stress.wave", stress.wave.is_some()),
        ("stress.trace", stress.trace.is_some()),
        ("timeline", timeline.iter().any(|entry| entry.stress.is_some())),
    ] {
        if is_given {
            errors.push(SettingsError {
                paths: vec![path.into(), "migrate.mode".into()],
                message: format!("`{path}` changes nothing during the migration: {why}"),
                help: Some(help(path)),
            });
        }
    }
}

/// Adds an error for each setting that changes the link while a guest migrates without it.
fn refuse_link_changes(settings: &Settings, errors: &mut Vec<SettingsError>) {
    let entries = settings.timeline.iter().enumerate();
    let changes = entries.filter(|(_, entry)| entry.link.is_some());
    let changes = changes.map(|(number, _)| format!("timeline.{number}.link"));
    for path in settings.link.trace.iter().map(|_| "link.trace".into()).chain(changes) {
        errors.push(SettingsError {
            paths: vec![path, "migrate.mode".into()],
            message: "changing the link has no effect: this mode does not use the migration link".into(),
            help: Some("remove the change, or use `mode: precopy`".into()),
        });
    }
}

fn refuse(migrate: &Migrate, names: &[&str], why: &str, errors: &mut Vec<SettingsError>) {
    refuse_unless(migrate, names, why, |name| format!("remove `{name}`, or use `mode: precopy`"), errors);
}

/// Adds an error for each of these settings that is not at its default. `help` says how to correct it.
fn refuse_unless(
    migrate: &Migrate,
    names: &[&str],
    why: &str,
    help: impl Fn(&str) -> String,
    errors: &mut Vec<SettingsError>,
) {
    let default = Migrate::default();
    for field in Migrate::fields() {
        let (name, value) = (field.path(), field.value(migrate));
        if !names.contains(&name) || value == field.value(&default) || value == Value::None {
            continue;
        }
        errors.push(SettingsError {
            paths: vec![format!("migrate.{name}"), "migrate.mode".into()],
            message: format!("`{name}` has no effect: {why}"),
            help: Some(help(name)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    /// Returns the messages about these settings, joined.
    fn messages(settings: Json) -> String {
        let settings: Settings = serde_json::from_value(settings).unwrap();
        settings.check().into_iter().map(|error| error.message).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_a_file_does_not_have_is_refused() {
        let file = |more: Json| {
            let mut migrate = json!({ "mode": "file" });
            migrate.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            messages(json!({ "migrate": migrate }))
        };
        for fine in [
            json!({}),
            json!({ "save_live": true, "auto_converge": true, "max_passes": 3 }),
            json!({ "save_live": true, "xbzrle": true }),
            json!({ "mapped_ram": true, "multifd": true, "direct_io": true, "max_bandwidth": "1GB/s" }),
        ] {
            assert_eq!(file(fine), "");
        }
        assert_eq!(
            file(json!({ "tls": true })),
            "`tls` has no effect: a guest is saved to a file without a connection"
        );
        let stopped = "has no effect: the guest is stopped before it is saved";
        assert_eq!(file(json!({ "auto_converge": true })), format!("`auto_converge` {stopped}"));
        assert_eq!(file(json!({ "max_passes": 3 })), format!("`max_passes` {stopped}"));
        let compressed = json!({ "mapped_ram": true, "multifd": true, "multifd_compression": "zstd" });
        assert_eq!(file(compressed), "QEMU does not compress pages that have a fixed place in the file");
        assert_eq!(file(json!({ "stall_detection": false })), format!("`stall_detection` {stopped}"));
        assert_eq!(file(json!({ "save_live": true, "stall_detection": false })), "");
        assert_eq!(
            file(json!({ "transport": "rdma" })),
            "`transport` has no effect: a guest is saved to a file without a connection"
        );
        assert_eq!(file(json!({ "multifd": true })), "`multifd` writes a file only with `mapped_ram`");
        assert_eq!(
            file(json!({ "mapped_ram": true, "direct_io": true })),
            "`direct_io` has no effect without `multifd: true`"
        );
        assert_eq!(
            file(json!({ "postcopy_preempt": true })),
            "`postcopy_preempt` has no effect without `mode: postcopy`"
        );
        assert_eq!(
            messages(json!({ "migrate": { "save_live": true } })),
            "`save_live` has no effect without `mode: file`"
        );
    }

    #[test]
    fn memory_that_is_handed_over_cannot_be_sent() {
        let cpr =
            |name: &str, value: Json| messages(json!({ "migrate": { "mode": "cpr-transfer", name: value } }));
        assert_eq!(cpr("timeout", json!("10s")), "");
        for (name, value) in [
            ("tls", json!(true)),
            ("multifd", json!(true)),
            ("max_bandwidth", json!("1GB/s")),
            ("max_passes", json!(2)),
            ("stall_detection", json!(false)),
            ("compress", json!(true)),
            ("transport", json!("rdma")),
            ("zero_page_detection", json!("none")),
        ] {
            assert_eq!(
                cpr(name, value),
                format!("`{name}` has no effect: memory is handed over, and not sent")
            );
        }
        assert_eq!(cpr("mapped_ram", json!(true)), "`mapped_ram` has no effect without `mode: file`");
    }

    #[test]
    fn nothing_can_change_for_a_guest_that_is_stopped_at_once() {
        let wave = json!({ "period": "4s", "low": "1MB/s", "high": "2MB/s" });
        let rate = json!([{ "at": "1s", "stress": { "rate": "1MB/s" } }]);
        let link = json!([{ "at": "1s", "link": { "delay": "1ms" } }]);
        let trace = json!("a.trace");
        let with = |migrate: &Json, section: &str, key: &str, value: &Json| {
            let mut settings = json!({ "migrate": migrate, "stress": { "rate": "1MB/s" } });
            if key.is_empty() {
                settings[section] = value.clone();
            } else {
                settings[section][key] = value.clone();
            }
            messages(settings)
        };
        let phases = json!([{ "rate": 0, "duration": "1s" }]);
        let changes = [
            ("stress", "phases", &phases),
            ("stress", "wave", &wave),
            ("stress", "trace", &trace),
            ("link", "trace", &trace),
            ("timeline", "", &rate),
            ("timeline", "", &link),
        ];
        let unused = "changing the link has no effect: this mode does not use the migration link";
        for (number, (section, key, value)) in changes.into_iter().enumerate() {
            let is_of_link = [3, 5].contains(&number);
            let path = [section, key].join(".");
            let path = path.trim_end_matches('.');
            for (mode, before) in [("file", "it is saved"), ("cpr-transfer", "its memory is handed over")] {
                let nothing = format!(
                    "`{path}` changes nothing during the migration: the guest is stopped before {before}"
                );
                let expected = if is_of_link { unused } else { &nothing };
                assert_eq!(with(&json!({ "mode": mode }), section, key, value), expected);
            }
            // A guest that is saved while it runs has a workload that may change.
            let live = json!({ "mode": "file", "save_live": true });
            assert_eq!(with(&live, section, key, value), if is_of_link { unused } else { "" });
            assert_eq!(with(&json!({ "mode": "postcopy" }), section, key, value), "");
        }
    }

    #[test]
    fn a_disk_is_not_copied_over_a_link_that_is_not_used() {
        for mode in ["file", "cpr-transfer"] {
            let with = |kind: &str| {
                messages(json!({ "migrate": { "mode": mode }, "storage": { "kind": kind, "size": "64MiB" } }))
            };
            assert!(with("block").starts_with("a disk of kind `block` is copied over the migration link"));
            assert_eq!(with("shared"), "");
        }
    }
}
