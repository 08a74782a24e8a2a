//! `cargo xtask test --repeat N`: runs every test program N times and counts which test failed how often.
//!
//! The output of each run that fails is kept in a file of its own in `target/repeat`. Only libtest's list of
//! failures is read from the output.

use crate::{
    TaskError,
    busy::Busy,
    programs::{self, Ended, TestProgram, file_name},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs, io,
    path::PathBuf,
    process::{Command, ExitStatus},
};

/// What is repeated, and how.
pub(crate) struct Repeat<'a> {
    pub(crate) count: u32,
    pub(crate) busy: bool,
    /// The test programs, each with arguments of its own.
    pub(crate) programs: Vec<(TestProgram, &'a [&'a str])>,
    /// Further arguments of every test program.
    pub(crate) arguments: &'a [String],
    /// The folder for the output of failed runs.
    pub(crate) folder: PathBuf,
}

/// Each test that failed, by program and name, with the outputs of the runs in which it failed.
type Failures = BTreeMap<(String, String), Vec<PathBuf>>;

impl Repeat<'_> {
    /// Runs each of the test programs. Fails with exit code 1 if any test failed.
    pub(crate) fn run(&self) -> Result<(), TaskError> {
        programs::empty(&self.folder)
            .map_err(|error| format!("cannot empty {}: {error}", self.folder.display()))?;

        let _busy = self.busy.then(Busy::start);
        let mut failures = Failures::new();
        for round in 1..=self.count {
            for (program, own) in &self.programs {
                let id = program.target.id();
                let mut command = program.command();
                command.args(*own).args(self.arguments);
                self.run_once(&mut command, &id, round, &mut failures)
                    .map_err(|error| format!("cannot run {id}: {error}"))?;
            }
        }
        frontend::print(table(&failures, self.count)).map_err(|error| error.to_string())?;
        if failures.is_empty() { Ok(()) } else { Err(TaskError::AlreadyReported(1)) }
    }

    /// Runs a test program once and adds what failed.
    fn run_once(
        &self,
        command: &mut Command,
        program: &str,
        round: u32,
        failures: &mut Failures,
    ) -> io::Result<()> {
        let path = self.folder.join(format!("{}.{round}.txt", file_name(program)));
        let Ended { status, output, took } = programs::run_into(command, &path)?;
        let failed = failed_tests(&output, status);
        let result = match &failed {
            failed if failed.is_empty() => "ok".to_owned(),
            failed => format!("FAILED: {}", failed.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
        };
        let seconds = took.as_secs();
        frontend::tell(format!("{program} {round}/{}: {result} ({seconds} s)", self.count));
        if failed.is_empty() {
            return fs::remove_file(&path);
        }
        for test in failed {
            failures.entry((program.to_owned(), test)).or_default().push(path.clone());
        }
        Ok(())
    }
}

/// Returns the tests that failed, from the output of a test program: those in its list of failures, or, if
/// it ended before it printed the list, those whose lines say so. A program that failed without naming a test
/// is represented by its exit status.
fn failed_tests(output: &str, status: ExitStatus) -> BTreeSet<String> {
    if status.success() {
        return BTreeSet::new();
    }
    let list = output.rsplit_once("\nfailures:\n").map_or("", |(_, list)| list);
    let names = list.lines().map_while(|line| line.strip_prefix("    "));
    let mut failed: BTreeSet<String> = names.map(str::to_owned).collect();
    if failed.is_empty() {
        let name = |line: &'_ str| line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned);
        failed = output.lines().filter_map(name).collect();
    }
    if failed.is_empty() {
        failed.insert(format!("({status})"));
    }
    failed
}

/// Formats the failures: program, test, failures of `count` runs, and the files with the outputs.
fn table(failures: &Failures, count: u32) -> String {
    if failures.is_empty() {
        return format!("No test failed in {count} runs of each program.\n");
    }
    let widest = |column: fn(&(String, String)) -> &String, title: &str| {
        failures.keys().map(|key| column(key).len()).chain([title.len()]).max().unwrap_or(0)
    };
    let (programs, tests) = (widest(|key| &key.0, "program"), widest(|key| &key.1, "test"));
    let mut table = format!("{:programs$}  {:tests$}  failures\n", "program", "test");
    for ((program, test), outputs) in failures {
        let _ = writeln!(table, "{program:programs$}  {test:tests$}  {} of {count}", outputs.len());
        for output in outputs {
            let _ = writeln!(table, "    {}", output.display());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    const PASSED: &str = "\nrunning 1 test\ntest a ... ok\n\ntest result: ok. 1 passed\n";

    const FAILED: &str = "
running 3 tests
test a::b ... FAILED
test c - should panic ... noise of a child
FAILED
test d ... ok

failures:

---- a::b stdout ----
failures:
    of something else

failures:
    a::b
    c

test result: FAILED. 1 passed; 2 failed
";

    fn failed(output: &str, status: i32) -> Vec<String> {
        failed_tests(output, ExitStatus::from_raw(status)).into_iter().collect()
    }

    #[test]
    fn failed_tests_are_read_from_the_output() {
        let failed_code = 101 << 8;
        assert!(failed(PASSED, 0).is_empty());
        assert_eq!(failed(FAILED, failed_code), ["a::b", "c"]);
        // The program was killed before it printed the list.
        let cut = &FAILED[..FAILED.find("test d").unwrap()];
        assert_eq!(failed(cut, 9), ["a::b"]);
        assert_eq!(failed("", 6), ["(signal: 6 (SIGABRT))"]);
        assert_eq!(failed(PASSED, failed_code), ["(exit status: 101)"]);
    }

    #[test]
    fn the_table_counts_the_failures_of_each_test() {
        let mut failures = Failures::new();
        assert_eq!(table(&failures, 5), "No test failed in 5 runs of each program.\n");
        failures.insert(("netem::cli".into(), "a".into()), vec!["o/1".into(), "o/4".into()]);
        failures.insert(("units".into(), "parse::b".into()), vec!["o/2".into()]);
        let expected = "\
program     test      failures
netem::cli  a         2 of 5
    o/1
    o/4
units       parse::b  1 of 5
    o/2
";
        assert_eq!(table(&failures, 5), expected);
    }

    #[test]
    fn a_program_runs_as_often_as_asked_and_its_failures_keep_their_output() {
        let folder = std::env::temp_dir().join(format!("xtask-repeat-{}", std::process::id()));
        programs::empty(&folder).unwrap();
        let repeat =
            Repeat { count: 3, busy: false, programs: Vec::new(), arguments: &[], folder: folder.clone() };
        let _busy = Busy::start();
        let mut failures = Failures::new();
        // Fails in every run but the second.
        let script = |round| {
            format!("[ {round} = 2 ] || {{ printf '\\nfailures:\\n    a\\n\\n'; echo why >&2; exit 101; }}")
        };
        for round in 1..=repeat.count {
            let mut command = Command::new("sh");
            command.args(["-c", &script(round)]);
            repeat.run_once(&mut command, "p::t", round, &mut failures).unwrap();
        }
        let outputs = [1, 3].map(|round| folder.join(format!("p-t.{round}.txt")));
        assert_eq!(failures, Failures::from([(("p::t".into(), "a".into()), outputs.to_vec())]));
        assert!(outputs.iter().all(|path| fs::read_to_string(path).unwrap().contains("why")));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "an output of a passed run is kept");
        fs::remove_dir_all(&folder).unwrap();
    }
}
