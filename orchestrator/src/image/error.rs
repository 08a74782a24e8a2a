//! The errors of preparing a guest's files.

use std::{io, path::PathBuf};

/// An error preparing a guest's files. Each message says what was attempted, on which file, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the kernel, its modules or the cache could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: `read the kernel`.
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    /// The environment names no directory for the cache.
    #[error("neither XDG_CACHE_HOME nor HOME is set: set XDG_CACHE_HOME to a directory for cached files")]
    NoCacheHome,

    /// Users other than this one may have written to the cache.
    #[error(
        "cannot trust {}, from which guests boot: {why}; delete it, or set XDG_CACHE_HOME to a directory of \
         your own",
        path.display()
    )]
    Untrusted {
        /// The entry of the cache.
        path: PathBuf,
        /// Who else can write to it.
        why: String,
    },

    /// Users other than this one can put another cache in the place of this one.
    #[error("cannot trust the cache {}: {why}; {remedy}", cache.display())]
    Exposed {
        /// The cache's directory, or a directory to which an entry leads.
        cache: PathBuf,
        /// The folder above it and who can write to that.
        why: String,
        /// What to do, in the imperative.
        remedy: String,
    },

    /// No kernel was found anywhere.
    #[error("no guest kernel: {}; run `testbed setup`, or give one with --kernel", tried.join("; "))]
    NoKernel {
        /// Each place that was tried, and why no kernel there is usable.
        tried: Vec<String>,
    },

    /// The kernel image is not a bzImage.
    #[error(
        "{} is not a Linux kernel image for x86 (bzImage): {why}; use the distribution's vmlinuz",
        path.display()
    )]
    NotAKernel { path: PathBuf, why: String },

    /// The directory of a kernel's modules was not found.
    #[error(
        "no modules of kernel {release}: looked in {}; name their directory with --modules",
        looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoModules {
        release: String,
        /// The directories that were searched.
        looked: Vec<PathBuf>,
    },

    /// A required module is neither a file nor built into the kernel.
    #[error(
        "kernel {release} has no module {module}{}: it is neither in {} nor built in; use a kernel that has \
         it, such as the one `testbed setup --kernel distribution` fetches",
        needed_by.as_ref().map(|by| format!(" (needed by {by})")).unwrap_or_default(),
        directory.display()
    )]
    MissingModule {
        release: String,
        /// The missing module.
        module: String,
        /// The module that depends on the missing one; `None` if the guest itself needs it.
        needed_by: Option<String>,
        /// The directory of the kernel's modules.
        directory: PathBuf,
    },

    /// A module's file is damaged or belongs to another kernel.
    #[error("cannot use the kernel module {}: {why}", path.display())]
    BadModule { path: PathBuf, why: String },

    /// The program that runs in guests is not at the expected path.
    #[error("cannot read the stressor {}: {source}; {STRESSOR_REMEDY}", path.display())]
    NoStressor { path: PathBuf, source: io::Error },

    /// The program is not a static program for x86-64, so the guest cannot run it.
    #[error("{} cannot be the guest's init: {why}; {STRESSOR_REMEDY}", path.display())]
    Stressor { path: PathBuf, why: &'static str },
}

/// How to get a stressor. `testbed setup` cannot provide it: it belongs to this program.
pub const STRESSOR_REMEDY: &str = "testbed needs the program `stressor` of the same build, \
                                   statically linked: put it beside testbed, or set TESTBED_STRESSOR to \
                                   its path (from the source tree, `cargo xtask install` installs both)";

impl Error {
    /// Returns a closure for `map_err` that adds the action and the path to an I/O error.
    pub(crate) fn io<'a>(
        action: &'static str,
        path: impl Into<&'a std::path::Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into().to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
