//! The stressor through its own doors: the command line, its output, signals, and the conversation over
//! standard input and output. A failed test prints the command and all it said.

use serde_json::Value;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
};
use stressor::{
    Workload,
    protocol::{self, Answer, Message, Request},
    verify::{Area, Verification},
};

fn stressor(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stressor"));
    command.args(args.split_whitespace());
    command
}

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn said(command: &Command, output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let said = Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    // Shown only when the test fails.
    println!("{command:?}\nexit code {:?}\n{}{}", said.code, said.stdout, said.stderr);
    said
}

fn run(args: &str) -> Said {
    let mut command = stressor(args);
    let output = command.output().expect("the stressor can be run");
    said(&command, output)
}

#[test]
fn bad_settings_end_with_code_2_and_say_what_to_do() {
    for (args, words) in [
        ("--rate 96", "`96` has no unit"),
        ("--rate 96mb/s --working-set 1MB", "did you mean `MB/s`?"),
        ("--rate 96MB/s", "needs a working set"),
        ("--working-set 100TB", "make the working set or the ballast smaller"),
        ("--ballast 100TB", "make the working set or the ballast smaller"),
        ("--working-set 16KiB --threads 5", "use at most 4 threads"),
        ("--working-set 16KiB --threads 0", "at least one thread"),
        ("--working-set 1TB --page-size 2MiB", "huge pages of 2MiB"),
        ("--content noise", "compressible:SHARE"),
        ("--order hot-cold:1/2", "like `50%`"),
        ("--page-size 4MiB", "possible values: 4KiB, 2MiB, 1GiB"),
        ("--phase 96MB/s", "like `96MB/s:30s`"),
        ("--working-set 1MB --step 2ms", "from 10us to 1ms"),
        ("--duration 10", "`10` has no unit"),
        ("--control --rate 1MB/s", "cannot be used with"),
        ("--speed 1MB/s", "unexpected argument '--speed'"),
    ] {
        let said = run(args);
        assert_eq!(said.code, Some(2), "{args}");
        assert!(said.stderr.contains(words), "{args}");
        assert_eq!(said.stdout, "", "{args}");
    }
}

