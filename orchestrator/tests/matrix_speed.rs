//! How long it takes to read, expand and check 10,000 cells. Prints times and asserts none: run it with
//! `cargo test --release --test matrix_speed -- --nocapture`; at most 0.2 s each is the aim.

use nix::time::{ClockId, clock_gettime};
use std::{
    fmt::Write,
    time::{Duration, Instant},
};
use testbed::matrix::File;

fn list(count: usize, unit: &str) -> String {
    let values: Vec<String> = (1..=count).map(|i| format!("{i}{unit}")).collect();
    values.join(", ")
}

/// What this process has used so far: on a busy machine, the time that counts.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap()
}

fn expand(what: &str, text: &str) {
    let (start, cpu) = (Instant::now(), cpu_time());
    let file = File::parse(text, what).unwrap_or_else(|e| panic!("{e}"));
    let parsed = start.elapsed();
    let plan = file.expand().unwrap_or_else(|e| panic!("{e}"));
    let (elapsed, cpu) = (start.elapsed(), cpu_time().saturating_sub(cpu));
    println!("{what}: {parsed:.1?} to read, {elapsed:.1?} in all, {cpu:.1?} of CPU time");
    assert_eq!(plan.cells.len(), 10_000);
}

#[test]
fn ten_thousand_cells() {
    let axes = format!(
        "name: n\naxes:\n  stress.rate: [{}]\n  link.delay: [{}]\n",
        list(100, "kB/s"),
        list(100, "us")
    );
    expand("two axes", &axes);
    let conditions = "exclude:\n  - link.delay == 100us and stress.rate == 100kB/s\ninclude:\n  - { guest.vcpus: 2 }\n\
                      expect:\n  - { where: stress.rate < 50kB/s, outcome: converged }\n";
    expand("two axes and conditions", &format!("{axes}{conditions}"));
    expand("one axis", &format!("name: n\naxes:\n  stress.rate: [{}]\n", list(10_000, "kB/s")));
    let mut include = String::from("name: n\ninclude:\n");
    for i in 1..=10_000 {
        let _ = writeln!(include, "  - {{ stress.rate: {i}kB/s, link.delay: 1ms }}");
    }
    expand("include", &include);
}
