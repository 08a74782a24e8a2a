//! The commands that the documents and the help texts show, and how each of them is tested.

use super::files_below;
use clap::Command;
use std::{collections::BTreeSet, fs, path::PathBuf};

/// How a documented command is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trial {
    /// By `it/documents.rs`, without QEMU; any of these exit codes is correct.
    Plain(&'static [i32]),
    /// By `real/documents.rs`, with QEMU and the three programs, in a directory with the files that it names.
    Real(&'static [i32]),
    /// By `real/documents.rs`, in a network namespace with an interface `eth0`.
    Netem,
    /// By `real/documents.rs`, ended with SIGINT once it has printed something.
    UntilInterrupted,
    /// By another test: its file below the repository, and its name.
    Test(&'static str, &'static str),
    /// Not at all, for this reason.
    NotRun(&'static str),
}
use Trial::{Netem, NotRun, Plain, Real, Test, UntilInterrupted};

const LOCAL: &str = "orchestrator/tests/real/local.rs";
const SSH: &str = "orchestrator/tests/real/ssh.rs";
const WATCH: &str = "orchestrator/tests/it/watch.rs";
const VAGRANT: Trial = NotRun("needs libvirt and twenty minutes; `cargo xtask vagrant-test` does the same");
const SUITE: Trial = NotRun("is the test suite, or a part of it");

/// Every command that a document or a help text shows.
pub(crate) const COMMANDS: &[(&str, Trial)] = &[
    // No QEMU needed.
    ("testbed doctor", Plain(&[0, 1])),
    ("testbed doctor --quiet --json", Plain(&[0, 1])),
    ("testbed doctor scenarios/icclab/table-4.yaml", Plain(&[0, 1])),
    ("testbed lab status", Plain(&[0])),
    ("testbed plan scenarios/icclab/threshold.yaml", Plain(&[0])),
    ("testbed plan scenarios/latency.yaml --only 'link.delay == 0' --json", Plain(&[0])),
    ("testbed plan scenarios/smoke.yaml", Plain(&[0])),
    ("testbed plan scenarios/waves.yaml", Plain(&[0])),
    ("testbed report results/reference/icclab-threshold-tcg", Plain(&[0])),
    ("testbed report results/reference/icclab-threshold-tcg --format svg --figure data", Plain(&[0])),
    ("testbed report results/reference/latency-tcg --format csv", Plain(&[0])),
    ("testbed report results/reference/latency-tcg --format html", Plain(&[0])),
    ("testbed report results/reference/latency-tcg --format markdown", Plain(&[0])),
    ("testbed schema", Plain(&[0])),
    ("testbed schema --records", Plain(&[0])),
    // A lab, QEMU or the other programs needed; in this order.
    ("testbed setup", Real(&[0])),
    ("testbed setup --dry-run", Real(&[0])),
    ("testbed setup --yes", Real(&[0])),
    ("testbed setup scenarios/icclab/table-4.yaml", Real(&[0])),
    ("testbed lab shell compute1", Real(&[0])),
    ("testbed lab shell controller", Real(&[0])),
    ("testbed lab shell compute1 -- ip -brief address", Real(&[0])),
    ("testbed lab shell compute1 -- tc -s qdisc show dev migration", Real(&[0])),
    ("testbed lab shell compute1 --rate 100mbit --delay 20ms", Real(&[0])),
    ("testbed lab shell --rate 100mbit --delay 20ms compute1", Real(&[0])),
    ("testbed run scenarios/smoke.yaml", Test(LOCAL, "the_smoke_scenario_passes_with_complete_records")),
    ("testbed run scenarios/latency.yaml --only 'link.delay == 0' --repeat 1", Real(&[0])),
    ("testbed run matrix.yaml --shard 1/2 --out part-1", Real(&[0])),
    ("testbed run matrix.yaml --shard 2/2 --out part-2", Real(&[0])),
    ("testbed report part-1 part-2", Real(&[0])),
    ("netem apply eth0 --ingress --rate 100mbit", Netem),
    ("netem apply eth0 --profile transatlantic --loss 0.1%", Netem),
    ("netem apply eth0 --rate 936mbit", Netem),
    ("netem apply eth0 --rate 940mbit", Netem),
    ("netem change eth0 --rate 500mbit", Netem),
    ("netem change eth0 --loss 0% --unset queue,burst", Netem),
    ("netem clear eth0", Netem),
    ("netem measure 192.0.2.2", Netem),
    ("netem play eth0 tunnel.txt --delay 20ms --repeat", Netem),
    ("netem show eth0", Netem),
    ("netem show eth0 --json", Netem),
    ("netem supported", Netem),
    ("netem supported --json", Netem),
    (
        "stressor --disk test.img --disk-size 1GiB --disk-write 5MB/s --disk-read 20MB/s --duration 1min",
        UntilInterrupted,
    ),
    (
        "stressor --disk disk.img --disk-size 1GiB --disk-written 256MiB --disk-write 5MB/s --duration 1min",
        UntilInterrupted,
    ),
    ("stressor --rate 96MB/s --working-set 1GiB", UntilInterrupted),
    ("stressor --rate 96MB/s --working-set 64MiB --duration 10s", UntilInterrupted),
    (
        "stressor --rate unlimited --working-set 512MiB --order random --write word --duration 10s",
        UntilInterrupted,
    ),
    ("stressor --working-set 200MB --phase 96MB/s:30s --phase 200MB/s:10s --duration 1min", UntilInterrupted),
    // Tested elsewhere, under other names.
    ("netem measure --serve", NotRun("runs until it is interrupted; started before `netem measure`")),
    ("testbed doctor --lab lab.yaml", Test(SSH, "doctor_finds_problems_of_hosts")),
    (
        "testbed lab shell --lab lab.yaml controller",
        Test(SSH, "lab_status_and_shell_work_on_hosts_without_a_run"),
    ),
    (
        "testbed lab shell --user alice compute1",
        Test("orchestrator/tests/it/lab.rs", "an_ordinary_user_has_a_lab_and_does_not_see_others"),
    ),
    (
        "testbed lab status --lab lab.yaml --json",
        Test(SSH, "lab_status_and_shell_work_on_hosts_without_a_run"),
    ),
    (
        "testbed run --lab lab.yaml scenarios/icclab/threshold.yaml",
        Test(SSH, "the_smoke_scenario_holds_between_hosts"),
    ),
    (
        "testbed run --resume results/latency-20261126-101500",
        Test(LOCAL, "a_killed_run_leaves_nothing_behind_and_can_be_continued"),
    ),
    (
        "testbed run scenarios/smoke.yaml --watch",
        Test(WATCH, "a_run_that_is_watched_ends_as_without_viewers"),
    ),
    (
        "testbed watch results/reference/latency-tcg",
        Test(WATCH, "viewers_that_join_late_see_everything_so_far"),
    ),
    (
        "testbed watch results/reference/latency-tcg 127.0.0.1:0",
        Test(WATCH, "viewers_that_join_late_see_everything_so_far"),
    ),
    (
        "testbed run scenarios/icclab/load-removed.yaml --repeat 3",
        Test(LOCAL, "a_migration_that_cannot_converge_does_once_its_load_is_removed"),
    ),
    (
        "testbed setup --kernel distribution",
        Test(
            "orchestrator/tests/real/setup.rs",
            "concurrent_setups_download_the_distributions_kernel_without_installing_it",
        ),
    ),
    (
        "netem measure --serve --listen 192.0.2.2",
        Test("netem/tests/measure.rs", "a_server_listens_where_it_is_told"),
    ),
    // Not tested.
    (
        "cargo xtask run scenarios/smoke.yaml",
        NotRun("builds everything again; its parts are tried one by one"),
    ),
    ("testbed run scenarios/icclab/threshold.yaml", NotRun("takes minutes; results/reference has five runs")),
    (
        "testbed run scenarios/icclab/load-removed.yaml",
        Test(LOCAL, "a_migration_that_cannot_converge_does_once_its_load_is_removed"),
    ),
    ("testbed run scenarios/latency.yaml", NotRun("takes minutes; run with `--only` above")),
    ("testbed run scenarios/waves.yaml", NotRun("takes minutes; waves are in `moving.rs`")),
    (
        "cargo xtask run scenarios/icclab/threshold.yaml",
        NotRun("takes minutes; its parts are tried one by one"),
    ),
    (
        "cargo xtask install",
        NotRun("installs programs; `cargo xtask dist` and `testbed generate` are its parts"),
    ),
    ("cargo xtask dist", SUITE),
    ("cargo xtask test", SUITE),
    ("cargo xtask test --unit-only", SUITE),
    ("cargo test -p netem --test kernel", SUITE),
    ("cargo test -p testbed --lib migration", SUITE),
    ("cargo test -p testbed --test it cli::", SUITE),
    ("cargo test -p testbed --test real -- --ignored local::", SUITE),
    ("cargo fuzz", NotRun("needs the nightly toolchain")),
    ("cargo bench -p testbed --bench matrix_speed", NotRun("prints times, which tests do not judge")),
    (
        "cargo xtask test --repeat 20 --busy --program testbed::it",
        NotRun("takes half an hour; the tests of xtask repeat a program"),
    ),
    (
        "cargo xtask storm --count 100 --seed 7",
        NotRun("takes half an hour; `cargo xtask test` runs ten trials"),
    ),
    ("cargo xtask bench instruments", NotRun("takes a quarter of an hour, on an idle host")),
    ("cargo xtask bench instruments --quick", NotRun("takes minutes, on an idle host")),
    ("cargo xtask vagrant-test", NotRun("needs libvirt and twenty minutes")),
    ("cd vagrant && vagrant up --provider=libvirt", VAGRANT),
    ("sudo vagrant/box/build.sh", VAGRANT),
    ("testbed doctor --lab vagrant", VAGRANT),
    ("testbed run --lab vagrant ../scenarios/icclab/threshold.yaml", VAGRANT),
    ("testbed run --lab vagrant scenarios/icclab/threshold.yaml", VAGRANT),
    ("testbed run --lab vagrant scenarios/labs/nested-tcg.yaml", VAGRANT),
    ("testbed run --lab vagrant scenarios/labs/shared-disk.yaml", VAGRANT),
    ("vagrant destroy", VAGRANT),
];

/// The pages whose commands are tested.
const PAGES: [&str; 13] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/design.md",
    "docs/guest.md",
    "docs/labs.md",
    "docs/links.md",
    "docs/matrix.md",
    "docs/measuring.md",
    "docs/results.md",
    "docs/scenarios.md",
    "docs/storage.md",
    "docs/teaching.md",
];

/// The words with which a command begins.
const PROGRAMS: [&str; 9] =
    ["testbed", "netem", "stressor", "cargo", "vagrant", "sudo", "cd", ".ci/run", "git"];

/// Returns the top folder of the repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).canonicalize().unwrap()
}