#[test]
fn help_names_every_setting_of_a_workload() {
    let said = run("--help");
    assert_eq!(said.code, Some(0));
    let Value::Object(settings) = serde_json::to_value(Workload::default()).unwrap() else { unreachable!() };
    for setting in settings.keys() {
        let option = format!("--{}", setting.replace('_', "-"));
        assert!(said.stdout.contains(&option), "{option}");
    }
    assert!(said.stdout.contains("--phase"));
    assert!(said.stdout.lines().all(|line| line.chars().count() <= 100));
    stressor::cli::command().debug_assert();
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn json_has_a_status_each_second_and_a_summary() {
    let said = run("--rate 8MB/s --working-set 1MiB --ballast 1MiB --duration 1100ms --json");
    assert_eq!(said.code, Some(0));
    let lines = json_lines(&said.stdout);
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
fn every_setting_can_be_given() {
    let said = run("--rate unlimited --working-set 1MB --ballast 100kB --content compressible:25% \
                    --ballast-content zero --write word --order hot-cold:90%/10% --threads 2 --page-size 4KiB \
                    --catch-up burst --step 250us --phase 4MB/s:20ms --phase 0:10ms --seed 9 --duration 100ms --json");
    assert_eq!(said.code, Some(0));
    let summary = json_lines(&said.stdout).pop().unwrap();
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
fn people_read_a_line_each_second_and_what_became_of_it() {
    let said = run("--rate 8MB/s --working-set 1MiB --duration 1100ms");
    assert_eq!(said.code, Some(0));
    assert!(said.stdout.lines().next().unwrap().contains("MB/s   stall"));
    assert!(said.stdout.contains("of 8.0 asked for"));
    assert!(said.stdout.contains("256 pages, all as written"));
    let unchecked = run("--rate 8MB/s --working-set 1MiB --duration 1ms --no-verify");
    assert!(unchecked.stdout.contains("memory        not checked"));
}

#[test]
fn an_interruption_ends_with_the_summary() {
    for signal in ["INT", "TERM"] {
        let mut command = stressor("--rate 8MB/s --working-set 1MiB");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The first status tells that it runs.
        let mut first = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut first).unwrap();
        assert!(first.contains("MB/s"), "{first}");
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}: {rest}");
        assert!(rest.contains("all as written"), "{signal}: {rest}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_program() {
    let mut command = stressor("--rate 1MB/s --working-set 1MiB --json");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let said = said(&command, output);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
}

/// A stressor that is spoken to over its standard input and output.
struct Guest {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    next_id: u64,
}

impl Guest {
    fn boot() -> Self {
        let mut command = stressor("--control");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut guest = Self { child, input, output, next_id: 1 };
        let Message::Hello(hello) = guest.next() else { panic!("it does not say hello first") };
        assert_eq!(hello.version, env!("CARGO_PKG_VERSION"));
        assert!(hello.cpus > 0 && hello.memory_bytes > 0 && !hello.kernel.is_empty());
        guest
    }

    fn next(&mut self) -> Message {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("each line is a message")
    }

    fn ask(&mut self, command: protocol::Command) -> Answer {
        let asked = self.next_id;
        self.next_id += 1;
        let mut line = serde_json::to_string(&Request { id: asked, command }).unwrap();
        line.push('\n');
        self.input.write_all(line.as_bytes()).unwrap();
        loop {
            if let Message::Reply { id, answer } = self.next() {
                assert_eq!(id, asked);
                return answer;
            }
        }
    }

    fn verify(&mut self) -> Verification {
        match self.ask(protocol::Command::Verify) {
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
        assert_eq!(self.ask(protocol::Command::Set(workload)), Answer::Done);
    }

    fn leave(self) {
        let Self { mut child, input, .. } = self;
        drop(input);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_conversation_from_hello_to_the_end_of_input() {
    let mut guest = Guest::boot();
    guest.set("{ rate: 8MB/s, working_set: 1MiB, ballast: 1MiB }");
    assert_eq!(guest.telemetry().pages_dirtied, 0);
    assert_eq!(guest.ask(protocol::Command::Start), Answer::Done);
    let first = guest.telemetry();
    assert!(first.running);
    let mut last = guest.telemetry();
    assert_eq!(last.sequence, first.sequence + 1);
    assert!(last.clock_ns > first.clock_ns);
    while last.pages_dirtied < 1000 {
        last = guest.telemetry();
    }
    // The load is removed: the memory stays.
    guest.set("{ rate: 0, working_set: 1MiB, ballast: 1MiB }");
    let still = guest.telemetry().pages_dirtied;
    assert_eq!(guest.telemetry().pages_dirtied, still);
    assert_eq!(guest.verify(), Verification { pages_checked: 512, pages_bad: 0, first_bad: None });
    assert!(!guest.telemetry().running);
    guest.leave();
}

#[test]
fn memory_corrupted_from_outside_is_found() {
    let mut guest = Guest::boot();
    let (working_set_pages, ballast_pages) = (40 << 8, 24 << 8);
    guest.set("{ rate: unlimited, working_set: 40MiB, ballast: 24MiB }");
    guest.ask(protocol::Command::Start);
    assert!(guest.verify().first_bad.is_none());
    let id = guest.child.id();
    let memory = File::options().write(true).open(format!("/proc/{id}/mem")).unwrap();
    for (pages, area) in [(ballast_pages, Area::Ballast), (working_set_pages, Area::WorkingSet)] {
        let middle = mapping_of_about(id, pages * 4096) + pages / 2 * 4096;
        if let Err(error) = memory.write_all_at(b"not this", middle + 64) {
            println!("skipped: this process may not write to its child's memory: {error}");
            return;
        }
        let bad = guest.verify().first_bad.expect("the corruption is found");
        assert!(bad.area == area && bad.index.abs_diff(pages / 2) <= SLACK / 4096, "{bad}");
        assert!(bad.held.contains("at byte 64"), "{}", bad.held);
        assert!(bad.held.contains(&format!("{:#018x}", u64::from_le_bytes(*b"not this"))), "{}", bad.held);
    }
    assert_eq!(guest.verify().pages_bad, 2);
    guest.leave();
}

/// The kernel may show a mapping and its neighbours, thread stacks, as one.
const SLACK: u64 = 8 << 20;

/// Where a process has mapped about this many bytes.
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
