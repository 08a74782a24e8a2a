//! Measures how long it takes to parse, expand and check a matrix of 10,000 cells, for four kinds of matrix
//! file. Prints the best of five rounds for each: `cargo bench --bench matrix_speed`. The goal is at most
//! 0.2 s of CPU time.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the output of a benchmark is its result")]

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

/// How often each file is measured.
const ROUNDS: usize = 5;

/// Returns the CPU time that this process has used. On a busy host it says more than elapsed time.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap()
}

/// Measures a matrix [`ROUNDS`] times and prints the best value of each figure.
fn expand(what: &str, text: &str) {
    let mut best = [Duration::MAX; 3];
    for _ in 0..ROUNDS {
        let (start, cpu) = (Instant::now(), cpu_time());
        let file = File::parse(text, what).unwrap_or_else(|e| panic!("{e}"));
        let read = cpu_time().saturating_sub(cpu);
        let plan = file.expand().unwrap_or_else(|e| panic!("{e}"));
        let figures = [read, cpu_time().saturating_sub(cpu), start.elapsed()];
        assert_eq!(plan.cells.len(), 10_000);
        best = std::array::from_fn(|i| best[i].min(figures[i]));
    }
    let [read, all, elapsed] = best;
    println!("{what}: {all:.1?} of CPU time, of which {read:.1?} to parse the file; {elapsed:.1?} elapsed");
}

fn main() {
    let axes = format!(
        "name: n\naxes:\n  stress.rate: [{}]\n  link.delay: [{}]\n",
        list(100, "kB/s"),
        list(100, "us")
    );
    expand("two axes", &axes);
    let conditions = "exclude:\n  - link.delay == 100us and stress.rate == 100kB/s\n\
                      include:\n  - { guest.vcpus: 2 }\n\
                      expect:\n  - { where: stress.rate < 50kB/s, outcome: converged }\n";
    expand("two axes and conditions", &format!("{axes}{conditions}"));
    expand("one axis", &format!("name: n\naxes:\n  stress.rate: [{}]\n", list(10_000, "kB/s")));
    let mut include = String::from("name: n\ninclude:\n");
    for i in 1..=10_000 {
        let _ = writeln!(include, "  - {{ stress.rate: {i}kB/s, link.delay: 1ms }}");
    }
    expand("include", &include);
}
