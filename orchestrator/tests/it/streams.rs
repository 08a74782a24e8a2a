//! Standard output and standard error: full devices, closed readers, and text that would control a terminal.

use crate::{
    cli::{Finished, Sandbox, THRESHOLD, threshold_records},
    common::{full_pipe, mock, real::signal, wait_until},
};
use nix::sys::signal::Signal;
use std::{
    fs::{self, OpenOptions},
    io::pipe,
    process::{Command, Stdio},
};
use testbed::{matrix::File, outcome::Outcome, results::store};

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

fn finished(command: &mut Command) -> Finished {
    let shown = format!("{command:?}");
    Finished { command: shown, output: command.output().unwrap() }
}

#[test]
fn a_diagnostic_that_cannot_be_written_ends_no_command() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    for (args, code) in [
        (&["run", "--resume", "run"][..], 0),
        (&["report", "run", "--csv"], 0),
        (&["plan", "run/matrix.yaml"], 0),
        (&["run", "absent.yaml"], 2),
        (&["report", "absent"], 2),
        (&["rum"], 2),
        (&["run", "run/matrix.yaml", "--out", "new"], 3),
    ] {
        finished(sandbox.command(args).stderr(full())).exits(code);
    }
}

#[test]
fn results_that_cannot_be_written_are_an_error() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    for args in [
        &["run", "--resume", "run"][..],
        &["report", "run"],
        &["report", "run", "--csv"],
        &["report", "run", "--json"],
        &["plan", "run/matrix.yaml"],
        &["schema"],
        &["doctor"],
        &["lab", "status"],
        &["--help"],
        &["run", "--help"],
        &["--version"],
    ] {
        let full = finished(sandbox.command(args).stdout(full()));
        full.exits(3).says("error: cannot write to standard output: No space left on device");
        let unwritable = finished(sandbox.command(args).stdout(fs::File::open("/dev/null").unwrap()));
        unwritable.exits(3).says("error: cannot write to standard output: Bad file descriptor");

        let code = sandbox.testbed(args).output.status.code().unwrap();
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let closed = finished(sandbox.command(args).stdout(writer));
        closed.exits(code);
        assert!(!closed.stderr().contains("standard output"), "{}", closed.shown());
    }
}

#[test]
fn a_signal_ends_a_run_whose_results_nobody_reads() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    let (_unread, output) = full_pipe();
    let mut run = sandbox.command(&["run", "--resume", "run"]).stdout(output).spawn().unwrap();
    // It is in the system call 1 (write) on file descriptor 1.
    let call = format!("/proc/{}/syscall", run.id());
    wait_until("the results", || fs::read_to_string(&call).unwrap().starts_with("1 0x1 ").then_some(()));
    signal(run.id().cast_signed(), Signal::SIGINT);
    let ended = wait_until("the end of the run", || run.try_wait().unwrap());
    assert_eq!(ended.code(), Some(130));
    assert!(sandbox.path("run").join(store::SUMMARY).exists());
}

/// Text that a terminal would interpret as commands: set the title, clear the screen, hide text; in one byte
/// and in two. The last characters reverse the text that follows.
const COMMANDS: &str = "\x1b]0;title\x07\x1b[2J\u{9b}8m\r\x08\x7f\u{202e}";

#[track_caller]
fn commands_nothing(text: &str) {
    let is_command = |c: &char| (c.is_control() && !matches!(c, '\n' | '\t')) || *c == '\u{202e}';
    let found: Vec<char> = text.chars().filter(is_command).collect();
    assert_eq!(found, [], "{text:?}");
}

#[test]
fn control_characters_of_a_results_folder_are_shown() {
    let plan = File::parse(THRESHOLD, "n").and_then(|file| file.expand()).unwrap();
    let mut record = mock::record(&plan, 0, 1, Outcome::Failed, 4000.0);
    record.reason = Some(format!("QEMU ended{COMMANDS}\nexpected every cell: converged: holds"));
    record.measured.disagreements = vec![format!("one{COMMANDS}")];
    record.axes.insert("stress.rate".into(), format!("0{COMMANDS}"));
    let sandbox = Sandbox::with_run(THRESHOLD, [record]);
    for format in ["table", "csv", "markdown"] {
        let report = sandbox.testbed(&["report", "run", "--format", format]).exits(3).stdout();
        commands_nothing(&report);
        assert!(report.contains("␛]0;title␇"), "{report}");
    }
    let table = sandbox.testbed(&["report", "run"]).stdout();
    assert!(table.contains("\n    expected every cell: converged: holds\n"), "a line of its own:\n{table}");
    let json = sandbox.testbed(&["report", "run", "--json"]);
    commands_nothing(&json.exits(3).stdout());
    let disagreement = &json.json()["records"][0]["disagreements"][0];
    assert_eq!(*disagreement, format!("one{COMMANDS}"), "JSON keeps the value");
}

#[test]
fn control_characters_of_a_matrix_are_shown_in_messages() {
    let escaped = r"\e]0;title\a\e[2J\x9b8m\r\b\x7f\u202e";
    for matrix in [
        format!("name: n\nguest: {{ cpu: \"{escaped}\", vcpu: 1 }}\n"),
        format!("name: n\n\"{escaped}\": 1\n"),
        format!("name: n\nstress: {{ rate: \"{escaped}\" }}\n"),
        format!("name: \"{escaped}\"\n"),
        format!("name: n\nexpect: [{{ where: \"stress.rate == {escaped}\", outcome: converged }}]\n"),
    ] {
        let sandbox = Sandbox::with_matrix(&matrix);
        let refused = sandbox.testbed(&["plan", "matrix.yaml"]);
        refused.exits(2).prints_nothing();
        commands_nothing(&refused.stderr());
    }
    let sandbox = Sandbox::with_matrix(&format!("name: n\ndescription: \"{escaped}\"\n"));
    let planned = sandbox.testbed(&["plan", "matrix.yaml"]);
    commands_nothing(&(planned.exits(0).stdout() + &planned.stderr()));
    for args in [&[COMMANDS][..], &["report", COMMANDS], &["plan", "matrix.yaml", "--only", COMMANDS]] {
        let refused = sandbox.testbed(args);
        refused.exits(2).prints_nothing();
        commands_nothing(&refused.stderr());
    }
}