/// Returns the commands that pages and help texts show.
pub(crate) fn shown() -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    for page in PAGES {
        let text = fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        let (code, prose) = divided(&text);
        commands.extend(code.into_iter().filter_map(command));
        // The text between backticks in prose.
        let literals = prose.split('`').skip(1).step_by(2);
        commands.extend(literals.filter(|literal| !is_a_name(literal)).filter_map(command));
    }
    for program in [testbed::cli::command(), netem::cli::command(), stressor::cli::command()] {
        add_examples(&program, &mut commands);
    }
    commands
}

fn add_examples(program: &Command, commands: &mut BTreeSet<String>) {
    let help = program.get_after_long_help().or(program.get_after_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let examples = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    commands.extend(examples.take_while(|line| !line.is_empty()).filter_map(command));
    for subcommand in program.get_subcommands() {
        add_examples(subcommand, commands);
    }
}

/// Returns the lines of a page's code blocks, indented or fenced, and its prose. Blocks in languages other
/// than the shell's are left out.
fn divided(page: &str) -> (Vec<&str>, String) {
    let (mut code, mut prose) = (Vec::new(), String::new());
    let mut fence: Option<bool> = None;
    for line in page.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(matches!(language, "" | "sh" | "console")) };
        } else if fence.unwrap_or_else(|| line.starts_with("    ")) {
            code.push(line);
        } else if fence.is_none() {
            prose.push_str(line.trim_start());
            prose.push(' ');
        }
    }
    (code, prose)
}

