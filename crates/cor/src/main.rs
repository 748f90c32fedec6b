//! The program `cor`; see the library of the same name.

fn main() -> std::process::ExitCode {
    cor::main()
}
