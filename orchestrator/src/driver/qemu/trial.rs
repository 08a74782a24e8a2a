//! A trial of a guest machine: starts a QEMU with the machine but without a guest, to find out what the host
//! cannot do.
//!
//! Only QEMU knows which CPU models it has, which of them an accelerator can run, and how much memory it gets
//! from the kernel. So a QEMU is started with exactly the machine of an attempt, but its CPUs stay stopped
//! (`-S`), and its memory untouched. That takes a quarter of a second.

use super::{
    machine::{GuestMachine, QEMU, Role},
    machine_types::MachineTypes,
    parameters::Parameters,
    process::{self, QemuProcess},
    qmp,
    support::Support,
    tls::{self, Certificates},
};
use crate::{lab::Compute, measure::End};
use serde_json::{Value, json};
use std::path::Path;
use stressor::workload::PageSize;

/// The features of a guest's CPU, according to QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuFeatures {
    /// Whether the CPU supports pages of 2 MiB.
    pub pages_2m: bool,
    /// Whether the CPU supports pages of 1 GiB.
    pub pages_1g: bool,
}

impl CpuFeatures {
    /// Returns the CPU feature that a page size needs and this CPU lacks, by its name in QEMU.
    pub fn lacks_for(self, size: PageSize) -> Option<&'static str> {
        match size {
            PageSize::Huge2M if !self.pages_2m => Some("pse"),
            PageSize::Huge1G if !self.pages_1g => Some("pdpe1gb"),
            _ => None,
        }
    }
}

/// The result of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// QEMU can create the machine, and these are the features of its CPU.
    Possible(CpuFeatures),
    /// QEMU refuses the machine, for this reason.
    Refused(String),
    /// The trial itself failed, which says nothing about the machine.
    Unknown(String),
}

/// Tries a machine on a node. The output of its QEMU is appended to `log`.
pub async fn try_machine(node: &Compute, machine: &GuestMachine, log: &Path) -> Verdict {
    let ask = async |monitor: &qmp::Client| {
        let cpus: Value = monitor.query("query-cpus-fast").await?;
        let path = &cpus[0]["qom-path"];
        let has = async |property| {
            let question = json!({ "path": path, "property": property });
            Ok::<_, process::Error>(monitor.call("qom-get", question).await? == true)
        };
        Ok(CpuFeatures { pages_2m: has("pse").await?, pages_1g: has("pdpe1gb").await? })
    };
    run(node, machine, Role::Trial, log, ask).await.map_or_else(|error| verdict_on(&error), Verdict::Possible)
}

/// Tries a machine on a node like [`try_machine`], and asks its QEMU for its machine types.
///
/// # Errors
///
/// Why QEMU refuses the machine or the trial failed, as text.
pub async fn machine_types(
    node: &Compute,
    machine: &GuestMachine,
    log: &Path,
) -> Result<MachineTypes, String> {
    let ask =
        async |monitor: &qmp::Client| Ok(MachineTypes::from_answer(&monitor.query("query-machines").await?));
    run(node, machine, Role::Trial, log, ask)
        .await
        .map_err(|error| refused(&error).unwrap_or_else(|| error.to_string()))
}

/// Tries migrations of a machine with these capabilities and parameters, at one end. Returns, for each, why
/// QEMU refuses it, as a clause about QEMU, or nothing if it accepts it.
///
/// # Errors
///
/// The trial itself failed, which says nothing about the migrations.
pub async fn try_migrations(
    node: &Compute,
    end: End,
    machine: &GuestMachine,
    migrations: &[Parameters],
    log: &Path,
) -> Result<Vec<Option<String>>, process::Error> {
    let role = match end {
        End::Source => Role::Trial,
        End::Destination => Role::IncomingTrial,
    };
    if end == End::Destination && migrations.iter().any(Parameters::is_postcopy) {
        machine.confinement.offer_userfaultfd(&node.node).await?;
    }
    let ask = async |monitor: &qmp::Client| {
        let support = Support::of(monitor).await?;
        let encrypts = migrations.iter().any(Parameters::is_encrypted);
        let no_tls = if encrypts { refuses_tls(node, end, monitor, machine).await? } else { None };
        let mut refusals = Vec::new();
        for migration in migrations {
            refusals.push(match &no_tls {
                Some(reason) if migration.is_encrypted() => Some(format!("refuses it: {reason}")),
                _ => support.refusal(monitor, migration).await?,
            });
        }
        Ok(refusals)
    };
    run(node, machine, role, log, ask).await
}

