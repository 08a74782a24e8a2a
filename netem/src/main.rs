//! The program `netem`; everything it does is in the library.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    netem::cli::main().await
}
