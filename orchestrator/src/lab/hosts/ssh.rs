//! A lab of hosts reached through the system's `ssh`, so its configuration, agents and jump hosts work.
//!
//! All exchanges with a host share one connection (`connection`), which never prompts the user. Each exchange
//! runs a script in `sh`, whatever the login shell is and prints (`shell`).
//!
//! The files that a host needs are uploaded once, into a directory there, named by the SHA-256 of their
//! content: this program, and on the compute hosts the guest's kernel and initramfs. Then this program is
//! started there as root, as a node, and talks to the orchestrator through the SSH session. Nothing else is
//! installed, and nothing listens on a port.
//!
//! A file is never trusted by its name. This program is run as root only from a directory in which only the
//! login user can write, and its digest is checked each time before it runs. The guest's files may be in a
//! directory that others write to: the node copies them, checks the copies, and gives QEMU the copies
//! ([`crate::node::protocol::Call::TakeUpload`]). Old uploads are removed ([`super::uploads`]). A node
//! creates its own interfaces on top of the host's ([`crate::node::server::host`]), in a network namespace
//! that ends with the node; the host's interfaces and addresses are not changed.
//!
//! When the session ends, for whatever reason, the node and everything it started end. A dead connection does
//! not end anything by itself, so each end watches for the other's silence ([`crate::node::alive`]).

use super::{
    cause::{self, CHANGED, NOT_ROOT},
    connection::{self, Connection, last_lines},
    host_path::HostPath,
    inventory::{Become, ComputeHost, Inventory},
    memfile::Memfile,
    session::HostSession,
    shell::{self, RemoteScript},
    storing::{self, UPLOAD_DIR},
};
use crate::{
    bounded,
    finding::StorageProblem,
    image::GuestFiles,
    lab::{
        Compute, Description, Error, Lab, LabKind, connect_node,
        topology::{CONTROLLER_ADDRESS, GUESTS, MIGRATION, PREFIX},
    },
    layout::{shell_line, shell_word},
    measure::End,
    node::{
        Node,
        alive::Carrier,
        protocol::UploadedFile,
        round_trip::RoundTrips,
        server::visit::{NodeSession, Target},
    },
    process_tree,
};
use data_encoding::HEXLOWER;
use futures::future::{self, Either};
use nix::{sys::signal::Signal, unistd::gethostname};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    pin::pin,
    process::{self, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::OnceCell,
    time,
};

/// The options of `ssh`: never prompt, and time out early. It asks every two seconds whether the host is
/// alive, so that the orchestrator sees its answers ([`Carrier`]), and gives up after a minute: it must not
/// give up earlier than the orchestrator ([`crate::node::alive::MOST_PATIENCE`]).
const SSH_OPTIONS: [&str; 5] = [
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=2",
    "ServerAliveCountMax=30",
    "ClearAllForwardings=yes",
];

/// The options of `ssh` that make every session run this program's script and nothing else, and print why it
/// fails, whatever the user's configuration sets for interactive sessions.
const SCRIPT_OPTIONS: [&str; 3] = ["RemoteCommand=none", "PermitLocalCommand=no", "LogLevel=INFO"];

/// The time limit for the login shell of a host to run a script, once the host has let the user in.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The time limit for a script that gets no input, once it has begun. The longest reads 13 MB on the host, or
/// starts QEMU there.
const SCRIPT_LIMIT: Duration = Duration::from_secs(120);

/// How long to wait for the marker on standard error once it is on standard output, where it arrives later,
/// and then for an `ssh` to exit. Start-up files may redirect standard error, or leave programs behind.
const GRACE: Duration = Duration::from_secs(1);

/// The exit code of an `ssh` that itself fails.
const SSH_FAILED: i32 = 255;

/// The maximum number of characters of the start-up files' output that are shown in a message.
const MAX_SHOWN_CHARS: usize = 300;

