//! The CPU models and machine types that a host's QEMU can give a guest, as QEMU reports them.
//!
//! A guest that migrates needs a CPU that both hosts can run. The flags in `/proc/cpuinfo` do not answer
//! that: KVM adds and removes features, and so does the host's own hypervisor if the host is a virtual
//! machine. QEMU knows, so this module asks QEMU.

use super::{machine::QEMU, machine_types::MachineTypes};
use crate::bounded::{CHANNEL_LINE_BYTES, read_line_blocking};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, Write},
    process::{Command, Stdio},
};

/// The CPU models that QEMU supports on a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cpus {
    /// Whether these are the models under KVM; otherwise they are those under TCG.
    pub kvm: bool,
    /// The models with all of their features available on the host.
    pub models: BTreeSet<String>,
    /// The features of the model `host` with their values. Empty under TCG.
    pub host: BTreeMap<String, Value>,
    /// The machine types; `None` if QEMU does not say.
    pub machines: Option<MachineTypes>,
}

impl Cpus {
    /// Starts this host's QEMU without a guest and asks it for its CPU models, under KVM or under TCG.
    ///
    /// # Errors
    ///
    /// QEMU cannot be started, or does not answer as expected; the error contains what it wrote to standard
    /// error.
    pub fn of_qemu(kvm: bool) -> io::Result<Self> {
        let machine = if kvm { "none,accel=kvm" } else { "none,accel=tcg" };
        let mut qemu = Command::new(QEMU)
            .args([
                "-machine",
                machine,
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-qmp",
                "stdio",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut questions = vec![
            json!({ "execute": "qmp_capabilities" }),
            json!({ "execute": "query-machines", "id": "machines" }),
            json!({ "execute": "query-cpu-definitions", "id": "models" }),
        ];
        if kvm {
            let arguments = json!({ "type": "full", "model": { "name": "host" } });
            questions.push(
                json!({ "execute": "query-cpu-model-expansion", "arguments": arguments, "id": "host" }),
            );
        }
        // If QEMU has exited, writing fails; its standard error then says why, below.
        let mut stdin = qemu.stdin.take();
        for question in questions {
            let _ = stdin.as_mut().map(|stdin| writeln!(stdin, "{question}"));
        }
        let answers = Self::read(BufReader::new(qemu.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?), kvm);
        // The command `quit` would end QEMU immediately and lose answers that are still to be written.
        qemu.kill()?;
        let output = qemu.wait_with_output()?;
        answers.map_err(|error| {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let message = format!("cannot get the CPU models from {QEMU}: {error} {}", stderr.trim());
            io::Error::other(message.trim_end().to_string())
        })
    }

    /// Reads QEMU's answers until the last expected one. The model `host` is expected under KVM only.
    fn read(mut answers: impl BufRead, kvm: bool) -> io::Result<Self> {
        let (mut models, mut host, mut machines) = (None, None, None);
        let mut line = Vec::new();
        while read_line_blocking(&mut answers, &mut line, CHANNEL_LINE_BYTES)? {
            let mut answer: Value = serde_json::from_slice(&line)?;
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(error.to_string()));
            }
            match answer["id"].as_str() {
                Some("models") => {
                    let runs =
                        |model: &&Value| model["unavailable-features"].as_array().is_some_and(Vec::is_empty);
                    let all = answer["return"].as_array().cloned().unwrap_or_default();
                    let names = all.iter().filter(runs).filter_map(|model| model["name"].as_str());
                    models = Some(names.map(ToString::to_string).collect());
                }
                Some("machines") => machines = Some(MachineTypes::from_answer(&answer["return"])),
                Some("host") => {
                    host = Some(serde_json::from_value(answer["return"]["model"]["props"].take())?);
                }
                _ => {}
            }
            match (&models, &host) {
                (Some(_), Some(_)) => break,
                (Some(_), None) if !kvm => break,
                _ => {}
            }
        }
        match (models, host) {
            (Some(models), Some(host)) => Ok(Self { kvm, models, host, machines }),
            (Some(models), None) if !kvm => Ok(Self { kvm, models, host: BTreeMap::new(), machines }),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Returns the names of the features in which the model `host` differs between the two hosts.
    pub fn host_differences<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a str> {
        let names = self.host.keys().chain(other.host.keys());
        names.filter(|name| self.host.get(*name) != other.host.get(*name)).map(String::as_str).collect()
    }

    /// Returns a model that both hosts can run, to suggest to the user: the one with the most features among
    /// the well-known models, otherwise any.
    pub fn common_model<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let both: BTreeSet<&str> = self.models.intersection(&other.models).map(String::as_str).collect();
        // These two stand for a different CPU on each host.
        let mut models = both.iter().filter(|name| !["host", "max"].contains(name));
        RICHEST_FIRST.iter().find(|name| both.contains(*name)).or_else(|| models.next()).copied()
    }
}

/// Well-known CPU models, those with more features before those with fewer.
const RICHEST_FIRST: [&str; 15] = [
    "SapphireRapids",
    "Icelake-Server",
    "Cascadelake-Server",
    "Skylake-Server",
    "EPYC-Milan",
    "EPYC-Rome",
    "EPYC",
    "Broadwell",
    "Haswell",
    "Westmere",
    "Nehalem",
    "Penryn",
    "core2duo",
    "kvm64",
    "qemu64",
];

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERS: &str = concat!(
        r#"{"QMP": {"version": {}}}"#,
        "\n",
        r#"{"return": {}}"#,
        "\n",
        r#"{"return": [{"name": "Denverton", "unavailable-features": ["mpx"]}, "#,
        r#"{"name": "qemu64", "unavailable-features": []}, {"name": "max"}], "id": "models"}"#,
        "\n",
        r#"{"return": {"model": {"name": "host", "props": {"avx": true, "level": 13}}}, "id": "host"}"#,
        "\n",
    );

