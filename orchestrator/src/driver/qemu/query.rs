//! QEMU's answer to `query-migrate`, and its translation into the driver's terms.

use crate::{
    driver::{PageFaults, State, Status},
    measure::samples::{Completion, MemoryProgress, Sample, XbzrleProgress},
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::time::Instant;

/// The answer to `query-migrate`. Before a migration all fields are absent; `ram` is absent until the set-up
/// ends.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct QueryMigrate {
    #[serde(default)]
    status: String,
    error_desc: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    ram: Option<Ram>,
    total_time: Option<u64>,
    downtime: Option<u64>,
    setup_time: Option<u64>,
    cpu_throttle_percentage: Option<u64>,
    #[serde(default)]
    socket_address: Vec<SocketAddress>,
    xbzrle_cache: Option<XbzrleCache>,
    postcopy_blocktime: Option<u64>,
    postcopy_vcpu_blocktime: Option<Vec<u64>>,
    postcopy_latency: Option<u64>,
    postcopy_latency_dist: Option<Vec<u64>>,
}

/// The progress with the guest's memory. An answer that lacks one of these fields shows no progress.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Ram {
    transferred: u64,
    remaining: u64,
    normal: u64,
    duplicate: u64,
    dirty_sync_count: u64,
    dirty_pages_rate: u64,
    page_size: u64,
    mbps: f64,
    multifd_bytes: Option<u64>,
    postcopy_bytes: Option<u64>,
    postcopy_requests: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct XbzrleCache {
    bytes: u64,
    pages: u64,
    cache_miss: u64,
    overflow: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct SocketAddress {
    port: Option<String>,
}

/// The state of a post-copy migration during a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecoveryState {
    /// Memory arrives again.
    Follows,
    /// Both connections are closed, and recovery has not been started.
    Paused,
    /// The source connects to the destination. Unknown states count as this state.
    Connects,
    /// The source learns what the destination already has.
    Compares,
    /// The migration has completed or failed.
    Ended,
}

impl QueryMigrate {
    /// Returns the state for a recovery.
    pub(super) fn recovery_state(&self) -> RecoveryState {
        match self.status.as_str() {
            "postcopy-active" | "postcopy-device" => RecoveryState::Follows,
            "postcopy-paused" => RecoveryState::Paused,
            "postcopy-recover" => RecoveryState::Compares,
            "completed" | "failed" | "failing" | "cancelled" => RecoveryState::Ended,
            _ => RecoveryState::Connects,
        }
    }

    /// Returns whether no migration is in progress.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "" | "none" | "completed" | "failed" | "cancelled")
    }

    /// Returns the status. `at_ms` is the time of the sample, in milliseconds since the migrate command.
    pub(super) fn status(&self, at_ms: f64) -> Status {
        Status { state: self.state(), sample: self.sample(at_ms) }
    }

    /// Returns the page fault statistics that the destination has measured.
    pub(super) fn page_faults(&self) -> PageFaults {
        PageFaults {
            all_blocked_ms: self.postcopy_blocktime,
            vcpus_blocked_ms: self.postcopy_vcpu_blocktime.clone().unwrap_or_default(),
            mean_latency_ns: self.postcopy_latency,
            latency_distribution: self.postcopy_latency_dist.clone().unwrap_or_default(),
        }
    }

    /// Returns the TCP port at which the destination listens.
    pub(super) fn port(&self) -> Option<u16> {
        self.socket_address.first()?.port.as_ref()?.parse().ok()
    }

    /// Returns the state. Unknown states become [`State::Other`], since new versions of QEMU add states.
    fn state(&self) -> State {
        match self.status.as_str() {
            "active" => State::Active,
            "completed" => State::Completed(Completion {
                total_time_ms: self.total_time,
                downtime_ms: self.downtime,
                setup_time_ms: self.setup_time,
            }),
            "failed" => State::Failed(self.reason()),
            "cancelled" => State::Cancelled(self.reason()),
            "pre-switchover" => State::BeforeSwitchover,
            "device" => State::Switchover,
            "postcopy-active" | "postcopy-device" => State::Postcopy,
            "postcopy-paused" => State::PostcopyPaused(self.reason()),
            _ => State::Other,
        }
    }

    fn reason(&self) -> String {
        self.error_desc.clone().unwrap_or_else(|| format!("QEMU reports the status \"{}\"", self.status))
    }

    fn sample(&self, at_ms: f64) -> Sample {
        // Zeros from before the move would be in every sample of every migration.
        let may_have_moved = self.status.starts_with("postcopy-") || self.status == "completed";
        let known = |figure: u64| figure > 0 || may_have_moved;
        let memory = self.ram.as_ref().map(|ram| MemoryProgress {
            transferred_bytes: ram.transferred,
            remaining_bytes: ram.remaining,
            normal_pages: ram.normal,
            zero_pages: ram.duplicate,
            pass: ram.dirty_sync_count,
            dirty_rate_bytes_per_s: ram.dirty_pages_rate.saturating_mul(ram.page_size),
            mbit_per_s: ram.mbps,
            multifd_bytes: ram.multifd_bytes.filter(|bytes| *bytes > 0),
            xbzrle: self.xbzrle_cache.as_ref().map(|cache| XbzrleProgress {
                pages: cache.pages,
                bytes: cache.bytes,
                misses: cache.cache_miss,
                overflows: cache.overflow,
            }),
            postcopy_bytes: ram.postcopy_bytes.filter(|bytes| known(*bytes)),
            page_requests: ram.postcopy_requests.filter(|requests| known(*requests)),
        });
        Sample {
            at_ms,
            status: self.status.clone(),
            memory,
            disk: None,
            throttle_percent: self.cpu_throttle_percentage.unwrap_or(0),
        }
    }
}

