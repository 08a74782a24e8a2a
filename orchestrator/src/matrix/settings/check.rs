//! The conditions that the settings of a cell must satisfy together, in addition to their types.

use super::{
    ImageFormat, LinkChange, Migrate, MirrorSync, Settings, Storage, StorageKind, Stress, Wave, WorkingSet,
    field::Section as _,
    migrate::{Condition, conditions, in_qemus_unit},
    value::Value,
    wave::SHORTEST_PERIOD,
    way,
};
use netem::{Profile, ProfileError, ethernet};
use std::ops::RangeInclusive;
use stressor::{
    disk::DiskError,
    workload::{Rate, Workload, WorkloadError},
};
use units::{BitRate, ByteRate, Bytes, Span};

/// An error in settings that are each valid by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The settings involved, as dotted paths; at least one. The one most likely to be wrong comes first.
    pub paths: Vec<String>,
    /// What is wrong, without a full stop.
    pub message: String,
    /// How to correct it, unless the message says so.
    pub help: Option<String>,
}

/// The largest number of times that phases, a wave or a trace change a rate.
const MAX_CHANGES: usize = 10_000;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The largest number of CPUs of a guest. More would need a different machine type of QEMU.
const MAX_VCPUS: u32 = 255;
/// The smallest bandwidth limit that QEMU applies: it divides a limit by ten, and treats a result of 0 as no
/// limit (`migration_rate_set` and `migration_rate_exceeded`).
const MIN_BANDWIDTH: ByteRate = ByteRate::new(10);
/// The largest bandwidth, which is the largest rate of a link.
const MAX_BANDWIDTH: BitRate = BitRate::new(10_000_000_000_000);
/// The largest downtime limit that QEMU accepts, its `MAX_MIGRATE_DOWNTIME_SECONDS`.
const MAX_DOWNTIME: Span = Span::from_secs(2000);

/// Returns the part of a guest's memory that its kernel needs, and that ballast and working set cannot use.
///
/// Linux keeps 64 bytes for each page of 4 KiB, which is 1/64 of the memory. Its code, data, initramfs and
/// the stressor take about 70 MiB more, rounded up to 80 MiB here. If the guest has more than 3 GiB, another
/// 64 MiB become the bounce buffer for 32-bit devices. For a guest of 1 GiB, the sum is 96 MiB.
pub fn kernel_reserve(memory: Bytes) -> Bytes {
    let bounce_buffer = if memory.get() > 3 * GIB { 64 * MIB } else { 0 };
    Bytes::new(80 * MIB + memory.get() / 64 + bounce_buffer)
}

impl Settings {
    /// Returns all errors in these settings; none if they are valid.
    pub fn check(&self) -> Vec<SettingsError> {
        let mut errors = Vec::new();
        self.check_guest(&mut errors);
        self.check_memory(&mut errors);
        self.check_storage(&mut errors);
        self.check_parts(&mut errors);
        self.check_migrate(&mut errors);
        self.check_courses(&mut errors);
        self.check_timeline(&mut errors);
        let interval = self.probe.interval;
        if !interval.is_zero() && !(Span::from_millis(1)..=Span::from_secs(1)).contains(&interval) {
            let message = if interval < Span::from_millis(1) {
                format!("the probe cannot send a ping every {interval}")
            } else {
                format!("a ping every {interval} measures no downtime: the interval is its resolution")
            };
            let help = "write `1ms` to `1s`, or `0` to disable the probe";
            errors.push(error(&["probe.interval"], message, help));
        }
        errors
    }

    fn check_guest(&self, errors: &mut Vec<SettingsError>) {
        if !(1..=MAX_VCPUS).contains(&self.guest.vcpus) {
            errors.push(error(
                &["guest.vcpus"],
                format!("a guest cannot have {} CPUs", self.guest.vcpus),
                format!("write a number from 1 to {MAX_VCPUS}"),
            ));
        }
        if self.guest.cpu.as_deref().is_some_and(|cpu| cpu.trim().is_empty()) {
            errors.push(error(
                &["guest.cpu"],
                "the CPU model is empty",
                "name one of QEMU's CPU models, like `qemu64`, or remove the key",
            ));
        }
    }

