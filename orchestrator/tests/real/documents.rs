//! The commands of the documents and the help texts that need QEMU or the other two programs, run as they are
//! written.

use crate::common::{
    documents::{COMMANDS, Trial, root},
    real::{Ready, ready, ready_light, shell_without_other_processes, skipped},
    shown,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// The matrix that commands call `matrix.yaml`: two migrations of an idle guest.
const MATRIX: &str = "
name: small
guest: { memory: 192MiB }
migrate: { timeout: 60s }
axes:
  link.rate: [300mbit, 600mbit]
";

/// The trace that commands call `tunnel.txt`.
const TRACE: &str = "0s 40mbit\n100ms 1mbit\n200ms end\n";

/// Returns a directory with all files that commands name.
fn place() -> TempDir {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    symlink(root().join("scenarios"), place.path().join("scenarios")).unwrap();
    fs::write(place.path().join("matrix.yaml"), MATRIX).unwrap();
    fs::write(place.path().join("tunnel.txt"), TRACE).unwrap();
    place
}

/// Returns a shell that runs a command in this place, with the programs of this build.
fn shell(ready: &Ready, place: &Path, command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]);
    at(ready, place, shell)
}

/// Does the same as [`shell`], for a command that must find no run in progress.
fn lone_shell(ready: &Ready, place: &Path, command: &str) -> Command {
    at(ready, place, shell_without_other_processes(command))
}

fn at(ready: &Ready, place: &Path, mut shell: Command) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    shell.current_dir(place).env("PATH", format!("{}:{path}", ready.bin.display()));
    shell.stdin(Stdio::null());
    shell
}

/// The beginning of the commands that enter a lab: the lab of any run in progress on this host.
const SHELL: &str = "testbed lab shell";

/// Runs the chosen commands in shells that `shell` returns, and checks their exit codes. Returns how many
/// there are.
#[track_caller]
fn try_commands(
    ready: &Ready,
    shell: fn(&Ready, &Path, &str) -> Command,
    is_chosen: impl Fn(&str) -> bool,
) -> usize {
    let place = place();
    let mut tried = 0;
    for (command, trial) in COMMANDS.iter().filter(|(command, _)| is_chosen(command)) {
        let Trial::Real(codes) = trial else { continue };
        let output = shell(ready, place.path(), command).output().unwrap();
        let code = output.status.code();
        assert!(code.is_some_and(|code| codes.contains(&code)), "{command}: {}", shown(&output));
        tried += 1;
    }
    tried
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn documented_commands_work() {
    let Some(ready) = ready() else { return };
    let tried = try_commands(&ready, shell, |command| !command.starts_with(SHELL));
    assert!(tried > 5, "only {tried}");
}

#[test]
#[ignore = "makes labs: cargo xtask test"]
fn documented_shells_work() {
    let Some(ready) = ready_light() else { return };
    let empty = lone_shell(&ready, Path::new("/"), "true").output().unwrap();
    if !empty.status.success() {
        skipped::<()>(&format!("no PID namespace without other runs: {}", shown(&empty)));
        return;
    }
    let tried = try_commands(&ready, lone_shell, |command| command.starts_with(SHELL));
    assert!(tried > 4, "only {tried}");
}

#[test]
#[ignore = "runs the programs: cargo xtask test"]
fn documented_commands_of_the_stressor_run_until_they_are_interrupted() {
    let Some(ready) = ready_light() else { return };
    let place = place();
    let mut tried = 0;
    for (command, trial) in COMMANDS.iter().filter(|(command, _)| command.starts_with("stressor")) {
        assert_eq!(*trial, Trial::UntilInterrupted, "{command}");
        let mut child =
            shell(&ready, place.path(), &format!("exec {command}")).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().is_some(), "{command} printed nothing");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert!(child.wait().unwrap().success(), "{command}: {rest:#?}");
        tried += 1;
    }
    assert!(tried > 2, "only {tried}");
}

#[test]
#[ignore = "runs the programs: cargo xtask test"]
fn documented_commands_of_netem_work_on_an_interface() {
    let Some(ready) = ready_light() else { return };
    let place = place();
    let commands: Vec<&str> =
        COMMANDS.iter().filter(|(_, trial)| *trial == Trial::Netem).map(|(command, _)| *command).collect();
    assert!(commands.len() > 4, "only {commands:?}");
    let sandbox = "ip link add eth0 type veth peer name far && ip link set eth0 up && ip link set far up && \
                   ip link set lo up && ip address add 192.0.2.2/24 dev eth0";
    let inside = |script: &str| {
        let own = if geteuid().is_root() { "-n" } else { "-rn" };
        let script = format!("unshare {own} sh -c '{sandbox} && {script}'");
        shell(&ready, place.path(), &script).output().unwrap()
    };
    let empty = inside("true");
    if !empty.status.success() {
        skipped::<()>(&format!("no network namespace with an interface: {}", shown(&empty)));
        return;
    }
    let has_netem = inside("netem apply eth0 --delay 1ms").status.success();
    for command in commands {
        // Commands that need a qdisc that this kernel lacks are tested by netem_guest.rs, in a guest that has
        // it.
        if !has_netem && ["--delay", "--loss", "--profile"].iter().any(|option| command.contains(option)) {
            println!("skipped: {command}: this kernel has no sch_netem");
            continue;
        }
        let script = match command {
            // There has to be something to change.
            _ if command.starts_with("netem change") => {
                format!("netem apply eth0 --rate 100mbit && {command}")
            }
            // The server may need some time before it listens.
            _ if command.starts_with("netem measure") => format!(
                "netem measure --serve & server=$!; failed=1; \
                 for attempt in $(seq 100); do {command} && {{ failed=0; break; }}; sleep 0.1; done; \
                 kill $server; exit $failed"
            ),
            _ if command.contains("--repeat") => {
                format!("timeout --preserve-status --signal=INT 1 {command}")
            }
            _ => command.to_owned(),
        };
        let output = inside(&script);
        assert!(output.status.success(), "{command}: {}", shown(&output));
    }
}
