//! A lab of hosts that are reached through the system's `ssh`, so its configuration, agents and jump hosts
//! work.
//!
//! The files that a host needs are uploaded once, into a directory there, named by the SHA-256 of their
//! content: this program, and on the compute hosts the guest's kernel and initramfs. Then this program is
//! started there as root, as a node, and talks to the orchestrator through the SSH session. Nothing else is
//! installed, and nothing listens on a port. A node creates its own interfaces on top of the host's
//! ([`crate::node::server::host`]), in a network namespace that ends with the node; the host's interfaces and
//! addresses are not changed.
//!
//! When the session ends, for whatever reason, the node and everything it started end. A dead connection is
//! detected at both ends after eight seconds: by `ssh` and by the node.

use super::{
    inventory::{Become, ComputeHost, Inventory},
    memfile::Memfile,
};
use crate::{
    bounded,
    image::GuestFiles,
    lab::{
        Compute, Description, Error, Lab, connect_node,
        topology::{CONTROLLER_ADDRESS, GUESTS, MIGRATION, PREFIX},
    },
    layout::{shell_line, shell_word},
    node::{
        Node,
        round_trip::RoundTrips,
        server::{
            serve::ALIVE_INTERVAL,
            visit::{NodeSession, Target},
        },
    },
};
use nix::unistd::gethostname;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs, iter,
    path::{Path, PathBuf},
    process::{self, Stdio},
};
use tokio::process::{Child, Command};

/// The options of `ssh`: never prompt, time out early, and detect a dead connection within eight seconds.
const SSH_OPTIONS: [&str; 5] = [
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=2",
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",
];

/// The upload directory on a host, as shell words, unless the inventory names another.
const UPLOAD_DIR: &str = "\"${XDG_CACHE_HOME:-$HOME/.cache}\"/testbed/uploads";

/// Starts a node on each host of the inventory and connects them.
pub async fn start(SshHosts { inventory, access }: &SshHosts, guest: &GuestFiles) -> Result<Lab, Error> {
    let program = Upload::read(Path::new("/proc/self/exe"))?;
    let images = [&guest.kernel, &guest.initramfs].map(|path| Upload::read(path));
    let [kernel, initramfs] = images;
    let (kernel, initramfs) = (kernel?, initramfs?);

    let controller = async {
        let host = access.host(&inventory.controller.host);
        let root = host.install(&program).await?;
        let (node, process) = host.start_node("controller", &root).await?;
        node.attach(&inventory.controller.guests, GUESTS).await?;
        node.set_up(GUESTS, Some((CONTROLLER_ADDRESS, PREFIX))).await?;
        Ok::<_, Error>((node, process))
    };
    let compute = async |which, name, compute: &ComputeHost| {
        let host = access.host(&compute.host);
        let images = inventory.images.as_deref();
        let guest = (host.upload(&kernel, images).await?, host.upload(&initramfs, images).await?);
        let root = host.install(&program).await?;
        let (node, process) = host.start_node(name, &root).await?;
        node.attach(&compute.guests, GUESTS).await?;
        node.attach(&compute.migration, MIGRATION).await?;
        let compute = Compute::new(node, which, Some(guest));
        compute.set_up(&compute.shaped).await?;
        Ok::<_, Error>((compute, process))
    };
    // In parallel: each takes several SSH round trips, and a slow host takes seconds for one.
    let (controller, source, destination) = tokio::join!(
        controller,
        compute(0, "compute1", &inventory.compute1),
        compute(1, "compute2", &inventory.compute2),
    );
    // If several fail, always report the same one.
    let ((controller, first), (source, second), (destination, third)) = (controller?, source?, destination?);
    let mut source_facts = source.node.facts().await?;
    source_facts.no_emulator = Some("the emulator works only between nodes on the same host".into());
    let description = Description {
        kind: "ssh".into(),
        source: source_facts,
        destination: destination.node.facts().await?,
        round_trips: Some(RoundTrips::measure(&controller, &source.node, &destination.node).await?),
    };
    let processes = [first, second, third];
    Ok(Lab::new(controller, [source, destination], description, None, processes))
}

