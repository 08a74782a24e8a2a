//! The capabilities and parameters that configure QEMU for a migration before it begins.

use crate::matrix::Migrate;
use serde_json::{Value, json};

/// The value of QEMU's own bandwidth cap that means "no limit", in bytes per second. QEMU's default is 128
/// MiB/s.
pub const NO_CAP: u64 = i64::MAX as u64;

/// The arguments of the two commands that configure a QEMU for a migration, the same at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The arguments of the command `migrate-set-capabilities`.
    pub capabilities: Value,
    /// The arguments of the command `migrate-set-parameters`.
    pub parameters: Value,
}

/// Translates these settings into QEMU's capabilities and parameters.
pub fn parameters(settings: &Migrate) -> Parameters {
    let cap = settings.max_bandwidth.map_or(NO_CAP, |cap| cap.to_byte_rate().get());
    Parameters {
        // Without the capability `events`, QEMU announces neither passes nor changes of state.
        capabilities: json!({ "capabilities": [{ "capability": "events", "state": true }] }),
        parameters: json!({
            "downtime-limit": settings.downtime_limit.as_millis(),
            "max-bandwidth": cap,
        }),
    }
}
