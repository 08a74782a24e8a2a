//! The section `migrate` of a matrix: how the guest is migrated, and when the migration is given up.
//!
//! It has the capabilities and parameters of QEMU that change something for one guest between two hosts. Left
//! out are `x-colo` (two guests that run side by side), `background-snapshot` (no destination),
//! `dirty-bitmaps` and `block-bitmap-mapping` (for backups), `x-ignore-shared` (memory that both ends share),
//! `late-block-activate` (for a destination that does not start on its own), `validate-uuid` (guests here
//! have no UUID), `zero-blocks` (of a removed migration of disks), `cpr-reboot` and `cpr-exec` (the same
//! host, after a reboot or an exec), `compress-wait-thread` (of the compression that QEMU 9.1 removed), and
//! `rdma-pin-all`, since no lab has RDMA. QEMU gets `events`, `pause-before-switchover` and
//! `postcopy-blocktime` whenever they are useful.

use super::{
    Bandwidth,
    field::{Section as _, section},
    is_default,
    value::Value,
};
use crate::mode::{Limits, Mode, When};
use netem::Percent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::ops::{Not, RangeInclusive};
use units::{ByteRate, Bytes, Span};

section! {
    /// How the guest is migrated, and when the migration is given up. A migration that is given up is
    /// cancelled, and the guest stays at the source: the outcome is `not-converged`.
    pub struct Migrate {
        /// The migration mode: how the guest's memory gets to the destination.
        pub mode: Mode = Mode::Precopy,
        /// The downtime that QEMU aims for: it stops the guest as soon as it expects to send the remaining
        /// memory within this time. The actual downtime may be longer. Whole milliseconds, at most `2000s`.
        pub downtime_limit: Span = Span::from_millis(300),
        /// The deadline, counted from the migrate command. A migration that has not begun its switchover by
        /// then is given up, whatever its state. A switchover that has begun may continue as long as it makes
        /// progress, and is recorded as past its deadline. More than 0.
        pub timeout: Span = Span::from_secs(60),
        /// The largest number of passes over the memory, at least 1: a migration that begins another pass is
        /// given up. Default: no limit.
        #[schemars(range(min = 1))]
        pub max_passes: Option<u32> = None,
        /// Whether to give up as soon as the remaining memory has stopped shrinking and the deadline is out
        /// of reach, instead of waiting for the deadline. It takes at least 16 passes and 8 s to tell. While
        /// changes by `timeline`, `stress.phases` or a trace are still to come, a migration is not given up
        /// for this reason. Phases, waves and traces that repeat never settle: there it takes two whole
        /// periods as well, in which no pass has made progress.
        pub stall_detection: bool = true,
        /// With `mode: precopy`, the number of passes over the memory after which the guest is paused. The
        /// rest is then sent while the guest is stopped, and the guest continues at the destination. `0`
        /// pauses it immediately. The first `pause_*` condition that is met counts; a migration that has not
        /// ended by the deadline is given up, and the guest continues at the source. Default: the guest runs
        /// until the rest fits into `downtime_limit`.
        pub pause_after_passes: Option<u32> = None,
        /// With `mode: precopy`, the time after which the guest is paused, counted from the migrate command
        /// (`virsh migrate --timeout --timeout-suspend`). It is earlier than `timeout`.
        pub pause_after: Option<Span> = None,
        /// With `mode: precopy`, whether the guest is paused once the remaining memory has stopped shrinking,
        /// by the rule of `stall_detection`.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub pause_at_stall: bool = false,
        /// With `mode: postcopy`, the number of passes over the memory after which the guest moves.
        #[schemars(range(min = 1))]
        pub postcopy_after_passes: Option<u32> = None,
        /// With `mode: postcopy`, the time after which the guest moves, counted from the migrate command. It
        /// is earlier than `timeout`.
        pub postcopy_after: Option<Span> = None,
        /// With `mode: postcopy`, whether the guest moves once the remaining memory has stopped shrinking, by
        /// the rule of `stall_detection`.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub postcopy_at_stall: bool = false,
        /// With `mode: postcopy`, whether pages that the guest needs are sent over a connection of their own,
        /// ahead of all others (preemption).
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub postcopy_preempt: bool = false,
        /// With `mode: postcopy`, how long to wait for the link to work again if it fails after the guest has
        /// moved. The link has failed if nothing has passed it for 5 s. Both ends then close their
        /// connections; once packets pass again, they open new ones, and the rest of the memory follows. With
        /// `0` or `release_ram` there is no recovery, and the guest is lost. Default: until the deadline,
        /// which no recovery outlasts.
        pub postcopy_recovery: Option<Span> = None,
        /// With `mode: file`, whether the guest runs while it is saved. Its memory is then written in passes,
        /// and the guest stops once the rest is expected to be written within `downtime_limit`.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub save_live: bool = false,
        /// With `mode: file`, whether each page has a fixed place in the file, which thus never gets much
        /// larger than the memory (mapped RAM).
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub mapped_ram: bool = false,
        /// Whether QEMU bypasses the host's page cache when it writes and reads pages in the file. It needs
        /// `mapped_ram` and `multifd`.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub direct_io: bool = false,
        /// The bandwidth limit that QEMU applies once the guest has moved by post-copy. Pages that the guest
        /// needs may exceed it. At least `10B/s`. Default: no limit.
        pub max_postcopy_bandwidth: Option<Bandwidth> = None,
        /// The bandwidth limit that QEMU itself applies to the migration, in bytes per second such as
        /// `110MB/s`, or in bits per second such as `900mbit`. At least `10B/s`. QEMU exceeds limits of a few
        /// MB/s, and sends at least 1.3 MB/s with any; if it sends clearly more than the limit allows, the
        /// record has a note. Default: no limit, so that only the link limits the migration.
        pub max_bandwidth: Option<Bandwidth> = None,
        /// What carries memory to the destination.
        #[serde(skip_serializing_if = "is_default")]
        #[schemars(extend("default" = "tcp"))]
        pub transport: Transport = Transport::Tcp,
        /// Whether the migration is encrypted by TLS, with X.509 certificates that are made for it and that
        /// both ends show each other. A disk that is copied is not encrypted.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub tls: bool = false,
        /// Whether QEMU slows the guest's CPUs down, step by step, while pre-copy does not converge
        /// (auto-converge).
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub auto_converge: bool = false,
        /// The share of time for which the first step of `auto_converge` stops the CPUs: whole percent, 1% to
        /// 99%. QEMU's default is 20%.
        pub cpu_throttle_initial: Option<Percent> = None,
        /// By how much each further step of `auto_converge` raises that share: whole percent, 1% to 99%.
        /// QEMU's default is 10%.
        pub cpu_throttle_increment: Option<Percent> = None,
        /// The largest share of time for which `auto_converge` stops the CPUs: whole percent, 1% to 99%.
        /// QEMU's default is 99%.
        pub max_cpu_throttle: Option<Percent> = None,
        /// The ratio of bytes dirtied to bytes sent in a pass above which `auto_converge` takes a step: whole
        /// percent, 1% to 100%. QEMU's default is 50%.
        pub throttle_trigger_threshold: Option<Percent> = None,
        /// Whether `auto_converge` takes smaller steps when the CPUs are nearly stopped. QEMU's default is
        /// `false`.
        pub cpu_throttle_tailslow: Option<bool> = None,
        /// Whether QEMU slows down only the virtual CPUs that dirty memory faster than `vcpu_dirty_limit`,
        /// while pre-copy does not converge. It needs KVM with a dirty ring, which no guest here has, so such
        /// cells are skipped.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub dirty_limit: bool = false,
        /// The dirty rate that `dirty_limit` leaves each virtual CPU, in whole MiB/s. QEMU's default is
        /// 1MiB/s.
        pub vcpu_dirty_limit: Option<Bandwidth> = None,
        /// The interval at which `dirty_limit` measures the dirty rate of each virtual CPU, in whole
        /// milliseconds, at most 1s. QEMU's default is 1s.
        pub x_vcpu_dirty_limit_period: Option<Span> = None,
        /// Whether QEMU sends only the bytes that have changed of a page that it has sent before and still
        /// has in its cache (XBZRLE).
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub xbzrle: bool = false,
        /// The size of the cache of `xbzrle`: a power of two, at least 4KiB. QEMU's default is 64MiB.
        pub xbzrle_cache_size: Option<Bytes> = None,
        /// Whether several threads compress pages with zlib before they are sent over one connection. QEMU
        /// 9.1 and later do not have it; `multifd_compression` took its place.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub compress: bool = false,
        /// The level of `compress`, from 0 (fast) to 9 (small). QEMU's default is 1.
        #[schemars(range(max = 9))]
        pub compress_level: Option<u32> = None,
        /// The number of threads of `compress` at the source, from 1 to 255. QEMU's default is 8.
        #[schemars(range(min = 1, max = 255))]
        pub compress_threads: Option<u32> = None,
        /// The number of threads at the destination that decompress what `compress` has sent, from 1 to 255.
        /// QEMU's default is 2.
        #[schemars(range(min = 1, max = 255))]
        pub decompress_threads: Option<u32> = None,
        /// Whether memory is sent over several TCP connections in parallel, each by a thread of its own. With
        /// `mode: file`, these threads write and read the file, which needs `mapped_ram`.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub multifd: bool = false,
        /// The number of connections of `multifd`, from 1 to 255. QEMU's default is 2.
        #[schemars(range(min = 1, max = 255))]
        pub multifd_channels: Option<u32> = None,
        /// How the threads of `multifd` compress memory: `zlib`, `zstd`, or another method that this QEMU
        /// has. Default: not at all.
        pub multifd_compression: Option<String> = None,
        /// The level of zlib, from 0 (fast) to 9 (small). QEMU's default is 1.
        #[schemars(range(max = 9))]
        pub multifd_zlib_level: Option<u32> = None,
        /// The level of zstd, from 0 (fast) to 20 (small). QEMU's default is 1.
        #[schemars(range(max = 20))]
        pub multifd_zstd_level: Option<u32> = None,
        /// The level of QAT, from 1 (fast) to 9 (small). QEMU's default is 1.
        #[schemars(range(min = 1, max = 9))]
        pub multifd_qatzip_level: Option<u32> = None,
        /// Which thread looks for zero pages.
        #[serde(skip_serializing_if = "is_default")]
        #[schemars(extend("default" = "multifd"))]
        pub zero_page_detection: ZeroPageDetection = ZeroPageDetection::Multifd,
        /// Whether the kernel sends memory without copying it first. It needs `multifd`, and as much locked
        /// memory as the guest has.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub zero_copy_send: bool = false,
        /// Whether the source frees each page of the guest's memory that it has sent after the switch to
        /// post-copy.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub release_ram: bool = false,
        /// Whether the destination can send messages back to the source.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub return_path: bool = false,
        /// Whether the source delays the switchover until the destination's devices are ready. It needs
        /// `return_path`.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub switchover_ack: bool = false,
        /// The bandwidth that QEMU expects for the switchover when it decides whether the remaining memory
        /// can be sent within `downtime_limit`. It limits nothing. Default: what QEMU has measured.
        pub avail_switchover_bandwidth: Option<Bandwidth> = None,
        /// The number of packets by which the destination announces the guest's new location to the network,
        /// from 0 to 1000. QEMU's default is 5.
        #[schemars(range(max = 1000))]
        pub announce_rounds: Option<u32> = None,
        /// The time from the first to the second of these packets, in whole milliseconds, at most 100s.
        /// QEMU's default is 50ms.
        pub announce_initial: Option<Span> = None,
        /// By how much each further interval between these packets is longer, in whole milliseconds, at most
        /// 10s. QEMU's default is 100ms.
        pub announce_step: Option<Span> = None,
        /// The longest interval between these packets, in whole milliseconds, at most 100s. QEMU's default is
        /// 550ms.
        pub announce_max: Option<Span> = None,
    }
}

