//! A guest without a kernel that does what no driver would. The last word of its command line says what.
//!
//! ```text
//!   main.rs: ports, addresses without memory      pci.rs: configuration space, BARs, MSI-X
//!   devices.rs: registers and queues              cpu.rs: instructions, tables, random numbers
//! ```
//!
//! Built by `../build.rs` for no operating system. It must end by a reset of its own: stamp 200 says that all was done, stamp 255
//! that this program itself has failed.
#![no_std]
#![no_main]

mod cpu;
mod devices;
mod pci;

use cpu::{Random, reset, stamp};

/// `struct boot_params`: where the address of the command line is.
const CMDLINE_POINTER: usize = 0x228;

core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "lea rsp, [rip + stack_top]",
    "mov rdi, rsi",
    "call {main}",
    "ud2",
    ".bss",
    ".balign 4096",
    ".skip 65536",
    "stack_top:",
    ".text",
    main = sym main,
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    stamp(255);
    reset()
}

extern "C" fn main(boot_params: usize) -> ! {
    cpu::map_four_gigabytes();
    match scenario(boot_params) {
        b"ports" => ports(),
        b"addresses" => addresses(),
        b"configuration" => pci::configuration(),
        b"bars" => pci::bars(),
        b"messages" => pci::messages(),
        b"registers" => devices::registers(),
        b"queues" => devices::queues(),
        b"storm" => devices::storm(),
        _ => panic!(),
    }
    if pci::find(pci::RNG).is_some() && !devices::entropy_comes() {
        panic!();
    }
    stamp(200);
    reset()
}

/// The last word of the command line.
fn scenario(boot_params: usize) -> &'static [u8] {
    let start = cpu::load::<u32>(boot_params + CMDLINE_POINTER) as usize;
    let mut end = start;
    while cpu::load::<u8>(end) != 0 {
        end += 1;
    }
    let mut word = end;
    while word > start && cpu::load::<u8>(word - 1) != b' ' {
        word -= 1;
    }
    cpu::bytes(word, end - word)
}

/// Every port, read and written in every size, but for what ends the machine.
fn ports() {
    for port in 0..=u16::MAX {
        cpu::in8(port);
        // Odd ports, too: an access then crosses into the next register.
        if port % 3 == 0 {
            cpu::in16(port);
        }
        if port % 5 == 0 {
            cpu::in32(port);
        }
    }
    for port in (0..=u16::MAX).filter(|port| !(0x61..=0x64).contains(port) && *port != cpu::STAMPS) {
        cpu::out8(port, port as u8);
        if port % 3 == 0 {
            cpu::out16(port, !port);
        }
        if port % 5 == 0 {
            cpu::out32(port, 0xFFFF_FFFF);
        }
    }
    // The keyboard controller's other commands, and a string of them.
    (0..0xFE).for_each(|command| cpu::out8(0x64, command));
    cpu::out_string(0x80, 5000);
    cpu::in_string(0xCFC, 5000);
}

/// Loads and stores where nothing is, in every size, over the ends of regions.
fn addresses() {
    static ENDS: [usize; 8] = [
        64 << 20,
        0xA0_0000_usize << 4,
        0xD000_0000,
        0xFEC0_0000,
        0xFEC0_1000,
        0xFED0_0000,
        0xFF00_0000,
        0xFFFF_F000,
    ];
    for end in &ENDS {
        for offset in 0..64 {
            touch(end - 32 + offset);
        }
    }
    let mut random = Random(7);
    for _ in 0..20_000 {
        // Not the local APIC: it could stop this CPU.
        let address = (64 << 20) + random.below((0xFEE0_0000 - (64 << 20)) / 8) * 8 + random.below(8);
        touch(address);
    }
}

fn touch(address: usize) {
    cpu::load::<u8>(address);
    cpu::load::<u16>(address);
    cpu::load::<u32>(address);
    cpu::load::<u64>(address);
    cpu::store(address, 0x5A_u8);
    cpu::store(address, 0x5A5A_u16);
    cpu::store(address, 0x5A5A_5A5A_u32);
    cpu::store(address, u64::MAX);
}
