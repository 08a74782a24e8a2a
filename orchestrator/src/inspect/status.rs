//! `testbed lab status`: the runs in progress in a lab, and the hosts of the lab.
//!
//! What a node shows is under the control of its user. Runs of other users are labelled with the user's name.

use super::{
    observe::{Interface, Observation},
    processes::{self, LabState, NodeProcess, ObservedNode, display_order},
};
use crate::{
    lab::{
        Error,
        hosts::ssh::{SshHosts, Upload},
        topology::EMULATED,
    },
    layout::hanging,
};
use frontend::one_line;
use nix::unistd::geteuid;
use serde::Serialize;
use std::{fmt, io, path::Path};
use units::{Bytes, counted};

/// The status of a lab. Its fields are the JSON of `testbed lab status --json`.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The hosts of the lab; empty for the local lab.
    pub hosts: Vec<HostStatus>,
    /// The runs in progress, sorted by name.
    pub runs: Vec<RunStatus>,
}

/// The status of a host of the lab.
#[derive(Debug, Serialize)]
pub struct HostStatus {
    /// The name of the node that the inventory assigns to the host.
    pub node: &'static str,
    /// Its name for ssh.
    pub host: String,
    /// Its observation; `None` if it does not answer.
    pub seen: Option<Observation>,
    /// The reason why it does not answer.
    pub problem: Option<String>,
}

/// The status of a run in progress.
#[derive(Debug, Serialize)]
pub struct RunStatus {
    /// The name of the run: the process ID of its orchestrator, `4711`; on hosts other than the
    /// orchestrator's, `4711@host`.
    pub run: String,
    /// The user who owns its nodes.
    pub user: String,
    /// The command line of its orchestrator, if that is on this host.
    pub command: Option<String>,
    /// Its nodes: controller, compute1, compute2.
    pub nodes: Vec<ObservedNode>,
}

impl Status {
    /// Observes the local labs on this host.
    pub fn local() -> io::Result<Self> {
        let nodes = processes::nodes()?.into_iter().filter(|seen| !seen.process.remote);
        Ok(Self { hosts: Vec::new(), runs: by_run(nodes) })
    }

    /// Observes the hosts of a lab. A host that does not answer is not an error; its status says why.
    pub async fn of_hosts(SshHosts { inventory, access }: &SshHosts) -> Result<Self, Error> {
        let program = Upload::read(Path::new("/proc/self/exe"))?;
        let asked = inventory.hosts().map(|(node, name)| {
            let (host, program) = (access.host(name), &program);
            async move {
                let looked = async {
                    host.observe::<Observation>(&host.install(program).await?, &["--nodes".into()]).await
                };
                let (seen, problem) = match looked.await {
                    Ok(seen) => (Some(seen), None),
                    Err(error) => (None, Some(error.to_string())),
                };
                HostStatus { node, host: name.into(), seen, problem }
            }
        });
        let mut hosts = futures::future::join_all(asked).await;
        let mut nodes = Vec::new();
        for host in hosts.iter_mut().filter_map(|host| host.seen.as_mut()) {
            nodes.extend(host.nodes.drain(..).filter(|seen| seen.process.remote));
        }
        Ok(Self { hosts, runs: by_run(nodes) })
    }

    /// Returns whether every host of the lab answers.
    pub fn all_hosts_answer(&self) -> bool {
        self.hosts.iter().all(|host| host.problem.is_none())
    }

    /// Removes the text form of the shaping, which JSON does not need: it contains the same as data.
    #[must_use]
    pub fn without_text(mut self) -> Self {
        for seen in self.runs.iter_mut().flat_map(|run| &mut run.nodes) {
            for interface in &mut seen.interfaces {
                interface.shown.clear();
            }
        }
        self
    }
}

/// Groups nodes by run and user. Returns the runs sorted by name.
fn by_run(nodes: impl IntoIterator<Item = ObservedNode>) -> Vec<RunStatus> {
    let mut runs: Vec<RunStatus> = Vec::new();
    for node in nodes {
        match runs.iter_mut().find(|run| run.nodes[0].process.is_of_same_lab(&node.process)) {
            Some(run) => run.nodes.push(node),
            None => runs.push(RunStatus {
                run: node.process.run.clone(),
                user: node.process.user.clone(),
                command: node.process.command(),
                nodes: vec![node],
            }),
        }
    }
    for run in &mut runs {
        run.nodes.sort_by_key(|node| display_order(&node.process.name));
    }
    runs.sort_by(|a, b| (&a.run, &a.user).cmp(&(&b.run, &b.user)));
    runs
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for host in &self.hosts {
            write!(f, "{host}")?;
        }
        if !self.hosts.is_empty() {
            writeln!(f)?;
        }
        if self.runs.is_empty() {
            // An ordinary user does not see the runs of others on this host. On the hosts of an inventory,
            // `testbed observe` runs as root and sees them all.
            let which = if geteuid().is_root() { "no run" } else { "none of your runs" };
            let (which, place) =
                if self.hosts.is_empty() { (which, "on this host") } else { ("no run", "on these hosts") };
            return writeln!(f, "{which} is in progress {place}");
        }
        for (i, run) in self.runs.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{run}")?;
        }
        Ok(())
    }
}