/// The hosts of an inventory, and how to reach them.
#[derive(Debug)]
pub struct SshHosts {
    /// The hosts and the role of each.
    pub inventory: Inventory,
    /// How to reach the hosts and become root there.
    pub access: HostAccess,
}

impl From<Inventory> for SshHosts {
    /// Uses the ssh configuration that the inventory names, or else the user's.
    fn from(inventory: Inventory) -> Self {
        let config = inventory.ssh_config.clone().map(SshConfig::File);
        let access = HostAccess { config, become_root: inventory.r#become };
        Self { inventory, access }
    }
}

/// How to reach hosts through ssh and become root there.
#[derive(Debug)]
pub struct HostAccess {
    /// The configuration file for ssh; the user's own if `None`.
    pub(super) config: Option<SshConfig>,
    pub(super) become_root: Become,
}

/// A configuration for ssh other than the user's own.
#[derive(Debug)]
pub(super) enum SshConfig {
    /// A file named by the inventory.
    File(PathBuf),
    /// A file in memory: the output of `vagrant ssh-config`.
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

impl HostAccess {
    pub(crate) fn host<'a>(&'a self, name: &'a str) -> SshHost<'a> {
        SshHost { access: self, name }
    }
}

/// A host that is reached through ssh.
pub(crate) struct SshHost<'a> {
    access: &'a HostAccess,
    name: &'a str,
}

/// A file to upload to hosts, where it is named by its digest.
pub(crate) struct Upload {
    content: Vec<u8>,
    /// The SHA-256 of the content, in hexadecimal.
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

impl SshHost<'_> {
    fn failed(&self, reason: impl Into<String>) -> Error {
        Error::Host { host: self.name.into(), reason: reason.into() }
    }

    /// Returns an `ssh` command that runs a script on the host in `sh`, whatever the user's login shell is.
    /// `terminal` requests a terminal there.
    fn ssh_command(&self, terminal: bool, script: &str) -> process::Command {
        let mut command = process::Command::new("ssh");
        if let Some(config) = &self.access.config {
            command.arg("-F").arg(config.path());
        }
        for option in SSH_OPTIONS {
            command.args(["-o", option]);
        }
        let terminal = if terminal { "-t" } else { "-T" };
        command.args([terminal, "--", self.name, &format!("exec sh -c {}", shell_word(script))]);
        command
    }

