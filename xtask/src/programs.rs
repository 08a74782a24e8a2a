//! The workspace's test programs. One cargo command builds them, and this program runs them.

use crate::{
    TaskError,
    artifacts::{self, Executable},
    command::{output, with_default_signals},
    workspace::TestTarget,
};
use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A test program that cargo has built.
pub(crate) struct TestProgram {
    pub(crate) target: TestTarget,
    path: PathBuf,
    /// The variables that the cargo command sets (`Some`) or removes.
    variables: Vec<(OsString, Option<OsString>)>,
}

/// Builds the test programs of these targets with `cargo`, a `cargo test` command without targets.
pub(crate) fn build(mut cargo: Command, targets: &[TestTarget]) -> Result<Vec<TestProgram>, TaskError> {
    let owned = |(name, value): (&OsStr, Option<&OsStr>)| (name.to_owned(), value.map(ToOwned::to_owned));
    let variables: Vec<_> = cargo.get_envs().map(owned).collect();
    let arguments: BTreeSet<_> = targets.iter().map(TestTarget::cargo_arguments).collect();
    cargo.arg("--workspace").args(arguments.into_iter().flatten());
    cargo.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let built = artifacts::executables(&output(&mut cargo)?);
    let program = |target: &TestTarget| {
        let path = path(&built, target)?.to_owned();
        Ok(TestProgram { target: target.clone(), path, variables: variables.clone() })
    };
    Ok(targets.iter().map(program).collect::<Result<_, String>>()?)
}

fn path<'a>(built: &'a [Executable], target: &TestTarget) -> Result<&'a Path, String> {
    artifacts::find_tests(built, &target.manifest, &target.kind, &target.name)
        .ok_or_else(|| format!("cargo did not report the path of the test program {}", target.id()))
}

impl TestProgram {
    /// Returns a command that runs the program in the folder of its package, with the variables of the cargo
    /// command that built it.
    pub(crate) fn command(&self) -> Command {
        let mut command = with_default_signals(&self.path);
        command.current_dir(self.target.folder());
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

/// The result of a program whose output was kept in a file.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) took: Duration,
}

/// Runs a command without input, and keeps all its output in a file.
pub(crate) fn run_into(command: &mut Command, path: &Path) -> io::Result<Ended> {
    let file = File::create(path)?;
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status()?;
    let took = started.elapsed();
    Ok(Ended { status, output: String::from_utf8_lossy(&fs::read(path)?).into_owned(), took })
}

/// Returns the name of the file for the output of a test program.
pub(crate) fn file_name(id: &str) -> String {
    id.replace("::", "-").replace('/', "-")
}

/// Makes an empty folder.
pub(crate) fn empty(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(folder)
}

/// Runs programs, each with its name, at most `at_once` of them at the same time. Prints the output of each
/// when it has ended; until then, the output is in a file in `folder`.
///
/// # Errors
///
/// Once all programs have ended: the names of those that failed.
pub(crate) fn run_at_once(
    programs: Vec<(String, Command)>,
    at_once: usize,
    folder: &Path,
) -> Result<(), TaskError> {
    empty(folder).map_err(|error| format!("cannot empty {}: {error}", folder.display()))?;
    let next = AtomicUsize::new(0);
    let programs: Vec<_> = programs.into_iter().map(Mutex::new).collect();
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (name, command) = &mut *program.lock().unwrap();
            let ended = run_into(command, &folder.join(file_name(name) + ".txt"))
                .map_err(|error| format!("cannot run {name}: {error}"))?;
            let mut failed = failed.lock().unwrap();
            let seconds = ended.took.as_secs();
            let printed = frontend::print(format!("\n== {name} ({seconds} s)\n{}", ended.output));
            printed.map_err(|error| error.to_string())?;
            if !ended.status.success() {
                failed.push(format!("{name} ({})", ended.status));
            }
        }
        Ok::<_, String>(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Result<Vec<_>, _>>()
    })?;
    let failed = failed.into_inner().unwrap();
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("failed: {}", failed.join(", ")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()))
    }

    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    /// Each of two programs waits for the other.
    #[test]
    fn programs_run_at_the_same_time_and_keep_their_output() {
        let folder = folder("at-once");
        let meet = |mine: &str, others: &str| {
            let wait = format!("echo {mine}; : > {mine}; while ! test -e {others}; do sleep 0.01; done");
            let mut command = script(&wait);
            command.current_dir(&folder);
            command
        };
        let programs = vec![("p::a".into(), meet("a", "b")), ("p::b".into(), meet("b", "a"))];
        assert!(run_at_once(programs, 2, &folder).is_ok());
        for name in ["a", "b"] {
            let output = fs::read_to_string(folder.join(format!("p-{name}.txt"))).unwrap();
            assert_eq!(output, format!("{name}\n"));
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_failure_does_not_keep_others_from_running() {
        let folder = folder("failing");
        let programs = || {
            [("a", "exit 3"), ("b", "kill -9 $$"), ("c", "echo out; echo err >&2")]
                .map(|(name, text)| (name.to_owned(), script(text)))
                .into()
        };
        let message = |programs| match run_at_once(programs, 1, &folder) {
            Err(TaskError::Message(message)) => message,
            Err(TaskError::AlreadyReported(_)) | Ok(()) => panic!("no message"),
        };
        assert_eq!(message(programs()), "failed: a (exit status: 3), b (signal: 9 (SIGKILL))");
        assert_eq!(fs::read_to_string(folder.join("c.txt")).unwrap(), "out\nerr\n");
        let absent = vec![("d".to_owned(), Command::new("no-such-program-as-this"))];
        let text = message(absent);
        assert!(text.starts_with("cannot run d: "), "{text}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
