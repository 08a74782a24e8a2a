//! The program `netem`. All of its code is in the library.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    netem::cli::main(units::version!()).await
}