/// Reads the progress, or nothing if a part of it is missing.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ram>, D::Error> {
    Ok(Ram::deserialize(Value::deserialize(deserializer)?).ok())
}

/// Returns the time of a sample taken now, in milliseconds since this moment.
pub(super) fn at_ms(since: Instant) -> f64 {
    since.elapsed().as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn progress_that_qemu_does_not_report_is_absent_rather_than_zero() {
        let memory =
            |answer: Value| serde_json::from_value::<QueryMigrate>(answer).unwrap().status(0.0).sample.memory;
        let ram = json!({
            "transferred": 1, "remaining": 2, "normal": 3, "duplicate": 4, "dirty-sync-count": 5,
            "dirty-pages-rate": 6, "page-size": 4096, "mbps": 7.5,
        });
        let known = memory(json!({ "status": "active", "ram": ram.clone() })).unwrap();
        assert_eq!((known.transferred_bytes, known.pass, known.dirty_rate_bytes_per_s), (1, 5, 6 * 4096));
        assert_eq!((known.xbzrle, known.multifd_bytes, known.page_requests), (None, None, None));
        let cache = json!({ "bytes": 1, "pages": 2, "cache-miss": 3, "overflow": 4, "cache-size": 5 });
        let aided = memory(json!({ "status": "active", "xbzrle-cache": cache, "ram": {
            "transferred": 1, "remaining": 2, "normal": 3, "duplicate": 4, "dirty-sync-count": 5,
            "dirty-pages-rate": 6, "page-size": 4096, "mbps": 7.5, "multifd-bytes": 8, "postcopy-requests": 9,
        } }));
        let aided = aided.unwrap();
        let xbzrle = XbzrleProgress { bytes: 1, pages: 2, misses: 3, overflows: 4 };
        assert_eq!(
            (aided.xbzrle, aided.multifd_bytes, aided.page_requests),
            (Some(xbzrle), Some(8), Some(9))
        );
        let moved = |ram: Value| {
            let known = memory(json!({ "status": "postcopy-active", "ram": ram })).unwrap();
            (known.postcopy_bytes, known.page_requests)
        };
        let mut ram = ram;
        assert_eq!(moved(ram.clone()), (None, None));
        (ram["postcopy-bytes"], ram["postcopy-requests"]) = (7.into(), 0.into());
        assert_eq!(moved(ram), (Some(7), Some(0)), "none was requested");
        assert_eq!(memory(json!({ "status": "setup" })), None);
        assert_eq!(memory(json!({ "status": "active", "ram": { "transferred": 1 } })), None);
    }

    fn state(answer: Value) -> State {
        serde_json::from_value::<QueryMigrate>(answer).unwrap().status(0.0).state
    }

    #[test]
    fn states_are_distinguished_and_unknown_ones_are_other() {
        assert_eq!(state(json!({})), State::Other, "no migration yet");
        assert_eq!(state(json!({ "status": "setup" })), State::Other);
        assert_eq!(state(json!({ "status": "active", "ram": { "transferred": 1 } })), State::Active);
        assert_eq!(state(json!({ "status": "cancelling" })), State::Other, "the guest stays at the source");
        assert_eq!(state(json!({ "status": "from-the-future" })), State::Other);
        assert_eq!(state(json!({ "status": "device" })), State::Switchover);
        assert_eq!(
            state(json!({ "status": "failed", "error-desc": "no route" })),
            State::Failed("no route".into())
        );
        assert_eq!(state(json!({ "status": "postcopy-active" })), State::Postcopy);
        assert_eq!(
            state(json!({ "status": "postcopy-paused", "error-desc": "no route" })),
            State::PostcopyPaused("no route".into())
        );
        assert_eq!(
            state(json!({ "status": "cancelled" })),
            State::Cancelled("QEMU reports the status \"cancelled\"".into())
        );
    }

    #[test]
    fn a_figure_that_qemu_does_not_report_is_absent() {
        let answer = json!({ "status": "completed", "total-time": 4049, "setup-time": 3 });
        let completion = Completion { total_time_ms: Some(4049), downtime_ms: None, setup_time_ms: Some(3) };
        assert_eq!(state(answer), State::Completed(completion));
    }

    #[test]
    fn figures_of_page_faults_are_those_that_this_qemu_has() {
        let of = |answer: Value| serde_json::from_value::<QueryMigrate>(answer).unwrap().page_faults();
        assert_eq!(of(json!({ "status": "completed" })), PageFaults::default());
        let old = json!({ "postcopy-blocktime": 7, "postcopy-vcpu-blocktime": [9, 8] });
        let known =
            PageFaults { all_blocked_ms: Some(7), vcpus_blocked_ms: vec![9, 8], ..PageFaults::default() };
        assert_eq!(of(old), known);
        let new = json!({ "postcopy-latency": 250_000, "postcopy-latency-dist": [0, 3] });
        assert_eq!(
            (of(new.clone()).mean_latency_ns, of(new).latency_distribution),
            (Some(250_000), vec![0, 3])
        );
    }

    #[test]
    fn the_destinations_port_is_read_from_its_answer() {
        let port = |answer: Value| serde_json::from_value::<QueryMigrate>(answer).unwrap().port();
        assert_eq!(port(json!({ "socket-address": [{ "type": "inet", "port": "49152" }] })), Some(49152));
        assert_eq!(port(json!({ "socket-address": [] })), None);
        assert_eq!(port(json!({ "status": "setup" })), None);
    }
}
