//! The `ghostbit` binary.

fn main() -> std::process::ExitCode {
    ghostbit::cli::main()
}
