//! Tests of the program `stressor` from outside: its command line, its output, signals, and the protocol over
//! standard input and output. A failed test prints the command and its output.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a test says what failed or why it was skipped"
)]

/// The load on a disk, through the command line and the protocol.
#[path = "program/disk.rs"]
mod disk;

use nix::fcntl::{FcntlArg, fcntl};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe},
    os::unix::fs::FileExt,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use stressor::{
    Workload,
    protocol::{self, Answer, Message, Request},
    verify::{Area, Verification},
};

/// How long tests wait for anything. It is long, because hosts may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn stressor(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stressor"));
    command.args(args.split_whitespace());
    command
}

/// The exit code and the output of a finished program.
struct CapturedOutput {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn capture(command: &Command, output: Output) -> CapturedOutput {
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let output = CapturedOutput {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    // The test harness shows this only if the test fails.
    println!("{command:?}\nexit code {:?}\n{}{}", output.code, output.stdout, output.stderr);
    output
}

fn run(args: &str) -> CapturedOutput {
    let mut command = stressor(args);
    let output = command.output().expect("the stressor can be run");
    capture(&command, output)
}

#[test]
fn invalid_settings_exit_with_code_2_and_explain_the_fix() {
    for (args, words) in [
        ("--rate 96", "`96` has no unit"),
        ("--rate 96Mb/s --working-set 1MB", "write `96MB/s` for bytes per second, or `12MB/s` for bits"),
        ("--rate 96mbit --working-set 1MB", "did you mean `12MB/s`?"),
        ("--rate 1MB/s --working-set 1M", "write `1MB` for 10^6 bytes, or `1MiB` for 2^20 bytes"),
        ("--rate 96MB/s", "needs a working set"),
        ("--working-set 100TB", "make the working set or the ballast smaller"),
        ("--ballast 100TB", "make the working set or the ballast smaller"),
        ("--working-set 16KiB --threads 5", "use at most 4 threads"),
        ("--working-set 16KiB --threads 0", "at least one thread"),
        ("--working-set 1GiB --threads 100000 --duration 1s", "100000 threads are too many for"),
        ("--working-set 100TB --threads 4294967295", "threads are too many for"),
        ("--working-set 1MB --threads 4294967296", "4294967296 is not in 0..=4294967295"),
        ("--working-set 1000000TB", "exceeds the maximum of 128TiB"),
        (
            "--working-set 1MB --rate 18446744073709551615B/s",
            "exceeds the maximum of 100TB/s: `unlimited` is",
        ),
        ("--working-set 1TB --page-size 2MiB", "huge pages of 2MiB"),
        ("--content noise", "compressible:PERCENT"),
        ("--order hot-cold:1/2", "like `50%`"),
        ("--page-size 4MiB", "possible values: 4KiB, 2MiB, 1GiB"),
        ("--phase 96MB/s", "like `96MB/s:30s`"),
        ("--working-set 1MB --step 2ms", "from 10us to 1ms"),
        ("--duration 10", "`10` has no unit"),
        ("--control --rate 1MB/s", "cannot be used with"),
        ("--duration 1s", "there is nothing to do without memory"),
        ("--json --rate 0", "there is nothing to do without memory"),
        ("--phase 0:1s", "there is nothing to do without memory"),
        ("--speed 1MB/s", "unexpected argument '--speed'"),
    ] {
        let output = run(args);
        assert_eq!(output.code, Some(2), "{args}");
        assert!(output.stderr.contains(words), "{args}");
        assert!(output.stderr.starts_with("error: "), "{args}");
        assert_eq!(output.stdout, "", "{args}");
    }
}

#[test]
fn a_system_without_room_for_threads_is_an_error() {
    // The limit applies only to ordinary users, and this one has no other processes.
    let mut command = Command::new("prlimit");
    command.args(["--nproc=1", "setpriv", "--reuid=54321", "--clear-groups"]);
    command.args([env!("CARGO_BIN_EXE_stressor"), "--rate", "1MB/s", "--working-set", "64MiB"]);
    let output = command.output().expect("prlimit can be run");
    let output = capture(&command, output);
    if output.stderr.contains("setpriv: ") || output.stderr.contains("Permission denied") {
        println!("skipped: not as root, or not where everybody may run programs: {}", output.stderr);
        return;
    }
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.starts_with("error: cannot start a thread: "), "{}", output.stderr);
}

#[test]
fn without_arguments_the_help_is_shown() {
    let output = run("");
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("Usage: stressor") && output.stderr.contains("Examples:"));
    assert_eq!(output.stdout, "");
}

