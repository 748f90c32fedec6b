//! The program `clear-mini-os`; see the library of the same package.

fn main() -> std::process::ExitCode {
    mini_os::main()
}