impl fmt::Display for HostStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, host, seen, problem } = self;
        if let Some(problem) = problem {
            writeln!(f, "{node:<10} {host} does not answer: {}", hanging(problem))?;
        }
        let Some(Observation { facts, interfaces, .. }) = seen else { return Ok(()) };
        let qemu =
            facts.qemu.as_ref().map_or("no QEMU".into(), |version| format!("QEMU {}", one_line(version)));
        let [free, all] = [facts.available_memory_bytes, facts.memory_bytes]
            .map(|bytes| Bytes::new(bytes).rounded_binary());
        let free =
            format!("{free} of {all} free{}", if facts.limited_by_cgroup { " in its cgroup" } else { "" });
        writeln!(
            f,
            "{node:<10} {host} answers: {}, {}, {free}, Linux {}, {qemu}",
            one_line(&facts.cpu_model),
            counted(facts.cpus, "CPU"),
            one_line(&facts.kernel)
        )?;
        let interfaces: Vec<String> = interfaces.iter().map(brief).collect();
        writeln!(f, "{:<10} interfaces: {}", "", interfaces.join("; "))
    }
}

/// Formats an interface as its name, its addresses and its state.
fn brief(Interface { name, up, addresses, .. }: &Interface) -> String {
    let state = if *up { "up" } else { "down" };
    [name.as_str(), &addresses.join(" "), state]
        .into_iter()
        .filter(|word| !word.is_empty())
        .map(one_line)
        .collect::<Vec<_>>()
        .join(" ")
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = self.nodes.iter().map(|node| node.process.for_s).fold(0.0, f64::max);
        let command =
            self.command.as_ref().map_or(String::new(), |command| format!(" ({})", one_line(command)));
        let state = match LabState::least_complete(self.nodes.iter().map(|node| &node.process)) {
            LabState::Complete => "",
            LabState::Starting => ", starting",
            LabState::Ending => ", incomplete",
        };
        // Nodes on other hosts belong to root there.
        let own = |process: &NodeProcess| if process.remote { 0 } else { geteuid().as_raw() };
        let is_foreign = self.nodes.iter().any(|node| node.process.uid != own(&node.process));
        let user = if is_foreign { format!(" of user {}", one_line(&self.user)) } else { String::new() };
        writeln!(f, "run {}{user}{command}, started {age:.0} s ago{state}", one_line(&self.run))?;
        for ObservedNode { process, interfaces, qemus, problem } in &self.nodes {
            writeln!(f, "  {}, process {}", one_line(&process.name), process.pid)?;
            for interface in interfaces {
                let how = match interface.name.as_str() {
                    EMULATED => ", shaped by the emulator in compute1",
                    _ if interface.is_shaped() => "",
                    _ => ", not shaped",
                };
                writeln!(f, "    {}{how}", brief(interface))?;
                if interface.is_shaped() {
                    for line in interface.shown.lines().skip(1) {
                        writeln!(f, "    {line}")?;
                    }
                }
            }
            for qemu in qemus {
                writeln!(
                    f,
                    "    QEMU {}, process {}, started {:.0} s ago",
                    one_line(&qemu.role),
                    qemu.pid,
                    qemu.for_s
                )?;
            }
            if let Some(problem) = problem {
                writeln!(f, "    {}", one_line(problem))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_printed_as_a_list() {
        let interface = Interface {
            name: "migration".into(),
            up: true,
            addresses: vec!["192.0.2.1/24".into()],
            shaping: Some(serde_json::json!({ "sends": { "rate": "300mbit" }, "receives": null })),
            shown: "migration\n  sends:    {rate:300mbit}\n".into(),
        };
        let plain = Interface {
            name: "guests".into(),
            up: false,
            addresses: Vec::new(),
            shaping: Some(serde_json::json!({ "sends": null, "receives": null })),
            shown: "guests\n  sends:    nothing applied\n".into(),
        };
        let qemus = vec![processes::Qemu { role: "source".into(), pid: 12, for_s: 3.4 }];
        let observed = |name: &str| ObservedNode {
            process: NodeProcess::sample(name, "x"),
            interfaces: vec![plain.clone(), interface.clone()],
            qemus: qemus.clone(),
            problem: None,
        };
        let status =
            Status { hosts: Vec::new(), runs: by_run([observed("compute1"), observed("controller")]) };
        let text = status.to_string();
        let node = |name: &str| {
            format!(
                "  {name}, process 1\n    guests down, not shaped\n    migration 192.0.2.1/24 up\n      \
                 sends:    {{rate:300mbit}}\n    QEMU source, process 12, started 3 s ago\n"
            )
        };
        let expected =
            format!("run x, started 1 s ago, incomplete\n{}{}", node("controller"), node("compute1"));
        assert_eq!(text, expected);
        let mut forged = by_run([observed("compute1")]);
        forged[0].command = Some("testbed run a\nrun 7, started".into());
        forged[0].nodes[0].qemus[0].role = "source\n  compute2".into();
        let forged = Status { hosts: Vec::new(), runs: forged }.to_string();
        assert_eq!(forged.lines().count(), node("compute1").lines().count() + 1, "{forged}");
        let json = serde_json::to_value(status.without_text()).unwrap();
        assert_eq!(json["runs"][0]["nodes"][0]["name"], "controller");
        assert!(json["runs"][0]["nodes"][0]["interfaces"][0].get("shown").is_none());
    }
}
