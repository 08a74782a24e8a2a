//! Commands of the system's, behind a trait, so that every decision about them is tested without them.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The program, looked up in `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where it runs; where this program runs, if not given.
    pub directory: Option<PathBuf>,
}

impl Invocation {
    /// A program with arguments.
    pub fn new<A: Into<String>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Self {
        Self {
            program: program.to_owned(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            directory: None,
        }
    }

    /// The same, in this directory.
    #[must_use]
    pub fn within(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_path_buf());
        self
    }

    /// The same, run by another program such as `sudo`.
    #[must_use]
    pub fn through(mut self, program: &str, options: &[&str]) -> Self {
        self.arguments.insert(0, std::mem::replace(&mut self.program, program.to_owned()));
        self.arguments.splice(0..0, options.iter().map(|option| (*option).to_owned()));
        self
    }
}

impl fmt::Display for Invocation {
    /// As it is typed into a shell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.program))?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", quoted(argument)))
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// How a command ended, and what it said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote, where that was captured.
    pub stdout: String,
    /// What it complained of, where that was captured.
    pub stderr: String,
}

/// Runs commands. All run in the C locale and without an input.
pub trait Runner {
    /// Runs one and captures what it writes.
    ///
    /// # Errors
    /// When it cannot be started.
    fn capture(&self, invocation: &Invocation) -> io::Result<Output>;

    /// Runs one and lets the user see what it writes, on standard error.
    ///
    /// # Errors
    /// When it cannot be started.
    fn show(&self, invocation: &Invocation) -> io::Result<Output>;

    /// Where a program is, if it is in `PATH`.
    fn find(&self, program: &str) -> Option<PathBuf>;
}

/// Runs commands for real.
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
        let output = Self::command(invocation).output()?;
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn show(&self, invocation: &Invocation) -> io::Result<Output> {
        // Standard output is kept for what the user asked this program for.
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
    //! A machine that consists of answers.

    use super::{Invocation, Output, Runner};
    use std::{
        cell::RefCell,
        io,
        path::{Path, PathBuf},
    };

    type Effect = Box<dyn Fn(&Invocation)>;

    /// Answers commands by the words they contain, the first match first, and remembers them all.
    #[derive(Default)]
    pub(in super::super) struct FakeRunner {
        answers: Vec<(Vec<String>, Output, Option<Effect>)>,
        programs: RefCell<Vec<String>>,
        /// Programs that the command of an answer installs, by the answer's place.
        installs: Vec<(usize, String)>,
        seen: RefCell<Vec<String>>,
    }

    impl FakeRunner {
        pub(in super::super) fn program(self, name: &str) -> Self {
            self.programs.borrow_mut().push(name.to_owned());
            self
        }

        /// The command of the last answer puts this program in place.
        pub(in super::super) fn installing(mut self, name: &str) -> Self {
            self.installs.push((self.answers.len() - 1, name.to_owned()));
            self
        }

        /// A command line with all of these words gets this answer.
        pub(in super::super) fn answer(mut self, words: &str, code: i32, stdout: &str) -> Self {
            let words = words.split(' ').map(str::to_owned).collect();
            let output =
                Output { code: Some(code), stdout: stdout.to_owned(), stderr: "as the fake says".to_owned() };
            self.answers.push((words, output, None));
            self
        }

        /// What the command of the last answer does besides.
        pub(in super::super) fn doing(mut self, effect: impl Fn(&Invocation) + 'static) -> Self {
            self.answers.last_mut().expect("an answer before").2 = Some(Box::new(effect));
            self
        }

        /// The commands so far, with the path of the cache replaced, for it differs from run to run.
        pub(in super::super) fn seen(&self, cache: &Path) -> Vec<String> {
            let cache = cache.display().to_string();
            self.seen.borrow().iter().map(|line| line.replace(&cache, "CACHE")).collect()
        }
    }

    impl Runner for FakeRunner {
        fn capture(&self, invocation: &Invocation) -> io::Result<Output> {
            let line = invocation.to_string();
            self.seen.borrow_mut().push(line.clone());
            let words: Vec<&str> = line.split(' ').collect();
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
    fn a_command_prints_as_it_is_typed() {
        let plain = Invocation::new("apt-get", ["install", "-y", "qemu-system-x86"]);
        assert_eq!(plain.to_string(), "apt-get install -y qemu-system-x86");
        assert_eq!(plain.through("sudo", &["-n"]).to_string(), "sudo -n apt-get install -y qemu-system-x86");
        assert_eq!(Invocation::new("echo", ["it's", ""]).to_string(), r"echo 'it'\''s' ''");
    }

    #[test]
    fn a_real_command_is_run_captured_and_found() {
        let output =
            SystemRunner.capture(&Invocation::new("sh", ["-c", "echo out; echo err >&2; exit 3"])).unwrap();
        assert_eq!(output, Output { code: Some(3), stdout: "out\n".to_owned(), stderr: "err\n".to_owned() });
        assert!(SystemRunner.find("sh").unwrap().is_absolute());
        assert_eq!(SystemRunner.find("no-such-program-as-this"), None);
        assert!(SystemRunner.capture(&Invocation::new("no-such-program-as-this", [""; 0])).is_err());
    }
}
