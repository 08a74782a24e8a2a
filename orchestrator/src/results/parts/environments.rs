//! Comparison of the environments of a run's parts, limited to what can affect the figures.
//!
//! When a part ran, how much memory its nodes have, and what else its hosts did at the time are not compared.

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
use units::counted;

/// A property that differs between the environments of the parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnvironmentDifference {
    /// The name of the property.
    pub what: String,
    /// Each value of the property, with the folders of the parts that have it.
    pub values: IndexMap<String, Vec<PathBuf>>,
}

/// The environment of a part, or the reason why it is unknown.
pub(super) struct PartEnvironment {
    pub(super) path: PathBuf,
    pub(super) environment: Result<Environment, String>,
}

impl PartEnvironment {
    pub(super) fn read(folder: &Folder) -> Self {
        let environment = match store::environment(&folder.path) {
            Ok(Some(environment)) => Ok(environment),
            Ok(None) => Err(format!("{} has no {}", folder.path.display(), store::ENVIRONMENT)),
            Err(error) => Err(error.to_string()),
        };
        Self { path: folder.path.clone(), environment }
    }
}

/// Returns the differences between the environments of the parts, and the reasons why environments are
/// unknown.
pub(super) fn compare(
    plan: &Plan,
    parts: &[PartEnvironment],
    backend: BackendOf,
) -> (Vec<EnvironmentDifference>, Vec<String>) {
    let mut properties: IndexMap<String, IndexMap<String, Vec<PathBuf>>> = IndexMap::new();
    let mut unknown = Vec::new();
    for part in parts {
        match &part.environment {
            Ok(environment) => {
                for (what, value) in describe(plan, environment, backend) {
                    properties.entry(what).or_default().entry(value).or_default().push(part.path.clone());
                }
            }
            Err(why) => unknown.push(why.clone()),
        }
    }
    let differences = properties.into_iter().filter(|(_, values)| values.len() > 1);
    (differences.map(|(what, values)| EnvironmentDifference { what, values }).collect(), unknown)
}

/// Returns the name and the value of each property of an environment that can affect the figures.
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
    let mut properties = vec![
        named("testbed", environment.version.clone()),
        named("lab", lab.kind.clone()),
        named("QEMU", ends(&|node| node.qemu.as_ref().unwrap_or(&environment.qemu).clone())),
    ];
    if let Some(machine_type) = &environment.machine_type {
        properties.push(named("machine type", machine_type.clone()));
    }
    for (accel, choice) in &environment.accelerators {
        let accel = serde_json::to_value(accel).unwrap_or_default();
        let name = format!("accelerator for guest.accel {}", accel.as_str().unwrap_or_default());
        properties.push((name, accelerator(choice.accelerator).to_string()));
    }
    properties.extend([
        named("CPU", ends(&|node| format!("{} {}", node.cpus, node.cpu_model))),
        named("host kernel", ends(&|node| node.kernel.clone())),
        named("namespaces", ends(&|node| privilege(node.privilege).to_string())),
        named("guest kernel", environment.guest_kernel.clone()),
        // The start of the digest of the kernel, the modules and the stressor.
        named("guest files", environment.guest_digest.chars().take(12).collect()),
        named("link backend", backends(plan, environment, backend)),
    ]);
    properties
}

const fn accelerator(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg",
    }
}

const fn privilege(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::Root => "created by root",
        Privilege::UserNamespace => "created by an ordinary user",
    }
}

/// Returns the backends that shape the links of the plan's cells in this environment. All cells of the plan
/// count, also those of other parts: since the parts have different cells, they are compared by the backends
/// that they would use for the same cells.
fn backends(plan: &Plan, environment: &Environment, backend: BackendOf) -> String {
    let mut counts: IndexMap<String, usize> = IndexMap::new();
    for cell in &plan.cells {
        *counts.entry(backend(&cell.settings, &environment.lab)).or_default() += 1;
    }
    if counts.len() == 1 {
        return counts.into_keys().collect();
    }
    let counts = counts.iter().map(|(backend, cells)| format!("{backend} for {}", counted(*cells, "cell")));
    counts.collect::<Vec<_>>().join(" and ")
}
