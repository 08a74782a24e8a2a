//! QEMU's block driver `nfs`, with which it opens shared disks. Distributions have the driver in a separate
//! package.

use super::{
    Error, Invocation, QEMU_PROGRAM, Runner,
    apt::Apt,
    checks::is_packaged,
    machine::LocalHost,
    plan::{self, QemuInstall},
};
use crate::{
    finding::{Check, Finding},
    host::QEMU_LIMIT,
};

/// The Debian package of the driver. It works only with a QEMU that was built together with it.
pub(super) const PACKAGE: &str = "qemu-block-extra";

/// Whether a QEMU can open disks over NFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NfsDriver {
    /// QEMU has the driver.
    Present,
    /// QEMU does not have the driver, in its own words.
    Missing(String),
    /// QEMU does not say.
    Unknown(String),
}

impl NfsDriver {
    /// The arguments that make QEMU open a disk over NFS and exit. The path has no folder, so a QEMU with the
    /// driver refuses it before connecting to anything.
    pub const QUESTION: [&'static str; 7] = [
        "-nodefaults",
        "-machine",
        "none",
        "-display",
        "none",
        "-blockdev",
        "driver=nfs,node-name=disk,server.type=inet,server.host=127.0.0.1,path=disk",
    ];

    /// Returns what QEMU's answer to [`Self::QUESTION`] means: whether QEMU has exited on its own, and its
    /// standard error. A QEMU without the driver names the driver when it refuses.
    pub fn from_answer(has_exited: bool, stderr: &str) -> Self {
        let refusal = stderr.lines().rfind(|line| line.contains("-blockdev"));
        match refusal.and_then(|line| line.rsplit_once(": ")) {
            Some((_, reason)) if reason.contains("'nfs'") => Self::Missing(reason.to_owned()),
            Some(_) if has_exited => Self::Present,
            _ => Self::Unknown(stderr.lines().last().unwrap_or("it says nothing").to_owned()),
        }
    }

