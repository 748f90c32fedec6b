//! BPF programs that lead sockets from port 53 of the name server's address to another port, and hide that they did.
//!
//! ```text
//!   r6 struct bpf_sock_addr { .. user_ip4 at 4 .. user_port at 24 .. }
//!   another network namespace than ours, such as one of containers in the container ─► return 1
//!   another address or port ─► return 1
//!   user_port = the other port; return 1
//! ```

use crate::error::{Doing, Result};
use crate::machine::boot::CGROUP;
use crate::sys::{self, BpfHook, BpfInstruction};
use guest_protocol::names;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Mode, OFlags, open};

/// Operation codes of `include/uapi/linux/bpf.h` and `bpf_common.h`, as far as they are used.
mod op {
    pub const LOAD_64: u8 = 0x18; // BPF_LD | BPF_DW | BPF_IMM, with the next instruction
    pub const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
    pub const STORE_WORD: u8 = 0x63; // BPF_STX | BPF_MEM | BPF_W
    pub const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
    pub const MOVE_REGISTER: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
    pub const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
    pub const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d; // BPF_JMP | BPF_JNE | BPF_X
    pub const CALL: u8 = 0x85; // BPF_JMP | BPF_CALL
    pub const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT
}

/// BPF_FUNC_get_netns_cookie
const NAMESPACE_COOKIE: i32 = 122;

/// Where `struct bpf_sock_addr` has address and port, both in network byte order.
const ADDRESS: i16 = 4;
const PORT: i16 = 24;

/// Leads sockets of the network namespace of `socket` to `port`, for as long as the machine runs.
///
/// # Errors
/// When the kernel has no such programs.
pub fn install(socket: BorrowedFd<'_>, port: u16) -> Result<()> {
    let what = || "lead questions to a name server to the host (CONFIG_CGROUP_BPF)".to_owned();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let group = open(CGROUP, flags, Mode::empty()).doing(what)?;
    let namespace = sys::network_cookie(socket).doing(what)?;
    // Back first: nothing comes back before it has gone there.
    let programs = [
        (BpfHook::PeerName, port, names::PORT),
        (BpfHook::Receive, port, names::PORT),
        (BpfHook::Send, names::PORT, port),
        (BpfHook::Connect, names::PORT, port),
    ];
    for (hook, from, to) in programs {
        let program = sys::bpf_load(hook, &compile(namespace, from, to)).doing(what)?;
        sys::bpf_attach(hook, group.as_fd(), program.as_fd(), true).doing(what)?;
    }
    Ok(())
}

/// Puts port `to` where there is port `from` of the server.
fn compile(namespace: u64, from: u16, to: u16) -> Vec<BpfInstruction> {
    let address = i32::from_ne_bytes(names::SERVER.octets());
    let port = |port: u16| i32::from(u16::from_ne_bytes(port.to_be_bytes()));
    let step = |code, to: u8, from: u8, offset, immediate| BpfInstruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    };
    vec![
        step(op::MOVE_REGISTER, 6, 1, 0, 0),
        step(op::CALL, 0, 0, 0, NAMESPACE_COOKIE),
        step(op::LOAD_64, 1, 0, 0, namespace as i32),
        step(0, 0, 0, 0, (namespace >> 32) as i32),
        step(op::JUMP_NOT_EQUAL_REGISTER, 0, 1, 6, 0),
        step(op::LOAD_WORD, 1, 6, ADDRESS, 0),
        step(op::JUMP_NOT_EQUAL, 1, 0, 4, address),
        step(op::LOAD_WORD, 1, 6, PORT, 0),
        step(op::JUMP_NOT_EQUAL, 1, 0, 2, port(from)),
        step(op::MOVE, 1, 0, 0, port(to)),
        step(op::STORE_WORD, 6, 1, PORT, 0),
        step(op::MOVE, 0, 0, 0, 1),
        step(op::EXIT, 0, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on namespace, address and port; returns the port.
    fn run(program: &[BpfInstruction], namespace: u64, address: [u8; 4], port: u16) -> u16 {
        let mut context = [0u32; 16];
        context[ADDRESS as usize / 4] = u32::from_ne_bytes(address);
        context[PORT as usize / 4] = u32::from(u16::from_ne_bytes(port.to_be_bytes()));
        let (mut registers, mut at) = ([0u64; 11], 0usize);
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            let jump = match i.code {
                op::JUMP_NOT_EQUAL => registers[to] != i.immediate as u64,
                op::JUMP_NOT_EQUAL_REGISTER => registers[to] != registers[from],
                _ => false,
            };
            match i.code {
                op::CALL => registers[0] = namespace,
                op::LOAD_64 => {
                    let high = program[at].immediate as u32;
                    registers[to] = u64::from(i.immediate as u32) | u64::from(high) << 32;
                    at += 1;
                }
                op::LOAD_WORD => registers[to] = u64::from(context[i.offset as usize / 4]),
                op::STORE_WORD => context[i.offset as usize / 4] = registers[from] as u32,
                op::MOVE => registers[to] = i.immediate as u64,
                op::MOVE_REGISTER => registers[to] = registers[from],
                op::EXIT => break,
                _ if jump => at = at.wrapping_add_signed(i.offset.into()),
                _ => {}
            }
        }
        assert_eq!(registers[0], 1, "nothing is forbidden");
        u16::from_be(context[PORT as usize / 4] as u16)
    }

    #[test]
    fn questions_to_the_server_alone_are_led_elsewhere() {
        let here = 0xfedc_ba98_0000_0001;
        let there = compile(here, 53, 40000);
        assert_eq!(run(&there, here, [127, 0, 0, 11], 53), 40000);
        assert_eq!(run(&there, here, [127, 0, 0, 11], 54), 54);
        assert_eq!(run(&there, here, [127, 0, 0, 1], 53), 53);
        assert_eq!(run(&there, 1, [127, 0, 0, 11], 53), 53, "another namespace");
        assert_eq!(run(&compile(here, 40000, 53), here, [127, 0, 0, 11], 40000), 53);
    }
}
