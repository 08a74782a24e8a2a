//! The CPU models and machine types that a host's QEMU can give a guest, as QEMU reports them.
//!
//! A guest that migrates needs a CPU that both hosts can run. The flags in `/proc/cpuinfo` do not answer
//! that: KVM adds and removes features, and so does the host's own hypervisor if the host is a virtual
//! machine. QEMU knows, so this module asks QEMU.

use super::{
    machine::{Accelerator, QEMU},
    machine_types::MachineTypes,
};
use crate::bounded::{CHANNEL_LINE_BYTES, read_line};
use futures::future;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufRead, AsyncReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time,
};

/// The time limit for QEMU's answers. Under TCG it takes a tenth of a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How much of QEMU's standard error is read, in bytes.
const STDERR_BYTES: u64 = 64 << 10;

/// The CPU models that QEMU supports on a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cpus {
    /// The accelerator that these models are for.
    pub accelerator: Accelerator,
    /// The models with all of their features available on the host.
    pub models: BTreeSet<String>,
    /// The features of the model `host` with their values. Empty under TCG.
    pub host: BTreeMap<String, Value>,
    /// The machine types; `None` if QEMU does not say.
    pub machines: Option<MachineTypes>,
}

impl Cpus {
    /// Starts this host's QEMU without a guest and asks it for its CPU models with this accelerator.
    ///
    /// # Errors
    ///
    /// QEMU cannot be started, or does not answer as expected within 30 s; the error contains what it
    /// wrote to standard error.
    pub async fn of_qemu(accelerator: Accelerator) -> io::Result<Self> {
        Self::of_program(QEMU, accelerator, ANSWER_LIMIT).await
    }

