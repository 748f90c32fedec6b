//! `process.json` of `cor exec --process`, planned for a container that exists.
#![no_main]

use fuzz::{check_message, planned};
use guest_protocol::message::Io;
use libfuzzer_sys::fuzz_target;
use sandbox::bundle::{Bundle, Sources, parse_process, spec};
use sandbox::plan::{SandboxPlan, process_for_exec};
use std::sync::LazyLock;

static CONTAINER: LazyLock<SandboxPlan> = LazyLock::new(|| {
    let text = spec().to_string();
    let bundle = Bundle::new("/bundle".into(), text.as_bytes(), Sources::new()).expect("`cor spec` is right");
    planned(&bundle).expect("`cor spec` can be planned")
});

fuzz_target!(|bytes: &[u8]| {
    let (process, warnings) = match parse_process(bytes) {
        Ok(parsed) => parsed,
        Err(error) => return check_message(&error.to_string()),
    };
    warnings.iter().for_each(|warning| check_message(warning));
    match process_for_exec(&process, &CONTAINER, Io::default()) {
        Ok((planned, warnings)) => {
            warnings.iter().for_each(|warning| check_message(warning));
            assert!(!planned.args.is_empty() && planned.cwd.starts_with('/'));
        }
        Err(error) => check_message(&error.to_string()),
    }
});
