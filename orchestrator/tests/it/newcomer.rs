//! The command line as a newcomer meets it: mistyped words, files that cannot be read, terminals of any
//! width, colors, standard input, and a program without its companion.

use crate::{
    cli::{Finished, Sandbox, THRESHOLD, threshold_records},
    common::{golden, mock, plan, real::copy_program, words, write_script},
};
use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};
use testbed::outcome::Outcome;

/// Runs a command whose standard output is a terminal of this width. Returns its exit code and the output on
/// the terminal.
fn on_terminal(mut command: Command, columns: u16) -> (Option<i32>, String) {
    // Some terminals do not know their height.
    let size = Winsize { ws_row: 0, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    command.stdout(pty.slave).stderr(Stdio::null()).stdin(Stdio::null()).env("TERM", "xterm");
    let mut child = command.spawn().unwrap();
    // The command holds a descriptor of the terminal.
    drop(command);
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let mut terminal = fs::File::from(pty.master);
    // Reading fails once no process has the terminal open.
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        bytes.extend(&buffer[..count]);
    }
    let code = child.wait().unwrap().code();
    (code, String::from_utf8(bytes).unwrap().replace("\r\n", "\n"))
}

/// Runs a command with this standard input, which the command need not read.
fn with_input(mut command: Command, input: &str) -> Finished {
    let shown = format!("{command:?} < {input:?}");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    match child.stdin.take().unwrap().write_all(input.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => panic!("{shown}: {error}"),
        _ => {}
    }
    Finished { command: shown, output: child.wait_with_output().unwrap() }
}

#[track_caller]
fn fits(text: &str, columns: usize) {
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > columns).collect();
    assert!(wide.is_empty(), "wider than {columns} columns: {wide:#?}\nin\n{text}");
}

/// Returns the finding of `testbed doctor --json` with this name.
#[track_caller]
fn finding<'doctor>(doctor: &'doctor Value, name: &str) -> &'doctor Value {
    let findings = doctor["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("no {name} in {doctor}"))
}

#[test]
fn a_mistyped_setting_in_only_is_shown_with_a_hint() {
    let expected = "error: --only: `stress.rat` is not a setting\n  |\n  | stress.rat==0\n  | ^^^^^^^^^^\n  \
                    = help: did you mean `stress.rate`?\n";
    for command in ["run", "plan"] {
        let sandbox = Sandbox::with_matrix(THRESHOLD);
        let finished = sandbox.testbed(&[command, "matrix.yaml", "--only", "stress.rat==0"]);
        finished.exits(2).prints_nothing();
        assert_eq!(finished.stderr(), expected);
        let finished = sandbox.testbed(&[command, "matrix.yaml", "--only", "stress.rate == 96"]);
        finished.exits(2).says("  | stress.rate == 96\n  |                ^^\n");
    }
}

#[test]
fn a_kernel_that_the_user_names_is_bad_input_and_setup_is_not_advised() {
    let sandbox = Sandbox::with_matrix(THRESHOLD);
    fs::write(sandbox.path("text"), "no kernel").unwrap();
    fs::create_dir(sandbox.path("folder")).unwrap();
    write_holes(&sandbox.path("large"), 257 << 20);
    let irregular = "is not a Linux kernel image for x86 (bzImage): it is not a regular file; use the";
    let large =
        "large is not a Linux kernel image for x86 (bzImage): the file is longer than 256 MiB; use the";
    for (kernel, message) in [
        ("nofile", "error: --kernel: cannot read the kernel nofile: No such file or directory"),
        ("text", "error: --kernel: text is not a Linux kernel image for x86 (bzImage)"),
        ("folder", &format!("error: --kernel: folder {irregular}")),
        ("/dev/null", &format!("error: --kernel: /dev/null {irregular}")),
        ("large", &format!("error: --kernel: {large}")),
    ] {
        for command in [&["run", "matrix.yaml"][..], &["setup"], &["setup", "--dry-run"]] {
            let finished = sandbox.testbed(&[command, &["--kernel", kernel]].concat());
            finished.exits(2).says(message).prints_nothing();
            assert!(!finished.stderr().contains("testbed setup"), "{}", finished.stderr());
        }
        // Other findings may advise `testbed setup`, for example on a host without QEMU.
        let doctor = sandbox.testbed(&["doctor", "--quiet", "--json", "--kernel", kernel]).exits(1).json();
        let about_kernel = finding(&doctor, "guest kernel");
        assert_eq!(about_kernel["state"], "failed", "{doctor}");
        assert!(!about_kernel["remedy"].as_str().unwrap().contains("testbed setup"), "{doctor}");
    }
    let left = [".cache", "folder", "large", "matrix.yaml", "text"];
    assert_eq!(sandbox.entries(), left, "doctor has tried the cache");
    let hint = |args: &[&str], word: &str| {
        sandbox.testbed(args).exits(2).says(&format!("; did you mean `{word}`?"));
    };
    hint(&["run", "matrix.yaml", "--kernel", "atuo"], "auto");
    hint(&["setup", "--kernel", "distributoin"], "distribution");
    // Earlier, the directory of modules was silently ignored.
    for command in [&["run", "matrix.yaml"][..], &["setup"]] {
        let finished = sandbox.testbed(&[command, &["--kernel", "auto", "--modules", "/m"]].concat());
        finished.exits(2).says("error: --modules belongs to a kernel that --kernel names by its path");
    }
}

