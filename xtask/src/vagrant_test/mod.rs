//! `cargo xtask vagrant-test`: an end-to-end test of the lab in `vagrant/`, from building its box to
//! `vagrant destroy`.
//!
//! The test does not touch what runs on the host: libvirt, its domains, networks and storage pool,
//! Vagrant's own state and the nodes are all in namespaces that belong to the test ([`inside`]). A libvirt on
//! the host is neither used nor disturbed, nor is one needed. When the test ends, for whatever reason, the
//! kernel ends the namespaces with all their processes, bridges and mounts; only files are left to be
//! removed. The namespaces have no route to the outside, so the test also shows that the nodes are created
//! and provisioned offline.
//!
//! The test needs root, Debian, and the packages in [`PACKAGES`].

use crate::{
    TaskError,
    command::{exit_code, output, run},
    dist, ready,
};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::{Pid, geteuid},
};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, IsTerminal},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

mod checks;
mod inside;
mod steps;

/// The Debian packages that the test needs in addition to QEMU.
const PACKAGES: [&str; 13] = [
    "vagrant",
    "vagrant-libvirt",
    "libvirt-daemon-system",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "dnsmasq-base",
    "mmdebstrap",
    "extlinux",
    "syslinux-common",
    "fdisk",
    "qemu-utils",
    "openssh-client",
    "iputils-ping",
];

/// The environment variable that marks the processes of the test, whatever their namespace.
const MARKER: &str = "TESTBED_VAGRANT_TEST";

/// How long processes and interfaces may take to disappear after the test's namespaces have ended.
const LEFTOVERS: Duration = Duration::from_secs(10);

/// Create the Vagrant lab in `vagrant/`, run migrations in it, and destroy it again
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Install missing packages without asking (implied by CI=true)
    #[arg(long)]
    yes: bool,
    /// The accelerator that the nodes run under. TCG works everywhere and takes twenty minutes. With KVM, the
    /// guests also run under KVM if nested virtualization is enabled
    #[arg(long, value_name = "ACCEL", default_value = "tcg", value_parser = ["tcg", "kvm"])]
    accel: String,
    /// The folder for durations and results [default: results/vagrant-test-TIME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run the part inside the namespaces, with its temporary files in this directory
    #[arg(long, value_name = "DIR", hide = true)]
    inside: Option<PathBuf>,
}

pub(crate) fn vagrant_test(arguments: &Arguments) -> Result<(), TaskError> {
    if let (Some(folder), Some(out)) = (&arguments.inside, &arguments.out) {
        return inside::test(folder, out, &arguments.accel);
    }
    if !geteuid().is_root() {
        return Err("this test needs root for namespaces, file systems and libvirt; use sudo"
            .to_owned()
            .into());
    }
    install(arguments.yes)?;
    let programs = dist::dist()?;
    ready::ensure::<&str>(&programs, arguments.yes, &[])?;
    let workspace = &programs.workspace;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let default = || workspace.root.join(format!("results/vagrant-test-{}", now.as_secs()));
    let out = arguments.out.clone().unwrap_or_else(default);
    let out = std::path::absolute(&out).map_err(|error| format!("cannot use {}: {error}", out.display()))?;
    fs::create_dir_all(&out).map_err(|error| format!("cannot create {}: {error}", out.display()))?;

    let building = Instant::now();
    let mut script = Command::new(workspace.root.join("vagrant/box/build.sh"));
    let catalog = output(script.arg("--no-add"))?;
    let built = building.elapsed();

    let folder = workspace.target.join("vagrant-test");
    let removed = |when: &str| {
        let result = fs::remove_dir_all(&folder);
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("cannot remove {} {when}: {error}", folder.display()))
            }
            _ => Ok(()),
        }
    };
    // An earlier test that was killed could not remove its files.
    removed("of an earlier test")?;
    fs::create_dir_all(&folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    let mut log = steps::Log::open(&out)?;
    log.note("box/build.sh", built)?;
    drop(log);

    let before = interfaces();
    let exit = in_namespaces(arguments, &folder, &out, catalog.trim());
    let left = wait_until_nothing_is_left(&before);
    removed("after the test")?;
    let exit = exit?;
    left?;
    if exit == 0 {
        frontend::tell(format!("Passed. Durations and results are in {}.", out.display()));
        return Ok(());
    }
    Err(TaskError::AlreadyReported(exit))
}

