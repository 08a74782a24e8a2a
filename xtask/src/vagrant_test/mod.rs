//! `cargo xtask vagrant-test`: the lab of `vagrant/`, from the building of its box to `vagrant destroy`, for
//! real.
//!
//! What runs on the machine stays the same: libvirt, its domains, networks and storage pool, Vagrant's own
//! state and the nodes are in namespaces of the test's ([`inside`]). A libvirt of the machine's own is
//! neither used nor disturbed, and none has to run. When the test ends, however it ends, so do the
//! namespaces, and with them all processes, bridges and mounts; only files are left to be removed. There is
//! no way out of the namespaces' network, so the nodes are made and provisioned offline.
//!
//! Besides `vagrant/` itself this needs root, a Debian, and the packages in [`PACKAGES`].

use crate::{
    Failure,
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
    io::{self, IsTerminal, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

mod checks;
mod inside;
mod steps;

/// What the test needs of Debian besides QEMU.
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

/// Marks the processes of the test, wherever they are.
const MARKER: &str = "TESTBED_VAGRANT_TEST";

/// How long after the test's namespaces have ended something of it may be left.
const LEFTOVERS: Duration = Duration::from_secs(10);

/// Build the lab of `vagrant/`, run migrations in it, and destroy it again
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Install what is missing without asking (implied by CI=true)
    #[arg(long)]
    yes: bool,
    /// What runs the nodes. TCG works everywhere and takes twenty minutes; KVM has to be nested for KVM in
    /// the nodes
    #[arg(long, value_name = "ACCEL", default_value = "tcg", value_parser = ["tcg", "kvm"])]
    accel: String,
    /// Where the durations and the runs' results are put [default: results/vagrant-test-TIME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The part of the test that is inside of the namespaces, with its files here
    #[arg(long, value_name = "DIR", hide = true)]
    inside: Option<PathBuf>,
}

pub(crate) fn vagrant_test(arguments: &Arguments) -> Result<(), Failure> {
    if let (Some(folder), Some(out)) = (&arguments.inside, &arguments.out) {
        return inside::test(folder, out, &arguments.accel);
    }
    if !geteuid().is_root() {
        return Err("needs root, for namespaces, file systems and libvirt: sudo".to_owned().into());
    }
    install(arguments.yes)?;
    let staged = dist::dist()?;
    ready::ensure(&staged, arguments.yes)?;
    let workspace = &staged.workspace;
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
    // A test that was killed cannot remove its files.
    removed("of an earlier test")?;
    fs::create_dir_all(&folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    let mut log = steps::Log::open(&out)?;
    log.note("box/build.sh", built)?;
    drop(log);

    let before = interfaces();
    let done = in_namespaces(arguments, &folder, &out, catalog.trim());
    let left = wait_for_nothing(&before);
    removed("after the test")?;
    let done = done?;
    left?;
    if done == 0 {
        println!("Passed. Durations and results: {}", out.display());
        return Ok(());
    }
    Err(Failure::Reported(done))
}

/// Runs the part inside; its exit code. It ends with this process, and with the first signal to end.
fn in_namespaces(arguments: &Arguments, folder: &Path, out: &Path, catalog: &str) -> Result<u8, Failure> {
    let this = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    // From here on signals are waited for, and a child is born without the mask.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|error| format!("cannot wait for signals: {error}"))?;
    // The first process inside is a shell because it has to take in all whose parents have ended: libvirt
    // waits until the machines that it stops are really gone.
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
            eprintln!("{signal}: taking everything down");
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let ended = child.wait().map_err(|error| format!("cannot wait for the test: {error}"))?;
    // It is only ever killed from here.
    Ok(if ended.success() { 0 } else { ended.code().map_or(130, |_| exit_code(ended)) })
}

/// The network interfaces of this machine.
fn interfaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits until no process and no interface of the test's is left.
fn wait_for_nothing(before: &BTreeSet<String>) -> Result<(), Failure> {
    let marker = format!("{MARKER}={}", std::process::id());
    let deadline = Instant::now() + LEFTOVERS;
    loop {
        let processes = marked(&marker);
        let new: Vec<String> = interfaces().difference(before).cloned().collect();
        if processes.is_empty() && new.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("left after the test: processes {processes:?}, interfaces {new:?}").into());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The command lines of the processes with this variable.
fn marked(marker: &str) -> Vec<String> {
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

/// Installs what is missing, after asking.
fn install(yes: bool) -> Result<(), Failure> {
    let missing: Vec<&str> = PACKAGES.into_iter().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!("needs Debian's packages {}", missing.join(", ")).into());
    }
    let install = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    if !yes && !ready::unattended() {
        if !io::stdin().is_terminal() {
            eprintln!("missing: `{install}` would install it; `--yes` says so, and so does CI=true");
            return Err(Failure::Reported(2));
        }
        eprint!("The test needs: {install}\nInstall it now? [y/N] ");
        let _ = io::stderr().flush();
        let mut answer = String::new();
        let _ = io::stdin().read_line(&mut answer);
        if !answer.trim().eq_ignore_ascii_case("y") {
            return Err(Failure::Reported(2));
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
    fn a_process_is_found_by_its_mark() {
        let mark = format!("XTASK_TEST_MARK={}", std::process::id());
        assert!(marked(&mark).is_empty());
        let (name, value) = mark.split_once('=').unwrap();
        let mut child = Command::new("sleep").arg("60").env(name, value).spawn().unwrap();
        // It may not have come to its program yet.
        let deadline = Instant::now() + LEFTOVERS;
        while marked(&mark) != ["sleep 60"] {
            assert!(Instant::now() < deadline, "{:?}", marked(&mark));
            thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(marked(&mark).is_empty());
    }
}
