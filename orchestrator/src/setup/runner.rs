//! Runs the host's commands, behind a trait, so that tests of `testbed setup` do not need the real commands.

use crate::{bounded, layout::shell_line, sys};
use std::{
    fmt, io, iter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// A command to run: a program with its arguments. `Display` prints it as it would be typed into a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The program, looked up in `PATH`.
    pub program: String,
    pub arguments: Vec<String>,
    /// The directory to run it in; `None` for the current directory.
    pub directory: Option<PathBuf>,
    /// How long it may take if its output is captured; `None` without a limit.
    pub limit: Option<Duration>,
}

impl Invocation {
    /// Creates a command that runs in the current directory.
    pub fn new<A: Into<String>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Self {
        Self {
            program: program.to_owned(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            directory: None,
            limit: None,
        }
    }

    /// Makes the command run in this directory.
    #[must_use]
    pub fn within(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_path_buf());
        self
    }

    /// Limits the time that the command may take if its output is captured.
    #[must_use]
    pub fn at_most(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Makes another program, such as `sudo`, run the command. `options` are the options of that program.
    #[must_use]
    pub fn through(mut self, program: &str, options: &[&str]) -> Self {
        self.arguments.insert(0, std::mem::replace(&mut self.program, program.to_owned()));
        self.arguments.splice(0..0, options.iter().map(|option| (*option).to_owned()));
        self
    }
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shell_line(iter::once(&self.program).chain(&self.arguments)))
    }
}

/// The exit code and the output of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The exit code; `None` if a signal ended the command.
    pub code: Option<i32>,
    /// The standard output; empty unless it was captured.
    pub stdout: String,
    /// The standard error; empty unless it was captured.
    pub stderr: String,
}

/// Runs commands, in the C locale and with an empty standard input.
pub trait Runner {
    /// Runs a command and captures its output.
    ///
    /// # Errors
    /// If it cannot be started, or exceeds its time limit, after which it is killed.
    fn capture(&self, invocation: &Invocation) -> io::Result<Output>;

    /// Runs a command and shows its output to the user, on standard error.
    ///
    /// # Errors
    /// If it cannot be started.
    fn show(&self, invocation: &Invocation) -> io::Result<Output>;

    /// Finds a program in `PATH`. Returns its path.
    fn find(&self, program: &str) -> Option<PathBuf>;
}

/// The [`Runner`] that runs commands on this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRunner;

impl SystemRunner {
    fn command(invocation: &Invocation) -> Command {
        let mut command = Command::new(&invocation.program);
        command.args(&invocation.arguments).stdin(Stdio::null());
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        if let Some(directory) = &invocation.directory {
            command.current_dir(directory);
        }
        command
    }
}

impl Runner for SystemRunner {
    fn capture(&self, invocation: &Invocation) -> io::Result<Output> {
        let mut command = Self::command(invocation);
        let output = match invocation.limit {
            None => bounded::output(&mut command)?,
            Some(limit) => {
                // It is in a process group of its own, which Ctrl-C does not reach.
                sys::die_with_parent(&mut command);
                bounded::output_within(&mut command, limit)?
            }
        };
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn show(&self, invocation: &Invocation) -> io::Result<Output> {
        // Standard output is reserved for the results of `testbed` itself.
        let status = Self::command(invocation).stdout(io::stderr()).status()?;
        Ok(Output { code: status.code(), ..Output::default() })
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|directory| directory.join(program))
            .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file())
    }
}

#[cfg(test)]
pub(super) mod fake {
    //! A host without commands: every command has a scripted answer.

    use super::{Invocation, Output, Runner};
    use std::{
        cell::RefCell,
        io,
        path::{Path, PathBuf},
    };

    type SideEffect = Box<dyn Fn(&Invocation)>;

    /// Answers commands by the words that they contain; the first match counts. Records all commands.
    #[derive(Default)]
    pub(in super::super) struct FakeRunner {
        answers: Vec<(Vec<String>, Output, Option<SideEffect>)>,
        programs: RefCell<Vec<String>>,
        /// The programs that commands install, each with the index of the answer.
        installs: Vec<(usize, String)>,
        commands: RefCell<Vec<String>>,
        /// QEMU's answer about its block driver `nfs`.
        nfs_driver: Option<Box<dyn Fn() -> &'static str>>,
    }

