//! The entry point of the program `testbed`, which is implemented in [`testbed::cli`].

fn main() -> std::process::ExitCode {
    testbed::cli::main(units::version!())
}