/// Checks that the program `$0` has the digest that is its name.
fn check_program() -> String {
    format!(
        "if test \"$(sha256sum < \"$0\")\" != \"${{0##*/}}  -\"; then echo \"$0 {CHANGED}\" >&2; exit 1; fi; "
    )
}

/// Starts a node on each host of the inventory and connects them.
pub async fn start(SshHosts { inventory, access }: &SshHosts, guest: &GuestFiles) -> Result<Lab, Error> {
    let program = Upload::read(Path::new("/proc/self/exe"))?;
    let images = [&guest.kernel, &guest.initramfs].map(|path| Upload::read(path));
    let [kernel, initramfs] = images;
    let (kernel, initramfs) = (kernel?, initramfs?);

    let controller = async {
        let host = access.host(&inventory.controller.host);
        let program = host.install(&program).await?;
        let (node, process) = host.start_node("controller", &program).await?;
        node.attach(&inventory.controller.guests, GUESTS).await?;
        node.set_up(GUESTS, Some((CONTROLLER_ADDRESS, PREFIX))).await?;
        Ok::<_, Error>((node, process))
    };
    let compute = async |end, name, compute: &ComputeHost| {
        let host = access.host(&compute.host);
        let images = inventory.images.as_ref();
        let kernel = kernel.at(host.upload(&kernel, images).await?);
        let initramfs = initramfs.at(host.upload(&initramfs, images).await?);
        let program = host.install(&program).await?;
        let (node, process) = host.start_node(name, &program).await?;
        let guest = (node.take_upload(kernel).await?, node.take_upload(initramfs).await?);
        node.attach(&compute.guests, GUESTS).await?;
        node.attach(&compute.migration, MIGRATION).await?;
        let compute = Compute::new(node, end, Some(guest));
        compute.set_up(&compute.shaped).await?;
        Ok::<_, Error>((compute, process))
    };
    // In parallel: each takes several SSH round trips, and a slow host may take seconds for each.
    let (controller, source, destination) = tokio::join!(
        controller,
        compute(End::Source, "compute1", &inventory.compute1),
        compute(End::Destination, "compute2", &inventory.compute2),
    );
    // If several fail, always report the same one.
    let ((controller, first), (source, second), (destination, third)) = (controller?, source?, destination?);
    let (mut source_facts, destination_facts) =
        future::try_join(source.node.facts(), destination.node.facts()).await?;
    source_facts.no_emulator = Some("the emulator works only between nodes on the same host".into());
    let description = Description {
        kind: LabKind::Ssh,
        source: source_facts,
        destination: destination_facts,
        round_trips: Some(RoundTrips::measure(&controller, &source.node, &destination.node).await?),
        images: inventory.images.as_ref().and_then(HostPath::absolute),
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
        let access = HostAccess {
            config,
            become_root: inventory.r#become,
            images: inventory.images.clone(),
            contacts: Contacts::default(),
        };
        Self { inventory, access }
    }
}

/// How to reach hosts through ssh and become root there.
#[derive(Debug)]
pub struct HostAccess {
    /// The configuration file for ssh; the user's own if `None`.
    pub(super) config: Option<SshConfig>,
    pub(super) become_root: Become,
    /// The directory for the guest's files, if the inventory names one.
    pub(super) images: Option<HostPath>,
    pub(super) contacts: Contacts,
}

/// What is known about each contacted host, by its name for ssh.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    connections: Mutex<HashMap<String, Arc<OnceCell<Arc<Connection>>>>>,
    /// What the start-up files of the login shell have printed.
    greetings: Mutex<BTreeMap<String, String>>,
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

    /// Returns what the login shells of the hosts have printed before running anything, as one message for
    /// each host.
    pub(crate) fn greetings(&self) -> Vec<String> {
        let greetings = self.contacts.greetings.lock().unwrap();
        greetings.iter().map(|(host, text)| format!("{host} printed at login:\n{text}")).collect()
    }

    /// Returns the arguments of every `ssh`: the configuration file and the options.
    pub(super) fn ssh_args(&self) -> Vec<OsString> {
        let mut args = Vec::new();
        if let Some(config) = &self.config {
            args.extend(["-F".into(), config.path().into()]);
        }
        for option in SSH_OPTIONS.into_iter().chain(SCRIPT_OPTIONS) {
            args.extend(["-o".into(), option.into()]);
        }
        args
    }

    /// Returns an `ssh` with [`Self::ssh_args`].
    pub(super) fn ssh(&self) -> process::Command {
        let mut command = process::Command::new("ssh");
        command.args(self.ssh_args());
        command
    }
}

