//! The program `testbed`; see [`testbed::cli`].

fn main() -> std::process::ExitCode {
    testbed::cli::main()
}
