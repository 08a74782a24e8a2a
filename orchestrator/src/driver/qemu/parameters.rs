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

/// Translates these settings into QEMU's capabilities and parameters. With `copies_disk`, QEMU waits before
/// the switchover until the copy of the disk is complete.
pub fn parameters(settings: &Migrate, copies_disk: bool) -> Parameters {
    let cap = settings.max_bandwidth.map_or(NO_CAP, |cap| cap.to_byte_rate().get());
    // Without the capability `events`, QEMU announces neither passes nor changes of state.
    let events = json!({ "capability": "events", "state": true });
    let pauses = copies_disk.then(|| json!({ "capability": "pause-before-switchover", "state": true }));
    let capabilities: Vec<Value> = [events].into_iter().chain(pauses).collect();
    Parameters {
        capabilities: json!({ "capabilities": capabilities }),
        parameters: json!({
            "downtime-limit": settings.downtime_limit.as_millis(),
            "max-bandwidth": cap,
        }),
    }
}