    fn check_memory(&self, errors: &mut Vec<SettingsError>) {
        let memory = self.guest.memory;
        if memory.is_zero() {
            errors.push(error(&["guest.memory"], "the guest has no memory", "write a size, like `1GiB`"));
            return;
        }
        let reserve = kernel_reserve(memory);
        let Some(room) = memory.get().checked_sub(reserve.get()) else {
            errors.push(error(
                &["guest.memory"],
                format!("{memory} is too little memory for a guest"),
                "the guest's kernel alone needs 82MiB; write at least `128MiB`",
            ));
            return;
        };
        let ballast = self.guest.ballast;
        // Only whole pages are reserved, which matters for huge pages.
        let working_set = self.stress.working_set_in_pages();
        if ballast.get() > room {
            errors.push(error(
                &["guest.ballast", "guest.memory"],
                format!("a ballast of {ballast} does not fit into a guest of {memory}"),
                format!("the guest's kernel needs {}, so at most {} are left", mib(reserve.get()), mib(room)),
            ));
        } else if working_set.get() > room - ballast.get() {
            let ballast_part =
                if ballast.is_zero() { String::new() } else { format!(" with a ballast of {ballast}") };
            let written = self.stress.working_set_bytes().unwrap_or_default();
            let derived = match self.stress.working_set {
                WorkingSet::Time(time) => format!(" ({time} at {})", self.stress.rate),
                WorkingSet::Size(_) => String::new(),
            };
            errors.push(error(
                &["stress.working_set", "stress.rate", "guest.ballast", "guest.memory"],
                format!(
                    "a working set of {written}{derived} does not fit into a guest of \
                     {memory}{ballast_part}"
                ),
                format!(
                    "the guest's kernel needs {}, so at most {} are left",
                    mib(reserve.get()),
                    mib(room - ballast.get())
                ),
            ));
        }
    }

    fn check_storage(&self, errors: &mut Vec<SettingsError>) {
        let Some(load) = self.disk_load() else { return };
        for (path, bytes) in [("storage.size", load.size), ("storage.written", load.written)] {
            if !bytes.get().is_multiple_of(MIB) {
                errors.push(error(
                    &[path],
                    format!("{bytes} is not a whole number of MiB"),
                    format!("write `{}MiB` or `{}MiB`", bytes.get() / MIB, bytes.get() / MIB + 1),
                ));
            }
        }
        let Storage { kind, format, sync, .. } = self.storage;
        if (kind, format, sync) == (StorageKind::Block, ImageFormat::Raw, MirrorSync::Top) {
            errors.push(error(
                &["storage.sync", "storage.format"],
                "an image of format `raw` cannot be on top of another",
                "write `format: qcow2`",
            ));
        }
        if kind == StorageKind::Shared && !self.link.tcp_tuning && !self.storage_link.delay.is_zero() {
            errors.push(error(
                &["link.tcp_tuning", "storage_link.delay"],
                "a host has the same limits of TCP's buffers on both links, and a shared disk over a delay \
                 raises them",
                "remove `link.tcp_tuning`, or `storage_link.delay`",
            ));
        }
        if let Err(error) = load.check() {
            let paths: &[&str] = match error {
                DiskError::Beyond { .. } if load.written > load.size => &["storage.written", "storage.size"],
                DiskError::Beyond { .. } => &["storage.working_set", "storage.size"],
                DiskError::NoWorkingSet { .. } => &["storage.working_set"],
                DiskError::TooFast { action: "writing", .. } => &["storage.write_rate"],
                DiskError::TooFast { .. } => &["storage.read_rate"],
                _ => &["storage.size"],
            };
            let paths = paths.iter().map(ToString::to_string).collect();
            errors.push(SettingsError { paths, message: error.to_string(), help: None });
        }
    }

