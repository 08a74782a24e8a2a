//! The entry point of the program `testbed`, which is implemented in [`testbed::cli`].

/// The version and the commit that the program was built from.
const VERSION: &str = git_version::git_version!(
    args = ["--always", "--abbrev=10", "--dirty=-modified", "--exclude=*"],
    prefix = concat!(env!("CARGO_PKG_VERSION"), " ("),
    suffix = ")",
    fallback = concat!(env!("CARGO_PKG_VERSION"), " (unknown commit)")
);

fn main() -> std::process::ExitCode {
    testbed::cli::main(VERSION)
}
