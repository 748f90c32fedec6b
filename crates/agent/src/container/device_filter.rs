//! Device rules of a container as a BPF program for its cgroup.
//!
//! ```text
//!   r1 struct bpf_cgroup_dev_ctx { access << 16 | type, major, minor }
//!   r2 access still undecided   r3 type   r4 major   r5 minor
//!   for each rule, the last first:
//!     not its type, major or minor ─► next rule
//!     deny:  one of its accesses is undecided ─► return 0
//!     allow: its accesses are decided; none left ─► return 1
//!   return 0
//! ```
//!
//! For most rules there is less to do, see [`Test`]: the kernel looks at each kind of instruction when it verifies and
//! translates the program, and in every machine that happens for the first time.

use crate::error::{Doing, Result};
use crate::sys::{self, BpfHook, BpfInstruction};
use guest_protocol::message::{DeviceKind, DeviceRule};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// Operation codes of `include/uapi/linux/bpf.h` and `bpf_common.h`, as far as they are used.
mod op {
    pub const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
    pub const LOAD_HALF: u8 = 0x69; // BPF_LDX | BPF_MEM | BPF_H
    pub const MOVE_REGISTER: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
    pub const MOVE: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
    pub const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    pub const JUMP_IF_SET: u8 = 0x46; // BPF_JMP32 | BPF_JSET | BPF_K
    pub const JUMP_EQUAL: u8 = 0x16; // BPF_JMP32 | BPF_JEQ | BPF_K
    pub const JUMP_NOT_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
    pub const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT
}

/// BPF_DEVCG_DEV_BLOCK and BPF_DEVCG_DEV_CHAR.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> BpfInstruction {
    BpfInstruction { code, registers: to | from << 4, offset, immediate }
}

/// Every access: mknod, read, write (BPF_DEVCG_ACC_*).
const ALL: u8 = 7;

/// How the accesses of rules are tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    /// All rules about a part of the accesses allow the same part: a rule allows what is asked for, or nothing of it.
    Whole,
    /// What is asked for may be allowed by several rules together.
    Parts,
}

