//! The configuration file: what is accepted can be shown, and what is shown can be read and means the same.
#![no_main]

use fuzz::check_message;
use libfuzzer_sys::fuzz_target;
use sandbox::configuration::Configuration;
use std::path::Path;

fuzz_target!(|text: &str| {
    let path = Path::new("/etc/clear-containers/configuration.toml");
    let configuration = match Configuration::parse(text, path) {
        Ok(configuration) => configuration,
        Err(error) => return check_message(&error.to_string()),
    };
    let shown = configuration.show();
    let again = Configuration::parse(&shown, path).expect("what is shown can be read");
    assert_eq!((again.machine, again.mini_os), (configuration.machine, configuration.mini_os));
    assert_eq!((again.runtime, again.security), (configuration.runtime, configuration.security));
});
