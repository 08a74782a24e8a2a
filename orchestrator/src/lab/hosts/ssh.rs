//! A lab of hosts that are reached by SSH, with the system's `ssh`: its configuration, agents and jump hosts
//! work.
//!
//! What a host needs is put into a directory of it once, under the digest of its content: this program, and
//! on the compute hosts what guests boot from. Then this program is started there as a node, by root, and
//! served through the SSH session. Nothing else is installed, and nothing listens. A node makes interfaces of
//! its own on the host's ([`crate::node::server::host`]), in a network namespace that goes with it; the
//! host's interfaces and addresses stay as they are.
//!
//! When the session ends, however it ends, the node ends with all that it started. A connection that hangs is
//! noticed at both ends: by `ssh` after eight seconds, by the node after as many.

use super::{
    inventory::{Become, ComputeHost, Inventory},
    memfile::Memfile,
};
use crate::{
    image::GuestFiles,
    lab::{
        Compute, Description, Error, Lab, serve_through,
        topology::{CONTROLLER_ADDRESS, GUESTS, MIGRATION, PREFIX},
    },
    node::{
        Node,
        round_trip::RoundTrips,
        server::{serve::ALIVE_INTERVAL, visit::Visit},
    },
};
use nix::unistd::gethostname;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{self, Stdio},
};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

/// Never ask, give up soon, and notice a dead connection in eight seconds.
const OPTIONS: [&str; 5] = [
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=2",
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",
];

/// Where things are put on a host that the inventory says nothing about.
const CACHE: &str = "\"${XDG_CACHE_HOME:-$HOME/.cache}\"/testbed/uploads";

/// Starts a node on each host of the inventory and connects them.
pub async fn start(Hosts { inventory, way }: &Hosts, guest: &GuestFiles) -> Result<Lab, Error> {
    let program = Upload::read(Path::new("/proc/self/exe"))?;
    let images = [&guest.kernel, &guest.initramfs].map(|path| Upload::read(path));
    let [kernel, initramfs] = images;
    let (kernel, initramfs) = (kernel?, initramfs?);

    let controller = async {
        let host = way.host(&inventory.controller.host);
        let root = host.as_root(&program).await?;
        let (node, process) = host.start_node("controller", &root).await?;
        node.attach(&inventory.controller.guests, GUESTS).await?;
        node.set_up(GUESTS, Some((CONTROLLER_ADDRESS, PREFIX))).await?;
        Ok::<_, Error>((node, process))
    };
    let compute = async |which, name, compute: &ComputeHost| {
        let host = way.host(&compute.host);
        let images = inventory.images.as_deref();
        let guest = (host.put(&kernel, images).await?, host.put(&initramfs, images).await?);
        let root = host.as_root(&program).await?;
        let (node, process) = host.start_node(name, &root).await?;
        node.attach(&compute.guests, GUESTS).await?;
        node.attach(&compute.migration, MIGRATION).await?;
        let compute = Compute::new(node, which, Some(guest));
        compute.node.set_up(MIGRATION, Some((compute.shaped.address, PREFIX))).await?;
        Ok::<_, Error>((compute, process))
    };
    // At once: each takes some round trips of SSH, and a slow host takes seconds for one.
    let (controller, source, destination) = tokio::join!(
        controller,
        compute(0, "compute1", &inventory.compute1),
        compute(1, "compute2", &inventory.compute2),
    );
    // Of several that fail, the same one is named each time.
    let ((controller, first), (source, second), (destination, third)) = (controller?, source?, destination?);
    let mut source_facts = source.node.facts().await?;
    source_facts.no_emulator = Some("the emulator is for nodes on one machine".into());
    let description = Description {
        kind: "ssh".into(),
        source: source_facts,
        destination: destination.node.facts().await?,
        round_trips: Some(RoundTrips::measure(&controller, &source.node, &destination.node).await?),
    };
    let processes = [first, second, third];
    Ok(Lab::new(controller, [source, destination], description, None, processes))
}

/// The hosts of an inventory, and how they are reached.
#[derive(Debug)]
pub struct Hosts {
    /// The inventory.
    pub inventory: Inventory,
    /// The way to its hosts.
    pub way: Way,
}

impl From<Inventory> for Hosts {
    /// Those of the user's own inventory, reached as it has it.
    fn from(inventory: Inventory) -> Self {
        let config = inventory.ssh_config.clone().map(SshConfig::File);
        let way = Way { config, root: inventory.r#become };
        Self { inventory, way }
    }
}

/// How hosts are reached.
#[derive(Debug)]
pub struct Way {
    pub(super) config: Option<SshConfig>,
    pub(super) root: Become,
}

/// The configuration for ssh, where it is not the user's own.
#[derive(Debug)]
pub(super) enum SshConfig {
    /// A file that an inventory names.
    File(PathBuf),
    /// One in memory.
    Memory(Memfile),
}

impl SshConfig {
    fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Memory(file) => file.path(),
        }
    }
}

impl Way {
    pub(crate) fn host<'a>(&'a self, name: &'a str) -> Host<'a> {
        Host { way: self, name }
    }
}

/// A host of the inventory.
pub(crate) struct Host<'a> {
    way: &'a Way,
    name: &'a str,
}

/// Something to put on a host.
pub(crate) struct Upload {
    content: Vec<u8>,
    digest: String,
}

impl Upload {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let content = fs::read(path)?;
        let mut digest = String::new();
        for byte in Sha256::digest(&content) {
            let _ = write!(digest, "{byte:02x}");
        }
        Ok(Self { content, digest })
    }
}