#[test]
fn memory_that_is_not_dirtied_is_pointed_out() {
    let note = "note: --rate is 0, so the working set is allocated but not dirtied";
    let output = run("--working-set 1MiB --duration 1ms");
    assert_eq!(output.code, Some(0));
    assert!(output.stderr.contains(note));
    for args in ["--working-set 1MiB --phase 1MB/s:1ms --duration 2ms", "--ballast 1MiB --duration 1ms"] {
        assert_eq!(run(args).stderr, "", "{args}");
    }
}

#[test]
fn spellings_of_other_programs_are_read() {
    let output =
        run("--rate 1mb/s --working-set 1Mi --write WORD --order Hot_Cold:90%/10% --page-size 4kib \
                      --catch-up Never --content Random --step 500usec --duration 0.1sec --json");
    assert_eq!(output.code, Some(0));
}

#[test]
fn help_names_every_setting_of_a_workload() {
    let output = run("--help");
    assert_eq!(output.code, Some(0));
    let Value::Object(settings) = serde_json::to_value(Workload::default()).unwrap() else { unreachable!() };
    for setting in settings.keys() {
        let option = format!("--{}", setting.replace('_', "-"));
        assert!(output.stdout.contains(&option), "{option}");
    }
    assert!(output.stdout.contains("--phase"));
    assert!(output.stdout.lines().all(|line| line.chars().count() <= 100));
    stressor::cli::command().debug_assert();
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn json_has_a_status_every_second_and_a_summary() {
    let output = run("--rate 8MB/s --working-set 1MiB --ballast 1MiB --duration 2s --json");
    assert_eq!(output.code, Some(0));
    let lines = json_lines(&output.stdout);
    let (summary, statuses) = lines.split_last().unwrap();
    assert!(!statuses.is_empty());
    let summary = &summary["summary"];
    let dirtied = |figures: &Value| figures["pages_dirtied"].as_u64().unwrap();
    assert!(dirtied(&statuses[0]["status"]) > 0);
    assert!(dirtied(summary) >= dirtied(&statuses[0]["status"]));
    assert!(summary["write_latency"]["max_ns"].as_u64() > Some(0));
    assert_eq!(summary["verification"]["pages_checked"], 512);
    assert_eq!(summary["verification"]["first_bad"], Value::Null);
    let workload: Workload = serde_json::from_value(summary["workload"].clone()).unwrap();
    assert_eq!(workload.rate.to_string(), "8MB/s");
}

#[test]
fn every_setting_has_a_working_option() {
    let output = run("--rate unlimited --working-set 1MB --ballast 100kB --content compressible:25% \
         --ballast-content zero --write word --order hot-cold:90%/10% --threads 2 --page-size 4KiB \
         --catch-up burst --step 250us --phase 4MB/s:20ms --phase 0:10ms --seed 9 --duration 100ms --json");
    assert_eq!(output.code, Some(0));
    let summary = json_lines(&output.stdout).pop().unwrap();
    assert_eq!(
        summary["summary"]["workload"],
        serde_json::json!({
            "rate": "unlimited", "working_set": "1MB", "ballast": "100kB", "content": "compressible:25%",
            "ballast_content": "zero", "write": "word", "order": "hot-cold:90%/10%", "threads": 2,
            "page_size": "4KiB", "catch_up": "burst", "step": "250us", "seed": 9,
            "phases": [{ "rate": "4MB/s", "duration": "20ms" }, { "rate": "0", "duration": "10ms" }],
        })
    );
    assert!(summary["summary"]["pages_dirtied"].as_u64() > Some(20));
}

#[test]
fn text_output_has_a_line_every_second_and_a_summary() {
    let output = run("--rate 8MB/s --working-set 1MiB --duration 2s");
    assert_eq!(output.code, Some(0));
    assert!(output.stdout.lines().next().unwrap().contains("MB/s   stall"));
    assert!(output.stdout.contains("of 8.0 MB/s requested"));
    assert!(output.stdout.contains("256 pages, all as written"));
    let unchecked = run("--rate 8MB/s --working-set 1MiB --duration 1ms --no-verify");
    assert!(unchecked.stdout.contains("memory        not verified"));
}

#[test]
fn an_interrupted_program_prints_the_summary() {
    for signal in ["INT", "TERM"] {
        let mut command = stressor("--rate 8MB/s --working-set 1MiB");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Once the first status is printed, signals are handled.
        let mut first = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut first).unwrap();
        assert!(first.contains("MB/s"), "{first}");
        send(signal, &child);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}: {rest}");
        assert!(rest.contains("all as written"), "{signal}: {rest}");
    }
}