    impl FakeRunner {
        /// Adds a program to `PATH`.
        pub(in super::super) fn program(self, name: &str) -> Self {
            self.programs.borrow_mut().push(name.to_owned());
            self
        }

        /// Makes the command of the last answer add this program to `PATH`.
        pub(in super::super) fn installing(mut self, name: &str) -> Self {
            self.installs.push((self.answers.len() - 1, name.to_owned()));
            self
        }

        /// Adds an answer for every command line that contains all of these words.
        pub(in super::super) fn answer(mut self, words: &str, code: i32, stdout: &str) -> Self {
            let words = words.split(' ').map(str::to_owned).collect();
            let output =
                Output { code: Some(code), stdout: stdout.to_owned(), stderr: "as the fake says".to_owned() };
            self.answers.push((words, output, None));
            self
        }

        /// Sets QEMU's answer to the question whether it has its block driver `nfs`.
        pub(in super::super) fn saying(mut self, answer: impl Fn() -> &'static str + 'static) -> Self {
            self.nfs_driver = Some(Box::new(answer));
            self
        }

        /// Adds a side effect to the command of the last answer.
        pub(in super::super) fn with_effect(mut self, effect: impl Fn(&Invocation) + 'static) -> Self {
            self.answers.last_mut().expect("an answer before").2 = Some(Box::new(effect));
            self
        }

        /// Returns the commands so far, with `CACHE` for the path of the cache, which differs between test
        /// runs.
        pub(in super::super) fn commands(&self, cache: &Path) -> Vec<String> {
            let cache = cache.display().to_string();
            self.commands.borrow().iter().map(|line| line.replace(&cache, "CACHE")).collect()
        }
    }

    impl Runner for FakeRunner {
        fn capture(&self, invocation: &Invocation) -> io::Result<Output> {
            let line = invocation.to_string();
            self.commands.borrow_mut().push(line.clone());
            let words: Vec<&str> = line.split(' ').collect();
            if let (Some(answer), true) = (&self.nfs_driver, words.contains(&"-blockdev")) {
                return Ok(Output { code: Some(1), stderr: answer().to_owned(), ..Output::default() });
            }
            let known = |wanted: &String| words.contains(&wanted.as_str());
            let Some(at) = self.answers.iter().position(|(words, ..)| words.iter().all(known)) else {
                panic!("no answer to `{line}`");
            };
            let (_, output, effect) = &self.answers[at];
            let installed = self.installs.iter().filter(|(answer, _)| *answer == at);
            self.programs.borrow_mut().extend(installed.map(|(_, name)| name.clone()));
            if let Some(effect) = effect {
                effect(invocation);
            }
            Ok(output.clone())
        }

        fn show(&self, invocation: &Invocation) -> io::Result<Output> {
            self.capture(invocation)
        }

        fn find(&self, program: &str) -> Option<PathBuf> {
            let known = self.programs.borrow().iter().any(|known| known == program);
            known.then(|| Path::new("/usr/bin").join(program))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_printed_with_shell_quotes() {
        let plain = Invocation::new("apt-get", ["install", "-y", "qemu-system-x86"]);
        assert_eq!(plain.to_string(), "apt-get install -y qemu-system-x86");
        assert_eq!(plain.through("sudo", &["-n"]).to_string(), "sudo -n apt-get install -y qemu-system-x86");
        assert_eq!(Invocation::new("echo", ["it's", ""]).to_string(), r"echo 'it'\''s' ''");
    }

    #[test]
    fn the_system_runner_runs_and_finds_real_commands() {
        let output =
            SystemRunner.capture(&Invocation::new("sh", ["-c", "echo out; echo err >&2; exit 3"])).unwrap();
        assert_eq!(output, Output { code: Some(3), stdout: "out\n".to_owned(), stderr: "err\n".to_owned() });
        assert!(SystemRunner.find("sh").unwrap().is_absolute());
        assert_eq!(SystemRunner.find("no-such-program-as-this"), None);
        let endless = Invocation::new("sh", ["-c", "sleep 600; true"]).at_most(Duration::from_secs(1));
        let error = SystemRunner.capture(&endless).unwrap_err().to_string();
        assert_eq!(error, "it did not answer within 1 s");
        assert!(SystemRunner.capture(&Invocation::new("no-such-program-as-this", [""; 0])).is_err());
    }
}