    /// Adds the errors that the link and the stressor report about their own settings.
    fn check_parts(&self, errors: &mut Vec<SettingsError>) {
        for (section, link) in [("link", &*self.link), ("storage_link", &self.storage_link)] {
            if let Err(error) = check_link(link) {
                let message = format!("`{}`: {}", error.key, error.problem);
                let paths = vec![format!("{section}.{}", error.key)];
                errors.push(SettingsError { paths, message, help: None });
            }
        }
        if let WorkingSet::Time(time) = self.stress.working_set
            && self.stress.rate == Rate::Unlimited
        {
            errors.push(error(
                &["stress.working_set", "stress.rate"],
                format!("at an unlimited rate, a working set of {time} has no size"),
                "write the working set as a size, like `96MB`",
            ));
        } else if let Err(error) = self.check_workload(&self.workload_with_phases()) {
            let paths: &[&str] = match error {
                WorkloadError::NothingToDirty { .. } => {
                    &["stress.working_set", "stress.wave", "stress.trace", "stress.phases", "stress.rate"]
                }
                WorkloadError::NoThreads => &["stress.threads"],
                WorkloadError::MoreThreadsThanPages { .. } => &["stress.threads", "stress.working_set"],
                WorkloadError::MoreThreadsThanCpus { .. } => &["stress.threads", "guest.vcpus"],
                WorkloadError::Step(_) => &["stress.step"],
                WorkloadError::EmptyPhase { .. } => &["stress.phases"],
                WorkloadError::TooLarge(_) => &["stress.working_set", "guest.ballast", "stress.rate"],
                WorkloadError::TooFast(_) => &["stress.phases", "stress.wave", "stress.trace", "stress.rate"],
            };
            let paths = paths.iter().map(ToString::to_string).collect();
            errors.push(SettingsError { paths, message: error.to_string(), help: None });
        }
    }

    /// Checks a workload for the guest.
    fn check_workload(&self, workload: &Workload) -> Result<(), WorkloadError> {
        // An invalid number of CPUs is reported elsewhere.
        let cpus = self.guest.vcpus.clamp(1, MAX_VCPUS);
        workload.check().and_then(|()| workload.check_cpus(cpus as usize))
    }

    fn check_migrate(&self, errors: &mut Vec<SettingsError>) {
        let migrate = &self.migrate;
        if migrate.timeout.is_zero() {
            errors.push(error(
                &["migrate.timeout"],
                "a deadline of 0 leaves no time to migrate",
                "write a time, like `60s`",
            ));
        }
        let limit = migrate.downtime_limit;
        if limit > MAX_DOWNTIME || !limit.as_nanos().is_multiple_of(1_000_000) {
            errors.push(error(
                &["migrate.downtime_limit"],
                format!("QEMU does not accept a downtime limit of {limit}"),
                "write whole milliseconds, at most `2000s`",
            ));
        }
        if migrate.max_passes == Some(0) {
            errors.push(error(
                &["migrate.max_passes"],
                "a migration of 0 passes transfers nothing",
                "write at least 1, or remove the key",
            ));
        }
        let timeout = migrate.timeout;
        for (name, after) in
            [("pause_after", migrate.pause_after), ("postcopy_after", migrate.postcopy_after)]
        {
            if after.is_some_and(|after| after >= timeout) {
                errors.push(error(
                    &[&format!("migrate.{name}"), "migrate.timeout"],
                    format!("`{name}` never takes effect: the migration is given up at {timeout}"),
                    "write an earlier time, or raise `migrate.timeout`",
                ));
            }
        }
        if let Some(limit) = migrate.max_bandwidth.filter(|limit| limit.to_byte_rate() < MIN_BANDWIDTH) {
            errors.push(error(
                &["migrate.max_bandwidth"],
                format!(
                    "QEMU would take a bandwidth of {limit} for no limit: it counts whole bytes per tenth of \
                     a second"
                ),
                format!("write at least `{MIN_BANDWIDTH}`, or `none` for no limit"),
            ));
        }
        for (name, limit) in [
            ("max_bandwidth", migrate.max_bandwidth),
            ("max_postcopy_bandwidth", migrate.max_postcopy_bandwidth),
            ("avail_switchover_bandwidth", migrate.avail_switchover_bandwidth),
        ] {
            if let Some(limit) = limit.filter(|limit| limit.to_byte_rate() > MAX_BANDWIDTH.to_byte_rate()) {
                errors.push(error(
                    &[&format!("migrate.{name}")],
                    format!("a bandwidth of {limit} exceeds {MAX_BANDWIDTH}, the maximum of a link"),
                    format!("write at most `{MAX_BANDWIDTH}`, or remove the key"),
                ));
            }
        }
        if migrate.release_ram && migrate.postcopy_recovery.is_some_and(|wait| !wait.is_zero()) {
            errors.push(error(
                &["migrate.postcopy_recovery", "migrate.release_ram"],
                "a migration with `release_ram` cannot recover: the source frees what it has sent",
                "remove one of the two, or write `postcopy_recovery: 0`",
            ));
        }
        self.check_conditions(errors);
        way::check(self, errors);
    }

