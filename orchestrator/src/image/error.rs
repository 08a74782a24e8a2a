//! What can go wrong while the guest's files are made ready.

use std::{io, path::PathBuf};

/// Why there is no guest to boot. Each says what was attempted, on what, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the kernel's, of the modules' or of the cache's could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// The cache's place is not known.
    #[error("neither XDG_CACHE_HOME nor HOME is set: set XDG_CACHE_HOME to a directory for cached files")]
    NoCacheHome,

    /// No kernel was found anywhere.
    #[error("no guest kernel: {}; run `testbed setup`, or give one with --kernel", tried.join("; "))]
    NoKernel {
        /// Each place that was tried, and why it did not serve.
        tried: Vec<String>,
    },

    /// A file that was given as a kernel is something else.
    #[error("{} is not a Linux kernel image for x86 (bzImage): {why}; give the distribution's vmlinuz", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        why: &'static str,
    },

    /// The directory of a kernel's modules was not found.
    #[error(
        "no modules of kernel {release}: looked in {}; name their directory with --modules",
        looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoModules {
        /// The kernel's release.
        release: String,
        /// Where they might have been.
        looked: Vec<PathBuf>,
    },

    /// A module is needed, and neither a file nor built into the kernel.
    #[error(
        "kernel {release} has no module {module}{}: neither in {} nor built in; use a kernel that has it, \
         such as the one `testbed setup --kernel distribution` fetches",
        needed_by.as_ref().map(|by| format!(" (needed by {by})")).unwrap_or_default(),
        directory.display()
    )]
    MissingModule {
        /// The kernel's release.
        release: String,
        /// The module that is missing.
        module: String,
        /// The module that depends on it, unless the guest needs it itself.
        needed_by: Option<String>,
        /// Where the kernel's modules are.
        directory: PathBuf,
    },

    /// A module's file is not what it should be.
    #[error("cannot use the kernel module {}: {why}", path.display())]
    BadModule {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// The program that is to be the guest's init cannot be.
    #[error(
        "{} cannot be the guest's init: {why}; build it with `cargo xtask dist`, which links it statically",
        path.display()
    )]
    Stressor {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Error {
    /// For `map_err`: an I/O error with what was attempted and on what.
    pub(crate) fn io<'a>(
        action: &'static str,
        path: impl Into<&'a std::path::Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into().to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