/// Sends a signal to a process.
fn send(signal: &str, child: &Child) {
    let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

/// Returns the value in kB of a field of `/proc/PID/status`; 0 if the process has ended.
fn status_kb(child: &Child, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map_or(0, |value| value.trim().trim_end_matches(" kB").parse().unwrap())
}

#[test]
fn a_signal_ends_the_program_while_it_fills_its_memory() {
    for signal in ["INT", "TERM", "HUP"] {
        let mut command = stressor("--rate 1MB/s --working-set 1GiB --duration 1min");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while status_kb(&child, "VmRSS") < 50_000 && child.try_wait().unwrap().is_none() {}
        send(signal, &child);
        let output = child.wait_with_output().unwrap();
        let output = capture(&command, output);
        // On a fast host, the memory may already be full. Then there is a summary.
        assert!(output.code.is_none() || output.stdout.contains("as written"), "{signal}");
        assert_eq!(output.stderr, "", "{signal}");
    }
}

/// Returns a pipe that is full, as that of a pager that is paused.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    writer.write_all(&vec![b'x'; usize::try_from(size).unwrap()]).unwrap();
    (reader, writer)
}

/// Waits for the end of a program, which is killed if it does not end.
fn end_of(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns what a program that has ended wrote to standard error.
fn stderr_of(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

const UNREAD: &str = "error: cannot write to standard output: nobody reads it\n";

#[test]
fn the_first_signal_ends_a_program_whose_output_nobody_reads() {
    for signal in ["INT", "TERM"] {
        let (_reader, writer) = full_pipe();
        let mut command = stressor("--rate 1MB/s --working-set 1MiB");
        let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        // From then on, a signal ends the load and not the program.
        let started = Instant::now();
        while !catches_signals(&child) {
            assert!(started.elapsed() < PATIENCE, "it catches no signals");
            thread::sleep(Duration::from_millis(10));
        }
        send(signal, &child);
        assert_eq!(end_of(&mut child).code(), Some(1), "{signal}");
        assert_eq!(stderr_of(&mut child), UNREAD, "{signal}");
    }
}

/// Returns whether a process reads signals from a descriptor.
fn catches_signals(child: &Child) -> bool {
    let open = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    open.flatten()
        .any(|fd| fs::read_link(fd.path()).is_ok_and(|file| file.as_os_str() == "anon_inode:[signalfd]"))
}

#[test]
fn the_duration_ends_a_program_whose_output_nobody_reads() {
    for args in ["", "--json"] {
        let (_reader, writer) = full_pipe();
        let mut command = stressor(&format!("--rate 1MB/s --working-set 1MiB --duration 10ms {args}"));
        let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        assert_eq!(end_of(&mut child).code(), Some(1));
        assert_eq!(stderr_of(&mut child), UNREAD);
    }
    // Nobody reads its diagnostics either, of which there is one before the beginning.
    let (_reader, writer) = full_pipe();
    let mut command = stressor("--working-set 1MiB --duration 10ms");
    let mut child = command.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
    assert_eq!(end_of(&mut child).code(), Some(1));
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" --rate 8MB/s --working-set 1MiB"]);
    let mut child = command.arg(env!("CARGO_BIN_EXE_stressor")).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("MB/s   stall"));
    send("HUP", &child);
    for _ in 0..2 {
        let line = lines.next().unwrap();
        assert!(line.contains("MB/s   stall"), "{line}");
    }
    send("TERM", &child);
    assert!(lines.any(|line| line.contains("all as written")));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_output_that_fails_does_not_end_the_load() {
    let args = "--rate 1MB/s --working-set 1MiB --duration 2500ms";
    let (reader, closed) = pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let unwritable = File::open("/dev/null").unwrap();
    let told = |cause: &str| {
        let lost = format!("cannot write to standard output: {cause}");
        format!("note: {lost}; the rest is not shown\nerror: {lost}\n")
    };
    for (stdout, code, stderr) in [
        (Stdio::from(closed), 0, String::new()),
        (full.into(), 1, told("No space left on device (os error 28)")),
        (unwritable.into(), 1, told("Bad file descriptor (os error 9)")),
    ] {
        let mut command = stressor(args);
        let started = Instant::now();
        let output = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap().wait_with_output();
        let output = capture(&command, output.unwrap());
        assert_eq!((output.code, output.stderr), (Some(code), stderr));
        assert!(started.elapsed() >= Duration::from_millis(2500), "it ended early");
    }
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    for args in ["--help", "--version"] {
        let mut command = stressor(args);
        let output = command.stdout(File::open("/dev/null").unwrap()).stderr(Stdio::piped()).spawn();
        let output = capture(&command, output.unwrap().wait_with_output().unwrap());
        assert_eq!(output.code, Some(1), "{args}");
        let error = "error: cannot write to standard output: Bad file descriptor (os error 9)\n";
        assert_eq!(output.stderr, error, "{args}");
    }
}