#[test]
fn a_folder_that_cannot_be_looked_into_is_not_said_to_have_no_results() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    symlink("loop", sandbox.path("loop")).unwrap();
    for args in [&["report", "loop"][..], &["run", "--resume", "loop"]] {
        let finished = sandbox.testbed(args);
        finished.exits(2).says("error: cannot read loop/matrix.yaml: Too many levels of symbolic links");
    }
    // As an ordinary user, since root may read everything.
    let set = |name: &str, mode| {
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("run", 0o000);
    let mut command = sandbox.command(&["report", "run"]);
    if nix::unistd::geteuid().is_root() {
        for folder in [sandbox.dir.path(), &sandbox.path(".")] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        command.uid(65_534).gid(65_534);
    }
    match command.output() {
        Err(error) => println!("skipped: an ordinary user cannot run the program: {error}"),
        Ok(output) => {
            let finished = Finished { command: "report run".into(), output };
            finished.exits(2).says("error: cannot read run/matrix.yaml: Permission denied");
        }
    }
    set("run", 0o755);
}

#[test]
fn doctor_writes_no_wide_lines() {
    let sandbox = Sandbox::new();
    let doctor = &["doctor", "--kernel", "/a/path/to/a/kernel/that/is/not/there"];
    let text = sandbox.testbed(doctor).exits(1).stdout();
    fits(&text, 80);
    assert!(words(&text).contains("cannot read the kernel /a/path/to/a/kernel/that/is/not/there:"), "{text}");
    for columns in [60, 80, 132] {
        let (code, text) =
            on_terminal(sandbox.command(&[doctor, &["--color", "never"][..]].concat()), columns);
        assert_eq!(code, Some(1), "{text}");
        fits(&text, columns.into());
        assert!(text.contains("failed   guest kernel"), "{text}");
    }
}

#[test]
fn what_is_there_but_does_not_work_is_not_said_to_be_missing() {
    let sandbox = Sandbox::new();
    // A file cannot be used as a directory, not even by root.
    fs::write(sandbox.path("results"), "").unwrap();
    let text = sandbox.testbed(&["doctor", "--quiet"]).exits(1).stdout();
    assert!(words(&text).contains("failed results"), "{text}");
    assert!(text.contains("missing  stressor"), "{text}");
    let json = sandbox.testbed(&["doctor", "--quiet", "--json"]).exits(1).json();
    let state = |name: &str| finding(&json, name)["state"].as_str().unwrap();
    assert_eq!((state("results"), state("stressor")), ("failed", "missing"));
}

#[test]
fn one_thing_is_not_counted_in_the_plural() {
    let sandbox = Sandbox::with_matrix("name: n\n");
    let text = sandbox.testbed(&["plan", "matrix.yaml"]).exits(0).stdout();
    assert!(text.contains("\n1 cell: 1 migration, predicted to take "), "{text}");
    let where_nothing_is = "name: n\nexpect: [{ where: stress.rate == 1MB/s, outcome: converged }]\n";
    let finished = with_input(sandbox.command(&["plan", "-"]), where_nothing_is);
    finished.exits(2).says("the only cell does not meet this condition");
}

/// Adds the full names of a command and its subcommands, with their help.
fn helps(command: &mut clap::Command, name: &str, all: &mut Vec<(String, String)>) {
    let name = format!("{name} {}", command.get_name());
    all.push((name.clone(), command.render_long_help().to_string()));
    all.push((format!("{name} -h"), command.render_help().to_string()));
    for further in command.get_subcommands_mut() {
        helps(further, &name, all);
    }
}