    /// Returns [`Self::ssh_command`] without a terminal, with pipes for the standard streams.
    fn piped_ssh(&self, script: &str) -> Command {
        let mut command = Command::from(self.ssh_command(false, script));
        // A process group of its own: Ctrl-C must reach only the orchestrator.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a script on the host with this standard input. Returns its trimmed standard output.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] with the script's standard error if it exits with a failure.
    async fn run_with_input(&self, script: &str, input: &[u8]) -> Result<String, Error> {
        let spawned = self.piped_ssh(script).spawn();
        let child = spawned.map_err(|e| self.failed(format!("cannot run ssh: {e}")))?;
        let output = bounded::output_of(child, input).await.map_err(|e| self.failed(e.to_string()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(self.failed(format!("{} ({})", stderr.trim(), output.status)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
    }

    /// Uploads a file into `directory` on the host, or into the user's cache there if that is `None`, unless
    /// the file is already there. Returns its path on the host.
    pub(crate) async fn upload(&self, upload: &Upload, directory: Option<&Path>) -> Result<String, Error> {
        let directory =
            directory.map_or_else(|| UPLOAD_DIR.to_string(), |path| shell_word(&path.to_string_lossy()));
        let Upload { content, digest } = upload;
        let find = format!("d={directory}; if test -s \"$d/{digest}\"; then printf %s \"$d/{digest}\"; fi");
        let path = self.run_with_input(&find, b"").await?;
        if !path.is_empty() {
            return Ok(path);
        }
        // Use a temporary name until the file is complete: the connection may be cut.
        let store = format!(
            "set -e; d={directory}; mkdir -p \"$d\"; t=$(mktemp \"$d/.new.XXXXXX\"); \
             trap 'rm -f \"$t\"' EXIT HUP TERM; cat > \"$t\"; test \"$(wc -c < \"$t\")\" -eq {}; \
             chmod 755 \"$t\"; mv \"$t\" \"$d/{digest}\"; printf %s \"$d/{digest}\"",
            content.len()
        );
        self.run_with_input(&store, content).await
    }

    /// Starts a node on the host. `program` is the result of [`SshHost::install`]. Returns the node and the
    /// `ssh` process that leads to it.
    pub(crate) async fn start_node(&self, name: &str, program: &str) -> Result<(Node, Child), Error> {
        let run = shell_word(&run_name());
        let script = format!("exec {program} node --name {name} --run {run} --remote \"$SSH_CONNECTION\"");
        let mut process =
            self.piped_ssh(&script).spawn().map_err(|e| self.failed(format!("cannot run ssh: {e}")))?;
        let node = connect_node(name, &mut process).await.map_err(|error| match error {
            Error::Start { reason, .. } => self.failed(format!("the node does not start there: {reason}")),
            other => other,
        })?;
        node.keep_alive(ALIVE_INTERVAL);
        Ok((node, process))
    }

    /// Uploads this program into the user's cache on the host. Returns the shell words that run it there as
    /// root.
    pub(crate) async fn install(&self, program: &Upload) -> Result<String, Error> {
        Ok(self.root_command(&self.upload(program, None).await?))
    }

    /// Returns the shell words that run the program at this path on the host as root.
    pub(crate) fn root_command(&self, path: &str) -> String {
        let path = shell_word(path);
        match self.access.become_root {
            Become::Sudo => format!("sudo -n {path}"),
            Become::None => path,
        }
    }

    /// Runs a script on the host as the login user. Returns its trimmed standard output.
    pub(crate) async fn run_script(&self, script: &str) -> Result<String, Error> {
        self.run_with_input(script, b"").await
    }

    /// Runs `testbed observe` on the host with these arguments and parses its JSON output. `program` is the
    /// result of [`SshHost::install`].
    pub(crate) async fn observe<T: DeserializeOwned>(
        &self,
        program: &str,
        args: &[String],
    ) -> Result<T, Error> {
        let script = format!("exec {program} observe {}", shell_line(args));
        let output = self.run_with_input(&script, b"").await?;
        serde_json::from_str(&output)
            .map_err(|e| self.failed(format!("`testbed observe` printed invalid JSON there: {e}")))
    }

    /// Returns an `ssh` command that runs the session's program as root, in a node on the host or on the host
    /// itself, with this process's standard streams. `program` is the result of [`SshHost::install`];
    /// `terminal` requests a terminal there.
    pub(crate) fn enter_command(
        &self,
        program: &str,
        session: &NodeSession,
        terminal: bool,
    ) -> process::Command {
        let mut script = format!("exec {program} enter --remote {}", session.node);
        if let Some(Target { pid, run }) = &session.target {
            let _ = write!(script, " --pid {pid} --run {}", shell_word(run));
        }
        let words = session.program.iter().map(|word| word.to_string_lossy());
        let _ = write!(script, " {}", shell_line(iter::once("--".into()).chain(words)));
        self.ssh_command(terminal, &script)
    }
}

/// Returns the name that this process's run has on other hosts: `PID@HOST`.
fn run_name() -> String {
    let host = gethostname().unwrap_or_default();
    format!("{}@{}", process::id(), host.to_string_lossy())
}
