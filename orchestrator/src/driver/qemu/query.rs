//! QEMU's answer to `query-migrate`, and its translation into the driver's terms.

use crate::{
    driver::{State, Status},
    measure::samples::{Completion, MemoryProgress, Sample},
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The answer to `query-migrate`. Before a migration all fields are absent; `ram` is absent until its set-up
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
}

/// Progress with the guest's memory. An answer without one of these fields has no progress to show.
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
}

#[derive(Debug, Clone, Deserialize)]
struct SocketAddress {
    port: Option<String>,
}

impl QueryMigrate {
    /// Returns the status. `at_ms` is the time of the sample, in milliseconds since the migrate command.
    pub(super) fn status(&self, at_ms: f64) -> Status {
        Status { state: self.state(), sample: self.sample(at_ms) }
    }

    /// Returns the TCP port at which the destination listens.
    pub(super) fn port(&self) -> Option<u16> {
        self.socket_address.first()?.port.as_ref()?.parse().ok()
    }

    /// Returns the state. A state that is not known here is [`State::Other`], since new versions of QEMU add
    /// states.
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
            "pre-switchover" => State::Paused,
            _ => State::Other,
        }
    }

    fn reason(&self) -> String {
        self.error_desc.clone().unwrap_or_else(|| format!("QEMU reports the status \"{}\"", self.status))
    }

    fn sample(&self, at_ms: f64) -> Sample {
        let memory = self.ram.as_ref().map(|ram| MemoryProgress {
            transferred_bytes: ram.transferred,
            remaining_bytes: ram.remaining,
            normal_pages: ram.normal,
            zero_pages: ram.duplicate,
            pass: ram.dirty_sync_count,
            dirty_rate_bytes_per_s: ram.dirty_pages_rate.saturating_mul(ram.page_size),
            mbit_per_s: ram.mbps,
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

/// Reads progress, or nothing if a part of it is missing.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ram>, D::Error> {
    Ok(Ram::deserialize(Value::deserialize(deserializer)?).ok())
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
        let known = memory(json!({ "status": "active", "ram": ram })).unwrap();
        assert_eq!((known.transferred_bytes, known.pass, known.dirty_rate_bytes_per_s), (1, 5, 6 * 4096));
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
        assert_eq!(state(json!({ "status": "from-the-future" })), State::Other);
        assert_eq!(
            state(json!({ "status": "failed", "error-desc": "no route" })),
            State::Failed("no route".into())
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
    fn the_destinations_port_is_read_from_its_answer() {
        let port = |answer: Value| serde_json::from_value::<QueryMigrate>(answer).unwrap().port();
        assert_eq!(port(json!({ "socket-address": [{ "type": "inet", "port": "49152" }] })), Some(49152));
        assert_eq!(port(json!({ "socket-address": [] })), None);
        assert_eq!(port(json!({ "status": "setup" })), None);
    }
}
