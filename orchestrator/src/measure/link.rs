//! The shaping in force on a link, as it appears in records.

use netem::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The shaping of a link, in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkSetting {
    /// The backend that shapes the link: the kernel, or the emulator in user space.
    pub backend: Backend,
    /// The end at the source, which shapes what the source sends.
    pub source: EndSetting,
    /// The end at the destination, which shapes what the destination sends.
    pub destination: EndSetting,
}

/// The shaping of the storage link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StorageSetting {
    /// The branch to the source.
    pub source: BranchSetting,
    /// The branch to the destination.
    pub destination: BranchSetting,
}

/// The shaping of the branch from the controller to a compute node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BranchSetting {
    /// The end at the controller, which shapes what the compute node reads.
    pub controller: EndSetting,
    /// The end at the compute node, which shapes what it writes.
    pub compute: EndSetting,
}

/// The shaping of one end of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndSetting {
    /// The queueing disciplines that shape the packets, from the root down; empty if packets are not shaped.
    /// With the emulator, both ends have the same list.
    pub tree: Vec<String>,
    /// Why TCP's buffers could not be enlarged to the size that the link needs; absent if they were.
    /// Otherwise a single stream may carry less than the rate of the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffers_refused: Option<String>,
}

#[cfg(test)]
impl LinkSetting {
    /// Returns a link with this single queueing discipline of the kernel at both ends.
    pub(crate) fn example(tree: String) -> Self {
        let end = EndSetting { tree: vec![tree], buffers_refused: None };
        Self { backend: Backend::Kernel, source: end.clone(), destination: end }
    }
}

impl fmt::Display for LinkSetting {
    /// Writes both ends in one line. What they have in common appears once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, source, destination } = self;
        let trees = [source, destination].map(|end| format!("{backend} backend: {}", end.tree.join(", ")));
        let refusals = [source, destination].into_iter().filter_map(|end| end.buffers_refused.as_ref());
        let refusals = refusals.map(|reason| format!("TCP's buffers keep the kernel's limits: {reason}"));
        let mut parts: Vec<String> = trees.into_iter().chain(refusals).collect();
        parts.dedup();
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_of_both_ends_are_printed_once() {
        let end = |tree: &[&str], refused: Option<&str>| EndSetting {
            tree: tree.iter().map(ToString::to_string).collect(),
            buffers_refused: refused.map(Into::into),
        };
        let setting = |source, destination| LinkSetting { backend: Backend::Kernel, source, destination };
        let alike = setting(end(&["tbf", "netem"], None), end(&["tbf", "netem"], None));
        assert_eq!(alike.to_string(), "kernel backend: tbf, netem");
        let refused = setting(end(&["tbf"], Some("read-only")), end(&["tbf"], Some("read-only")));
        assert_eq!(
            refused.to_string(),
            "kernel backend: tbf; TCP's buffers keep the kernel's limits: read-only"
        );
        let different = setting(end(&["tbf 1"], None), end(&["tbf 2"], Some("why")));
        assert_eq!(
            different.to_string(),
            "kernel backend: tbf 1; kernel backend: tbf 2; TCP's buffers keep the kernel's limits: why"
        );
        let json = serde_json::to_string(&different).unwrap();
        assert_eq!(serde_json::from_str::<LinkSetting>(&json).unwrap(), different);
    }
}
