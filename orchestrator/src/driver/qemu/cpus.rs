//! Which CPUs a host's QEMU can give a guest, in QEMU's own words.
//!
//! A guest that migrates needs a CPU that both hosts can run. The flags in `/proc/cpuinfo` do not say that:
//! KVM adds and leaves out, and so does the host's own hypervisor where it is a guest. QEMU knows, so it is
//! asked.

use super::machine::QEMU;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, Write},
    process::{Command, Stdio},
};

/// What QEMU says of CPUs on a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cpus {
    /// Whether it was asked about KVM; else it was about TCG.
    pub kvm: bool,
    /// The models of which the host lacks no feature.
    pub models: BTreeSet<String>,
    /// Under KVM, what the model `host` comes to: its features with their values.
    pub host: BTreeMap<String, Value>,
}

impl Cpus {
    /// Asks this host's QEMU.
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
            json!({ "execute": "query-cpu-definitions", "id": "models" }),
        ];
        if kvm {
            let arguments = json!({ "type": "full", "model": { "name": "host" } });
            questions.push(
                json!({ "execute": "query-cpu-model-expansion", "arguments": arguments, "id": "host" }),
            );
        }
        // One that has ended says why below.
        let mut stdin = qemu.stdin.take();
        for question in questions {
            let _ = stdin.as_mut().map(|stdin| writeln!(stdin, "{question}"));
        }
        let answers = Self::read(BufReader::new(qemu.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?), kvm);
        // Not by `quit`: it ends at once then, and answers that are on their way are lost.
        qemu.kill()?;
        let output = qemu.wait_with_output()?;
        answers.map_err(|error| {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = format!("{QEMU} does not tell which CPUs it has: {error} {}", words.trim());
            io::Error::other(words.trim_end().to_string())
        })
    }

    /// Reads what it answers, as far as it was asked.
    fn read(answers: impl BufRead, kvm: bool) -> io::Result<Self> {
        let (mut models, mut host) = (None, None);
        for line in answers.lines() {
            let mut answer: Value = serde_json::from_str(&line?)?;
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
            (Some(models), Some(host)) => Ok(Self { kvm, models, host }),
            (Some(models), None) if !kvm => Ok(Self { kvm, models, host: BTreeMap::new() }),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The features in which the model `host` differs.
    pub fn differences<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a str> {
        let names = self.host.keys().chain(other.host.keys());
        names.filter(|name| self.host.get(*name) != other.host.get(*name)).map(String::as_str).collect()
    }

    /// A model that both can run, for the users to name: the richest of a list of known ones, else any.
    pub fn common<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let both: BTreeSet<&str> = self.models.intersection(&other.models).map(String::as_str).collect();
        // These two are whatever the host is.
        let mut models = both.iter().filter(|name| !["host", "max"].contains(name));
        RICHEST_FIRST.iter().find(|name| both.contains(*name)).or_else(|| models.next()).copied()
    }
}

/// Some models, so that one that can do more comes before one that can do less.
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

    const ANSWERS: &str = r#"{"QMP": {"version": {}}}
{"return": {}}
{"return": [{"name": "Denverton", "unavailable-features": ["mpx"]}, {"name": "qemu64", "unavailable-features": []}, {"name": "max"}], "id": "models"}
{"return": {"model": {"name": "host", "props": {"avx": true, "level": 13}}}, "id": "host"}
"#;

    #[test]
    fn a_model_counts_where_no_feature_is_missing() {
        let cpus = Cpus::read(ANSWERS.as_bytes(), true).unwrap();
        assert_eq!(cpus.models, BTreeSet::from(["qemu64".to_string()]));
        assert_eq!(cpus.host["level"], 13);
        assert!(Cpus::read(&b"{\"return\": {}}\n"[..], true).is_err());
        // What was cut off is no answer.
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
        assert_eq!(here.differences(&there), BTreeSet::from(["avx", "sha"]));
        assert!(here.differences(&here).is_empty());
        assert_eq!(here.common(&there), Some("qemu64"));
        let there = Cpus { models: BTreeSet::from(["max".to_string()]), ..there };
        assert_eq!(there.common(&there), None);
    }

    #[test]
    fn the_qemu_here_has_its_own_model() {
        match Cpus::of_qemu(false) {
            Ok(cpus) => assert!(cpus.models.contains("qemu64"), "{cpus:?}"),
            Err(error) => println!("skipped: {error}"),
        }
    }
}
