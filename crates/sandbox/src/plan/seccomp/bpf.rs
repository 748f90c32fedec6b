//! Classic BPF as seccomp takes it: the few instructions a filter needs, and comparisons of 64-bit arguments.

use super::policy::Condition;
use oci_spec::runtime::LinuxSeccompOperator as Operator;

/// `struct sock_filter`: code, jump if true, jump if false, constant.
pub(super) type Instruction = (u16, u8, u8, u32);

// Codes of `include/uapi/linux/bpf_common.h`: class | size | mode, or class | operation | source.
pub(super) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(super) const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K

// Offsets in `struct seccomp_data` of `include/uapi/linux/seccomp.h`, on a little-endian machine.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCH: u32 = 4;
pub(super) const fn low(argument: u32) -> u32 {
    16 + 8 * argument
}
pub(super) const fn high(argument: u32) -> u32 {
    low(argument) + 4
}

pub(super) const fn load(offset: u32) -> Instruction {
    (LOAD, 0, 0, offset)
}

pub(super) const fn give(action: u32) -> Instruction {
    (RETURN, 0, 0, action)
}

/// `if` on the accumulator: how many instructions are skipped in each case.
pub(super) const fn branch(code: u16, constant: u32, skip_true: u8, skip_false: u8) -> Instruction {
    (code, skip_true, skip_false, constant)
}

/// Skips any number of instructions.
pub(super) const fn skip(count: u32) -> Instruction {
    (JUMP, 0, 0, count)
}

/// Where a branch of a [`Condition`] goes.
#[derive(Clone, Copy)]
enum To {
    /// The instruction after this one.
    Next,
    /// The condition holds: behind its last instruction.
    Holds,
    /// It does not: as many further on as the caller says.
    Fails,
}

/// Code that falls through when `condition` holds, and else goes on `fails` instructions behind its own end.
pub(super) fn compare(condition: &Condition, narrow: bool, fails: u8) -> Vec<Instruction> {
    use To::{Fails, Holds, Next};
    let half = |value: u64| ((value >> 32) as u32, value as u32);
    let (value_high, value_low) = half(condition.value);
    let (second_high, second_low) = half(condition.second);
    let (first, last): (Vec<_>, Vec<_>) = match condition.operator {
        Operator::ScmpCmpEq => {
            (vec![(IF_EQUAL, value_high, Next, Fails)], vec![(IF_EQUAL, value_low, Holds, Fails)])
        }
        Operator::ScmpCmpNe => {
            (vec![(IF_EQUAL, value_high, Next, Holds)], vec![(IF_EQUAL, value_low, Fails, Holds)])
        }
        Operator::ScmpCmpMaskedEq => {
            (vec![(IF_EQUAL, second_high, Next, Fails)], vec![(IF_EQUAL, second_low, Holds, Fails)])
        }
        Operator::ScmpCmpGt => (
            vec![(IF_GREATER, value_high, Holds, Next), (IF_EQUAL, value_high, Next, Fails)],
            vec![(IF_GREATER, value_low, Holds, Fails)],
        ),
        Operator::ScmpCmpGe => (
            vec![(IF_GREATER, value_high, Holds, Next), (IF_EQUAL, value_high, Next, Fails)],
            vec![(IF_AT_LEAST, value_low, Holds, Fails)],
        ),
        Operator::ScmpCmpLt => (
            vec![(IF_GREATER, value_high, Fails, Next), (IF_EQUAL, value_high, Next, Holds)],
            vec![(IF_AT_LEAST, value_low, Fails, Holds)],
        ),
        Operator::ScmpCmpLe => (
            vec![(IF_GREATER, value_high, Fails, Next), (IF_EQUAL, value_high, Next, Holds)],
            vec![(IF_GREATER, value_low, Fails, Holds)],
        ),
    };
    let mut code: Vec<(Instruction, Option<(To, To)>)> = Vec::new();
    let mut part = |offset: u32, mask: u32, tests: Vec<(u16, u32, To, To)>| {
        code.push((load(offset), None));
        if condition.operator == Operator::ScmpCmpMaskedEq {
            code.push(((AND, 0, 0, mask), None));
        }
        code.extend(tests.into_iter().map(|(op, k, yes, no)| ((op, 0, 0, k), Some((yes, no)))));
    };
    if !narrow {
        part(high(condition.index), value_high, first);
    }
    part(low(condition.index), value_low, last);
    link(code, fails)
}

/// Turns destinations into distances. No condition has more than 8 instructions, so they fit.
fn link(code: Vec<(Instruction, Option<(To, To)>)>, fails: u8) -> Vec<Instruction> {
    let end = code.len() as u8;
    let place = |at: u8, to: To| match to {
        To::Next => 0,
        To::Holds => end - at - 1,
        To::Fails => end - at - 1 + fails,
    };
    let linked = |(at, ((op, _, _, k), branch)): (usize, (Instruction, Option<(To, To)>))| match branch {
        Some((yes, no)) => (op, place(at as u8, yes), place(at as u8, no), k),
        None => (op, 0, 0, k),
    };
    code.into_iter().enumerate().map(linked).collect()
}
