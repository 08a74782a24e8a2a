//! The program `netem`. All of its code is in the library.

use std::process::ExitCode;

/// The version and the commit that the program was built from.
const VERSION: &str = git_version::git_version!(
    args = ["--always", "--abbrev=10", "--dirty=-modified", "--exclude=*"],
    prefix = concat!(env!("CARGO_PKG_VERSION"), " ("),
    suffix = ")",
    fallback = concat!(env!("CARGO_PKG_VERSION"), " (unknown commit)")
);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    netem::cli::main(VERSION).await
}
