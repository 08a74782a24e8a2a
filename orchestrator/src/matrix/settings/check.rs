//! What settings must satisfy together, beyond each having the right type.

use super::{Settings, WorkingSet};
use stressor::workload::{Rate, WorkloadError};
use units::{Bytes, Span};

/// Settings that cannot mean anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The settings involved, as dotted paths, the most likely culprit first; at least one.
    pub paths: Vec<String>,
    /// What is wrong, in words.
    pub message: String,
    /// What fixes it, where the message does not say that.
    pub help: Option<String>,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// QEMU's `MAX_MIGRATE_DOWNTIME_SECONDS`.
const MAX_DOWNTIME: Span = Span::from_secs(2000);

/// The memory of a guest that its kernel needs, so that ballast and working set cannot have it.
///
/// Linux keeps 64 bytes for each page of 4 KiB, a 64th of the memory; its code, data, initramfs and the
/// stressor take about 70 MiB more, rounded up here to 80; and where the guest has memory above 3 GiB,
/// 64 MiB become the bounce buffer for 32-bit devices. For a guest of 1 GiB that is 96 MiB.
pub fn kernel_reserve(memory: Bytes) -> Bytes {
    let bounce_buffer = if memory.get() > 3 * GIB { 64 * MIB } else { 0 };
    Bytes::new(80 * MIB + memory.get() / 64 + bounce_buffer)
}

impl Settings {
    /// Everything about these settings that cannot mean anything; empty when they are sound.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_guest(&mut problems);
        self.check_memory(&mut problems);
        self.check_parts(&mut problems);
        self.check_migrate(&mut problems);
        self.check_timeline(&mut problems);
        if !self.probe.interval.is_zero() && self.probe.interval < Span::from_millis(1) {
            problems.push(problem(
                &["probe.interval"],
                format!("a probe every {} is more than the client can send", self.probe.interval),
                "write at least `1ms`, or `0` for no probes",
            ));
        }
        problems
    }

    fn check_guest(&self, problems: &mut Vec<Problem>) {
        if !(1..=255).contains(&self.guest.vcpus) {
            problems.push(problem(
                &["guest.vcpus"],
                format!("a guest cannot have {} CPUs", self.guest.vcpus),
                "write a number from 1 to 255",
            ));
        }
        if self.guest.cpu.as_deref().is_some_and(|cpu| cpu.trim().is_empty()) {
            problems.push(problem(
                &["guest.cpu"],
                "an empty CPU model",
                "name one of QEMU's CPU models, like `qemu64`, or leave the key out",
            ));
        }
    }

    fn check_memory(&self, problems: &mut Vec<Problem>) {
        let memory = self.guest.memory;
        if memory.is_zero() {
            problems.push(problem(&["guest.memory"], "a guest without memory", "write a size, like `1GiB`"));
            return;
        }
        let reserve = kernel_reserve(memory);
        let Some(room) = memory.get().checked_sub(reserve.get()) else {
            problems.push(problem(
                &["guest.memory"],
                format!("{memory} is too little memory for a guest"),
                "its kernel alone needs 82MiB; write at least `128MiB`",
            ));
            return;
        };
        let ballast = self.guest.ballast;
        // Huge pages are reserved whole.
        let page = self.stress.page_size.bytes();
        let written = self.stress.working_set_bytes().unwrap_or_default();
        let working_set = Bytes::new(written.get().div_ceil(page).saturating_mul(page));
        if ballast.get() > room {
            problems.push(problem(
                &["guest.ballast", "guest.memory"],
                format!("a ballast of {ballast} does not fit into a guest of {memory}"),
                format!("its kernel needs {}, so at most {} are left", mib(reserve.get()), mib(room)),
            ));
        } else if working_set.get() > room - ballast.get() {
            let ballast_part =
                if ballast.is_zero() { String::new() } else { format!(" beside a ballast of {ballast}") };
            let derived = match self.stress.working_set {
                WorkingSet::Time(time) => format!(" (what {} dirties in {time})", self.stress.rate),
                WorkingSet::Size(_) => String::new(),
            };
            problems.push(problem(
                &["stress.working_set", "stress.rate", "guest.ballast", "guest.memory"],
                format!(
                    "a working set of {written}{derived} does not fit into a guest of \
                     {memory}{ballast_part}"
                ),
                format!(
                    "its kernel needs {}, so at most {} are left",
                    mib(reserve.get()),
                    mib(room - ballast.get())
                ),
            ));
        }
    }

    /// What the link and the stressor say about their own settings.
    fn check_parts(&self, problems: &mut Vec<Problem>) {
        if let Err(error) = self.link.validate() {
            let message = format!("`{}`: {}", error.key, error.problem);
            problems.push(Problem { paths: vec![format!("link.{}", error.key)], message, help: None });
        }
        if let WorkingSet::Time(time) = self.stress.working_set
            && self.stress.rate == Rate::Unlimited
        {
            problems.push(problem(
                &["stress.working_set", "stress.rate"],
                format!("what an unlimited rate dirties in {time} is no size"),
                "write the working set as a size, like `96MB`",
            ));
        } else if let Err(error) = self.workload().check() {
            let paths: &[&str] = match error {
                WorkloadError::NothingToDirty { .. } => {
                    &["stress.working_set", "stress.phases", "stress.rate"]
                }
                WorkloadError::NoThreads => &["stress.threads"],
                WorkloadError::MoreThreadsThanPages { .. } => &["stress.threads", "stress.working_set"],
                WorkloadError::Step(_) => &["stress.step"],
                WorkloadError::EmptyPhase { .. } => &["stress.phases"],
                WorkloadError::TooLarge(_) => &["stress.working_set", "guest.ballast", "stress.rate"],
            };
            let paths = paths.iter().map(ToString::to_string).collect();
            problems.push(Problem { paths, message: error.to_string(), help: None });
        }
    }

    fn check_migrate(&self, problems: &mut Vec<Problem>) {
        let migrate = &self.migrate;
        if migrate.timeout.is_zero() {
            problems.push(problem(
                &["migrate.timeout"],
                "a deadline of 0 leaves no time to migrate",
                "write a time, like `60s`",
            ));
        }
        let limit = migrate.downtime_limit;
        if limit > MAX_DOWNTIME || !limit.as_nanos().is_multiple_of(1_000_000) {
            problems.push(problem(
                &["migrate.downtime_limit"],
                format!("QEMU does not take a downtime limit of {limit}"),
                "it takes whole milliseconds up to `2000s`",
            ));
        }
        if migrate.max_passes == Some(0) {
            problems.push(problem(
                &["migrate.max_passes"],
                "a migration of 0 passes moves nothing",
                "write at least 1, or leave the key out",
            ));
        }
        if migrate.max_bandwidth.is_some_and(|cap| cap.to_byte_rate().is_zero()) {
            problems.push(problem(
                &["migrate.max_bandwidth"],
                "a bandwidth of 0 moves nothing",
                "write a rate, like `110MB/s`, or leave the key out",
            ));
        }
    }

    fn check_timeline(&self, problems: &mut Vec<Problem>) {
        let timeline = &self.timeline;
        // What an entry makes of a link or a load that is unsound to begin with says nothing about the entry.
        let sound = problems.is_empty();
        for (i, (entry, step)) in timeline.iter().zip(self.steps()).enumerate() {
            let at = |key: &str| format!("timeline.{i}{key}");
            let mut found = |keys: &[String], message: String, help: Option<&str>| {
                let paths = keys.iter().cloned().chain(["timeline".into()]).collect();
                problems.push(Problem { paths, message, help: help.map(Into::into) });
            };
            if entry.is_empty() {
                let help = "name settings of `link` or `stress`, or remove the entry";
                found(&[at("")], "this entry changes nothing".into(), Some(help));
            }
            if let Some(before) = i.checked_sub(1).map(|before| timeline[before].at)
                && entry.at <= before
            {
                let message =
                    format!("{} does not come after {before}, the time of the entry before", entry.at);
                found(&[at(".at")], message, Some("put the entries in order, and one entry at a time"));
            }
            if entry.at >= self.migrate.timeout {
                let message =
                    format!("this entry never comes: the migration is given up at {}", self.migrate.timeout);
                let help = "let it come earlier, or set `migrate.timeout` later";
                found(&[at(".at"), "migrate.timeout".into()], message, Some(help));
            }
            if entry.stress.is_some() && !self.stress.phases.is_empty() {
                let help = "write the phases as entries of the timeline, or leave `stress` out of it";
                let message = "a change of the load would begin its `phases` anew".into();
                found(&[at(".stress"), "stress.phases".into()], message, Some(help));
            }
            if !sound {
                continue;
            }
            if let Some(error) = step.link.and_then(|link| link.validate().err()) {
                let message = format!("from here on, the link's `{}`: {}", error.key, error.problem);
                found(&[at(&format!(".link.{}", error.key)), at(".link")], message, None);
            }
            if let Some(error) = step.workload.and_then(|workload| workload.check().err()) {
                let key = match error {
                    WorkloadError::NothingToDirty { .. } => ".stress.rate",
                    _ => ".stress.threads",
                };
                found(&[at(key), at(".stress")], error.to_string(), None);
            }
        }
    }
}