#[test]
fn no_help_refers_to_the_source() {
    let mut all = Vec::new();
    for mut command in [testbed::cli::command(), netem::cli::command(), stressor::cli::command()] {
        command.build();
        helps(&mut command, "", &mut all);
    }
    assert!(all.len() > 30, "only {}", all.len());
    for (name, text) in all {
        for source in ["[`", "`]", "](", "::", "module `", "crate", "the library"] {
            assert!(!text.contains(source), "{name} has `{source}`:\n{text}");
        }
    }
}

/// A matrix whose table is wide: spreads, published figures and a long outcome.
fn wide_run() -> Sandbox {
    let mut records = threshold_records();
    records[3].outcome = Outcome::Failed;
    Sandbox::with_run(THRESHOLD, records)
}

#[test]
fn tables_are_folded_to_the_width_of_the_terminal() {
    let sandbox = wide_run();
    fs::write(sandbox.path("matrix.yaml"), THRESHOLD).unwrap();
    let never = ["--color", "never"];
    for args in [&["report", "run"][..], &["run", "--resume", "run"], &["plan", "matrix.yaml"]] {
        let full = sandbox.testbed(args).stdout();
        for columns in [40, 60, 80, 100, 200] {
            let (_, text) = on_terminal(sandbox.command(&[args, &never].concat()), columns);
            fits(&text, columns.into());
            // Nothing is left out. The lines of a plot are as long as the terminal is wide.
            let is_line = |word: &&str| word.chars().any(|c| c == '\u{2500}');
            let mut all: Vec<&str> = full.split_whitespace().filter(|word| !is_line(word)).collect();
            let mut shown: Vec<&str> = text.split_whitespace().filter(|word| !is_line(word)).collect();
            all.sort_unstable();
            all.dedup();
            shown.sort_unstable();
            shown.dedup();
            assert_eq!(shown, all, "{columns}:\n{text}");
        }
        let (_, wide) = on_terminal(sandbox.command(&[args, &never].concat()), 200);
        assert_eq!(wide, full);
    }
    let (_, text) = on_terminal(sandbox.command(&["report", "run", "--color", "never"]), 80);
    golden("report-80.txt", &text);
    // CSV and Markdown are for programs.
    for format in ["csv", "markdown", "json"] {
        let args = ["report", "run", "--format", format];
        let (_, text) = on_terminal(sandbox.command(&args), 80);
        assert_eq!(text, sandbox.testbed(&args).stdout(), "{format}");
    }
}

#[test]
fn a_reason_in_a_plan_is_folded() {
    // Jumbo delays need the emulator, or a kernel with sch_netem; even if both are missing, nothing is wide.
    let matrix =
        "name: n\nlink: { rate: 1gbit }\naxes: { link.reorder: [0%, 1%], link.delay: [5ms, 20ms] }\n";
    let sandbox = Sandbox::with_matrix(matrix);
    for columns in [40, 80] {
        let (code, text) = on_terminal(sandbox.command(&["plan", "matrix.yaml"]), columns);
        assert_eq!(code, Some(0), "{text}");
        fits(&text, columns.into());
    }
}

#[test]
fn a_dash_stands_for_standard_input() {
    let sandbox = Sandbox::with_matrix(THRESHOLD);
    let from_file = sandbox.testbed(&["plan", "matrix.yaml"]).exits(0).stdout();
    assert_eq!(with_input(sandbox.command(&["plan", "-"]), THRESHOLD).exits(0).stdout(), from_file);
    let bad = with_input(sandbox.command(&["plan", "-"]), "name: n\nstres: {}\n");
    bad.exits(2).says(" --> <stdin>:2:1").says("did you mean `stress`?");
    let bad = with_input(sandbox.command(&["run", "-"]), "name: n\nstres: {}\n");
    bad.exits(2).says(" --> <stdin>:2:1");
    // The matrix was read; the stressor is what is missing.
    let run = with_input(sandbox.command(&["run", "-"]), THRESHOLD);
    run.exits(3).says("cannot read the stressor");
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    with_input(sandbox.command(&["run", "-", "--resume", "run"]), THRESHOLD).exits(0);
    // An inventory is a file too.
    let lab = with_input(sandbox.command(&["lab", "status", "--lab", "-"]), "controller: {}\n");
    lab.exits(2).says("error: <stdin>: ").says("missing field `host`");
    let both = with_input(sandbox.command(&["run", "-", "--lab", "-"]), THRESHOLD);
    both.exits(2).says("only one of the matrix file and --lab can be standard input");
}