#[test]
fn a_file_that_becomes_too_large_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for args in ["--help", "--rate 1MB/s --working-set 1MiB --duration 1ms"] {
        let mut command = Command::new("sh");
        let script = "ulimit -f 0 && exec \"$0\" \"$@\" > out";
        command.args(["-c", script, env!("CARGO_BIN_EXE_stressor")]).args(args.split(' '));
        let output = command.current_dir(folder.path()).output().unwrap();
        let output = capture(&command, output);
        assert_eq!(output.code, Some(1), "{args}");
        let error = "error: cannot write to standard output: File too large (os error 27)\n";
        assert!(output.stderr.ends_with(error), "{args}");
    }
}

/// A running `stressor --control`, controlled over its standard input and output.
struct ControlSession {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    next_id: u64,
}

impl ControlSession {
    fn start() -> Self {
        Self::of(stressor("--control"))
    }

    /// Starts a session with a command that eventually runs `stressor --control`.
    fn of(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut session = Self { child, input, output, next_id: 1 };
        let Message::Hello(hello) = session.next() else { panic!("the first message is not hello") };
        assert_eq!(hello.version, env!("CARGO_PKG_VERSION"));
        assert!(hello.cpus > 0 && hello.memory_bytes > 0 && !hello.kernel.is_empty());
        session
    }

    fn next(&mut self) -> Message {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("each line is a message")
    }

    fn request(&mut self, command: protocol::Command) -> Answer {
        let request_id = self.next_id;
        self.next_id += 1;
        let mut line = serde_json::to_string(&Request { id: request_id, command }).unwrap();
        line.push('\n');
        self.input.write_all(line.as_bytes()).unwrap();
        loop {
            if let Message::Reply { id, answer } = self.next() {
                assert_eq!(id, request_id);
                return answer;
            }
        }
    }

    fn verify(&mut self) -> Verification {
        match self.request(protocol::Command::Verify) {
            Answer::Verified(verification) => verification,
            other => panic!("{other:?} instead of a verification"),
        }
    }

    fn telemetry(&mut self) -> protocol::Telemetry {
        loop {
            if let Message::Telemetry(telemetry) = self.next() {
                return telemetry;
            }
        }
    }

    fn set(&mut self, settings: &str) {
        let workload = serde_yaml::from_str(settings).unwrap();
        assert_eq!(self.request(protocol::Command::Set(workload)), Answer::Done);
    }