impl Host<'_> {
    fn failed(&self, reason: impl Into<String>) -> Error {
        Error::Host { host: self.name.into(), reason: reason.into() }
    }

    /// `ssh`, about to run a script there in a POSIX shell, whichever the user's own is; on a terminal or
    /// not.
    fn plain_ssh(&self, terminal: bool, script: &str) -> process::Command {
        let mut command = process::Command::new("ssh");
        if let Some(config) = &self.way.config {
            command.arg("-F").arg(config.path());
        }
        for option in OPTIONS {
            command.args(["-o", option]);
        }
        let terminal = if terminal { "-t" } else { "-T" };
        command.args([terminal, "--", self.name, &format!("exec sh -c {}", quoted(script))]);
        command
    }

    /// The same, to be spoken with through its standard streams.
    fn ssh(&self, script: &str) -> Command {
        let mut command = Command::from(self.plain_ssh(false, script));
        // An interrupt from the terminal is the orchestrator's to act on.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a script with this input; what it prints.
    async fn run(&self, script: &str, input: &[u8]) -> Result<String, Error> {
        let mut child = self.ssh(script).spawn().map_err(|e| self.failed(format!("cannot run ssh: {e}")))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A host that does not want it says why below.
            let _ = stdin.write_all(input).await;
        }
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(self.failed(format!("{} ({})", words.trim(), output.status)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
    }

    /// Puts a file into this directory of the host, or the user's cache there, unless it is there; its path.
    pub(crate) async fn put(&self, upload: &Upload, directory: Option<&Path>) -> Result<String, Error> {
        let directory = directory.map_or_else(|| CACHE.to_string(), |path| quoted(&path.to_string_lossy()));
        let Upload { content, digest } = upload;
        let there = format!("d={directory}; if test -s \"$d/{digest}\"; then printf %s \"$d/{digest}\"; fi");
        let path = self.run(&there, b"").await?;
        if !path.is_empty() {
            return Ok(path);
        }
        // Under another name until it is whole: the connection may be cut.
        let store = format!(
            "set -e; d={directory}; mkdir -p \"$d\"; t=$(mktemp \"$d/.new.XXXXXX\"); trap 'rm -f \"$t\"' EXIT HUP TERM; \
             cat > \"$t\"; test \"$(wc -c < \"$t\")\" -eq {}; chmod 755 \"$t\"; mv \"$t\" \"$d/{digest}\"; \
             printf %s \"$d/{digest}\"",
            content.len()
        );
        self.run(&store, content).await
    }

    /// Starts a node there, by a program that [`Host::as_root`] has put there.
    pub(crate) async fn start_node(&self, name: &str, program: &str) -> Result<(Node, Child), Error> {
        let run = quoted(&run_name());
        let script = format!("exec {program} node --name {name} --run {run} --remote \"$SSH_CONNECTION\"");
        let mut process =
            self.ssh(&script).spawn().map_err(|e| self.failed(format!("cannot run ssh: {e}")))?;
        let node = serve_through(name, &mut process).await.map_err(|error| match error {
            Error::Start { reason, .. } => self.failed(format!("its node does not start: {reason}")),
            other => other,
        })?;
        node.keep_alive(ALIVE_INTERVAL);
        Ok((node, process))
    }

    /// The words of a POSIX shell that run this program as root there, once it has been put there.
    pub(crate) async fn as_root(&self, program: &Upload) -> Result<String, Error> {
        Ok(self.root_words(&self.put(program, None).await?))
    }

    /// The words of a POSIX shell that run the program of this path as root there.
    pub(crate) fn root_words(&self, path: &str) -> String {
        let path = quoted(path);
        match self.way.root {
            Become::Sudo => format!("sudo -n {path}"),
            Become::None => path,
        }
    }

    /// What a user's commands there say.
    pub(crate) async fn ask(&self, script: &str) -> Result<String, Error> {
        self.run(script, b"").await
    }

    /// Looks around there, by a program that [`Host::as_root`] has put there; `words` are more of the
    /// command.
    pub(crate) async fn observe<T: DeserializeOwned>(
        &self,
        program: &str,
        words: &[String],
    ) -> Result<T, Error> {
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        let script = format!("exec {program} observe {}", words.join(" "));
        let found = self.run(&script, b"").await?;
        serde_json::from_str(&found)
            .map_err(|e| self.failed(format!("what it says of itself makes no sense: {e}")))
    }

    /// `ssh`, about to bring a program into a node there, or onto the host itself, as root, with this
    /// process's standard streams; on a terminal or not. `program` as for [`Host::observe`].
    pub(crate) fn visit(&self, program: &str, visit: &Visit, terminal: bool) -> process::Command {
        let mut script = format!("exec {program} enter --remote {}", visit.node);
        if let Some(pid) = visit.pid {
            let _ = write!(script, " --pid {pid}");
        }
        script += " --";
        for word in &visit.program {
            let _ = write!(script, " {}", quoted(&word.to_string_lossy()));
        }
        self.plain_ssh(terminal, &script)
    }
}

/// The name of this process's runs on other hosts.
fn run_name() -> String {
    let host = gethostname().unwrap_or_default();
    format!("{}@{}", process::id(), host.to_string_lossy())
}

/// As one word of a POSIX shell.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_is_one_word_of_a_shell() {
        for text in ["", "plain", "a b", "it's", "$HOME `x` \"y\" \\ *", "'\n'"] {
            let output =
                process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(text))]).output();
            assert_eq!(String::from_utf8_lossy(&output.unwrap().stdout), text);
        }
    }
}