    /// Checks the settings that QEMU gets under their own names.
    fn check_conditions(&self, errors: &mut Vec<SettingsError>) {
        let settings = Migrate::fields();
        let value = |name: &str| {
            let setting = settings.iter().find(|setting| setting.path() == name);
            setting.map_or(Value::None, |setting| setting.value(&self.migrate))
        };
        for Condition { name, range, needs } in conditions() {
            let (path, given) = (format!("migrate.{name}"), value(name));
            if matches!(given, Value::None | Value::Flag(false)) {
                continue;
            }
            let number = in_qemus_unit(name, &given);
            let fits = number.as_ref().is_some_and(|n| n.as_u64().is_none_or(|n| range.contains(&n)));
            let is_power = !matches!(given, Value::Bytes(bytes) if !bytes.get().is_power_of_two());
            if !fits || !is_power {
                errors.push(error(
                    &[&path],
                    format!("QEMU does not accept {given} for `{name}`"),
                    values(&given, &range),
                ));
            }
            if let Some(needs) = needs
                && let Some((other, wanted)) = needs.split_once(": ")
                && value(other).to_string() != wanted
            {
                errors.push(error(
                    &[&path, &format!("migrate.{other}")],
                    format!("`{name}` has no effect without `{needs}`"),
                    format!("add `{needs}`, or remove `{name}`"),
                ));
            }
        }
    }

