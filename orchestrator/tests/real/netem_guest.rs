//! Runs the tests of `netem` and `stressor` that need kernel support in a guest with the distribution's
//! kernel. That kernel has `sch_netem` as a module and the memory controller of cgroup v2, which the host
//! that runs the tests may lack; and no one else changes its settings.

use crate::common::{
    netem_guest::{console, image},
    turn::Turn,
};
use std::{path::Path, time::Duration};

/// The test programs of `netem`, and then of `stressor`, in the order in which the guest runs them.
const TESTS: [&str; 5] = ["sch_netem", "link_matrix", "kernel", "cli", "limits"];

/// The test program in which no test may be skipped. In the others, those that need `tc`, a shell or other
/// programs are skipped, because the guest does not have them.
const NEVER_SKIPPED: &str = "sch_netem";

/// The message of a test if the guest's kernel lacks `sch_netem` after all.
const NO_NETEM: &str = "skipped: this kernel has no sch_netem";

/// The time limit for the guest. It took 80 s on two idle cores.
const GUEST_LIMIT: Duration = Duration::from_secs(600);

/// Returns what is wrong with the output of the tests; an empty list if they all passed.
fn complaints(console: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in TESTS {
        let part = console.split_once(&format!("run-programs: {name} starts\n"));
        let part = part.and_then(|(_, rest)| rest.split_once(&format!("run-programs: {name} ended: ")));
        let Some((printed, rest)) = part else {
            found.push(format!("{name} did not run to its end"));
            continue;
        };
        let status = rest.lines().next().unwrap_or_default();
        if status != "exit status: 0" {
            found.push(format!("{name} ended with {status}"));
        }
        let passed = printed.lines().find_map(|line| {
            let (passed, rest) = line.strip_prefix("test result: ok. ")?.split_once(" passed; ")?;
            rest.starts_with("0 failed; 0 ignored; 0 measured; 0 filtered out").then_some(passed)
        });
        if passed.is_none_or(|count| count == "0") {
            found.push(format!("not every test of {name} passed"));
        }
        if printed.contains(NO_NETEM) || name == NEVER_SKIPPED && printed.contains("skipped:") {
            found.push(format!("a test of {name} was skipped"));
        }
    }
    found
}

#[test]
#[ignore = "boots the distribution's kernel in QEMU: cargo xtask test"]
fn the_tests_of_netem_pass_in_a_guest_with_sch_netem() {
    let Some(programs) = std::env::var_os("TESTBED_GUEST_TESTS") else {
        println!("skipped: TESTBED_GUEST_TESTS is not set: run `cargo xtask test`");
        return;
    };
    if let Err(error) = testbed::host::qemu_version() {
        println!("skipped: there is no QEMU: {error}");
        return;
    }
    // The link matrix prints delays, which a busy host makes longer.
    let _turn = Turn::alone();
    let image = match image(Path::new(&programs), &TESTS) {
        Ok(image) => image,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let console = console(&image, &["-smp", "2"], &TESTS, "", GUEST_LIMIT);
    let complaints = complaints(&console);
    assert!(complaints.is_empty(), "kernel {}: {complaints:#?}\n{console}", image.kernel.release);
    println!("{console}");
}

/// Each relevant change to the output of a successful guest is found.
#[test]
fn tests_that_did_not_run_or_pass_are_found() {
    let part = |name: &str| {
        format!(
            "run-programs: {name} starts\n\nrunning 2 tests\ntest a ... ok\ntest b ... ok\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; \
             finished in 1.00s\n\n\
             run-programs: {name} ended: exit status: 0\n"
        )
    };
    let well = TESTS.map(part).concat();
    assert!(complaints(&well).is_empty(), "{:?}", complaints(&well));
    for (what, instead) in [
        ("run-programs: kernel starts\n", ""),
        ("exit status: 0", "exit status: 101"),
        ("exit status: 0", "signal: 9 (SIGKILL)"),
        ("2 passed; 0 failed", "1 passed; 1 failed"),
        ("2 passed; 0 failed; 0 ignored", "1 passed; 0 failed; 1 ignored"),
        ("2 passed", "0 passed"),
        ("test a ... ok", "test a ... skipped: this kernel has no sch_netem\nok"),
    ] {
        let changed = well.replacen(what, instead, 1);
        assert_ne!(changed, well);
        assert_eq!(complaints(&changed).len(), 1, "{what} -> {instead}: {:?}", complaints(&changed));
    }
    let cut = &well[..well.len() / 2];
    assert!(complaints(cut).iter().any(|complaint| complaint.starts_with("cli")), "{:?}", complaints(cut));
}
