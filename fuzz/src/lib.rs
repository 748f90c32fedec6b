//! What several targets need: a host to plan on, and what holds for every message and error.

pub mod bytes;
pub mod guest;
mod host;
mod kernel;

pub use host::{bound_files, is_ready, memory, memory_file};
pub use kernel::kernel;

use guest_protocol::frame::{self, Decoder};
use host_check::facts::{Cgroups, HostFacts, Kvm, Qemu};
use machine_spec::mini_os::{Features, File, MiniOs, VERSION};
use sandbox::bundle::Bundle;
use sandbox::configuration::Configuration;
use sandbox::plan::{Inputs, PlanOptions, SandboxPlan, plan};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A host with KVM and control groups v2.
pub fn facts() -> HostFacts {
    HostFacts {
        arch: "x86_64".into(),
        cpus: 8,
        memory_total_mib: 16_000,
        memory_available_mib: 12_000,
        kvm: Kvm::Usable,
        clear_vmm: Some("/usr/bin/clear-vmm".into()),
        hostname: "host".into(),
        tsc_khz: None,
        qemu: Some(Qemu { path: "/usr/bin/qemu-system-x86_64".into(), version: (10, 0) }),
        pasta: Some("/usr/bin/pasta".into()),
        default_route: true,
        cgroups: Cgroups::V2("/sys/fs/cgroup".into()),
    }
}

/// A mini-OS that can boot in every way.
pub fn mini_os() -> MiniOs {
    let file = |path: &str| File { path: path.into(), sha256: "aa".into(), size: 4 << 20 };
    MiniOs {
        version: VERSION,
        origin: "source:container".into(),
        arch: "x86_64".into(),
        release: "6.12.0".into(),
        kernel: file("/store/vmlinux"),
        initramfs: Some(file("/store/initramfs.cpio")),
        image: Some(file("/store/image.erofs")),
        features: Features { virtio_mmio: true, block_root: true, dax_root: true, clear: true },
    }
}

/// The plan for a bundle on that host, as `cor create` makes it.
///
/// # Errors
/// What `cor` would tell its user.
pub fn planned(bundle: &Bundle) -> Result<SandboxPlan, String> {
    let configuration = Configuration::default().for_bundle(bundle).map_err(|e| e.to_string())?;
    let mini_os = configuration.mini_os(mini_os(), |_| Ok(4 << 20)).map_err(|e| e.to_string())?;
    let options =
        PlanOptions { systemd_cgroup: false, require_kvm: false, stage: "/run/cor/fuzz/stage".into(), neighbours: Vec::new() };
    let facts = facts();
    let inputs = Inputs {
        id: "fuzz",
        bundle,
        configuration: &configuration,
        facts: &facts,
        mini_os: &mini_os,
        options: &options,
    };
    plan(&inputs).map_err(|e| e.to_string())
}

/// A message for people is one line without control characters, whatever was quoted in it.
pub fn check_message(message: &str) {
    assert!(!message.is_empty(), "an error without words");
    assert!(!message.contains(char::is_control), "an error of more than one line: {message:?}");
}

/// Takes messages out of `bytes` until they are used up or broken. Each must survive being written again.
pub fn check_frames<T>(bytes: &[u8], limit: usize)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    // The first byte says where the stream is cut, as a socket may at any place.
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let mut decoder = Decoder::new(limit);
    for piece in bytes.chunks(usize::from(*cut) * 16 + 1) {
        decoder.push(piece);
        loop {
            match decoder.next::<T>() {
                Ok(Some(message)) => check_round_trip(&message, limit),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn check_round_trip<T>(message: &T, limit: usize)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = frame::encode(message, limit).expect("a message that was read is not longer when written");
    let mut decoder = Decoder::new(limit);
    decoder.push(&bytes);
    let again = decoder.next::<T>().expect("what was written can be read");
    assert_eq!(again.as_ref(), Some(message));
}