/// The program for these rules. What no rule allows is denied.
fn compile(rules: &[DeviceRule]) -> Vec<BpfInstruction> {
    // The device cgroup knows no pipes.
    let effective = |r: &&DeviceRule| r.access & ALL != 0 && r.kind != Some(DeviceKind::Fifo);
    // Before anything is allowed, denying changes nothing.
    let rules: Vec<&DeviceRule> = rules.iter().filter(effective).skip_while(|r| !r.allow).collect();
    let mut parts = rules.iter().filter(|r| r.access & ALL != ALL);
    let first = parts.next();
    let whole = first.is_none_or(|first| first.allow && parts.all(|r| r.allow && r.access == first.access));
    let test = if whole { Test::Whole } else { Test::Parts };
    let mut program = vec![
        // Little-endian: the low half comes first.
        instruction(op::LOAD_HALF, 2, 1, 2, 0),
        instruction(op::LOAD_HALF, 3, 1, 0, 0),
        instruction(op::LOAD_WORD, 4, 1, 4, 0),
        instruction(op::LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(compile_rule(rule, test));
        if allows_all(rule) {
            // The kernel refuses a program with instructions that are never reached.
            return program;
        }
    }
    program.extend(give(0));
    program
}

/// Whether nothing is left to decide after this rule.
fn allows_all(rule: &DeviceRule) -> bool {
    let DeviceRule { allow, kind, major, minor, access } = *rule;
    allow && (kind, major, minor) == (None, None, None) && access & ALL == ALL
}

fn give(result: i32) -> [BpfInstruction; 2] {
    [instruction(op::MOVE, 0, 0, 0, result), instruction(op::EXIT, 0, 0, 0, 0)]
}

fn compile_rule(rule: &DeviceRule, test: Test) -> Vec<BpfInstruction> {
    let kind = rule.kind.map(|kind| if kind == DeviceKind::Block { BLOCK } else { CHAR });
    let access = i32::from(rule.access & ALL);
    let others = i32::from(!rule.access & ALL);
    let mut act = match (rule.allow, test) {
        (true, _) if others == 0 => vec![],
        (true, Test::Whole) => vec![instruction(op::JUMP_IF_SET, 2, 0, 2, others)],
        (true, Test::Parts) => {
            vec![instruction(op::AND, 2, 0, 0, others), instruction(op::JUMP_NOT_EQUAL, 2, 0, 2, 0)]
        }
        (false, _) => vec![
            instruction(op::MOVE_REGISTER, 0, 2, 0, 0),
            instruction(op::AND, 0, 0, 0, access),
            instruction(op::JUMP_EQUAL, 0, 0, 2, 0),
        ],
    };
    act.extend(give(i32::from(rule.allow)));
    let tests = [(3, kind), (4, rule.major.map(|n| n as i32)), (5, rule.minor.map(|n| n as i32))];
    let tests: Vec<_> = tests.iter().filter_map(|(register, value)| value.map(|v| (*register, v))).collect();
    let count = tests.len();
    let jumps = tests.iter().enumerate().map(|(i, (register, value))| {
        instruction(op::JUMP_NOT_EQUAL, *register, 0, (count - 1 - i + act.len()) as i16, *value)
    });
    jumps.chain(act.iter().copied()).collect()
}

/// Puts these rules into force for a cgroup; `old` rules are taken off afterwards.
///
/// # Errors
/// When the kernel refuses the program or has no BPF for cgroups.
pub fn install(cgroup: BorrowedFd<'_>, rules: &[DeviceRule], old: Option<OwnedFd>) -> Result<OwnedFd> {
    let what = || "set the device rules".to_owned();
    let program = sys::bpf_load(BpfHook::Device, &compile(rules)).doing(what)?;
    sys::bpf_attach(BpfHook::Device, cgroup, program.as_fd(), true).doing(what)?;
    if let Some(old) = old {
        sys::bpf_attach(BpfHook::Device, cgroup, old.as_fd(), false).doing(what)?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a program of the operations above; `None` for anything that the kernel would refuse.
    fn run(program: &[BpfInstruction], context: [u32; 3]) -> Option<u32> {
        let mut registers = [0u32; 11];
        let mut at = 0usize;
        for _ in 0..100_000 {
            let i = program.get(at)?;
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            match i.code {
                op::LOAD_WORD => registers[to] = context[i.offset as usize / 4],
                op::LOAD_HALF if i.offset == 0 => registers[to] = context[0] & 0xffff,
                op::LOAD_HALF if i.offset == 2 => registers[to] = context[0] >> 16,
                op::MOVE_REGISTER => registers[to] = registers[from],
                op::MOVE => registers[to] = i.immediate as u32,
                op::AND => registers[to] &= i.immediate as u32,
                op::JUMP_IF_SET if registers[to] & i.immediate as u32 != 0 => at += i.offset as usize,
                op::JUMP_EQUAL if registers[to] == i.immediate as u32 => at += i.offset as usize,
                op::JUMP_NOT_EQUAL if registers[to] != i.immediate as u32 => at += i.offset as usize,
                op::JUMP_IF_SET | op::JUMP_EQUAL | op::JUMP_NOT_EQUAL => {}
                op::EXIT => return Some(registers[0]),
                _ => return None,
            }
        }
        None
    }

    /// Whether every instruction can be reached, without which the kernel refuses a program (`check_cfg`).
    fn all_reached(program: &[BpfInstruction]) -> bool {
        let mut reached = vec![false; program.len()];
        let mut next = vec![0];
        while let Some(at) = next.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            match program[at].code {
                op::EXIT => {}
                op::JUMP_IF_SET | op::JUMP_EQUAL | op::JUMP_NOT_EQUAL => {
                    next.extend([at + 1, at + 1 + program[at].offset as usize]);
                }
                _ => next.push(at + 1),
            }
        }
        reached.into_iter().all(|reached| reached)
    }

    /// What the rules mean: each kind of access is decided by the last rule about it.
    fn allowed(rules: &[DeviceRule], kind: DeviceKind, major: u32, minor: u32, access: u8) -> bool {
        [1, 2, 4].iter().filter(|bit| access & **bit != 0).all(|bit| {
            let about = |r: &&DeviceRule| {
                r.kind.is_none_or(|k| k == kind)
                    && r.major.is_none_or(|n| n == major)
                    && r.minor.is_none_or(|n| n == minor)
                    && r.access & bit != 0
            };
            rules.iter().rev().find(about).is_some_and(|r| r.allow)
        })
    }

    fn rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop_oneof![
            Just(None),
            Just(Some(DeviceKind::Char)),
            Just(Some(DeviceKind::Block)),
            Just(Some(DeviceKind::Fifo))
        ];
        let number = || prop::option::of(prop_oneof![0u32..3, Just(u32::MAX)]);
        // Mostly the same part of the accesses or all of them, which makes for simpler programs.
        let access = prop_oneof![0u8..8, Just(1), Just(1), Just(7), Just(7)];
        (any::<bool>(), kind, number(), number(), access)
            .prop_map(|(allow, kind, major, minor, access)| DeviceRule { allow, kind, major, minor, access })
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_do(
            rules in prop::collection::vec(rule(), 0..12),
            block in any::<bool>(), major in 0u32..3, minor in 0u32..3, access in 1u8..8,
        ) {
            let (kind, number) = if block { (DeviceKind::Block, 1) } else { (DeviceKind::Char, 2) };
            let context = [u32::from(access) << 16 | number, major, minor];
            let expected = allowed(&rules, kind, major, minor, access);
            prop_assert_eq!(run(&compile(&rules), context), Some(u32::from(expected)));
            prop_assert!(all_reached(&compile(&rules)), "{rules:?}");
        }
    }

    #[test]
    fn the_usual_rules_need_no_arithmetic() {
        let rule = |allow, access| DeviceRule { allow, kind: None, major: Some(1), minor: None, access };
        let arithmetic = |rules: &[DeviceRule]| {
            compile(rules).iter().any(|i| matches!(i.code, op::AND | op::MOVE_REGISTER))
        };
        assert!(!arithmetic(&[rule(false, 7), rule(true, 1), rule(true, 7), rule(true, 1)]));
        assert!(arithmetic(&[rule(true, 2), rule(true, 4)]));
        assert!(arithmetic(&[rule(true, 7), rule(false, 4)]));
    }

    #[test]
    fn a_container_that_may_open_everything_has_a_program_that_the_kernel_takes() {
        let all = DeviceRule { allow: true, kind: None, major: None, minor: None, access: ALL };
        let one = DeviceRule { kind: Some(DeviceKind::Char), major: Some(1), ..all };
        for rules in [&[all][..], &[all, one], &[one, all], &[DeviceRule { allow: false, ..all }, all, one]] {
            assert!(all_reached(&compile(rules)), "{rules:?}");
        }
    }

    #[test]
    fn without_rules_everything_is_denied() {
        assert_eq!(run(&compile(&[]), [2 << 16 | 2, 1, 3]), Some(0));
    }
}
