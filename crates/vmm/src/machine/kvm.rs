//! KVM: the VM, its interrupt controllers, and what devices need of it.

use crate::bus::lock;
use crate::legacy::ioapic::{self, IoApic};
use crate::legacy::uart::Line;
use crate::pci::msix::MessageSink;
use crate::virtio::transport::Doorbells;
use kvm_bindings::{CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_msi};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VmFd};
use std::io;
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// Where KVM keeps three pages for CPUs without unrestricted guest mode (`Documentation/virt/kvm/api.rst`, 4.35).
const TSS_ADDRESS: usize = 0xFFFB_D000;

/// The KVM API that Linux has had since 2.6.22.
const API_VERSION: i32 = 12;

/// KVM that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No device.
    #[error(
        "opening /dev/kvm: {0}; load kvm_intel or kvm_amd, turn virtualization on in the firmware, and let this user read and write /dev/kvm (`cor check` tells which)"
    )]
    Open(#[source] io::Error),
    /// Too old or strange.
    #[error("/dev/kvm lacks {0}; a newer host kernel has it")]
    Lacks(&'static str),
    /// An ioctl failed.
    #[error("KVM: {doing}: {source}")]
    Ioctl {
        /// For example `creating a VM`.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A VM.
#[derive(Debug)]
pub struct Vm {
    /// KVM's handle.
    pub fd: Arc<VmFd>,
    /// What CPUID may say.
    pub cpuid: CpuId,
}

/// Makes a VM with local APICs in the kernel, and neither PIC nor IOAPIC nor timer chip (why: [`ioapic`]).
///
/// # Errors
/// When KVM is missing or refuses.
pub fn create(kvm: &Kvm) -> Result<Vm, KvmError> {
    let failed = |doing| move |e: kvm_ioctls::Error| KvmError::Ioctl { doing, source: e.into() };
    let cpuid =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("reading the supported CPUID"))?;
    let fd = kvm.create_vm().map_err(failed("creating a VM"))?;
    fd.set_tss_address(TSS_ADDRESS).map_err(failed("placing the TSS"))?;
    let split = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [ioapic::PINS as u64, 0, 0, 0],
        ..Default::default()
    };
    fd.enable_cap(&split).map_err(failed("asking for local APICs"))?;
    Ok(Vm { fd: Arc::new(fd), cpuid })
}

/// Opens /dev/kvm and checks that it can do what we need.
///
/// # Errors
/// When it is missing or cannot.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|e| KvmError::Open(e.into()))?;
    if kvm.get_api_version() != API_VERSION {
        return Err(KvmError::Lacks("API version 12"));
    }
    let needed = [
        (Cap::SplitIrqchip, "local APICs without a PIC"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::SignalMsi, "KVM_SIGNAL_MSI"),
        (Cap::UserMemory, "user memory"),
        (Cap::TscDeadlineTimer, "the TSC-deadline timer"),
        (Cap::ImmediateExit, "immediate exits"),
    ];
    for (cap, name) in needed {
        if !kvm.check_extension(cap) {
            return Err(KvmError::Lacks(name));
        }
    }
    Ok(kvm)
}

/// A pin of the IOAPIC.
pub struct Pin {
    ioapic: Arc<Mutex<IoApic>>,
    number: usize,
}

impl Pin {
    /// Pin `number`.
    pub fn new(ioapic: Arc<Mutex<IoApic>>, number: usize) -> Self {
        Pin { ioapic, number }
    }
}

impl Line for Pin {
    fn pulse(&self) {
        lock(&self.ioapic).pulse(self.number);
    }
}

/// Message-signalled interrupts.
#[derive(Debug)]
pub struct KvmMessages(pub Arc<VmFd>);

impl MessageSink for KvmMessages {
    fn send(&self, address: u64, data: u32) {
        let message = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..Default::default()
        };
        // A message that the guest made nonsense of reaches nobody, as on a real bus.
        let _ = self.0.signal_msi(message);
    }
}

/// Doorbells as ioeventfds.
#[derive(Debug)]
pub struct KvmDoorbells(pub Arc<VmFd>);

impl Doorbells for KvmDoorbells {
    fn attach(&self, port: u16, event: &EventFd) -> io::Result<()> {
        Ok(self.0.register_ioevent(event, &IoEventAddress::Pio(u64::from(port)), NoDatamatch)?)
    }

    fn detach(&self, port: u16, event: &EventFd) -> io::Result<()> {
        Ok(self.0.unregister_ioevent(event, &IoEventAddress::Pio(u64::from(port)), NoDatamatch)?)
    }
}
