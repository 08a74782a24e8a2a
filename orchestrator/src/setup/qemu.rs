//! Finds QEMU in `PATH` and checks its version.

use super::{Invocation, Runner};
use crate::host::QEMU_LIMIT;
use std::{fmt, path::PathBuf};

pub use crate::host::QEMU as PROGRAM;

/// The oldest supported QEMU: the first version with `-netdev dgram`.
pub const MINIMUM: Version = Version { major: 7, minor: 2 };

/// A version of QEMU, without the third number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// Parses the version at the start of a text: QEMU's own, `10.0.2 (Debian ...)`, or a package's,
    /// `1:10.0.2+ds-2`.
    pub(crate) fn leading(text: &str) -> Option<Self> {
        let upstream = match text.split_once(':') {
            Some((epoch, rest)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => rest,
            _ => text,
        };
        let mut numbers = upstream.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next().and_then(|digits| digits.parse().ok());
        Some(Self { major: number()?, minor: number()? })
    }

    /// Returns whether a guest would migrate to an older QEMU, from the versions that the two report; `false`
    /// if one of them is unknown.
    pub(crate) fn is_downgrade(source: &str, destination: &str) -> bool {
        matches!((Self::leading(source), Self::leading(destination)), (Some(from), Some(to)) if from > to)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The QEMU that is first in `PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Qemu {
    /// A QEMU that is recent enough.
    Ready {
        path: PathBuf,
        /// The version with all its numbers, such as `10.0.2`.
        version: String,
    },
    /// A QEMU that is older than [`MINIMUM`].
    TooOld { path: PathBuf, version: Version },
    /// A program that does not run, or does not print its version.
    Broken { path: PathBuf, why: String },
    /// No such program in `PATH`.
    Missing,
}

impl Qemu {
    /// Runs the program in `PATH` with `--version`.
    pub fn probe(runner: &dyn Runner) -> Self {
        let Some(path) = runner.find(PROGRAM) else { return Self::Missing };
        let command = Invocation::new(&path.display().to_string(), ["--version"]).at_most(QEMU_LIMIT);
        let output = match runner.capture(&command) {
            Ok(output) if output.code == Some(0) => output,
            Ok(output) => return Self::Broken { path, why: output.stderr.trim().to_owned() },
            Err(error) => return Self::Broken { path, why: error.to_string() },
        };
        let named = output.stdout.lines().next().and_then(|line| line.split_once("version ")).map(|(_, v)| v);
        match named.and_then(|text| Some((text, Version::leading(text)?))) {
            Some((text, version)) if version >= MINIMUM => {
                let exact = text.split_whitespace().next().unwrap_or(text).to_owned();
                Self::Ready { path, version: exact }
            }
            Some((_, version)) => Self::TooOld { path, version },
            None => Self::Broken { path, why: format!("`{command}` prints no version") },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::runner::fake::FakeRunner;
    use super::*;

    fn probe(code: i32, says: &str) -> Qemu {
        Qemu::probe(&FakeRunner::default().program(PROGRAM).answer("--version", code, says))
    }

    #[test]
    fn versions_are_read_from_programs_and_packages() {
        let version = |major, minor| Some(Version { major, minor });
        assert_eq!(Version::leading("10.0.2 (Debian 1:10.0.2+ds-2)"), version(10, 0));
        assert_eq!(Version::leading("1:7.2+dfsg-7+deb12u18"), version(7, 2));
        assert_eq!(Version::leading("11.0.50 (v11-rc1)"), version(11, 0));
        assert_eq!(Version::leading("unknown"), None);
        assert!(Version::leading("10.0") > Version::leading("7.2"));
        assert!(Version::leading("7.2") > Version::leading("7.1.99"));
    }

    #[test]
    fn a_qemu_is_ready_too_old_broken_or_missing() {
        let path = PathBuf::from("/usr/bin/qemu-system-x86_64");
        let says = |version: &str| format!("QEMU emulator version {version}\nCopyright (c) ...\n");
        assert_eq!(
            probe(0, &says("10.0.2 (Debian 1:10.0.2+ds-2)")),
            Qemu::Ready { path: path.clone(), version: "10.0.2".to_owned() }
        );
        assert_eq!(
            probe(0, &says("6.2.0")),
            Qemu::TooOld { path: path.clone(), version: Version { major: 6, minor: 2 } }
        );
        assert!(matches!(probe(127, ""), Qemu::Broken { why, .. } if why == "as the fake says"));
        assert!(matches!(probe(0, "hello"), Qemu::Broken { .. }));
        assert_eq!(Qemu::probe(&FakeRunner::default()), Qemu::Missing);
    }
}
