//! Instructions that Rust has no words for, page tables, and numbers that look random.

use core::arch::asm;

/// The port of boot stamps.
pub const STAMPS: u16 = 0x5C0;

macro_rules! port {
    ($in:ident, $out:ident, $type:ty, $register:tt) => {
        pub fn $in(port: u16) -> $type {
            let value: $type;
            // SAFETY: touches no memory.
            unsafe { asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nomem, nostack)) };
            value
        }

        pub fn $out(port: u16, value: $type) {
            // SAFETY: touches no memory but that of a queue, which is accessed as volatile.
            unsafe { asm!(concat!("out dx, ", $register), in("dx") port, in($register) value, options(nostack)) };
        }
    };
}

port!(in8, out8, u8, "al");
port!(in16, out16, u16, "ax");
port!(in32, out32, u32, "eax");

/// Room for strings of port accesses.
static mut STRING: [u8; 8192] = [0; 8192];

/// `count` bytes to a port by one instruction.
pub fn out_string(port: u16, count: usize) {
    let from = (&raw const STRING).cast::<u8>();
    // SAFETY: `count` is less than the room, and nobody else uses it.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") from => _, inout("rcx") count => _, options(nostack))
    };
}

/// `count` bytes from a port by one instruction.
pub fn in_string(port: u16, count: usize) {
    let to = (&raw mut STRING).cast::<u8>();
    // SAFETY: as above.
    unsafe {
        asm!("rep insb", in("dx") port, inout("rdi") to => _, inout("rcx") count => _, options(nostack))
    };
}

/// Says how far it is.
pub fn stamp(step: u8) {
    out8(STAMPS, step);
}

/// Ends the machine as a guest should.
pub fn reset() -> ! {
    out8(0x64, 0xFE);
    loop {}
}

/// Reads any address.
pub fn load<T: Copy>(address: usize) -> T {
    // SAFETY: all addresses below 4 GiB are mapped, and x86 does not mind misaligned ones.
    unsafe { (address as *const Unaligned<T>).read_volatile().0 }
}

/// Writes any address that is not this program.
pub fn store<T: Copy>(address: usize, value: T) {
    // SAFETY: as above.
    unsafe { (address as *mut Unaligned<T>).write_volatile(Unaligned(value)) }
}

#[repr(packed)]
#[derive(Clone, Copy)]
struct Unaligned<T: Copy>(T);

/// Memory as a slice.
pub fn bytes(address: usize, length: usize) -> &'static [u8] {
    // SAFETY: of the command line, which stays as it is.
    unsafe { core::slice::from_raw_parts(address as *const u8, length) }
}

/// Where `boot/layout.rs` has the second level of page tables, and where this program makes three more of the third.
const PDPT: usize = 0xA000;
const DIRECTORIES: usize = 0x30_0000;

/// Maps the second, third and fourth GiB one to one, as the boot protocol has done with the first.
pub fn map_four_gigabytes() {
    for page in 512..2048 {
        store(DIRECTORIES + (page - 512) * 8, (page << 21 | 0x83) as u64);
    }
    for directory in 1..4 {
        store(PDPT + directory * 8, (DIRECTORIES + (directory - 1) * 4096) as u64 | 3);
    }
    // SAFETY: what is mapped already stays as it is.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack)) };
}

/// Xorshift (Marsaglia 2003).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 8) as usize % limit
    }

    /// Mostly something that means something.
    pub fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => self.below(16) as u64,
            _ => self.next(),
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, inout("rcx") count => _, in("al") value as u8, options(nostack))
    };
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _, options(nostack))
    };
    to
}

/// Named by the tables of `core`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
