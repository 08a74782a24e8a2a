//! In what the machines of a run's parts differ, as far as it can matter for the figures.
//!
//! Not compared: when a part ran, how much memory its nodes have, and what else they did at the time.

use super::{BackendOf, Folder};
use crate::{
    matrix::Plan,
    results::{
        environment::{Accelerator, Environment, Node, Privilege},
        store,
    },
};
use indexmap::IndexMap;
use serde::Serialize;
use std::path::PathBuf;

/// Something that is not the same on the machines of all parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What differs.
    pub what: String,
    /// Each value, and the folders of the parts that have it.
    pub values: IndexMap<String, Vec<PathBuf>>,
}

/// A part, and what it ran on, or why that is not known.
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) environment: Result<Environment, String>,
}

impl Part {
    pub(super) fn read(folder: &Folder) -> Self {
        let environment = match store::environment(&folder.path) {
            Ok(Some(environment)) => Ok(environment),
            Ok(None) => Err(format!("{} has no {}", folder.path.display(), store::ENVIRONMENT)),
            Err(error) => Err(error.to_string()),
        };
        Self { path: folder.path.clone(), environment }
    }
}

/// What differs, and why which environments are not known.
pub(super) fn compare(plan: &Plan, parts: &[Part], backend: BackendOf) -> (Vec<Difference>, Vec<String>) {
    let mut facets: IndexMap<String, IndexMap<String, Vec<PathBuf>>> = IndexMap::new();
    let mut unknown = Vec::new();
    for part in parts {
        match &part.environment {
            Ok(environment) => {
                for (what, value) in describe(plan, environment, backend) {
                    facets.entry(what).or_default().entry(value).or_default().push(part.path.clone());
                }
            }
            Err(why) => unknown.push(why.clone()),
        }
    }
    let differences = facets.into_iter().filter(|(_, values)| values.len() > 1);
    (differences.map(|(what, values)| Difference { what, values }).collect(), unknown)
}

/// What can matter of an environment, by name.
fn describe(plan: &Plan, environment: &Environment, backend: BackendOf) -> Vec<(String, String)> {
    let Environment { lab, .. } = environment;
    let ends = |fact: &dyn Fn(&Node) -> String| {
        let (source, destination) = (fact(&lab.source), fact(&lab.destination));
        if source == destination {
            return source;
        }
        format!("{source} at the source and {destination} at the destination")
    };
    let named = |name: &str, value: String| (name.to_string(), value);
    let mut facets = vec![
        named("testbed", environment.version.clone()),
        named("lab", lab.kind.clone()),
        named("QEMU", ends(&|node| node.qemu.as_ref().unwrap_or(&environment.qemu).clone())),
    ];
    for (wish, choice) in &environment.accelerators {
        let wish = serde_json::to_value(wish).unwrap_or_default();
        let name = format!("accelerator where the matrix has {}", wish.as_str().unwrap_or_default());
        facets.push((name, accelerator(choice.accelerator).to_string()));
    }
    facets.extend([
        named("CPU", ends(&|node| format!("{} {}", node.cpus, node.cpu_model))),
        named("host kernel", ends(&|node| node.kernel.clone())),
        named("namespaces", ends(&|node| privilege(node.privilege).to_string())),
        named("guest kernel", environment.guest_kernel.clone()),
        // A digest of the kernel, the modules and the stressor.
        named("guest files", environment.guest_digest.chars().take(12).collect()),
        named("link backend", backends(plan, environment, backend)),
    ]);
    facets
}

const fn accelerator(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg",
    }
}

const fn privilege(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::Root => "made by root",
        Privilege::UserNamespace => "made by an ordinary user",
    }
}

/// What carries out the links of all of the plan's cells there, those of other parts too: parts have
/// different cells, and are compared by what they would do with the same ones.
fn backends(plan: &Plan, environment: &Environment, backend: BackendOf) -> String {
    let mut counts: IndexMap<String, usize> = IndexMap::new();
    for cell in &plan.cells {
        *counts.entry(backend(&cell.settings, &environment.lab)).or_default() += 1;
    }
    if counts.len() == 1 {
        return counts.into_keys().collect();
    }
    let counts = counts.iter().map(|(backend, cells)| format!("{backend} for {cells} cells"));
    counts.collect::<Vec<_>>().join(" and ")
}