    #[test]
    fn a_model_is_supported_if_no_feature_is_unavailable() {
        let cpus = Cpus::read(ANSWERS.as_bytes(), true).unwrap();
        assert_eq!(cpus.models, BTreeSet::from(["qemu64".to_string()]));
        assert_eq!(cpus.host["level"], 13);
        assert!(Cpus::read(&b"{\"return\": {}}\n"[..], true).is_err());
        // Answers that end early are an error.
        let without_host = &ANSWERS.as_bytes()[..ANSWERS.find(r#"{"return": {"model""#).unwrap()];
        assert!(Cpus::read(without_host, true).is_err());
        assert_eq!(Cpus::read(without_host, false).unwrap().models, cpus.models);
        let refused = r#"{"error": {"class": "GenericError", "desc": "no such model"}, "id": "host"}"#;
        assert!(Cpus::read(refused.as_bytes(), true).unwrap_err().to_string().contains("no such model"));
    }

    #[test]
    fn two_hosts_are_compared_feature_by_feature() {
        let here = Cpus::read(ANSWERS.as_bytes(), true).unwrap();
        let there = ANSWERS.replace("\"avx\": true", "\"avx\": false, \"sha\": true");
        let there = Cpus::read(there.as_bytes(), true).unwrap();
        assert_eq!(here.host_differences(&there), BTreeSet::from(["avx", "sha"]));
        assert!(here.host_differences(&here).is_empty());
        assert_eq!(here.common_model(&there), Some("qemu64"));
        let there = Cpus { models: BTreeSet::from(["max".to_string()]), ..there };
        assert_eq!(there.common_model(&there), None);
    }

    #[test]
    fn this_hosts_qemu_supports_its_own_model() {
        match Cpus::of_qemu(false) {
            Ok(cpus) => assert!(cpus.models.contains("qemu64"), "{cpus:?}"),
            Err(error) => println!("skipped: {error}"),
        }
    }
}
