//! Starts other programs, echoes their command lines on standard error, and turns a failure into a
//! [`TaskError`].

use crate::TaskError;
use std::{
    ffi::{OsStr, OsString},
    io,
    process::{Child, Command, ExitStatus, Stdio},
};

/// Returns a command for the cargo that started this program, or for `cargo` in PATH.
pub(crate) fn cargo() -> Command {
    Command::new(cargo_program())
}

/// Returns a command for the same cargo with the lowest priority, and without a progress bar, which would
/// overwrite the output of other programs.
pub(crate) fn cargo_in_background() -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(cargo_program()).env("CARGO_TERM_PROGRESS_WHEN", "never");
    command
}

/// Returns a command for `cargo test`, without arguments of its own.
pub(crate) fn cargo_test() -> Command {
    let mut command = with_default_signals(cargo_program());
    command.arg("test");
    command
}

fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Returns a command that starts a program with the default actions of the signals that tests send. A
/// background job, or a job of nohup, has inherited that some of them are ignored, and its programs would
/// inherit that too.
pub(crate) fn with_default_signals(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP,INT,QUIT,TERM").arg(program);
    command
}

/// Runs a command that reports its own errors; only its exit code is passed on.
pub(crate) fn run(command: &mut Command) -> Result<(), TaskError> {
    frontend::tell(format!("+ {}", command_line(command)));
    let status = status(command)?;
    if status.success() { Ok(()) } else { Err(TaskError::AlreadyReported(exit_code(status))) }
}

/// Runs several commands in parallel and waits for all of them. If any fail, returns the error of the first
/// failed command in the list.
pub(crate) fn run_side_by_side<const N: usize>(commands: [Command; N]) -> Result<(), TaskError> {
    let started = commands.map(|mut command| {
        frontend::tell(format!("+ {}", command_line(&command)));
        let child = command.spawn();
        (command, child)
    });
    let ended = started.map(|(command, child)| {
        child.and_then(|mut child| child.wait()).map_err(|error| cannot_run(&command, &error))
    });
    for status in ended {
        let status = status?;
        if !status.success() {
            return Err(TaskError::AlreadyReported(exit_code(status)));
        }
    }
    Ok(())
}

/// Runs a command like [`run`] and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, TaskError> {
    frontend::tell(format!("+ {}", command_line(command)));
    let output = command.stdout(Stdio::piped()).spawn().and_then(Child::wait_with_output);
    let output = output.map_err(|error| cannot_run(command, &error))?;
    if !output.status.success() {
        return Err(TaskError::AlreadyReported(exit_code(output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command and returns its exit status, without echoing the command line.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus, TaskError> {
    command.status().map_err(|error| cannot_run(command, &error))
}

/// Returns the exit code to pass on after a command failed: its own, or 1 if a signal killed it.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1)
}

fn cannot_run(command: &Command, error: &io::Error) -> TaskError {
    TaskError::Message(format!("cannot run {}: {error}", command_line(command)))
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_exit_code() {
        let ended = |script: &str| run(Command::new("sh").args(["-c", script]));
        assert!(ended("exit 0").is_ok());
        assert!(matches!(ended("exit 3"), Err(TaskError::AlreadyReported(3))));
        assert!(matches!(ended("kill -9 $$"), Err(TaskError::AlreadyReported(1))));
        let [fails, succeeds] = ["exit 4", "exit 0"].map(|script| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        });
        assert!(matches!(run_side_by_side([succeeds, fails]), Err(TaskError::AlreadyReported(4))));
        let absent = run(&mut Command::new("no-such-program-as-this"));
        assert!(matches!(absent, Err(TaskError::Message(message)) if message.contains("no-such-program")));
    }
}