fn problem(paths: &[&str], message: impl Into<String>, help: impl Into<String>) -> Problem {
    let paths = paths.iter().map(ToString::to_string).collect();
    Problem { paths, message: message.into(), help: Some(help.into()) }
}

/// Whole MiB, rounded down, for people.
fn mib(bytes: u64) -> String {
    format!("{}MiB", bytes / MIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stressor::workload::PageSize;
    use units::{BitRate, ByteRate};

    fn limited(rate: u64) -> Rate {
        Rate::Limited(ByteRate::new(rate))
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check().into_iter().map(|mut problem| problem.paths.remove(0)).collect()
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(Settings::default().check(), []);
    }

    #[test]
    fn each_bound_is_refused_just_beyond_it() {
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
        assert_eq!(with(|s| s.probe.interval = Span::from_nanos(1)), ["probe.interval"]);
        assert_eq!(with(|s| s.probe.interval = Span::ZERO), [""; 0]);
        assert_eq!(with(|s| s.stress.threads = 0), ["stress.threads"]);
        assert_eq!(with(|s| s.stress.rate = Rate::Unlimited), ["stress.working_set"]);
        assert_eq!(with(|s| s.link.rate = Some(BitRate::new(999))), ["link.rate"]);
        assert_eq!(with(|s| s.link.jitter = Span::from_millis(1)), ["link.jitter"]);
    }

    #[test]
    fn huge_pages_count_whole() {
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
    fn a_working_set_given_as_a_time_grows_with_the_rate() {
        let paths = with(|s| s.stress.rate = limited(2_000_000_000));
        assert_eq!(paths, ["stress.working_set"]);
    }
}
