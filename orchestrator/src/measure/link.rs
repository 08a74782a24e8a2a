//! What a link was set to.

use netem::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a link was set to, in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkSetting {
    /// What shapes it.
    pub backend: Backend,
    /// The source's end.
    pub source: EndSetting,
    /// The destination's end.
    pub destination: EndSetting,
}

/// What one end of a link was set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndSetting {
    /// What shapes its packets, from the root down; nothing where nothing does. The emulator has the same for
    /// both ends.
    pub tree: Vec<String>,
    /// Why TCP's buffers could not be given the size that the link takes; absent where they have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffers_refused: Option<String>,
}

#[cfg(test)]
impl LinkSetting {
    /// A link that the kernel shapes by this alone, at both ends.
    pub(crate) fn example(tree: String) -> Self {
        let end = EndSetting { tree: vec![tree], buffers_refused: None };
        Self { backend: Backend::Kernel, source: end.clone(), destination: end }
    }
}

impl fmt::Display for LinkSetting {
    /// What both ends have in common is written once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, source, destination } = self;
        let trees = [source, destination].map(|end| format!("{backend} backend: {}", end.tree.join(", ")));
        let refusals = [source, destination].into_iter().filter_map(|end| end.buffers_refused.as_ref());
        let refusals = refusals.map(|reason| format!("TCP's buffers are limited as before: {reason}"));
        let mut parts: Vec<String> = trees.into_iter().chain(refusals).collect();
        parts.dedup();
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_ends_share_is_said_once() {
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
            "kernel backend: tbf; TCP's buffers are limited as before: read-only"
        );
        let different = setting(end(&["tbf 1"], None), end(&["tbf 2"], Some("why")));
        assert_eq!(
            different.to_string(),
            "kernel backend: tbf 1; kernel backend: tbf 2; TCP's buffers are limited as before: why"
        );
        let json = serde_json::to_string(&different).unwrap();
        assert_eq!(serde_json::from_str::<LinkSetting>(&json).unwrap(), different);
    }
}