/// A host that is reached through ssh.
#[derive(Clone, Copy)]
pub(crate) struct SshHost<'a> {
    access: &'a HostAccess,
    name: &'a str,
}

/// The maximum size of a file to upload. This program has 91 MiB with debugging information, and a kernel or
/// an initramfs at most 512 MiB.
const MAX_UPLOAD_BYTES: usize = 1 << 30;

/// A file to upload to hosts, where it is named by its digest.
pub(crate) struct Upload {
    content: Vec<u8>,
    /// The SHA-256 of the content, in hexadecimal.
    digest: String,
}

impl Upload {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let content = bounded::read_file(path, MAX_UPLOAD_BYTES)
            .map_err(|source| Error::Upload { path: path.into(), source })?;
        let digest = HEXLOWER.encode(&Sha256::digest(&content));
        Ok(Self { content, digest })
    }

    /// Describes the file as it is at this path on a host.
    fn at(&self, path: String) -> UploadedFile {
        UploadedFile { path, bytes: self.content.len() as u64, sha256: self.digest.clone() }
    }
}

/// This program on a host.
pub(crate) struct HostProgram {
    path: String,
}

impl HostProgram {
    /// Returns the program's path on the host.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl<'a> SshHost<'a> {
    pub(super) fn failed(&self, reason: impl Into<String>) -> Error {
        Error::Host { host: self.name.into(), reason: reason.into(), remedy: None }
    }

    /// Returns the error for a connection that `ssh` cannot open or has lost, with the remedy for what `ssh`
    /// has printed.
    fn not_reached(&self, reason: String, said: &str) -> Error {
        let remedy = Some(cause::reach_remedy(said, &self.login_command()));
        Error::Host { host: self.name.into(), reason, remedy }
    }

    /// Returns a command that must succeed if the host can be reached.
    pub(crate) fn login_command(&self) -> String {
        let config = match &self.access.config {
            None => String::new(),
            Some(SshConfig::File(path)) => format!("-F {} ", shell_word(&path.to_string_lossy())),
            Some(SshConfig::Memory(_)) => return format!("vagrant ssh {} -c true", self.name),
        };
        format!("ssh {config}{} true", self.name)
    }

    /// Returns the connection to the host, opening it if necessary.
    async fn connect(&self) -> Result<Arc<Connection>, Error> {
        let cell = {
            let mut connections = self.access.contacts.connections.lock().unwrap();
            Arc::clone(connections.entry(self.name.into()).or_default())
        };
        let open = async || Connection::open(self.access, self.name).await.map(Arc::new);
        let opened = cell.get_or_try_init(open).await;
        opened.map(Arc::clone).map_err(|reason: String| self.not_reached(reason.clone(), &reason))
    }

    /// Returns an `ssh` that takes a session of the connection to the host, with the text for the login shell
    /// there. `options` come first.
    async fn ssh_command(&self, options: &[&str], text: &OsStr) -> Result<process::Command, Error> {
        if text.len() > shell::MAX_TEXT_BYTES {
            return Err(self.failed(format!(
                "the command is too long to be sent: {} bytes, where {} are possible; put it into a file \
                 there",
                text.len(),
                shell::MAX_TEXT_BYTES
            )));
        }
        let connection = self.connect().await?;
        let mut command = process::Command::new("ssh");
        command.args(options).args(connection.args()).args(self.access.ssh_args());
        command.args(["--", self.name]).arg(text);
        Ok(command)
    }

