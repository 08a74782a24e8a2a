//! The version of a program, for its `--version` and its records.

#[doc(hidden)]
pub use git_version::git_version;

/// Expands to the version of the calling package and the commit from which it was built: `0.1.0
/// (a6bb4726f0)`. With uncommitted changes, `-modified` is appended; without git, the commit is unknown.
///
/// To be called by programs rather than libraries: the crate that contains the text is compiled again after
/// each commit.
#[macro_export]
macro_rules! version {
    () => {
        $crate::git_version!(
            args = ["--always", "--abbrev=10", "--dirty=-modified", "--exclude=*"],
            prefix = concat!(env!("CARGO_PKG_VERSION"), " ("),
            suffix = ")",
            fallback = concat!(env!("CARGO_PKG_VERSION"), " (unknown commit)")
        )
    };
}
