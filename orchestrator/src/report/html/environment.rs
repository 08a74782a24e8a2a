//! The environment of a run: versions, accelerator, hosts.

use super::{Detail, Section, view::View};
use crate::results::{
    environment::{Environment, Node},
    store,
};
use maud::{Markup, html};

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let body = html! {
        @for folder in &view.folders {
            @if view.folders.len() > 1 { h3 { (folder.display()) } }
            @match store::environment(folder) {
                Ok(Some(environment)) => (show(&environment)),
                Ok(None) => p { "The run has no environment yet." },
                Err(error) => p { "The environment is unknown: " (error) },
            }
        }
    };
    Some(Section { id: "environment", title: "Environment", body })
}

fn show(environment: &Environment) -> Markup {
    html! {
        dl {
            dt { "testbed" } dd { (environment.version) }
            dt { "QEMU" } dd { (environment.qemu) }
            @if let Some(machine) = &environment.machine_type { dt { "machine type" } dd { (machine) } }
            @for (asked, choice) in &environment.accelerators {
                dt { "accelerator" }
                dd {
                    strong { (word(&choice.accelerator)) } " (asked for: " (word(asked)) "): " (choice.reason)
                    @if let Some(trial) = &choice.trial { "; " (trial) }
                }
            }
            dt { "guest" }
            dd { "Linux " (environment.guest_kernel) ", SHA-256 " code { (environment.guest_digest) } }
            @if let Some(confinement) = &environment.confinement {
                dt { "confinement" }
                dd {
                    (if confinement.sandbox { "seccomp" } else { "no seccomp" })
                    @if let Some(user) = &confinement.user { ", QEMU as " (user) }
                    @for lack in &confinement.lacks { "; lacks " (lack) }
                }
            }
            dt { "lab" } dd { (environment.lab.kind) }
            dt { "started" } dd { (environment.started_at.strftime("%Y-%m-%d %H:%M:%S UTC")) }
        }
        div.scroll tabindex="0" role="region" aria-label="The hosts" {
            table {
                caption { "The hosts" }
                thead {
                    tr { td {} th scope="col" { "source" } th scope="col" { "destination" } }
                }
                tbody {
                    @for (name, value) in FACTS {
                        tr {
                            th scope="row" { (name) }
                            td { (value(&environment.lab.source)) }
                            td { (value(&environment.lab.destination)) }
                        }
                    }
                }
            }
        }
    }
}

/// A fact about a node, as text.
type Fact = (&'static str, fn(&Node) -> String);

const FACTS: [Fact; 7] = [
    ("CPU", |node| format!("{} × {}", node.cpus, node.cpu_model)),
    ("memory", |node| gibibytes(node.memory_bytes)),
    ("memory available", |node| node.available_memory_bytes.map(gibibytes).unwrap_or_default()),
    ("kernel", |node| node.kernel.clone()),
    ("QEMU", |node| node.qemu.clone().unwrap_or_default()),
    ("privilege", |node| word(&node.privilege)),
    ("link modules", |node| node.features.iter().cloned().collect::<Vec<_>>().join(", ")),
];

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// Returns the word by which records name a value.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