    /// Checks the settings that change the rates during the migration.
    fn check_courses(&self, errors: &mut Vec<SettingsError>) {
        let Stress { phases, repeat_phases, wave, trace, repeat_trace, .. } = &self.stress;
        let given = [
            ("stress.trace", trace.is_some()),
            ("stress.wave", wave.is_some()),
            ("stress.phases", !phases.is_empty()),
        ];
        let given: Vec<&str> = given.into_iter().filter(|(_, is)| *is).map(|(path, _)| path).collect();
        if let [first, second, ..] = given[..] {
            let message = format!("both `{first}` and `{second}` set the dirty rate");
            errors.push(error(&[first, second], message, "remove one of them"));
        }
        if let Some(wave) = wave {
            check_wave(wave, errors);
        }
        for (section, held, trace) in [
            ("stress", !repeat_trace, trace.is_some()),
            ("link", !self.link.repeat_trace, self.link.trace.is_some()),
        ] {
            if held && !trace {
                let paths = [&*format!("{section}.repeat_trace"), &format!("{section}.trace")];
                let help = "add `trace`, or remove `repeat_trace`";
                errors.push(error(&paths, "there is no trace that could end", help));
            }
        }
        if *repeat_phases && phases.is_empty() {
            errors.push(error(
                &["stress.repeat_phases", "stress.phases"],
                "there are no phases to repeat",
                "add `phases`, or remove `repeat_phases`",
            ));
        }
        self.check_link_trace(errors);
        // A phase without a duration is reported elsewhere.
        let is_late = |at: Option<Span>| at.is_some_and(|at| at < self.migrate.timeout);
        let load = self.stress.course().and_then(|course| Some(course.changes().nth(MAX_CHANGES)?.0));
        let link = self.link.course().and_then(|course| Some(course.changes().nth(MAX_CHANGES)?.0));
        if is_late(load)
            && let Some(path) = given.first()
        {
            let (message, help) = match *path {
                "stress.phases" => {
                    let message = format!("phases this short change the rate more than {MAX_CHANGES} times");
                    (message, "write longer phases, or an earlier deadline")
                }
                "stress.wave" => {
                    let message = format!("a wave this short changes the rate more than {MAX_CHANGES} times");
                    (message, "write a longer period, or an earlier deadline")
                }
                _ => too_many_steps(),
            };
            errors.push(error(&[path, "migrate.timeout"], message, help));
        }
        if is_late(link) {
            let (message, help) = too_many_steps();
            errors.push(error(&["link.trace", "migrate.timeout"], message, help));
        }
    }

    /// Checks that a link can have all rates of its trace.
    fn check_link_trace(&self, errors: &mut Vec<SettingsError>) {
        let Some(trace) = &self.link.trace else { return };
        if self.link.rate.is_some() {
            errors.push(error(
                &["link.rate", "link.trace"],
                "both `link.rate` and `link.trace` set the rate of the link",
                "remove one of them",
            ));
            return;
        }
        // An invalid link is reported elsewhere.
        if check_link(&self.link).is_err() {
            return;
        }
        for link in self.link.extremes() {
            if let Err(invalid) = check_link(&link) {
                let line = trace.line_of(link.rate);
                let line = line.map_or(String::new(), |line| format!(", line {line}"));
                let message = format!("{}{line}: `{}`: {}", trace.path(), invalid.key, invalid.problem);
                let help = "correct the trace, or this setting of the link";
                errors.push(error(&["link.trace", &format!("link.{}", invalid.key)], message, help));
                return;
            }
        }
    }