    /// Asks the QEMU in `PATH`.
    pub fn probe(runner: &dyn Runner) -> Self {
        match runner.capture(&Invocation::new(QEMU_PROGRAM, Self::QUESTION).at_most(QEMU_LIMIT)) {
            Ok(output) => Self::from_answer(output.code.is_some(), &output.stderr),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

/// The check that QEMU can open disks over NFS, as runs with shared storage require.
pub struct NfsDriverCheck<'a> {
    /// Runs QEMU.
    pub runner: &'a dyn Runner,
    /// Whether the runs need this.
    pub required: bool,
}

impl Check for NfsDriverCheck<'_> {
    fn examine(&self) -> Finding {
        const NAME: &str = "QEMU's nfs driver";
        match NfsDriver::probe(self.runner) {
            NfsDriver::Present => Finding::ok(NAME, "shared disks can be opened"),
            NfsDriver::Missing(reason) => {
                let detail = format!("shared disks cannot be opened: {reason}");
                let packages = format!("{PACKAGE} on Debian, qemu-block-nfs elsewhere");
                let remedy = format!("install it in the version of QEMU: {packages}");
                if self.required {
                    Finding::missing(NAME, detail, format!("testbed setup MATRIX, or {remedy}"))
                } else {
                    Finding::warning(NAME, detail, remedy)
                }
            }
            NfsDriver::Unknown(reason) => Finding::warning(
                NAME,
                format!("QEMU does not say whether it has it: {reason}"),
                format!("run {}", Invocation::new(QEMU_PROGRAM, NfsDriver::QUESTION)),
            ),
        }
    }
}

/// Determines how to install the driver for the installed QEMU: in its version, from the configured sources
/// or else from backports.
pub(super) fn install(apt: &mut Apt<'_>, host: &LocalHost<'_>) -> Result<QemuInstall, Error> {
    let failed = |tried: Vec<String>| Error::NoNfsDriver { package: PACKAGE, tried };
    let path = host.runner.find(QEMU_PROGRAM).filter(|path| is_packaged(path));
    let Some(version) = path.and_then(|_| installed_version(host.runner)) else {
        return Err(failed(vec![format!(
            "{QEMU_PROGRAM} in PATH is not from the package {}",
            plan::PACKAGE
        )]));
    };
    let words = [format!("{PACKAGE}={version}")];
    plan::from_any_suite(apt, host, &words, &|simulation| {
        let found = simulation.version(PACKAGE).ok_or_else(|| format!("{PACKAGE} is already installed"))?;
        if found == version { Ok(()) } else { Err(format!("it has {PACKAGE} {found}")) }
    })?
    .map_err(failed)
}

/// Returns the version of the installed QEMU package.
fn installed_version(runner: &dyn Runner) -> Option<String> {
    let query = Invocation::new("dpkg-query", ["-W", "-f", "${Version}", plan::PACKAGE]);
    let output = runner.capture(&query).ok().filter(|output| output.code == Some(0))?;
    Some(output.stdout.trim().to_owned()).filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{super::runner::fake::FakeRunner, *};
    use crate::finding::State;

    const PREFIX: &str = "qemu-system-x86_64: -blockdev driver=nfs,node-name=disk,server.type=inet,\
                          server.host=127.0.0.1,path=disk: ";

    #[test]
    fn a_qemu_without_the_driver_names_it() {
        let answer = |text: &str| NfsDriver::from_answer(true, &format!("{PREFIX}{text}\n"));
        assert_eq!(answer("Invalid URL specified"), NfsDriver::Present);
        assert_eq!(answer("Unknown driver 'nfs'"), NfsDriver::Missing("Unknown driver 'nfs'".into()));
        let value = "Parameter 'driver' does not accept value 'nfs'";
        assert_eq!(answer(value), NfsDriver::Missing(value.into()));
        let hint = "Unable to load module nfs. Perhaps you want to install qemu-block-extra or \
                    qemu-block-supplemental package?";
        assert_eq!(
            answer(&format!("{hint}\n{PREFIX}Unknown driver 'nfs'")),
            NfsDriver::Missing("Unknown driver 'nfs'".into())
        );
        let another_build = "Failed to initialize module: /usr/lib/x86_64-linux-gnu/qemu/block-nfs.so\nNote: \
                             only modules from the same build can be loaded.\n";
        assert_eq!(
            NfsDriver::from_answer(true, &format!("{another_build}{PREFIX}Unknown driver 'nfs'\n")),
            NfsDriver::Missing("Unknown driver 'nfs'".into())
        );
    }

    #[test]
    fn a_qemu_without_the_driver_is_a_warning() {
        let found = |required, answer: &'static str| {
            let runner = FakeRunner::default().saying(move || answer);
            let Finding { state, detail, remedy, .. } =
                NfsDriverCheck { runner: &runner, required }.examine();
            (state, detail, remedy.unwrap_or_default())
        };
        let (state, detail, remedy) = found(false, "-blockdev driver=nfs: Unknown driver 'nfs'\n");
        assert_eq!(state, State::Warning, "other runs work");
        assert_eq!(detail, "shared disks cannot be opened: Unknown driver 'nfs'");
        assert!(remedy.contains("qemu-block-extra"), "{remedy}");
        let (state, _, remedy) = found(true, "-blockdev driver=nfs: Unknown driver 'nfs'\n");
        assert_eq!(state, State::Missing);
        assert!(remedy.starts_with("testbed setup MATRIX, or install it"), "{remedy}");
        assert_eq!(found(true, "-blockdev driver=nfs: Invalid URL specified\n").0, State::Ok);
        assert!(found(false, "no such library\n").1.ends_with("whether it has it: no such library"));
    }

    #[test]
    fn a_qemu_that_fails_otherwise_is_no_qemu_with_the_driver() {
        let unknown = |has_exited, text: &str| {
            matches!(NfsDriver::from_answer(has_exited, text), NfsDriver::Unknown(_))
        };
        assert!(unknown(true, "qemu-system-x86_64: error while loading shared libraries: libfoo.so\n"));
        assert!(unknown(false, &format!("{PREFIX}Invalid URL specified\n")));
        assert!(unknown(true, ""));
    }
}