/// What carries memory to the destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// RDMA. No lab has it, because its links are virtual interfaces, so such cells are skipped.
    Rdma,
}

/// The thread that looks for zero pages, each of which is then sent as a few bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroPageDetection {
    /// No thread: zero pages are sent like all others.
    None,
    /// QEMU's migration thread, also with `multifd`.
    Legacy,
    /// With `multifd` each thread that sends, otherwise QEMU's migration thread.
    #[default]
    Multifd,
}

/// The conditions on one setting of QEMU.
pub(super) struct Condition {
    /// The name of the setting.
    pub(super) name: &'static str,
    /// The smallest and the largest value; for a quantity, in QEMU's unit.
    pub(super) range: RangeInclusive<u64>,
    /// The setting without which this one has no effect, if any.
    pub(super) needs: Option<&'static str>,
}

/// Returns the conditions on the settings of QEMU that take a number.
pub(super) fn conditions() -> impl Iterator<Item = Condition> {
    const ANY: RangeInclusive<u64> = 0..=u64::MAX;
    const PRECOPY: Option<&str> = Some("mode: precopy");
    const POSTCOPY: Option<&str> = Some("mode: postcopy");
    const FILE: Option<&str> = Some("mode: file");
    [
        ("pause_after_passes", ANY, PRECOPY),
        ("pause_after", ANY, PRECOPY),
        ("pause_at_stall", ANY, PRECOPY),
        ("postcopy_after_passes", 1..=u64::MAX, POSTCOPY),
        ("postcopy_after", ANY, POSTCOPY),
        ("postcopy_at_stall", ANY, POSTCOPY),
        ("postcopy_preempt", ANY, POSTCOPY),
        ("postcopy_recovery", ANY, POSTCOPY),
        ("max_postcopy_bandwidth", 10..=1 << 62, POSTCOPY),
        ("save_live", ANY, FILE),
        ("mapped_ram", ANY, FILE),
        ("direct_io", ANY, Some("mapped_ram: true")),
        ("direct_io", ANY, Some("multifd: true")),
        ("cpu_throttle_initial", 1..=99, Some("auto_converge: true")),
        ("cpu_throttle_increment", 1..=99, Some("auto_converge: true")),
        ("max_cpu_throttle", 1..=99, Some("auto_converge: true")),
        ("throttle_trigger_threshold", 1..=100, Some("auto_converge: true")),
        ("cpu_throttle_tailslow", ANY, Some("auto_converge: true")),
        ("vcpu_dirty_limit", 1..=u64::MAX, Some("dirty_limit: true")),
        ("x_vcpu_dirty_limit_period", 1..=1000, Some("dirty_limit: true")),
        ("xbzrle_cache_size", 4096..=1 << 62, Some("xbzrle: true")),
        ("compress_level", 0..=9, Some("compress: true")),
        ("compress_threads", 1..=255, Some("compress: true")),
        ("decompress_threads", 1..=255, Some("compress: true")),
        ("multifd_channels", 1..=255, Some("multifd: true")),
        ("multifd_compression", ANY, Some("multifd: true")),
        ("multifd_zlib_level", 0..=9, Some("multifd: true")),
        ("multifd_zstd_level", 0..=20, Some("multifd: true")),
        ("multifd_qatzip_level", 1..=9, Some("multifd: true")),
        ("avail_switchover_bandwidth", 1..=1 << 62, None),
        ("announce_rounds", 0..=1000, None),
        ("announce_initial", 0..=100_000, None),
        ("announce_step", 1..=10_000, None),
        ("announce_max", 0..=100_000, None),
    ]
    .into_iter()
    .map(|(name, range, needs)| Condition { name, range, needs })
}