/// Runs [`inside::test`] in new namespaces. Returns its exit code. The namespaces end with this process,
/// and at the first SIGINT, SIGTERM or SIGHUP.
fn in_namespaces(arguments: &Arguments, folder: &Path, out: &Path, catalog: &str) -> Result<u8, TaskError> {
    let this = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    // A thread waits for the signals, so they are blocked here. `Command` unblocks them in the child.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|error| format!("cannot wait for signals: {error}"))?;
    // The first process of the PID namespace is a shell, because it has to reap orphaned processes: libvirt
    // waits until the virtual machines that it stops are really gone.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork"])
        .args(["--kill-child=KILL", "--mount-proc", "--net", "--ipc", "--uts"])
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(this)
        .args(["vagrant-test", "--accel", &arguments.accel, "--inside"])
        .arg(folder)
        .arg("--out")
        .arg(out)
        .env(MARKER, std::process::id().to_string())
        .env(inside::CATALOG, catalog)
        .stdin(Stdio::null())
        .process_group(0);
    let mut child = command.spawn().map_err(|error| format!("cannot run setpriv: {error}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            frontend::tell(format!("{signal} received: removing the lab"));
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let ended = child.wait().map_err(|error| format!("cannot wait for the test: {error}"))?;
    // It has no exit code only if the thread above killed it, which means that this test was interrupted.
    Ok(if ended.success() { 0 } else { ended.code().map_or(130, |_| exit_code(ended)) })
}

/// Returns the names of this host's network interfaces.
fn interfaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits until all processes of the test, and all interfaces that did not exist `before`, are gone, for at
/// most [`LEFTOVERS`].
fn wait_until_nothing_is_left(before: &BTreeSet<String>) -> Result<(), TaskError> {
    let marker = format!("{MARKER}={}", std::process::id());
    let deadline = Instant::now() + LEFTOVERS;
    loop {
        let processes = processes_with(&marker);
        let new: Vec<String> = interfaces().difference(before).cloned().collect();
        if processes.is_empty() && new.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the test left processes {processes:?} and interfaces {new:?}").into());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Returns the command lines of the processes that have `marker` (`NAME=VALUE`) in their environment.
fn processes_with(marker: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    processes
        .filter(|process| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
        })
        .map(|process| {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()
        })
        .collect()
}

/// Installs the packages of [`PACKAGES`] that are missing, after asking.
fn install(yes: bool) -> Result<(), TaskError> {
    let missing: Vec<&str> = PACKAGES.into_iter().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(
            format!("this test needs the Debian packages {}; install them", missing.join(", ")).into()
        );
    }
    let install = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    if !yes && !ready::unattended() {
        if !io::stdin().is_terminal() {
            frontend::tell(format!(
                "packages are missing: run `{install}`, or allow it here with --yes or CI=true"
            ));
            return Err(TaskError::AlreadyReported(2));
        }
        frontend::ask(format!("The test needs missing packages: {install}\nInstall them now? [y/N] "));
        let mut answer = String::new();
        let _ = io::stdin().read_line(&mut answer);
        if !answer.trim().eq_ignore_ascii_case("y") {
            return Err(TaskError::AlreadyReported(2));
        }
    }
    run(Command::new("apt-get").args(["update", "-q"]))?;
    let mut command = Command::new("apt-get");
    command.args(["install", "-q", "-y", "--no-install-recommends"]).args(missing);
    run(command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()))
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Abbrev}", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.stdout.starts_with(b"ii"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_found_by_their_environment() {
        let mark = format!("XTASK_TEST_MARK={}", std::process::id());
        assert!(processes_with(&mark).is_empty());
        let (name, value) = mark.split_once('=').unwrap();
        let mut child = Command::new("sleep").arg("60").env(name, value).spawn().unwrap();
        // The child may not have executed `sleep` yet.
        let deadline = Instant::now() + LEFTOVERS;
        while processes_with(&mark) != ["sleep 60"] {
            assert!(Instant::now() < deadline, "{:?}", processes_with(&mark));
            thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(processes_with(&mark).is_empty());
    }
}
