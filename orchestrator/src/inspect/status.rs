//! What is under way in a lab: `testbed lab status`.

use super::{
    observe::{Interface, Observation},
    processes::{self, Seen, Stage, rank},
};
use crate::lab::{
    Error,
    hosts::ssh::{Hosts, Upload},
    topology::EMULATED,
};
use serde::Serialize;
use std::{fmt, io, path::Path};

/// What is under way in a lab.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The hosts that the nodes are on; none for the local lab.
    pub hosts: Vec<HostStatus>,
    /// The runs under way.
    pub runs: Vec<RunStatus>,
}

/// A host of the lab.
#[derive(Debug, Serialize)]
pub struct HostStatus {
    /// The node that it is for.
    pub node: &'static str,
    /// Its name for ssh.
    pub host: String,
    /// What it said of itself.
    pub seen: Option<Observation>,
    /// Why it did not, if so.
    pub problem: Option<String>,
}

/// A run that is under way.
#[derive(Debug, Serialize)]
pub struct RunStatus {
    /// Its name: the number of its orchestrator's process, and on other hosts than that one's the host's name
    /// too.
    pub run: String,
    /// What its orchestrator was started as, where that is on this host.
    pub command: Option<String>,
    /// Its nodes.
    pub nodes: Vec<Seen>,
}

impl Status {
    /// Of this machine's own lab.
    pub fn local() -> io::Result<Self> {
        let nodes = processes::nodes()?.into_iter().filter(|seen| !seen.process.remote);
        Ok(Self { hosts: Vec::new(), runs: by_run(nodes) })
    }

    /// Of a lab of hosts. One that does not answer is no error here.
    pub async fn of(Hosts { inventory, way }: &Hosts) -> Result<Self, Error> {
        let program = Upload::read(Path::new("/proc/self/exe"))?;
        let asked = inventory.hosts().map(|(node, name)| {
            let (host, program) = (way.host(name), &program);
            async move {
                let looked = async {
                    host.observe::<Observation>(&host.as_root(program).await?, &["--nodes".into()]).await
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

    /// Whether every host answers.
    pub fn is_whole(&self) -> bool {
        self.hosts.iter().all(|host| host.problem.is_none())
    }

    /// For JSON: without what is there in another form.
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

/// Nodes of one run together, the runs in the order of their names.
fn by_run(nodes: impl IntoIterator<Item = Seen>) -> Vec<RunStatus> {
    let mut runs: Vec<RunStatus> = Vec::new();
    for seen in nodes {
        let name = seen.process.run.clone();
        match runs.iter_mut().find(|run| run.run == name) {
            Some(run) => run.nodes.push(seen),
            None => {
                runs.push(RunStatus { command: seen.process.command(), run: name, nodes: vec![seen] });
            }
        }
    }
    for run in &mut runs {
        run.nodes.sort_by_key(|seen| rank(&seen.process.name));
    }
    runs.sort_by(|a, b| a.run.cmp(&b.run));
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
            let whose = if nix::unistd::geteuid().is_root() { "no run" } else { "no run of yours" };
            let (whose, place) =
                if self.hosts.is_empty() { (whose, "on this machine") } else { ("no run", "on these hosts") };
            return writeln!(f, "{whose} is under way {place}");
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
            writeln!(f, "{node:<10} {host} does not answer: {problem}")?;
        }
        let Some(Observation { facts, interfaces, .. }) = seen else { return Ok(()) };
        let qemu = facts.qemu.as_ref().map_or("no QEMU".into(), |version| format!("QEMU {version}"));
        let (free, all) = (facts.available_memory_bytes >> 20, facts.memory_bytes >> 20);
        writeln!(
            f,
            "{node:<10} {host} answers: {}, {} CPUs, {free} of {all} MiB free, Linux {}, {qemu}",
            facts.cpu_model, facts.cpus, facts.kernel
        )?;
        let interfaces: Vec<String> = interfaces.iter().map(brief).collect();
        writeln!(f, "{:<10} interfaces: {}", "", interfaces.join("; "))
    }
}

/// An interface in some words.
fn brief(Interface { name, up, addresses, .. }: &Interface) -> String {
    let state = if *up { "up" } else { "down" };
    [name.as_str(), &addresses.join(" "), state]
        .into_iter()
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = self.nodes.iter().map(|seen| seen.process.for_s).fold(0.0, f64::max);
        let command = self.command.as_ref().map_or(String::new(), |command| format!(" ({command})"));
        let stage = match Stage::least_of(self.nodes.iter().map(|seen| &seen.process)) {
            Stage::Complete => "",
            Stage::Starting => ", starting",
            Stage::Ending => ", incomplete",
        };
        writeln!(f, "run {}{command}, for {age:.0} s{stage}", self.run)?;
        for Seen { process, interfaces, qemus, problem } in &self.nodes {
            writeln!(f, "  {}, process {}", process.name, process.pid)?;
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
                writeln!(f, "    QEMU {}, process {}, for {:.0} s", qemu.role, qemu.pid, qemu.for_s)?;
            }
            if let Some(problem) = problem {
                writeln!(f, "    {problem}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::processes::NodeProcess;

    #[test]
    fn a_status_reads_as_a_list() {
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
        let seen = |name: &str| Seen {
            process: NodeProcess::sample(name, "x"),
            interfaces: vec![plain.clone(), interface.clone()],
            qemus: qemus.clone(),
            problem: None,
        };
        let status = Status { hosts: Vec::new(), runs: by_run([seen("compute1"), seen("controller")]) };
        let text = status.to_string();
        let node = |name: &str| {
            format!(
                "  {name}, process 1\n    guests down, not shaped\n    migration 192.0.2.1/24 up\n      sends:    {{rate:300mbit}}\n    \
                 QEMU source, process 12, for 3 s\n"
            )
        };
        assert_eq!(text, format!("run x, for 1 s, incomplete\n{}{}", node("controller"), node("compute1")));
        let json = serde_json::to_value(status.without_text()).unwrap();
        assert_eq!(json["runs"][0]["nodes"][0]["name"], "controller");
        assert!(json["runs"][0]["nodes"][0]["interfaces"][0].get("shown").is_none());
    }
}
