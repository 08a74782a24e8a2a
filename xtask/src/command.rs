//! Running other programs.

use crate::Failure;
use std::{
    ffi::OsStr,
    io,
    process::{Child, Command, ExitStatus, Stdio},
};

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").as_deref().unwrap_or(OsStr::new("cargo")))
}

/// Runs a command that says itself what goes wrong.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    eprintln!("+ {}", shown(command));
    let status = status(command)?;
    if status.success() { Ok(()) } else { Err(Failure::Reported(exit_code(status))) }
}

/// Runs commands at the same time, as [`run`] does one, and waits for all; the first in the list that fails
/// counts.
pub(crate) fn run_side_by_side<const N: usize>(commands: [Command; N]) -> Result<(), Failure> {
    let started = commands.map(|mut command| {
        eprintln!("+ {}", shown(&command));
        let child = command.spawn();
        (command, child)
    });
    let ended = started.map(|(command, child)| {
        child.and_then(|mut child| child.wait()).map_err(|error| cannot_run(&command, &error))
    });
    for status in ended {
        let status = status?;
        if !status.success() {
            return Err(Failure::Reported(exit_code(status)));
        }
    }
    Ok(())
}

/// As [`run`], for what it prints.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    eprintln!("+ {}", shown(command));
    let output = command.stdout(Stdio::piped()).spawn().and_then(Child::wait_with_output);
    let output = output.map_err(|error| cannot_run(command, &error))?;
    if !output.status.success() {
        return Err(Failure::Reported(exit_code(output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command for its exit code.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus, Failure> {
    command.status().map_err(|error| cannot_run(command, &error))
}

/// The exit code to end with after a command that failed; one that a signal ended counts as 1.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1)
}

fn cannot_run(command: &Command, error: &io::Error) -> Failure {
    Failure::Message(format!("cannot run {}: {error}", shown(command)))
}

fn shown(command: &Command) -> String {
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
        assert!(matches!(ended("exit 3"), Err(Failure::Reported(3))));
        assert!(matches!(ended("kill -9 $$"), Err(Failure::Reported(1))));
        let [fails, succeeds] = ["exit 4", "exit 0"].map(|script| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        });
        assert!(matches!(run_side_by_side([succeeds, fails]), Err(Failure::Reported(4))));
        let absent = run(&mut Command::new("no-such-program-as-this"));
        assert!(matches!(absent, Err(Failure::Message(message)) if message.contains("no-such-program")));
    }
}