    fn check_timeline(&self, errors: &mut Vec<SettingsError>) {
        let timeline = &self.timeline;
        // If the initial link or workload is already invalid, it is not an entry's fault if the changed one
        // is invalid too.
        let initially_valid = errors.is_empty();
        for (i, (entry, step)) in timeline.iter().zip(self.timeline_steps()).enumerate() {
            let at = |key: &str| format!("timeline.{i}{key}");
            let mut report = |keys: &[String], message: String, help: Option<&str>| {
                let paths = keys.iter().cloned().chain(["timeline".into()]).collect();
                errors.push(SettingsError { paths, message, help: help.map(Into::into) });
            };
            if entry.is_empty() {
                let help = "add settings of `link` or `stress`, or remove the entry";
                report(&[at("")], "this entry changes nothing".into(), Some(help));
            }
            if let Some(before) = i.checked_sub(1).map(|before| timeline[before].at)
                && entry.at <= before
            {
                let message =
                    format!("{} is not later than {before}, the time of the previous entry", entry.at);
                let help = "sort the entries by time, and merge those of the same time";
                report(&[at(".at")], message, Some(help));
            }
            if entry.at >= self.migrate.timeout {
                let timeout = self.migrate.timeout;
                let message =
                    format!("this entry never takes effect: the migration is given up at {timeout}");
                let help = "write an earlier time, or raise `migrate.timeout`";
                report(&[at(".at"), "migrate.timeout".into()], message, Some(help));
            }
            let sets_rate = entry.stress.as_ref().is_some_and(|stress| stress.rate.is_some());
            if sets_rate && !self.stress.phases.is_empty() {
                let help = "write the phases as entries of the timeline, or remove `rate` from this entry";
                let message = "both `stress.phases` and this entry set the dirty rate".into();
                report(&[at(".stress.rate"), "stress.phases".into()], message, Some(help));
            } else if sets_rate && self.stress.moves() {
                let path = if self.stress.trace.is_some() { "stress.trace" } else { "stress.wave" };
                let message = format!("both `{path}` and this entry set the dirty rate");
                report(&[at(".stress.rate"), path.into()], message, Some("remove one of them"));
            }
            if entry.link.as_ref().is_some_and(LinkChange::sets_rate) && self.link.trace.is_some() {
                let message = "both `link.trace` and this entry set the rate of the link".into();
                report(&[at(".link.rate"), "link.trace".into()], message, Some("remove one of them"));
            }
            if !initially_valid {
                continue;
            }
            if let Some(error) = step.link.and_then(|link| check_link(&link).err()) {
                let message = format!("from here on, the link's `{}`: {}", error.key, error.problem);
                report(&[at(&format!(".link.{}", error.key)), at(".link")], message, None);
            }
            if let Some(error) = step.workload.and_then(|workload| self.check_workload(&workload).err()) {
                let key = match error {
                    WorkloadError::NothingToDirty { .. } | WorkloadError::TooFast(_) => ".stress.rate",
                    _ => ".stress.threads",
                };
                report(&[at(key), at(".stress")], error.to_string(), None);
            }
        }
    }
}

/// Returns the message about a trace that changes a rate too often before the deadline, and how to fix it.
fn too_many_steps() -> (String, &'static str) {
    let message = format!("this trace changes the rate more than {MAX_CHANGES} times before the deadline");
    (message, "name a trace with fewer changes, or write an earlier deadline")
}

/// Checks the settings of a wave.
fn check_wave(wave: &Wave, errors: &mut Vec<SettingsError>) {
    let Wave { period, low, high, .. } = *wave;
    if period < SHORTEST_PERIOD {
        errors.push(error(
            &["stress.wave"],
            format!("a wave with a period of {period} is too short: a guest needs some time for each change"),
            format!("write a period of at least `{SHORTEST_PERIOD}`"),
        ));
    }
    if low >= high {
        errors.push(error(
            &["stress.wave"],
            format!("the wave does not rise: `low` is {low}, and `high` is {high}"),
            "write a lower `low`, or a rate that stays as `rate`",
        ));
    }
}

/// Checks the settings of a link with the MTU of Ethernet. Only hosts may have links with another MTU, and
/// they are unknown here.
fn check_link(link: &Profile) -> Result<(), ProfileError> {
    link.validate()?;
    link.validate_for(ethernet::MTU)
}

/// Returns advice on what to write instead of a value outside this range, which is in QEMU's unit.
fn values(given: &Value, range: &RangeInclusive<u64>) -> String {
    let (least, most) = (range.start(), range.end());
    match given {
        Value::Percent(_) => format!("write whole percent, from `{least}%` to `{most}%`"),
        Value::Span(_) => format!("write whole milliseconds, from `{least}ms` to `{most}ms`"),
        Value::Bytes(_) => format!("write a power of two, at least `{}`", Bytes::new(*least)),
        Value::ByteRate(_) | Value::BitRate(_) => "write a larger or a rounder rate, like `16MiB/s`".into(),
        _ => format!("write a number from {least} to {most}"),
    }
}

fn error(paths: &[&str], message: impl Into<String>, help: impl Into<String>) -> SettingsError {
    let paths = paths.iter().map(ToString::to_string).collect();
    SettingsError { paths, message: message.into(), help: Some(help.into()) }
}