#[test]
fn colors_are_for_terminals_unless_color_says_otherwise() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    let colored = |text: &str| text.contains('\x1b');
    let report = ["report", "run"];
    let plain = sandbox.testbed(&report).stdout();
    assert!(!colored(&plain));
    let always = sandbox.testbed(&["--color", "always", "report", "run"]).stdout();
    assert!(always.contains(": \x1b[32mholds\x1b[0m\n"), "{always:?}");
    assert_eq!(always.replace("\x1b[32m", "").replace("\x1b[0m", ""), plain);
    assert!(colored(&on_terminal(sandbox.command(&report), 200).1));
    assert!(!colored(&on_terminal(sandbox.command(&["report", "run", "--color=never"]), 200).1));
    let mut command = sandbox.command(&report);
    command.env("NO_COLOR", "1");
    assert!(!colored(&on_terminal(command, 200).1));
    let mut command = sandbox.command(&["report", "run", "--color", "always"]);
    let output = command.env("NO_COLOR", "1").output().unwrap();
    assert!(output.stdout.contains(&b'\x1b'), "the option is more specific than the variable");
    // Errors and help also have colors, our own and those of the parser.
    for args in [&["report", "absent"][..], &["report", "--no-such-option"]] {
        let with = |color: &str| sandbox.testbed(&[&["--color", color], args].concat()).stderr();
        assert!(colored(&with("always")) && !colored(&with("never")), "{args:?}");
        assert!(!colored(&sandbox.testbed(args).stderr()));
        assert!(with("never").starts_with("error: "));
    }
    assert!(colored(&sandbox.testbed(&["--color=always", "--help"]).stdout()));
    sandbox.testbed(&["--color", "sometimes", "report", "run"]).exits(2).says("invalid value 'sometimes'");
}

/// A verdict is colored, and alone at the start of a line, only if it is one: texts of a tampered results
/// folder look like verdicts here.
#[test]
fn a_results_folder_cannot_forge_a_verdict() {
    let plan = plan(THRESHOLD);
    let forged = "x\n\nexpected every cell: converged: holds\ny";
    let record = |cell, outcome, reason: Option<&str>| {
        let mut record = mock::record(&plan, cell, 1, outcome, 4000.0);
        record.reason = reason.map(Into::into);
        record
    };
    let mut strange = record(1, Outcome::Converged, None);
    strange.cell = forged.into();
    let records = [strange, record(0, Outcome::Failed, Some(forged)), record(1, Outcome::Converged, None)];
    let sandbox = Sandbox::new();
    let folder = format!("p1\n\n{forged}");
    sandbox.add_part("p1", "1/3", forged, &records);
    sandbox.add_part("p2", "2/3", "10.0.2", &records);
    for part in ["p1", "p2"] {
        let strange = serde_json::to_string(&records[0]).unwrap() + "\n";
        let cells = sandbox.path(part).join("cells.jsonl");
        fs::write(&cells, strange + &fs::read_to_string(&cells).unwrap()).unwrap();
    }
    fs::rename(sandbox.path("p1"), sandbox.path(&folder)).unwrap();

    let is_verdict = |line: &str| line.contains("expected every cell") && !line.contains('␊');
    let colored = ["--color", "always", "report", &folder, "p2"];
    for args in [&colored[..], &["--color", "always", "report", &folder]] {
        let report = sandbox.testbed(args).exits(3).stdout();
        // A reason may have several lines, which are indented.
        let verdicts: Vec<&str> = report.lines().filter(|line| is_verdict(line)).collect();
        assert_eq!(verdicts, ["    expected every cell: converged: holds"], "{report}");
        assert!(
            report.contains("\nnot in this matrix, so not checked against expectations: x␊␊"),
            "{report}"
        );
        assert!(!report.contains("\x1b[32m"), "{report:?}");
    }
    let csv = sandbox.testbed(&["report", &folder, "p2", "--format", "csv"]);
    let notes = csv.exits(3).stderr();
    assert!(notes.lines().all(|line| line.starts_with("note: ") && !is_verdict(line)), "{notes}");
    assert!(notes.contains("note: differs between parts: QEMU: x␊␊expected"), "{notes}");
}

#[test]
fn a_violated_expectation_is_red() {
    let plan = plan(THRESHOLD);
    let records = [mock::record(&plan, 0, 1, Outcome::GuestLost, 4000.0)];
    let sandbox = Sandbox::with_run(THRESHOLD, records);
    let text = sandbox.testbed(&["report", "run", "--color", "always"]).stdout();
    assert!(text.contains(": \x1b[1;31mDOES NOT HOLD\x1b[0m\n"), "{text:?}");
}

