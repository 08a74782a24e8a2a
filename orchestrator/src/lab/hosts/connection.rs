//! One connection per host, shared by all exchanges with it.
//!
//! The first exchange opens the connection: an `ssh` that listens on a socket in a private directory
//! (`ControlMaster`). The `ssh` of each exchange then takes a session of that connection, which needs neither
//! a handshake nor a prompt. If the user has already opened such a connection, which `ssh -O check` finds
//! out, it is used instead.
//!
//! No `ssh` can prompt the user: it has no controlling terminal, and no program that shows a dialog. This
//! also holds for the `ssh` that it starts for a jump host. If the host has not let the user in after
//! [`CONNECT_LIMIT`], the whole session of the `ssh` is killed.
//!
//! The connection ends with this value, and with this process, however the process ends. A shell that leads
//! the session ensures that: when the kernel signals that this process has ended, it removes the directory
//! and kills everything that it has started.

use super::ssh::HostAccess;
use crate::{process_tree, sys};
use nix::{sys::signal::Signal, unistd::geteuid};
use std::{
    env,
    ffi::OsString,
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{self, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time,
};

/// The time limit for a host to let the user in, from the start of the first `ssh`.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// The time limit for an `ssh` that does not contact a host.
const LOCAL_LIMIT: Duration = Duration::from_secs(10);

/// The interval between checks for the socket of a new connection.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long to wait for the rest of an `ssh`'s messages after it has ended.
const STDERR_GRACE: Duration = Duration::from_secs(1);

/// The maximum length of an `ssh`'s messages, in bytes. The rest is dropped.
const MAX_STDERR_BYTES: usize = 64 << 10;

/// The number of last lines that make up the reason of a failure. The warning about a changed host key has
/// thirteen.
const REASON_LINES: usize = 13;

/// The maximum length of a socket's directory, in bytes. With the names that `ssh` gives sockets, the path
/// must have fewer than 108 bytes.
const MAX_FOLDER_BYTES: usize = 64;

/// Runs `ssh` with the arguments, and removes the directory `$0` at the end, even if the shell itself is
/// terminated. The path of `ssh` distinguishes its process from the `ssh` of an exchange.
const LEADER: &str = "trap 'rm -rf \"$0\"; kill -KILL 0' TERM; \
                      if ! ssh=$(command -v ssh); then echo 'ssh is not installed' >&2; exit 127; fi; \
                      \"$ssh\" \"$@\" & wait $!; status=$?; rm -rf \"$0\"; exit $status";

/// A connection to a host.
#[derive(Debug)]
pub(super) enum Connection {
    /// A connection that this process has opened.
    Own(Box<Master>),
    /// A connection that the user has opened. `ssh` finds it through the user's configuration.
    Users,
}

impl Connection {
    /// Opens the connection to a host.
    ///
    /// # Errors
    ///
    /// The reason, with the last lines that `ssh` has printed and the route that the connection takes.
    pub(super) async fn open(access: &HostAccess, host: &str) -> Result<Self, String> {
        let deadline = Instant::now() + CONNECT_LIMIT;
        let mut check = access.ssh();
        check.args(["-O", "check", "--"]).arg(host);
        let checked = output(check, LOCAL_LIMIT).await;
        if checked.as_ref().is_ok_and(|output| output.status.success()) {
            return Ok(Self::Users);
        }
        match Master::open(access, host, deadline).await {
            Ok(master) => Ok(Self::Own(Box::new(master))),
            // A command in the user's configuration hangs, and would hang again.
            Err(reason) if checked.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) => Err(reason),
            Err(reason) => Err(reason + &way(access, host).await),
        }
    }

    /// Returns the arguments that make an `ssh` use this connection.
    pub(super) fn args(&self) -> Vec<OsString> {
        let mut args = ["-o", "ControlMaster=no"].map(OsString::from).to_vec();
        if let Self::Own(master) = self {
            args.extend(["-S".into(), master.socket.clone().into()]);
        }
        args
    }

    /// Returns the PID of the `ssh` that has the connection, if this process has started it.
    pub(super) fn pid(&self) -> Option<u32> {
        let Self::Own(master) = self else { return None };
        let leader = master.leader.id()?;
        let children = fs::read_to_string(format!("/proc/{leader}/task/{leader}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Returns the arguments that keep an `ssh` from opening a connection of its own if it cannot use this
    /// one: on the user's terminal, the `ssh` of a jump host could prompt.
    pub(super) fn only(&self) -> &[&str] {
        match self {
            Self::Own(_) => &["-o", "ProxyCommand=false"],
            // The path of its socket may depend on the jump host.
            Self::Users => &[],
        }
    }
}

/// An `ssh` that has logged in to a host, and serves others through a socket.
#[derive(Debug)]
pub(super) struct Master {
    socket: PathBuf,
    /// The process that leads the session.
    leader: Child,
    /// The directory of the socket.
    _folder: TempDir,
}

impl Master {
    /// Opens a connection before the deadline.
    async fn open(access: &HostAccess, host: &str, deadline: Instant) -> Result<Self, String> {
        let preferred = [env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some(env::temp_dir())];
        let folder = socket_folder(preferred.into_iter().flatten())
            .map_err(|e| format!("cannot make a directory for ssh's socket: {e}"))?;
        let socket = folder.path().join("ssh");
        let mut command = process::Command::new("sh");
        command.args(["-c", LEADER]).arg(folder.path()).args(access.ssh_args());
        command.args(["-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-S"]).arg(&socket);
        command.args(["-N", "-T", "--", host]);
        unattended(&mut command, Signal::SIGTERM);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut leader = Command::from(command).spawn().map_err(|e| format!("cannot run ssh: {e}"))?;
        let said = Collected::of(leader.stderr.take());
        let mut master = Self { socket, leader, _folder: folder };
        let problem = loop {
            if master.socket.exists() {
                return Ok(master);
            }
            match master.leader.try_wait() {
                Ok(None) if Instant::now() < deadline => time::sleep(LOOK_INTERVAL).await,
                Ok(None) => break format!("no login within {} s", CONNECT_LIMIT.as_secs()),
                Ok(Some(status)) => break status.to_string(),
                Err(error) => break error.to_string(),
            }
        };
        // This ends everything that may still hold the pipe.
        drop(master);
        let reason = said.text().await;
        Err(if reason.is_empty() { problem } else { format!("{reason} ({problem})") })
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Some(leader) = self.leader.id() {
            process_tree::kill_session(leader);
        }
    }
}

/// The standard error of a program, collected while it runs.
struct Collected {
    text: Arc<Mutex<Vec<u8>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Collected {
    fn of(stderr: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let collected = Arc::clone(&text);
        let reader = tokio::spawn(async move {
            let Some(mut stderr) = stderr else { return };
            let mut buffer = vec![0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
                let mut text = collected.lock().unwrap();
                let left = MAX_STDERR_BYTES.saturating_sub(text.len()).min(count);
                text.extend_from_slice(&buffer[..left]);
            }
        });
        Self { text, reader }
    }

    /// Returns the last lines.
    async fn text(self) -> String {
        let _ = time::timeout(STDERR_GRACE, self.reader).await;
        last_lines(&String::from_utf8_lossy(&self.text.lock().unwrap()))
    }
}

/// Returns the last [`REASON_LINES`] lines of a text that are not empty: a banner of the host may precede the
/// reason.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(REASON_LINES)..].join("\n")
}

/// Creates a private directory for a socket in one of these directories, or in `/tmp`, with a short path that
/// `ssh` does not expand.
fn socket_folder(preferred: impl IntoIterator<Item = PathBuf>) -> io::Result<TempDir> {
    let plain = |path: &Path| {
        let bytes = path.as_os_str().as_encoded_bytes();
        let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.,+=:@".contains(byte);
        path.is_absolute() && bytes.len() <= MAX_FOLDER_BYTES && bytes.iter().all(harmless)
    };
    let usable = |path: &PathBuf| plain(path) && keeps_folders(path);
    let mut made = Err(io::ErrorKind::NotFound.into());
    for parent in preferred.into_iter().filter(usable).chain(["/tmp".into()]) {
        let private = Permissions::from_mode(0o700);
        made = tempfile::Builder::new().prefix("testbed-").permissions(private).tempdir_in(parent);
        if made.is_ok() {
            break;
        }
    }
    made
}

/// Returns whether nobody but this user and root can replace a folder of this user in a directory. `su` keeps
/// variables that name directories of the user who has called it.
fn keeps_folders(directory: &Path) -> bool {
    let Ok(metadata) = directory.metadata() else { return false };
    let is_trusted = [0, geteuid().as_raw()].contains(&metadata.uid());
    let (is_shared, is_sticky) = (metadata.mode() & 0o022 != 0, metadata.mode() & 0o1000 != 0);
    is_trusted && (is_sticky || !is_shared)
}

/// Ensures that a command cannot prompt the user. It gets `signal` when this process ends.
pub(super) fn unattended(command: &mut process::Command, signal: Signal) {
    for variable in ["DISPLAY", "WAYLAND_DISPLAY", "SSH_ASKPASS"] {
        command.env_remove(variable);
    }
    command.env("SSH_ASKPASS_REQUIRE", "never");
    sys::start_unattended(command, signal);
}

/// Runs an `ssh` that does not contact a host.
async fn output(mut command: process::Command, limit: Duration) -> io::Result<Output> {
    unattended(&mut command, Signal::SIGKILL);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = Command::from(command).kill_on_drop(true).spawn()?;
    let leader = child.id();
    let output = time::timeout(limit, child.wait_with_output()).await;
    if let (Err(_), Some(leader)) = (&output, leader) {
        process_tree::kill_session(leader);
    }
    output.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Returns the jump hosts or the command through which `ssh` reaches a host, as the end of a message. Returns
/// an empty text if it reaches the host directly.
async fn way(access: &HostAccess, host: &str) -> String {
    let mut settings = access.ssh();
    settings.args(["-G", "--"]).arg(host);
    match output(settings, LOCAL_LIMIT).await {
        Ok(output) if output.status.success() => described_way(&String::from_utf8_lossy(&output.stdout)),
        _ => String::new(),
    }
}

/// Returns the route that the settings printed by `ssh -G` describe. See [`way`].
fn described_way(settings: &str) -> String {
    let value = |name: &str| settings.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let used = |name: &str| value(name).filter(|value| *value != "none");
    if let Some(jump) = used("proxyjump") {
        let (hosts, first) = match jump.split_once(',') {
            Some((first, _)) => ("hosts", first),
            None => ("host", jump),
        };
        // Only in this form does `ssh` accept a port.
        let scheme = if first.contains(':') && !first.contains("://") { "ssh://" } else { "" };
        return format!(
            "; the connection goes through the jump {hosts} {jump}: `ssh {scheme}{first} true` has to work \
             without asking for anything"
        );
    }
    used("proxycommand").map_or_else(String::new, |command| {
        format!("; the connection goes through the ProxyCommand `{command}`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::chown;

    #[test]
    fn a_message_names_the_jump_hosts_or_the_command_in_the_way() {
        assert_eq!(described_way("user a\nproxyjump none\nproxycommand none\n"), "");
        let jump = described_way("user a\nproxyjump me@bastion\n");
        assert!(jump.contains("the jump host me@bastion: `ssh me@bastion true` has to work"), "{jump}");
        let several = described_way("proxyjump bastion:2222,inner\n");
        assert!(
            several.contains("jump hosts bastion:2222,inner: `ssh ssh://bastion:2222 true`"),
            "{several}"
        );
        let command = described_way("proxycommand nc gateway 22\n");
        assert!(command.contains("ProxyCommand `nc gateway 22`"), "{command}");
    }

    #[test]
    fn the_reason_of_a_failure_is_in_the_last_lines() {
        let banner = "All use is monitored.\n".repeat(100);
        let reason = last_lines(&(banner + "\r\nPermission denied (publickey).\r\n"));
        assert!(
            reason.ends_with("\nPermission denied (publickey).") && reason.lines().count() == REASON_LINES
        );
    }

    #[test]
    fn a_socket_has_a_short_path_in_a_private_directory() {
        let folder = socket_folder([env::temp_dir()]).unwrap();
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        // ssh appends a dot and sixteen characters while it creates the socket.
        assert!(folder.path().join("ssh").as_os_str().len() + 17 < 108);
    }

    #[test]
    fn a_socket_is_not_where_others_can_replace_it() {
        // The path must be short.
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        for path in [&first, &second] {
            fs::create_dir(path).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
        }
        let parent = || {
            let folder = socket_folder([first.clone(), second.clone()]).unwrap();
            folder.path().parent().unwrap().to_path_buf()
        };
        for (mode, expected) in [(0o700, &first), (0o770, &second), (0o707, &second), (0o1777, &first)] {
            fs::set_permissions(&first, Permissions::from_mode(mode)).unwrap();
            assert_eq!(parent(), *expected, "{mode:o}");
        }
        if geteuid().is_root() {
            chown(&first, Some(4711), None).unwrap();
            assert_eq!(parent(), second, "it belongs to another user");
        }
    }
}
