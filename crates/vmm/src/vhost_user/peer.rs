//! Who is at the other end, and whether its guest runs by KVM.
//!
//! An emulator keeps translations of the guest's code and cannot see that another process writes to the pages of it: programs that the guest
//! starts from a shared directory crash. It leaves out memory barriers, too. So a client without a KVM VM is refused. QEMU connects
//! before it has one, but has it when it says its first word.

use std::io;
use std::os::fd::AsFd;

/// How a VM shows among a process's descriptors (Linux `virt/kvm/kvm_main.c`, `anon_inode_getfile("kvm-vm", ...)`).
const VM: &str = "anon_inode:kvm-vm";

/// A client that is not served.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// By emulation.
    #[error(
        "the client ({0}) has no KVM virtual machine: its guest is emulated, and an emulator does not see what another process writes into \
         the guest's code; start QEMU with `-accel kvm`, or share the directory by QEMU's own 9p (`-device virtio-9p-pci`)"
    )]
    Emulated(String),
    /// Nobody knows.
    #[error(
        "looking whether the client (process {process}) has a KVM virtual machine: {source}; run `serve` as the same user and in the same \
         PID namespace, or take it upon you that it has one by --no-kvm-check"
    )]
    Unknown {
        /// Its number, 0 when it is in another PID namespace.
        process: i32,
        /// Why.
        source: io::Error,
    },
}

/// Makes sure that the process that has connected `socket` has a KVM VM.
///
/// # Errors
/// When it has none, or that cannot be seen.
pub fn check(socket: impl AsFd) -> Result<(), PeerError> {
    let unknown = |process, source: io::Error| PeerError::Unknown { process, source };
    let process = rustix::net::sockopt::socket_peercred(socket).map_err(|e| unknown(0, e.into()))?.pid;
    let process = process.as_raw_nonzero().get();
    if has_vm(process).map_err(|e| unknown(process, e))? {
        return Ok(());
    }
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    Err(PeerError::Emulated(format!("{}, process {process}", name.trim())))
}

fn has_vm(process: i32) -> io::Result<bool> {
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        // One that was closed meanwhile is none.
        if std::fs::read_link(entry?.path()).is_ok_and(|link| link.as_os_str() == VM) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_client_without_a_vm_is_refused_and_one_with_a_vm_is_not() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = check(&ours).unwrap_err().to_string();
        assert!(error.contains("no KVM virtual machine") && error.contains("-accel kvm"), "{error}");
        let Some(vm) = kvm_ioctls::Kvm::new().ok().and_then(|kvm| kvm.create_vm().ok()) else {
            eprintln!("not looked at: this host has no KVM");
            return;
        };
        check(&ours).unwrap();
        drop(vm);
    }

    #[test]
    fn nobody_is_not_taken_for_somebody() {
        assert!(has_vm(i32::MAX).is_err());
    }
}