    /// Starts a script on the host, with pipes for the standard streams, and waits until the host runs it.
    /// From then on, the pipes carry only what the script writes. If `input` is false, standard input is
    /// empty from the beginning.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the login shell ends without running the script, or does not do so in time.
    async fn start_script(&self, script: &RemoteScript, input: bool) -> Result<Child, Error> {
        let mut command = self.ssh_command(&["-T"], &script.text).await?;
        connection::unattended(&mut command, Signal::SIGKILL);
        command.stdin(if input { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = Command::from(command).kill_on_drop(true).spawn();
        let mut child = spawned.map_err(|e| self.failed(format!("cannot run ssh: {e}")))?;
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let greetings = read_greetings(&mut child, &script.marker, &mut said, &mut complained);
        let started = time::timeout(ANSWER_LIMIT, greetings).await;
        let greeting = format!("{}\n{}", shell::shown(&said), shell::shown(&complained)).trim().to_owned();
        match started {
            Ok(true) => {
                self.greeted(&greeting);
                Ok(child)
            }
            Ok(false) if said.len() >= shell::MAX_GREETING_BYTES => Err(self.failed(format!(
                "its login shell has printed {} KiB without running the command{}",
                said.len() >> 10,
                printed_as_well(&greeting)
            ))),
            Ok(false) => {
                drop(child.stdin.take());
                // The login shell has closed its standard output, and may be about to exit.
                let status = time::timeout(GRACE, child.wait()).await.ok().and_then(Result::ok);
                self.greeted(&shell::shown(&said));
                Err(self.not_run(status, &greeting))
            }
            Err(_) => {
                if let Some(leader) = child.id() {
                    process_tree::kill_session(leader);
                }
                self.greeted(&greeting);
                Err(self.not_run_in_time(&greeting))
            }
        }
    }

    /// Notes what the login shell has printed.
    pub(super) fn greeted(&self, text: &str) {
        if !text.is_empty() {
            let mut greetings = self.access.contacts.greetings.lock().unwrap();
            greetings.entry(self.name.into()).or_insert_with(|| text.into());
        }
    }

    /// Returns the error for an `ssh` that has ended, with this status, before the script ran.
    pub(super) fn not_run(&self, status: Option<ExitStatus>, printed: &str) -> Error {
        let is_of_ssh = status.and_then(|status| status.code()) == Some(SSH_FAILED);
        let status = status_text(status);
        if is_of_ssh && !printed.is_empty() {
            return self.not_reached(format!("{} ({status})", last_lines(printed)), printed);
        }
        self.failed(format!(
            "its login shell ended without running the command ({status}){}; a start-up file such as .bashrc \
             must not exit or start another shell when `ssh {} COMMAND` runs a command",
            printed_as_well(printed),
            self.name
        ))
    }

    /// Returns the error for a login shell that does not run the script.
    pub(super) fn not_run_in_time(&self, printed: &str) -> Error {
        self.failed(format!(
            "its login shell has not run the command after {} s{}; a start-up file such as .bashrc may read \
             standard input, start another shell, or wait for something: `ssh {} true` has to end by itself",
            ANSWER_LIMIT.as_secs(),
            printed_as_well(printed),
            self.name
        ))
    }

    /// Runs a script on the host with this standard input. Returns its trimmed standard output.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] with the script's standard error if it exits with a failure, and if it does not end
    /// within [`SCRIPT_LIMIT`] although it gets no input.
    async fn run_with_input(&self, script: &str, input: &[u8]) -> Result<String, Error> {
        let script = RemoteScript::bounded(script);
        let mut child = self.start_script(&script, !input.is_empty()).await?;
        let (mut answer, mut reason) = (Vec::new(), Vec::new());
        let stdin = child.stdin.take();
        let write = async {
            if let Some(mut stdin) = stdin {
                // If writing fails, the exit status and standard error show why.
                let _ = stdin.write_all(input).await;
            }
            future::pending::<Infallible>().await
        };
        let read = read_answers(&mut child, &script.marker, &mut answer, &mut reason);
        let end = async {
            tokio::select! {
                end = read => end,
                never = write => match never {},
            }
        };
        // An upload takes as long as its link needs, and ssh notices if the host does not answer.
        let limit = if input.is_empty() { SCRIPT_LIMIT } else { Duration::MAX };
        let in_time = time::timeout(limit, end).await;
        let end = in_time.map_err(|_| self.failed(format!("a command there does not end in {limit:?}")))?;
        let end = end.map_err(|e| self.failed(e.to_string()))?;
        // A program started by a start-up file may hold the session open.
        let status = time::timeout(GRACE, child.wait()).await.ok().and_then(Result::ok);
        let reason = shell::shown(&reason);
        match end.as_deref() {
            Some("0") => Ok(shell::shown(&answer)),
            Some(status) => Err(self.failed(format!("{reason} (exit status: {status})"))),
            None => {
                Err(self.not_reached(format!("{} ({})", last_lines(&reason), status_text(status)), &reason))
            }
        }
    }

    /// Uploads a file into `directory` on the host, or into the user's cache there if that is `None`, unless
    /// the file is already there with this content. Returns its path on the host.
    pub(crate) async fn upload(
        &self,
        upload: &Upload,
        directory: Option<&HostPath>,
    ) -> Result<String, Error> {
        let place = directory.map_or_else(|| UPLOAD_DIR.to_string(), HostPath::script_word);
        let mut failed = match self.put(upload, &place).await {
            Ok(path) => return Ok(path),
            Err(error) => error,
        };
        if let Error::Host { reason, remedy, .. } = &mut failed
            && remedy.is_none()
        {
            let otherwise = cause::another_directory(directory.is_some());
            *remedy = cause::upload_remedy(reason, otherwise);
            if StorageProblem::in_text(reason) == Some(StorageProblem::Full)
                && self.has_no_inodes(&place).await
            {
                reason.push_str("; no inodes are free");
                *remedy = Some(StorageProblem::NoInodes.remedy("", otherwise));
            }
        }
        Err(failed)
    }

    /// Returns whether the file system of a directory, given as a word of a script, has no inodes left.
    async fn has_no_inodes(&self, directory: &str) -> bool {
        let script = format!(
            "d={directory}; while ! test -e \"$d\"; do d=$(dirname \"$d\"); done; df -Pi \"$d\" | tail -n 1"
        );
        let line = self.run_script(&script).await.unwrap_or_default();
        // A file system without a fixed number of inodes reports 0 in total.
        let mut words = line.split_whitespace().skip(1);
        let (total, _used, free) = (words.next(), words.next(), words.next());
        total != Some("0") && free == Some("0")
    }

    async fn put(&self, upload: &Upload, directory: &str) -> Result<String, Error> {
        let Upload { content, digest } = upload;
        let path = self.run_with_input(&storing::find(directory, digest, content.len()), b"").await?;
        if !path.is_empty() {
            return Ok(path);
        }
        self.run_with_input(&storing::store(directory, digest), content).await
    }

    /// Removes old uploads from the host, and starts a node there. `program` is the result of
    /// [`SshHost::install`]. Returns the node and the `ssh` process that leads to it.
    pub(crate) async fn start_node(&self, name: &str, program: &HostProgram) -> Result<(Node, Child), Error> {
        let run = shell_word(&run_name());
        let root = self.root_command(program);
        let script = format!(
            "export LC_ALL=C; {}exec {root} node --name {name} --run {run} --remote \"$SSH_CONNECTION\"",
            self.prune_command(program)
        );
        let mut process = self.start_script(&RemoteScript::streaming(script.as_bytes()), true).await?;
        let connection = self.connect().await?;
        let carrier = connection.pid().or(process.id()).map(|pid| Carrier { pid });
        let node = match connect_node(name, &mut process, carrier).await {
            Ok(node) => node,
            Err(Error::Start { reason, .. }) => {
                let mut failed = self.failed(format!("the node does not start there: {reason}"));
                if let Error::Host { remedy, .. } = &mut failed {
                    *remedy = Some(match cause::root_remedy(&reason, self.access.become_root) {
                        Some(remedy) => remedy,
                        None => self.exec_remedy(&reason, program).await,
                    });
                }
                return Err(failed);
            }
            Err(other) => return Err(other),
        };
        Ok((node, process))
    }

    /// Checks that the program runs on the host as the login user.
    pub(crate) async fn try_program(&self, program: &HostProgram) -> Result<(), Error> {
        let script = format!("export LC_ALL=C; exec {} --version", shell_word(&program.path));
        let Err(mut failed) = self.run_script(&script).await else { return Ok(()) };
        if let Error::Host { reason, remedy: remedy @ None, .. } = &mut failed {
            *remedy = Some(self.exec_remedy(reason, program).await);
        }
        Err(failed)
    }

    /// Returns what to do if the program cannot be executed on the host, where `output` was printed.
    async fn exec_remedy(&self, output: &str, program: &HostProgram) -> String {
        let mounts = self.run_script("cat /proc/self/mountinfo").await.unwrap_or_default();
        cause::exec_remedy(output, &program.path, &mounts)
    }

    /// Uploads this program into the user's cache on the host.
    pub(crate) async fn install(&self, program: &Upload) -> Result<HostProgram, Error> {
        Ok(HostProgram { path: self.upload(program, None).await? })
    }

    /// Returns the shell words that check the content of the program and run it as root.
    fn root_command(&self, program: &HostProgram) -> String {
        let execute = match self.access.become_root {
            Become::Sudo => "exec sudo -n \"$0\" \"$@\"".to_string(),
            Become::None => format!(
                "if test \"$(id -u)\" != 0; then echo \"$(id -un) {NOT_ROOT}\" >&2; exit 1; fi; \
                 exec \"$0\" \"$@\""
            ),
        };
        let script = check_program() + &execute;
        format!("sh -c {} {}", shell_word(&script), shell_word(&program.path))
    }

    /// Returns the command, followed by `; `, that removes old uploads as the login user: on an NFS export,
    /// root may not be able to.
    fn prune_command(&self, program: &HostProgram) -> String {
        let path = shell_word(&program.path);
        let mut command = format!("{path} prune-uploads \"$(dirname {path})\"");
        if let Some(images) = &self.access.images {
            let _ = write!(command, " {}", images.script_word());
        }
        command + " > /dev/null 2>&1 < /dev/null || :; "
    }

    /// Runs a script on the host as the login user. Returns its trimmed standard output.
    pub(crate) async fn run_script(&self, script: &str) -> Result<String, Error> {
        self.run_with_input(script, b"").await
    }

    /// Runs `testbed observe` on the host with these arguments and parses its JSON output. `program` is the
    /// result of [`SshHost::install`].
    pub(crate) async fn observe<T: DeserializeOwned>(
        &self,
        program: &HostProgram,
        args: &[String],
    ) -> Result<T, Error> {
        let script = format!("exec {} observe {}", self.root_command(program), shell_line(args));
        let output = self.run_with_input(&script, b"").await?;
        serde_json::from_str(&output)
            .map_err(|e| self.failed(format!("`testbed observe` printed invalid JSON there: {e}")))
    }

    /// Returns the session that runs a program as root, in a node on the host or on the host itself, with
    /// this process's standard streams. `program` is the result of [`SshHost::install`]; `terminal` requests
    /// a terminal there.
    pub(crate) async fn enter(
        &self,
        program: &HostProgram,
        session: &NodeSession,
        terminal: bool,
    ) -> Result<HostSession<'a>, Error> {
        let mut script = format!("exec {} enter --remote {}", self.root_command(program), session.node);
        if let Some(Target { pid, run }) = &session.target {
            let _ = write!(script, " --pid {pid} --run {}", shell_word(run));
        }
        script += " --";
        let mut script = script.into_bytes();
        for word in &session.program {
            script.push(b' ');
            script.extend(quoted(word));
        }
        let script =
            if terminal { RemoteScript::on_terminal(&script) } else { RemoteScript::streaming(&script) };
        let connection = self.connect().await?;
        let mut options = vec![if terminal { "-t" } else { "-T" }];
        if terminal {
            // Otherwise it would print that the connection is closed before the last output is shown.
            options.extend(["-o", "LogLevel=ERROR"]);
        }
        options.extend(connection.only());
        let command = self.ssh_command(&options, &script.text).await?;
        Ok(HostSession { host: *self, command, marker: script.marker, terminal })
    }
}

/// Reads the standard output and the standard error of a process up to the marker, and keeps what precedes
/// it. Returns whether the marker has arrived on standard output.
async fn read_greetings(
    process: &mut Child,
    marker: &str,
    said: &mut Vec<u8>,
    complained: &mut Vec<u8>,
) -> bool {
    let (Some(stdout), Some(stderr)) = (process.stdout.take(), process.stderr.take()) else { return false };
    // No buffers, because others read what follows the marker.
    let (mut stdout, mut stderr) = (BufReader::with_capacity(1, stdout), BufReader::with_capacity(1, stderr));
    let arrived = {
        let on_stdout = shell::read_greeting(&mut stdout, marker, said);
        until_stdout(on_stdout, shell::read_greeting(&mut stderr, marker, complained)).await
    };
    process.stdout = Some(stdout.into_inner());
    process.stderr = Some(stderr.into_inner());
    arrived
}

/// Reads the answers of a process on standard output and standard error: see [`shell::read_answer`]. Returns
/// what follows the last marker on standard output.
async fn read_answers(
    process: &mut Child,
    marker: &str,
    answer: &mut Vec<u8>,
    reason: &mut Vec<u8>,
) -> io::Result<Option<String>> {
    let (Some(stdout), Some(stderr)) = (process.stdout.take(), process.stderr.take()) else {
        return Ok(None);
    };
    let (mut stdout, mut stderr) = (BufReader::new(stdout), BufReader::new(stderr));
    let on_stdout = shell::read_answer(&mut stdout, marker, answer);
    until_stdout(on_stdout, shell::read_answer(&mut stderr, marker, reason)).await
}

/// Reads standard output and standard error together, because a process waits while one of its pipes is full.
/// Returns the result for standard output; standard error then has [`GRACE`] left.
async fn until_stdout<T>(on_stdout: impl Future<Output = T>, on_stderr: impl Future) -> T {
    match future::select(pin!(on_stdout), pin!(on_stderr)).await {
        Either::Left((result, on_stderr)) => {
            let _ = time::timeout(GRACE, on_stderr).await;
            result
        }
        Either::Right((_, on_stdout)) => on_stdout.await,
    }
}

/// Returns the exit status of an `ssh` as a part of a message; `None` stands for an `ssh` that does not exit.
fn status_text(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "ssh does not exit".into(), |status| status.to_string())
}

/// Returns the output of start-up files as a part of a message, on one line.
fn printed_as_well(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let short: String = lines.join(" / ").chars().take(MAX_SHOWN_CHARS).collect();
    if short.is_empty() { String::new() } else { format!("; it printed: {short}") }
}

/// Quotes a word of any bytes for `sh`.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Returns the name that this process's run has on other hosts: `PID@HOST`.
fn run_name() -> String {
    let host = gethostname().unwrap_or_default();
    format!("{}@{}", process::id(), host.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_uploaded_is_named() {
        let error = Upload::read(Path::new("/nonexistent/bzImage")).err().unwrap().to_string();
        assert_eq!(
            error,
            "cannot read /nonexistent/bzImage to upload it: No such file or directory (os error 2)"
        );
    }
}