/// Formats a size in whole MiB, rounded down.
fn mib(bytes: u64) -> String {
    format!("{}MiB", bytes / MIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Mode;
    use serde_json::json;
    use stressor::workload::PageSize;

    fn limited(rate: u64) -> Rate {
        Rate::Limited(ByteRate::new(rate))
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check().into_iter().map(|mut error| error.paths.remove(0)).collect()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Settings::default().check(), []);
    }

    #[test]
    fn values_just_beyond_each_limit_are_rejected() {
        let room: u64 = (1 << 30) - 96 * MIB;
        let fill = |bytes: u64| {
            with(|s| {
                s.stress.rate = limited(1_000_000);
                s.stress.working_set = WorkingSet::Size(Bytes::new(bytes));
            })
        };
        assert_eq!(fill(room), [""; 0]);
        assert_eq!(fill(room + 1), ["stress.working_set"]);
        assert_eq!(fill(0), ["stress.working_set"]);
        assert_eq!(fill(1), [""; 0]);
        assert_eq!(with(|s| s.guest.ballast = Bytes::new(room + 1)), ["guest.ballast"]);
        assert_eq!(with(|s| s.guest.memory = Bytes::ZERO), ["guest.memory"]);
        assert_eq!(with(|s| s.guest.memory = Bytes::new(64 * MIB)), ["guest.memory"]);
        assert_eq!(with(|s| s.guest.memory = Bytes::new(128 * MIB)), [""; 0]);
        assert_eq!(with(|s| s.guest.vcpus = 0), ["guest.vcpus"]);
        assert_eq!(with(|s| s.guest.vcpus = 256), ["guest.vcpus"]);
        assert_eq!(with(|s| s.migrate.timeout = Span::ZERO), ["migrate.timeout"]);
        assert_eq!(with(|s| s.migrate.downtime_limit = Span::from_secs(2001)), ["migrate.downtime_limit"]);
        assert_eq!(with(|s| s.migrate.downtime_limit = Span::from_nanos(1)), ["migrate.downtime_limit"]);
        assert_eq!(with(|s| s.migrate.max_passes = Some(0)), ["migrate.max_passes"]);
        let limit = |text: &str| with(|s| s.migrate.max_bandwidth = Some(text.parse().unwrap()));
        for text in ["0", "7bit", "9B/s", "79bit"] {
            assert_eq!(limit(text), ["migrate.max_bandwidth"], "{text}");
        }
        assert_eq!(limit("10001gbit"), ["migrate.max_bandwidth"]);
        for text in ["10B/s", "80bit", "1MB/s", "10tbit"] {
            assert_eq!(limit(text), [""; 0], "{text}");
        }
        let migrate =
            |settings: serde_json::Value| with(|s| s.migrate = serde_json::from_value(settings).unwrap());
        let one = |name: &str, value: &str| migrate(json!({ name: value }));
        for (name, value) in [
            ("announce_initial", "101s"),
            ("announce_step", "10001ms"),
            ("announce_step", "0"),
            ("announce_max", "1us"),
            ("avail_switchover_bandwidth", "0"),
        ] {
            assert_eq!(one(name, value), [format!("migrate.{name}")], "{value}");
        }
        for (name, value) in
            [("announce_initial", "100s"), ("announce_step", "1ms"), ("avail_switchover_bandwidth", "1mbit")]
        {
            assert_eq!(one(name, value), [""; 0], "{name}");
        }
        let throttle = |value: &str| migrate(json!({ "auto_converge": true, "cpu_throttle_initial": value }));
        assert_eq!(throttle("99%"), [""; 0]);
        for value in ["100%", "0%", "7.5%"] {
            assert_eq!(throttle(value), ["migrate.cpu_throttle_initial"], "{value}");
        }
        let cache = |size: &str| migrate(json!({ "xbzrle": true, "xbzrle_cache_size": size }));
        assert_eq!(cache("4KiB"), [""; 0]);
        for size in ["2KiB", "3MiB"] {
            assert_eq!(cache(size), ["migrate.xbzrle_cache_size"], "{size}");
        }
        let channels = |number: u32| migrate(json!({ "multifd": true, "multifd_channels": number }));
        assert_eq!(channels(255), [""; 0]);
        assert_eq!(channels(256), ["migrate.multifd_channels"]);
        assert_eq!(migrate(json!({ "multifd_channels": 2 })), ["migrate.multifd_channels"]);
        assert_eq!(one("postcopy_after", "1s"), ["migrate.postcopy_after"]);
        let postcopy = |after: &str| migrate(json!({ "mode": "postcopy", "postcopy_after": after }));
        assert_eq!((postcopy("1s"), postcopy("59999ms")), (vec![], vec![]));
        assert_eq!(postcopy("60s"), ["migrate.postcopy_after"]);
        let repeated = |phases: serde_json::Value| {
            let stress = json!({ "phases": phases, "repeat_phases": true, "working_set": "4MB" });
            with(|s| s.stress = serde_json::from_value(stress).unwrap())
        };
        let phase = |duration: &str| json!({ "rate": "1MB/s", "duration": duration });
        assert_eq!(repeated(json!([phase("6ms"), phase("6ms")])), [""; 0]);
        assert_eq!(repeated(json!([phase("1ms"), phase("6ms")])), ["stress.phases"]);
        assert_eq!(repeated(json!([phase("0s"), phase("0s")])), ["stress.phases"]);
        assert_eq!(repeated(json!([])), ["stress.repeat_phases"]);
        assert_eq!(with(|s| s.probe.interval = Span::from_nanos(1)), ["probe.interval"]);
        assert_eq!(with(|s| s.probe.interval = Span::from_millis(1001)), ["probe.interval"]);
        assert_eq!(with(|s| s.probe.interval = Span::from_secs(1)), [""; 0]);
        assert_eq!(with(|s| s.probe.interval = Span::ZERO), [""; 0]);
        assert_eq!(with(|s| s.stress.threads = 0), ["stress.threads"]);
        assert_eq!(with(|s| (s.guest.vcpus, s.stress.threads) = (2, 32)), [""; 0]);
        assert_eq!(with(|s| (s.guest.vcpus, s.stress.threads) = (2, 33)), ["stress.threads"]);
        assert_eq!(with(|s| (s.guest.vcpus, s.stress.threads) = (u32::MAX, 33)), ["guest.vcpus"]);
        assert_eq!(with(|s| s.stress.rate = Rate::Unlimited), ["stress.working_set"]);
        assert_eq!(with(|s| s.link.rate = Some(BitRate::new(999))), ["link.rate"]);
        assert_eq!(with(|s| s.link.jitter = Span::from_millis(1)), ["link.jitter"]);
    }

    #[test]
    fn huge_pages_are_counted_whole() {
        let huge = |page_size| {
            with(|s| {
                s.stress.rate = limited(1_000_000);
                s.stress.page_size = page_size;
            })
        };
        assert_eq!(huge(PageSize::Huge2M), [""; 0]);
        assert_eq!(huge(PageSize::Huge1G), ["stress.working_set"]);
    }

    #[test]
    fn memory_that_is_freed_cannot_be_recovered() {
        let released = |wait: Option<Span>| {
            with(|s| {
                s.migrate = Migrate { mode: Mode::Postcopy, release_ram: true, ..Migrate::default() };
                s.migrate.postcopy_recovery = wait;
            })
        };
        assert_eq!(released(Some(Span::from_secs(9))), ["migrate.postcopy_recovery"]);
        assert_eq!((released(None), released(Some(Span::ZERO))), (vec![], vec![]));
    }

    #[test]
    fn a_working_set_given_as_a_time_grows_with_the_rate() {
        let paths = with(|s| s.stress.rate = limited(2_000_000_000));
        assert_eq!(paths, ["stress.working_set"]);
    }
}