/// Returns the commands that messages of the three programs name, each with the file: the text between
/// backticks in a line of code that is not a comment.
pub(crate) fn in_messages() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for path in ["orchestrator/src", "netem/src", "stressor/src"]
        .into_iter()
        .flat_map(|folder| files_below(&root().join(folder), |_| true))
    {
        let text = fs::read_to_string(&path).unwrap();
        // Tests are at the end of a file, or in a file of their own.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for literal in lines.flat_map(|line| line.split('`').skip(1).step_by(2)) {
            if let Some(command) = command(literal).filter(|command| !command.contains(['{', '\\'])) {
                found.insert((command, path.display().to_string()));
            }
        }
    }
    found
}

/// Whether a literal in prose only names a program and a subcommand: `testbed lab shell`.
fn is_a_name(literal: &str) -> bool {
    let is_word = |word: &str| word.bytes().all(|byte| byte.is_ascii_lowercase());
    !literal.starts_with("cargo") && literal.split_whitespace().all(is_word)
}

/// Returns the command in a text, without the comment after it. A text with a placeholder such as `FILE`, or
/// drawn in columns, is not a command.
fn command(text: &str) -> Option<String> {
    let command = text.split("  #").next().unwrap_or(text).trim();
    let mut words = command.split_whitespace();
    let is_placeholder =
        |word: &str| word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'.');
    (words.next().is_some_and(|first| PROGRAMS.contains(&first))
        && command.contains(' ')
        && !command.contains("  ")
        && !command.contains(" (")
        && !words.any(is_placeholder))
    .then(|| command.to_owned())
}
