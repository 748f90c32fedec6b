//! `config.json` of a bundle, as an engine writes it from its user's wishes: read, planned, and the plan written down.
#![no_main]

use fuzz::{check_message, planned};
use guest_protocol::frame::{self, MAX_TO_GUEST};
use libfuzzer_sys::fuzz_target;
use sandbox::bundle::{Bundle, SourceKind, Sources, bind_source};
use sandbox::plan::SandboxPlan;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let mut bundle = match Bundle::new("/bundle".into(), bytes, Sources::new()) {
        Ok(bundle) => bundle,
        Err(error) => return check_message(&error.to_string()),
    };
    bundle.sources = sources(&bundle);
    let plan = match planned(&bundle) {
        Ok(plan) => plan,
        Err(error) => return check_message(&error),
    };
    plan.warnings.iter().for_each(|warning| check_message(warning));
    plan.machine.validate().expect("a planned machine can be");
    let text = serde_json::to_vec(&plan).expect("a plan has a JSON form");
    let again: SandboxPlan = serde_json::from_slice(&text).expect("the keeper can read it");
    assert_eq!(again, plan);
    // A set-up that is too long is refused when it is sent; everything else must go through.
    if let Ok(bytes) = frame::encode(&plan.guest, MAX_TO_GUEST) {
        assert!(bytes.len() > 4);
    }
});

/// Every kind of source that a bind mount can have, by the last letter of its path.
fn sources(bundle: &Bundle) -> Sources {
    let mounts = bundle.spec.mounts().iter().flatten();
    mounts
        .filter_map(|mount| bind_source(&bundle.dir, mount))
        .map(|path| (path.clone(), kind(&path)))
        .collect()
}

fn kind(path: &Path) -> SourceKind {
    match path.as_os_str().as_encoded_bytes().last().map_or(0, |last| last % 8) {
        0 => SourceKind::File,
        1 => SourceKind::Socket,
        2 => SourceKind::Fifo,
        3 => SourceKind::Char { major: 1, minor: 3 },
        4 => SourceKind::Block { major: 8, minor: 0 },
        5 => SourceKind::Missing,
        6 => SourceKind::Directory { tmpfs_bytes: Some(1 << 20) },
        _ => SourceKind::Directory { tmpfs_bytes: None },
    }
}
