//! The machine types of a QEMU, and the choice of one for guests that migrate between two QEMUs.
//!
//! The unversioned type `pc` is a different machine in each version of QEMU, so two QEMUs of different
//! versions may refuse each other's guests, some of them only when the state of a device arrives. A versioned
//! type, such as `pc-i440fx-9.2`, is the same machine in all later versions.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// The unversioned type, an alias for a versioned one of each QEMU.
pub const UNVERSIONED: &str = "pc";

/// The beginning of the names of the versions of [`UNVERSIONED`].
const FAMILY: &str = "pc-i440fx-";

/// The machine types of the family [`UNVERSIONED`] that a QEMU has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineTypes {
    /// The names of the versioned types.
    names: BTreeSet<String>,
    /// The type that `pc` stands for, if QEMU says so.
    current: Option<String>,
}

impl MachineTypes {
    /// Reads QEMU's answer to `query-machines`.
    pub fn from_answer(answer: &Value) -> Self {
        let machines = answer.as_array().map_or(&[][..], Vec::as_slice);
        let name = |machine: &Value| machine["name"].as_str().map(str::to_owned);
        let is_current = |machine: &&Value| machine["alias"] == UNVERSIONED;
        Self {
            names: machines.iter().filter_map(name).filter(|name| name.starts_with(FAMILY)).collect(),
            current: machines.iter().find(is_current).and_then(name),
        }
    }

    /// Returns the type for guests that migrate between this QEMU and another: the type that `pc` stands for
    /// in both, or else the newest version that both have. `None` if they have none in common.
    pub fn common<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        if let Some(current) = &self.current
            && other.current.as_ref() == Some(current)
        {
            return Some(current);
        }
        let common = self.names.intersection(&other.names);
        // A distribution's own types have names instead of numbers, and are older than any number.
        common.max_by_key(|name| (version(name), *name)).map(String::as_str)
    }

    /// Returns the oldest and the newest version, for messages.
    pub fn range(&self) -> String {
        let by_version = |name: &&String| version(name);
        match (self.names.iter().min_by_key(by_version), self.names.iter().max_by_key(by_version)) {
            (Some(oldest), Some(newest)) if oldest == newest => oldest.clone(),
            (Some(oldest), Some(newest)) => format!("{oldest} to {newest}"),
            _ => format!("no {FAMILY}*"),
        }
    }
}

/// Returns the version in the name of a machine type: `pc-i440fx-9.2` is [9, 2].
fn version(name: &str) -> Option<Vec<u32>> {
    name.strip_prefix(FAMILY)?.split('.').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Returns the types of a QEMU with these versions, of which `pc` stands for the last.
    fn types(versions: &[&str]) -> MachineTypes {
        let machine = |version: &&str| json!({ "name": format!("{FAMILY}{version}"), "cpu-max": 255 });
        let mut machines: Vec<Value> = versions.iter().map(machine).collect();
        machines.last_mut().unwrap()["alias"] = "pc".into();
        machines.extend([
            json!({ "name": "pc-q35-10.0", "alias": "q35" }),
            json!({ "name": "none" }),
            json!({ "name": "microvm" }),
        ]);
        MachineTypes::from_answer(&Value::Array(machines))
    }

    #[test]
    fn the_newest_type_that_both_have_is_chosen_by_number() {
        let common = |a: &MachineTypes, b: &MachineTypes| a.common(b).map(str::to_owned);
        let (old, new) = (types(&["7.1", "7.2"]), types(&["7.2", "9.2", "10.0"]));
        assert_eq!(common(&old, &new).as_deref(), Some("pc-i440fx-7.2"));
        assert_eq!(common(&new, &old).as_deref(), Some("pc-i440fx-7.2"));
        assert_eq!(common(&new, &types(&["9.2", "10.0", "10.1"])).as_deref(), Some("pc-i440fx-10.0"));
        assert_eq!(common(&types(&["6.2"]), &types(&["10.1"])), None);
        assert_eq!(
            (new.range(), types(&["6.2"]).range()),
            ("pc-i440fx-7.2 to pc-i440fx-10.0".into(), "pc-i440fx-6.2".into())
        );
        assert_eq!(MachineTypes::from_answer(&json!({})).range(), "no pc-i440fx-*");
    }

    #[test]
    fn a_distributions_own_type_is_used_if_it_is_the_current_one_of_both() {
        let ubuntu = types(&["7.2", "9.2", "noble"]);
        assert_eq!(ubuntu.common(&ubuntu), Some("pc-i440fx-noble"));
        assert_eq!(ubuntu.common(&types(&["9.2", "10.0"])), Some("pc-i440fx-9.2"));
        let redhat = types(&["rhel7.5.0", "rhel7.6.0"]);
        assert_eq!(redhat.common(&redhat), Some("pc-i440fx-rhel7.6.0"));
        assert_eq!(redhat.common(&ubuntu), None);
    }
}