    fn close(self) {
        let Self { mut child, input, .. } = self;
        drop(input);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn control_works_from_hello_to_the_end_of_input() {
    let mut session = ControlSession::start();
    session.set("{ rate: 8MB/s, working_set: 1MiB, ballast: 1MiB }");
    assert_eq!(session.telemetry().pages_dirtied, 0);
    assert_eq!(session.request(protocol::Command::Start), Answer::Done);
    let first = session.telemetry();
    assert!(first.running);
    let mut last = session.telemetry();
    assert_eq!(last.sequence, first.sequence + 1);
    assert!(last.clock_ns > first.clock_ns);
    while last.pages_dirtied < 1000 {
        last = session.telemetry();
    }
    // A rate of 0 stops the dirtying and keeps the memory.
    session.set("{ rate: 0, working_set: 1MiB, ballast: 1MiB }");
    let still = session.telemetry().pages_dirtied;
    assert_eq!(session.telemetry().pages_dirtied, still);
    assert_eq!(session.verify(), Verification { pages_checked: 512, pages_bad: 0, first_bad: None });
    assert!(!session.telemetry().running);
    session.close();
}

#[test]
fn control_escapes_control_characters_of_a_request_in_its_reply() {
    let mut session = ControlSession::start();
    session.input.write_all("{\"id\":1,\"command\":\"\u{9b}2J\u{202e}\"}\n".as_bytes()).unwrap();
    let reply = loop {
        let mut line = String::new();
        session.output.read_line(&mut line).unwrap();
        if line.contains("invalid request") {
            break line;
        }
    };
    assert!(reply.contains("\\u009b2J\\u202e"), "{reply:?}");
    session.close();
}

#[test]
fn control_ends_when_its_output_fails() {
    let (reader, closed) = pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let lost = "error: cannot write to standard output: No space left on device (os error 28)\n";
    for (stdout, code, stderr) in [(Stdio::from(closed), 0, ""), (full.into(), 1, lost)] {
        let mut command = stressor("--control");
        // Its input stays open.
        let mut child = command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let _input = child.stdin.take();
        assert_eq!(end_of(&mut child).code(), Some(code));
        assert_eq!(stderr_of(&mut child), stderr);
    }
}

#[test]
fn control_ends_with_its_input_while_nobody_reads_its_output() {
    let (_reader, writer) = full_pipe();
    let mut command = stressor("--control");
    let mut child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(end_of(&mut child).code(), Some(1));
    assert_eq!(stderr_of(&mut child), UNREAD);
}

#[test]
fn control_bounds_the_length_of_a_line_and_the_number_of_threads() {
    let mut session = ControlSession::start();
    let before = status_kb(&session.child, "VmHWM");
    for _ in 0..64 {
        session.input.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    session.input.write_all(b"\n").unwrap();
    let many = "{ rate: 1MB/s, working_set: 1GiB, threads: 100000 }";
    let Answer::Failed(why) = session.request(protocol::Command::Set(serde_yaml::from_str(many).unwrap()))
    else {
        panic!("100000 threads are accepted")
    };
    assert!(why.starts_with("100000 threads are too many for"), "{why}");
    let after = status_kb(&session.child, "VmHWM");
    assert!(after < before + 16 * 1024, "64 MiB without a newline took {} kB", after - before);
    session.close();
}

#[test]
fn memory_corrupted_from_outside_is_detected() {
    let mut session = ControlSession::start();
    let (working_set_pages, ballast_pages) = (40 << 8, 24 << 8);
    session.set("{ rate: unlimited, working_set: 40MiB, ballast: 24MiB }");
    session.request(protocol::Command::Start);
    assert!(session.verify().first_bad.is_none());
    let id = session.child.id();
    let memory = File::options().write(true).open(format!("/proc/{id}/mem")).unwrap();
    for (pages, area) in [(ballast_pages, Area::Ballast), (working_set_pages, Area::WorkingSet)] {
        let middle = mapping_of_about(id, pages * 4096) + pages / 2 * 4096;
        if let Err(error) = memory.write_all_at(b"not this", middle + 64) {
            println!("skipped: this process may not write to its child's memory: {error}");
            return;
        }
        let bad = session.verify().first_bad.expect("the corruption is found");
        assert!(bad.area == area && bad.index.abs_diff(pages / 2) <= SLACK / 4096, "{bad}");
        assert!(bad.held.contains("at byte 64"), "{}", bad.held);
        assert!(bad.held.contains(&format!("{:#018x}", u64::from_le_bytes(*b"not this"))), "{}", bad.held);
    }
    assert_eq!(session.verify().pages_bad, 2);
    session.close();
}

/// The tolerance for a mapping's size, in bytes: the kernel may merge it with neighbouring thread stacks.
const SLACK: u64 = 8 << 20;

/// Returns the start address of a process's writable mapping of about `length` bytes.
fn mapping_of_about(id: u32, length: u64) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{id}/maps")).unwrap();
    let range = |line: &str| {
        let (start, rest) = line.split_once('-')?;
        let (end, permissions) = rest.split_once(' ')?;
        permissions.starts_with("rw").then_some(())?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    };
    let mut ranges = maps.lines().filter_map(range);
    let mapping = ranges.find(|(start, end)| (length..length + SLACK).contains(&(end - start)));
    mapping.unwrap_or_else(|| panic!("not mapped:\n{maps}")).0
}