// A capability that is off is left out of records, as in records of versions that did not have it.
impl Migrate {
    /// Returns the settings that a migration policy needs.
    pub fn limits(&self) -> Limits {
        let Self { timeout, downtime_limit, max_passes, stall_detection, .. } = *self;
        let (postcopy_start, pause) = (self.postcopy_start(), self.pause());
        Limits { timeout, downtime_limit, max_passes, stall_detection, postcopy_start, pause }
    }

    /// Returns when the guest moves by post-copy. Without any condition, it moves immediately.
    fn postcopy_start(&self) -> When {
        When {
            after_passes: self.postcopy_after_passes,
            after: self.postcopy_after,
            at_stall: self.postcopy_at_stall,
        }
    }

    /// Returns when the guest is paused.
    pub fn pause(&self) -> When {
        When { after_passes: self.pause_after_passes, after: self.pause_after, at_stall: self.pause_at_stall }
    }

    /// Returns how long a post-copy migration waits for a link that has failed. With `release_ram`, it does
    /// not wait: the source no longer has the memory that was in transit.
    pub fn recovery(&self) -> Span {
        if self.release_ram { Span::ZERO } else { self.postcopy_recovery.unwrap_or(self.timeout) }
    }

    /// Returns whether the guest may be stopped within two seconds of the migrate command, whatever the link
    /// carries. A file on a fast disk takes less time than that, even if the guest runs meanwhile.
    pub fn stops_early(&self) -> bool {
        let is_early = |when: When| {
            when.after_passes == Some(0) || when.after.is_some_and(|after| after < Span::from_secs(2))
        };
        match self.mode {
            Mode::Postcopy => self.postcopy_start() == When::NEVER || is_early(self.postcopy_start()),
            mode => !mode.uses_link() || is_early(self.pause()),
        }
    }