/// Returns why QEMU does not accept certificates at an end; nothing if it does.
async fn refuses_tls(
    node: &Compute,
    end: End,
    monitor: &qmp::Client,
    machine: &GuestMachine,
) -> Result<Option<String>, process::Error> {
    let given = async { Certificates::new()?.give_to(end, &node.node, monitor, machine.confinement).await };
    match given.await {
        Ok(()) => Ok(None),
        Err(tls::Error::Monitor(qmp::Error::Refused { reason, .. })) => Ok(Some(reason)),
        Err(tls::Error::Monitor(error)) => Err(error.into()),
        Err(tls::Error::Node(error)) => Err(error.into()),
        Err(error @ tls::Error::Certificate(_)) => Ok(Some(error.to_string())),
    }
}

/// Starts a QEMU with a machine, asks its monitor a question, and kills it.
async fn run<T>(
    node: &Compute,
    machine: &GuestMachine,
    role: Role,
    log: &Path,
    ask: impl AsyncFnOnce(&qmp::Client) -> Result<T, process::Error>,
) -> Result<T, process::Error> {
    let machine = GuestMachine { network: None, ..machine.clone() };
    let process = QemuProcess::start(&node.node, &machine, role, log).await?;
    let answer = process::while_alive(&process, async {
        let monitor = process::monitor(&node.node, &process).await?;
        ask(&monitor).await
    })
    .await;
    process.kill().await?;
    answer
}

/// Returns what an error says about the machine: a QEMU that exits on its own refuses it.
fn verdict_on(error: &process::Error) -> Verdict {
    refused(error).map_or_else(|| Verdict::Unknown(error.to_string()), Verdict::Refused)
}

/// Returns why QEMU refuses the machine, if the error says that it does.
fn refused(error: &process::Error) -> Option<String> {
    match error {
        process::Error::Died { lines, .. } if error.is_own_exit() => Some(refusal(lines)),
        _ => None,
    }
}

/// Returns QEMU's last words without its name, and without warnings, which have other causes.
fn refusal(lines: &[String]) -> String {
    let told: Vec<&str> = lines
        .iter()
        .map(|line| line.strip_prefix(QEMU).and_then(|line| line.strip_prefix(": ")).unwrap_or(line))
        .filter(|line| !line.starts_with("warning:"))
        .collect();
    if told.is_empty() { "it gives no reason".into() } else { told.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{NodeError, protocol::ExitStatus};

    #[test]
    fn a_refusal_is_what_qemu_says_before_it_exits() {
        let died = |status: &str, lines: &[&str]| process::Error::Died {
            which: Role::Trial.which(),
            status: ExitStatus::new(status),
            lines: lines.iter().copied().map(Into::into).collect(),
        };
        let says = [
            "qemu-system-x86_64: warning: TCG doesn't support requested feature",
            "qemu-system-x86_64: unable to find CPU model 'foo'",
        ];
        assert_eq!(
            verdict_on(&died("exit status: 1", &says)),
            Verdict::Refused("unable to find CPU model 'foo'".into())
        );
        let says = [
            "Could not access KVM kernel module: Permission denied",
            "qemu-system-x86_64: failed to initialize kvm: Permission denied",
        ];
        let both = "Could not access KVM kernel module: Permission denied; failed to initialize kvm: \
                    Permission denied";
        assert_eq!(verdict_on(&died("exit status: 1", &says)), Verdict::Refused(both.into()));
        assert_eq!(verdict_on(&died("exit status: 1", &[])), Verdict::Refused("it gives no reason".into()));
        assert!(matches!(verdict_on(&died("signal: 9 (SIGKILL)", &says)), Verdict::Unknown(_)));
        let gone = process::Error::Node(NodeError::Gone { node: "compute1".into() });
        assert!(matches!(verdict_on(&gone), Verdict::Unknown(_)));
    }

    #[test]
    fn huge_pages_need_a_feature_of_the_cpu() {
        let small = CpuFeatures { pages_2m: false, pages_1g: false };
        assert_eq!(small.lacks_for(PageSize::Small), None);
        assert_eq!(small.lacks_for(PageSize::Huge2M), Some("pse"));
        let usual = CpuFeatures { pages_2m: true, ..small };
        assert_eq!(usual.lacks_for(PageSize::Huge2M), None);
        assert_eq!(usual.lacks_for(PageSize::Huge1G), Some("pdpe1gb"));
        assert_eq!(CpuFeatures { pages_1g: true, ..usual }.lacks_for(PageSize::Huge1G), None);
    }
}
