//! clear-vmm: a small virtual machine monitor on KVM. One process is one machine.
//!
//! ```text
//!   cli/ ─► MachineSpec ─► machine.rs ─┬─ memory/   guest RAM, kernel segments mapped into it, pmem and DAX windows
//!                                      ├─ boot/     ELF, bzImage, what the kernel is told about the machine
//!                                      ├─ vcpu/     one thread per vCPU, KVM_RUN
//!                                      ├─ pci/ virtio/ legacy/   what the guest sees
//!                                      ├─ event_loop.rs          one thread that owns all devices
//!                                      ├─ jail/                  what a guest that has broken out of all that finds
//!                                      └─ control/               a socket to pause, watch and change a running machine
//!       vhost_user/   the fs device alone, for another VMM
//! ```

pub mod boot;
pub mod bus;
pub mod cli;
pub mod control;
pub mod event_loop;
pub mod jail;
pub mod legacy;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod plain_text;
pub mod vcpu;
pub mod vfio;
pub mod vhost_user;
pub mod virtio;