    /// Returns whether the guest runs at the source while its memory is sent or saved, which takes passes.
    pub fn has_passes(&self) -> bool {
        match self.mode {
            Mode::File => self.save_live,
            mode => mode.sends_memory(),
        }
    }

    /// Returns the settings that QEMU gets under their own names and that differ from their defaults: the
    /// name in QEMU's spelling, and the value in QEMU's unit. Values that cannot be expressed in that unit
    /// are left out; [`Settings::check`](super::Settings::check) reports it.
    pub(crate) fn for_qemu(&self) -> Vec<(String, Json)> {
        let default = Self::default();
        let differing = Self::fields()
            .into_iter()
            .filter(|field| !NOT_QEMUS.contains(&field.path()) && field.value(self) != field.value(&default));
        let named = differing.filter_map(|field| {
            let value = in_qemus_unit(field.path(), &field.value(self))?;
            Some((field.path().replace('_', "-"), value))
        });
        named.collect()
    }
}

/// The settings that are this program's own, or that it gives to QEMU in another form.
const NOT_QEMUS: &[&str] = &[
    "mode",
    "downtime_limit",
    "timeout",
    "max_passes",
    "stall_detection",
    "max_bandwidth",
    "tls",
    "transport",
    "pause_after_passes",
    "pause_after",
    "pause_at_stall",
    "postcopy_after_passes",
    "postcopy_after",
    "postcopy_at_stall",
    "postcopy_recovery",
    "save_live",
];

