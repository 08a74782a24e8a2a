//! The capabilities and parameters that configure QEMU for a migration before it begins.
//!
//! Settings of the matrix's section `migrate` that are QEMU's own have QEMU's names, with underscores instead
//! of hyphens. A flag is a capability, unless it is listed in `FLAGS`; everything else is a parameter.
//! So to add a capability or a parameter, add its line in `matrix/settings/migrate.rs`. What the matrix does
//! not give is not set, since older versions of QEMU lack some of them.

use super::tls;
use crate::{matrix::Migrate, mode::Mode};
use serde_json::{Value, json};

/// The value of QEMU's own bandwidth limit that means "no limit", in bytes per second. QEMU's default is 128
/// MiB/s.
pub const NO_CAP: u64 = i64::MAX as u64;

/// The parameters that are flags.
const FLAGS: &[&str] = &["cpu-throttle-tailslow", "direct-io"];

/// The capability of post-copy. The destination accepts it only if it may use userfaultfd.
const POSTCOPY: &str = "postcopy-ram";

/// The arguments of the two commands that configure a QEMU for a migration, the same at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The arguments of the command `migrate-set-capabilities`.
    pub capabilities: Value,
    /// The arguments of the command `migrate-set-parameters`.
    pub parameters: Value,
    /// Whether the guest is saved to a file.
    pub to_file: bool,
}

impl Parameters {
    /// Returns whether they ask for plain pre-copy, which every QEMU supports.
    pub fn is_plain(&self) -> bool {
        let capabilities = ["events", "pause-before-switchover"];
        let parameters = ["downtime-limit", "max-bandwidth"];
        !self.to_file
            && self.capability_names().all(|name| capabilities.contains(&name))
            && self
                .parameters
                .as_object()
                .is_some_and(|all| all.keys().all(|n| parameters.contains(&n.as_str())))
    }

    /// Returns whether they ask for encryption.
    pub(super) fn is_encrypted(&self) -> bool {
        self.parameters.get("tls-creds").is_some()
    }

    /// Returns whether they ask for post-copy.
    pub(super) fn is_postcopy(&self) -> bool {
        self.capability_names().any(|name| name == POSTCOPY)
    }

    /// Returns the names of the capabilities that are set.
    pub(super) fn capability_names(&self) -> impl Iterator<Item = &str> {
        let entries = self.capabilities["capabilities"].as_array().into_iter().flatten();
        entries.filter_map(|entry| entry["capability"].as_str())
    }
}

/// Translates these settings into QEMU's capabilities and parameters. With `copies_disk`, QEMU pauses before
/// the switchover until the copy of the disk is complete.
pub fn parameters(settings: &Migrate, copies_disk: bool) -> Parameters {
    let cap = settings.max_bandwidth.map_or(NO_CAP, |cap| cap.to_byte_rate().get());
    let mut parameters = json!({
        "downtime-limit": settings.downtime_limit.as_millis(),
        "max-bandwidth": cap,
    });
    if settings.tls {
        parameters["tls-creds"] = tls::CREDENTIALS.into();
        parameters["tls-hostname"] = tls::HOST_NAME.into();
    }
    if settings.mode == Mode::CprTransfer {
        parameters["mode"] = "cpr-transfer".into();
    }
    // Without the capability `events`, QEMU announces neither passes nor changes of state.
    let mut capabilities = vec![capability("events", true)];
    capabilities.extend(copies_disk.then(|| capability("pause-before-switchover", true)));
    if settings.mode == Mode::Postcopy {
        capabilities.extend([POSTCOPY, "postcopy-blocktime"].map(|name| capability(name, true)));
    }
    for (name, value) in settings.for_qemu() {
        match value {
            Value::Bool(state) if !FLAGS.contains(&name.as_str()) => {
                capabilities.push(capability(&name, state));
            }
            value => parameters[name] = value,
        }
    }
    let to_file = settings.mode == Mode::File;
    Parameters { capabilities: json!({ "capabilities": capabilities }), parameters, to_file }
}

/// Returns an entry of the argument of `migrate-set-capabilities`.
pub(super) fn capability(name: &str, state: bool) -> Value {
    json!({ "capability": name, "state": state })
}