    async fn of_program(program: &str, accelerator: Accelerator, limit: Duration) -> io::Result<Self> {
        let machine = format!("none,accel={}", accelerator.name());
        let mut qemu = Command::new(program)
            .args([
                "-machine",
                &machine,
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
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = qemu.id().map(|pid| Pid::from_raw(pid.cast_signed()));
        let pipes = (qemu.stdin.take(), qemu.stdout.take(), qemu.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut questions = vec![
            json!({ "execute": "qmp_capabilities" }),
            json!({ "execute": "query-machines", "id": "machines" }),
            json!({ "execute": "query-cpu-definitions", "id": "models" }),
        ];
        if accelerator == Accelerator::Kvm {
            let arguments = json!({ "type": "full", "model": { "name": "host" } });
            questions.push(
                json!({ "execute": "query-cpu-model-expansion", "arguments": arguments, "id": "host" }),
            );
        }
        let answers = async {
            // If QEMU has exited, writing fails; its standard error then says why, below.
            for question in questions {
                let _ = stdin.write_all(format!("{question}\n").as_bytes()).await;
            }
            Self::read(BufReader::new(stdout), accelerator).await
        };
        let (answers, text) = future::join(
            async {
                let answers = time::timeout(limit, answers).await;
                // The command `quit` would end QEMU immediately and lose answers that are still to be
                // written. QEMU may be the child of a script, which then leads the group.
                let _ = group.map(|group| killpg(group, Signal::SIGKILL));
                answers.unwrap_or_else(|_| Err(io::Error::other(format!("no answer in {limit:?}"))))
            },
            async {
                let mut text = Vec::new();
                let _ = time::timeout(limit, stderr.take(STDERR_BYTES).read_to_end(&mut text)).await;
                text
            },
        )
        .await;
        qemu.wait().await?;
        answers.map_err(|error| {
            let stderr = String::from_utf8_lossy(&text);
            let message = format!("cannot get the CPU models from {program}: {error} {}", stderr.trim());
            io::Error::other(message.trim_end().to_string())
        })
    }

    /// Reads QEMU's answers until the last expected one. The model `host` is expected under KVM only.
    async fn read(mut answers: impl AsyncBufRead + Unpin, accelerator: Accelerator) -> io::Result<Self> {
        let (mut models, mut host, mut machines) = (None, None, None);
        let mut line = Vec::new();
        while read_line(&mut answers, &mut line, CHANNEL_LINE_BYTES).await? {
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
                    let features = answer.pointer_mut("/return/model/props").map(Value::take);
                    host = Some(serde_json::from_value(features.unwrap_or_default())?);
                }
                _ => {}
            }
            match (&models, &host) {
                (Some(_), Some(_)) => break,
                (Some(_), None) if accelerator == Accelerator::Tcg => break,
                _ => {}
            }
        }
        match (models, host) {
            (Some(models), Some(host)) => Ok(Self { accelerator, models, host, machines }),
            (Some(models), None) if accelerator == Accelerator::Tcg => {
                Ok(Self { accelerator, models, host: BTreeMap::new(), machines })
            }
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
    use std::fs;

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

    #[tokio::test]
    async fn a_model_is_supported_if_no_feature_is_unavailable() {
        let cpus = Cpus::read(ANSWERS.as_bytes(), Accelerator::Kvm).await.unwrap();
        assert_eq!(cpus.models, BTreeSet::from(["qemu64".to_string()]));
        assert_eq!(cpus.host["level"], 13);
        assert!(Cpus::read(&b"{\"return\": {}}\n"[..], Accelerator::Kvm).await.is_err());
        // Answers that end early are an error.
        let without_host = &ANSWERS.as_bytes()[..ANSWERS.find(r#"{"return": {"model""#).unwrap()];
        assert!(Cpus::read(without_host, Accelerator::Kvm).await.is_err());
        assert_eq!(Cpus::read(without_host, Accelerator::Tcg).await.unwrap().models, cpus.models);
        let refused = r#"{"error": {"class": "GenericError", "desc": "no such model"}, "id": "host"}"#;
        assert!(
            Cpus::read(refused.as_bytes(), Accelerator::Kvm)
                .await
                .unwrap_err()
                .to_string()
                .contains("no such model")
        );
    }

    #[tokio::test]
    async fn two_hosts_are_compared_feature_by_feature() {
        let here = Cpus::read(ANSWERS.as_bytes(), Accelerator::Kvm).await.unwrap();
        let there = ANSWERS.replace("\"avx\": true", "\"avx\": false, \"sha\": true");
        let there = Cpus::read(there.as_bytes(), Accelerator::Kvm).await.unwrap();
        assert_eq!(here.host_differences(&there), BTreeSet::from(["avx", "sha"]));
        assert!(here.host_differences(&here).is_empty());
        assert_eq!(here.common_model(&there), Some("qemu64"));
        let there = Cpus { models: BTreeSet::from(["max".to_string()]), ..there };
        assert_eq!(there.common_model(&there), None);
    }

    #[tokio::test]
    async fn this_hosts_qemu_supports_its_own_model() {
        match Cpus::of_qemu(Accelerator::Tcg).await {
            Ok(cpus) => assert!(cpus.models.contains("qemu64"), "{cpus:?}"),
            Err(error) => println!("skipped: {error}"),
        }
    }

    #[tokio::test]
    async fn answers_of_another_form_are_an_error() {
        for features in ["\"text\"", "[1]", "{\"model\": 2}"] {
            let answer = format!("{{\"return\": {features}, \"id\": \"host\"}}");
            assert!(Cpus::read(answer.as_bytes(), Accelerator::Kvm).await.is_err(), "{features}");
        }
    }

    #[tokio::test]
    async fn a_qemu_behind_a_script_that_does_not_answer_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (script, pid) = (folder.path().join("qemu"), folder.path().join("pid"));
        let text = format!("#!/bin/sh\nsleep 1000 & echo $! > {}\necho waiting >&2\nwait\n", pid.display());
        // A script that this process has written cannot be executed while a child of another test, which
        // does not execute its program yet, still holds the file.
        let write = ["-c", r#"printf %s "$1" >"$0" && chmod 755 "$0""#, script.to_str().unwrap(), &text];
        assert!(Command::new("sh").args(write).status().await.unwrap().success());
        let asked =
            Cpus::of_program(script.to_str().unwrap(), Accelerator::Tcg, Duration::from_secs(5)).await;
        let error = asked.unwrap_err().to_string();
        assert!(error.ends_with("no answer in 5s waiting"), "{error}");
        let state = format!("/proc/{}/stat", fs::read_to_string(&pid).unwrap().trim());
        let is_gone = || fs::read_to_string(&state).map_or(true, |stat| stat.contains(") Z "));
        while !is_gone() {
            time::sleep(Duration::from_millis(10)).await;
        }
    }
}