#[test]
fn testbed_without_its_stressor_says_where_it_belongs() {
    let sandbox = Sandbox::with_matrix(THRESHOLD);
    let alone = sandbox.dir.path().join("testbed");
    copy_program(Path::new(env!("CARGO_BIN_EXE_testbed")), &alone);
    let finished = |args: &[&str]| {
        let mut command = sandbox.command_of(&alone, args);
        let output = command.env_remove(testbed::image::STRESSOR_VARIABLE).output().unwrap();
        Finished { command: args.join(" "), output }
    };
    let place = sandbox.dir.path().join("stressor");
    let advice = "put it beside testbed, or set TESTBED_STRESSOR to its path";
    for args in [&["run", "matrix.yaml"][..], &["setup"], &["setup", "--dry-run"]] {
        let finished = finished(args);
        finished
            .exits(3)
            .says(&format!("error: cannot read the stressor {}: ", place.display()))
            .says(advice);
        assert!(!finished.stderr().contains("testbed setup"), "{}", finished.stderr());
    }
    let doctor = finished(&["doctor", "--quiet"]).exits(1).stdout();
    assert!(words(&doctor).contains("fix: testbed needs the program `stressor`"), "{doctor}");
    assert!(words(&doctor).contains(advice), "{doctor}");
}

#[test]
fn a_stressor_of_endless_or_excessive_size_is_not_read() {
    let sandbox = Sandbox::with_matrix(THRESHOLD);
    write_holes(&sandbox.path("large"), 257 << 20);
    for (stressor, why) in
        [("/dev/null", "it is not a regular file"), ("large", "the file is longer than 256 MiB")]
    {
        for (args, code) in [(&["run", "matrix.yaml"][..], 3), (&["setup", "--dry-run"], 3), (&["doctor"], 1)]
        {
            let mut command = sandbox.command(args);
            let output = command.env(testbed::image::STRESSOR_VARIABLE, stressor).output().unwrap();
            let finished = Finished { command: args.join(" "), output };
            finished.exits(code);
            let said = words(&(finished.stdout() + &finished.stderr()));
            assert!(said.contains(&format!("{stressor}: {why}")), "{}", finished.shown());
        }
    }
}

/// Writes a file of this size that takes no space.
fn write_holes(path: &Path, size: u64) {
    fs::File::create(path).unwrap().set_len(size).unwrap();
}

#[test]
fn verbose_and_quiet_exclude_each_other() {
    let sandbox = Sandbox::with_matrix(THRESHOLD);
    sandbox.testbed(&["run", "matrix.yaml", "-v", "-q"]).exits(2).says("cannot be used with");
    sandbox.testbed(&["run", "matrix.yaml", "-v"]).exits(3).says("cannot read the stressor");
}

#[test]
fn a_signal_to_setup_ends_the_commands_that_it_has_started() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let sandbox = Sandbox::new();
        let (folder, pid_file) = (sandbox.path("bin"), sandbox.path("pid"));
        fs::create_dir(&folder).unwrap();
        // The first command of setup asks QEMU for its version. This one starts a process that outlives it.
        let text =
            format!("#!/bin/sh\nsleep 1000 &\necho $! >{0}.new\nmv {0}.new {0}\nwait\n", pid_file.display());
        write_script(&folder.join(testbed::host::QEMU), &text);
        fs::write(sandbox.path("stressor"), static_program()).unwrap();
        let mut command = sandbox.command(&["setup", "--yes"]);
        command.env(testbed::image::STRESSOR_VARIABLE, "stressor");
        let path = format!("{}:/usr/bin:/bin", folder.display());
        command.env("PATH", path).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let started = poll(|| fs::read_to_string(&pid_file).ok()).expect("setup asks QEMU for its version");
        let sleeper = Pid::from_raw(started.trim().parse().unwrap());
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        // A process that has ended is a zombie until its new parent notices.
        let gone = poll(|| {
            let state = fs::read_to_string(format!("/proc/{sleeper}/stat"));
            state.map_or(true, |state| state.contains(") Z ")).then_some(())
        });
        let _ = kill(sleeper, Signal::SIGKILL);
        assert!(gone.is_some(), "a process that setup has started goes on");
    }
}

/// Looks for something repeatedly, for ten seconds.
fn poll<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    (0..1000).find_map(|_| {
        let found = look();
        if found.is_none() {
            thread::sleep(Duration::from_millis(10));
        }
        found
    })
}

/// Returns an ELF program for x86-64 that needs no loader: a header, and a program header without content.
fn static_program() -> Vec<u8> {
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(64 + 56, 0);
    // The type, the machine, the version, and where and how many program headers of which size there are.
    for (at, value) in [(16, 2), (18, 62), (20, 1), (32, 64), (52, 64), (54, 56), (56, 1)] {
        program[at] = value;
    }
    program
}
