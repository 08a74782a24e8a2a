//! What QEMU is told about a migration before it begins: capabilities and parameters.

use crate::matrix::Migrate;
use serde_json::{Value, json};

/// "No limit" for QEMU's own bandwidth cap, in bytes per second; without a setting it caps at 128 MiB/s.
pub const NO_CAP: u64 = i64::MAX as u64;

/// The arguments of the two commands that set a QEMU up for a migration, the same at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Of `migrate-set-capabilities`.
    pub capabilities: Value,
    /// Of `migrate-set-parameters`.
    pub parameters: Value,
}

/// Returns what these settings come to.
pub fn parameters(settings: &Migrate) -> Parameters {
    let cap = settings.max_bandwidth.map_or(NO_CAP, |cap| cap.to_byte_rate().get());
    Parameters {
        // Without `events`, QEMU announces neither passes nor changes of state.
        capabilities: json!({ "capabilities": [{ "capability": "events", "state": true }] }),
        parameters: json!({
            "downtime-limit": settings.downtime_limit.as_millis(),
            "max-bandwidth": cap,
        }),
    }
}