/// Returns the value of a setting as QEMU takes it: times in milliseconds, shares in percent, rates in bytes
/// per second, or in MiB per second for `vcpu_dirty_limit`. Returns nothing if that is not a whole number.
pub(super) fn in_qemus_unit(name: &str, value: &Value) -> Option<Json> {
    let whole = |number: u64, per: u64| number.is_multiple_of(per).then(|| Json::from(number / per));
    let rate = |rate: ByteRate| {
        if name == "vcpu_dirty_limit" { whole(rate.get(), MIB) } else { whole(rate.get(), 1) }
    };
    match value {
        Value::Bytes(bytes) => whole(bytes.get(), 1),
        Value::ByteRate(bytes) => rate(*bytes),
        Value::BitRate(bits) => rate(bits.to_byte_rate()),
        Value::Span(time) => whole(time.as_nanos(), 1_000_000),
        Value::Percent(percent) => {
            let percent = percent.fraction() * 100.0;
            // The steps in which the kernel stores a percentage are finer than this.
            ((percent - percent.round()).abs() < 1e-6).then(|| Json::from(percent.round() as u64))
        }
        other => Some(other.to_json()),
    }
}

const MIB: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that a setting of this program's own is not given to QEMU by mistake, and that what each of
    /// QEMU's becomes is in the golden file.
    #[test]
    fn every_setting_is_this_programs_or_in_the_golden_file_of_qemus() {
        let golden = include_str!("../../../tests/golden/qemu-parameters.txt");
        for field in Migrate::fields().iter().filter(|field| !NOT_QEMUS.contains(&field.path())) {
            let name = field.path().replace('_', "-");
            let advice = "give it to QEMU in `tests/it/qemu.rs`, or list it in `NOT_QEMUS`";
            assert!(golden.contains(&format!("\"{name}\"")), "no migration has QEMU's `{name}`: {advice}");
        }
    }
}
