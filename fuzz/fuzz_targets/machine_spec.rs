//! The machine that `clear-vmm run --spec` is given: whatever it is, it is a machine or one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::cli::spec;

fuzz_target!(|text: &str| {
    let spec = match spec::parse(text) {
        Ok(spec) => spec,
        Err(error) => return fuzz::check_message(&format!("{error:#}")),
    };
    if let Err(error) = spec.validate() {
        return fuzz::check_message(&error.to_string());
    }
    let again = serde_json::to_string(&spec).expect("a spec can be written");
    assert_eq!(spec::parse(&again).expect("and read again"), spec);
    // What the kernel gets of it.
    let line = vmm::boot::cmdline::complete(&spec.cmdline(), spec.console, vmm::boot::Format::Elf);
    assert!(line.ends_with(spec.cmdline().trim()) && !line.contains(['\n', '\0']));
});
