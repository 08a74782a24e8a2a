//! The behavior of the user's `ssh` and of hosts' login shells between `testbed` and a host: they prompt,
//! hang, print, and parse words in their own way.

use crate::common::{
    hosts::{Hosts, with_hosts},
    real::{SMALL, TestDir, ready, ready_light, signal, skipped},
    words,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use testbed::outcome::Outcome;

/// How long to wait for anything; these tests measure nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// The login shells, each with a start-up file that it reads for a command, and a command in that file that
/// prints.
const TALKING: [(&str, &str, &str); 5] = [
    ("/bin/bash", ".bashrc", "echo Welcome to the lab; printf 'no line end'; echo noise >&2"),
    ("/usr/bin/zsh", ".zshenv", "echo Welcome to the lab; printf 'no line end'; echo noise >&2"),
    (
        "/usr/bin/fish",
        ".config/fish/config.fish",
        "echo Welcome to the lab; printf 'no line end'; echo noise >&2",
    ),
    ("/usr/bin/tcsh", ".tcshrc", "echo Welcome to the lab; printf 'no line end'; sh -c 'echo noise >&2'"),
    // It does not read any file for a command.
    ("/bin/dash", ".profile", ""),
];

/// Runs `testbed lab shell` on compute1 with this input.
fn shell(dir: &TestDir, lab: &str, program: &[&str], input: &[u8]) -> Output {
    let mut command = dir.other(&[&["lab", "shell", "--lab", lab, "compute1", "--"], program].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The program may end before it has read anything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns whether a login shell is installed; prints that its test is skipped if not.
fn is_installed(shell: &str) -> bool {
    Path::new(shell).exists() || skipped::<()>(&format!("{shell} is not installed")).is_some()
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn every_login_shell_may_talk_and_passes_words_on_unchanged() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let words = ["a\\\\b", "it's", "!x", "$HOME", "", "*", "{a,b}", "line\nline", "é", "'\\''", "%s"];
        let expected = words.map(|word| format!("[{word}]")).concat();
        for (shell, file, script) in TALKING.into_iter().filter(|(shell, ..)| is_installed(shell)) {
            let logout = "echo Goodbye; echo Goodbye >&2";
            hosts.set_login_shell(1, shell, &[(file, script), (".bash_logout", logout)]);
            let before = hosts.logins(1);
            let script = "printf '[%s]' \"$@\"; cat; exit 7";
            let program = [&["sh", "-c", script, "sh"], &words[..]].concat();
            let output = self::shell(&dir, &lab, &program, b"first line\\n\nlast");
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            assert_eq!(out, format!("{expected}first line\\n\nlast"), "{shell}: {err}");
            assert_eq!(output.status.code(), Some(7), "{shell}: {err}");
            assert!(err.contains("on the host lab1 itself") && !err.contains("noise"), "{shell}: {err}");
            assert_eq!(hosts.logins(1) - before, 1, "{shell}: {}", hosts.log(1));
            let program = ["sh", "-c", "read word; stty size > /dev/null && echo $word 42; exit 9"];
            let on_terminal = [&["lab", "shell", "--lab", &lab, "compute1", "--"], &program[..]].concat();
            if let Some((code, shown)) = dir.on_terminal(&on_terminal, "typed\n") {
                assert_eq!(code, 9, "{shell}: {shown}");
                assert!(shown.contains("typed 42\r\n") && !shown.contains("Welcome"), "{shell}: {shown}");
            }
            let (code, out, err) = dir.run_subcommand(&["lab", "status", "--verbose", "--lab", &lab]);
            assert_eq!(code, 0, "{shell}: {out}{err}");
            assert!(out.contains("lab1 answers"), "{shell}: {out}");
            let greeting = "lab1 printed at login:\nWelcome to the lab\nno line end\nnoise\n";
            assert_eq!(err.contains(greeting), shell != "/bin/dash", "{shell}: {err}");
        }
        dir.assert_no_processes(PATIENCE);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_run_logs_in_once_to_each_host_through_shells_that_talk() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let installed = TALKING.into_iter().filter(|(shell, ..)| is_installed(shell)).collect::<Vec<_>>();
        for host in 0..3 {
            let (shell, file, script) = installed[host % installed.len()];
            hosts.set_login_shell(host, shell, &[(file, script)]);
        }
        assert_eq!(
            dir.run(&["matrix.yaml", "--out", "run", "--lab", &lab, "--verbose"]),
            0,
            "{}",
            dir.shown()
        );
        let outcomes: Vec<_> = dir.records().iter().map(|record| record.outcome).collect();
        assert_eq!(outcomes, [Outcome::Converged], "{}", dir.shown());
        assert!(dir.stderr().contains("lab0 printed at login:\nWelcome to the lab"), "{}", dir.stderr());
        // The host of a compute node gets three files and starts a node.
        assert_eq!([0, 1, 2].map(|host| hosts.logins(host)), [1, 1, 1]);
        let (code, out) = dir.ask("doctor", &["--lab", &lab]);
        assert_eq!(code, 0, "{out}");
        assert_eq!([0, 1, 2].map(|host| hosts.logins(host)), [2, 2, 2]);
        dir.assert_no_processes(PATIENCE);
    });
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn a_login_shell_that_does_not_run_the_command_is_named() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let status = |hosts: &Hosts, shell: &str, bashrc: &str| {
            hosts.set_login_shell(1, shell, &[(".bashrc", bashrc)]);
            let (code, out, err) = dir.run_subcommand(&["lab", "status", "--lab", &lab]);
            assert_eq!(code, 3, "{out}{err}");
            words(&out)
        };
        for (bashrc, code) in [("echo No service today; exit 4", 4), ("echo No service today; exec sh", 0)] {
            let shown = status(hosts, "/bin/bash", bashrc);
            let reason = format!(
                "lab1 does not answer: cannot use host lab1: its login shell ended without running the \
                 command (exit status: {code}); it printed: No service today; a start-up file"
            );
            assert!(shown.contains(&reason), "{shown}");
        }
        let shown = status(hosts, "/usr/sbin/nologin", "");
        assert!(shown.contains("it printed: This account is currently not available."), "{shown}");
        // The message of a script is the reason of its failure, and nothing else is.
        hosts.set_login_shell(1, "/bin/bash", &[(".bashrc", "echo Welcome >&2; echo Welcome")]);
        let by_sudo = hosts.inventory(|text| text.replace("become: none", "become: sudo"));
        let (_, out, _) = dir.run_subcommand(&["lab", "status", "--lab", &by_sudo]);
        assert!(out.contains("sudo") && !out.contains("Welcome"), "{out}");
        // With standard input, the line that a start-up file reads would be missing.
        let lab = hosts.inventory(|text| text);
        hosts.set_login_shell(1, "/bin/bash", &[(".bashrc", "read line")]);
        let output = shell(&dir, &lab, &["cat"], b"first\nsecond\n");
        let err = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(3), ""), "{err}");
        assert!(err.contains("may read standard input"), "{err}");
        dir.assert_no_processes(PATIENCE);
    });
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn ssh_neither_asks_nor_hangs() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        // `BatchMode` does not reach the `ssh` for the jump host, which asks on the terminal.
        hosts.configure_ssh(
            "Host jump\n  HostName 10.77.0.2\n  HostKeyAlias unknown\n  StrictHostKeyChecking ask\n\
             Host lab0\n  ProxyJump jump",
        );
        let status = ["lab", "status", "--lab", &lab];
        if let Some((code, shown)) = dir.on_terminal(&status, "") {
            let shown = words(&shown);
            assert_eq!(code, 3, "{shown}");
            assert!(shown.contains("Host key verification failed."), "{shown}");
            assert!(shown.contains("through the jump host jump: `ssh jump true` has to work"), "{shown}");
            assert!(shown.contains("lab1 answers") && shown.contains("lab2 answers"), "{shown}");
        }
        // Commands that hang, each with a program in another process group.
        let asked = dir.path("asked");
        hosts.configure_ssh(&format!(
            "Host lab0\n  ProxyCommand timeout 617 sleep 617\n\
             Match originalhost lab1 exec \"echo asked >> {}; timeout 617 sleep 617\"\n  Port 22",
            asked.display()
        ));
        let (code, out, err) = dir.run_subcommand(&status);
        let shown = words(&out);
        assert_eq!(code, 3, "{out}{err}");
        assert!(shown.contains("goes through the ProxyCommand `timeout 617 sleep 617`"), "{out}");
        assert!(shown.contains("lab1: no login within 30 s"), "{out}");
        assert!(shown.contains("lab2 answers"), "{out}");
        // This happens for a connection of the user and for one of its own, but not for the route in
        // messages.
        assert_eq!(fs::read_to_string(asked).unwrap(), "asked\nasked\n");
        let left = dir.processes();
        assert!(left.is_empty(), "{left:#?}");
    });
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn the_connection_ends_with_the_program_however_that_ends() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let sockets = dir.path("sockets");
        fs::create_dir(&sockets).unwrap();
        // The path of a socket must be short.
        let short = format!("/run/testbed-test-{}", std::process::id());
        std::os::unix::fs::symlink(&sockets, &short).unwrap();
        for end in [Signal::SIGTERM, Signal::SIGKILL] {
            let program = ["lab", "shell", "--lab", &lab, "compute1", "--", "sh", "-c", "sleep 619; true"];
            let mut child = dir.other(&program).env("XDG_RUNTIME_DIR", &short).spawn().unwrap();
            let deadline = Instant::now() + PATIENCE;
            while !dir.processes().iter().any(|process| process.words == ["sleep", "619"]) {
                assert!(Instant::now() < deadline, "{:#?}", dir.processes());
                thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(fs::read_dir(&sockets).unwrap().count(), 1);
            signal(child.id().cast_signed(), end);
            child.wait().unwrap();
            dir.assert_no_processes(PATIENCE);
            assert_eq!(fs::read_dir(&sockets).unwrap().count(), 0, "{end}");
        }
        fs::remove_file(&short).unwrap();
    });
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn a_connection_that_the_user_has_opened_is_used() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let socket = format!("/run/testbed-user-{}", std::process::id());
        hosts.configure_ssh(&format!("Host *\n  ControlPath {socket}-%h\n  RemoteCommand echo not this"));
        let mut users = Command::new("ssh");
        users.arg("-F").arg(hosts.ssh_config()).args(["-o", "RemoteCommand=none", "-M", "-N", "lab1"]);
        let mut users = users.stdin(Stdio::null()).spawn().unwrap();
        let path = format!("{socket}-10.77.1.2");
        let deadline = Instant::now() + PATIENCE;
        while !Path::new(&path).exists() {
            assert!(Instant::now() < deadline, "{path} is missing");
            thread::sleep(Duration::from_millis(20));
        }
        let (code, out, err) = dir.run_subcommand(&["lab", "status", "--lab", &lab]);
        assert_eq!(code, 0, "{out}{err}");
        assert_eq!([0, 1, 2].map(|host| hosts.logins(host)), [1, 1, 1]);
        assert!(Path::new(&path).exists(), "it is the user's");
        let output = shell(&dir, &lab, &["cat"], b"input");
        assert_eq!(text(&output.stdout), "input", "{}", text(&output.stderr));
        assert_eq!(hosts.logins(1), 1);
        users.kill().unwrap();
        users.wait().unwrap();
        let _ = fs::remove_file(&path);

        let long = "x".repeat(200_000);
        let output = shell(&dir, &lab, &["printf", "%s", &long[..100_000]], b"");
        assert_eq!(output.stdout.len(), 100_000, "{}", text(&output.stderr));
        let mut script = Command::new(&dir.testbed);
        let half = &long[..120_000];
        script.args(["lab", "shell", "--lab", &lab, "compute1", "--", "printf", "%s%s", half, half]);
        let output = script.output().unwrap();
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{err}");
        assert!(err.contains("the command is too long to be sent"), "{err}");
    });
}
