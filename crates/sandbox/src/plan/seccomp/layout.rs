//! From resolved policies to one program.
//!
//! ```text
//!   architecture? ──► x86-64: number? ──► binary search over ranges of equal decisions ──► return, or compare arguments
//!                └──► x86: ...       └──► x32 numbers: the same
//!                └──► other: kill
//! ```
//!
//! Neighbouring numbers with the same action share one range, so Docker's policy takes some 120 ranges per architecture and
//! a decision takes 7 comparisons instead of the 300 of a list.

use super::bpf::{
    ARCH, IF_AT_LEAST, IF_EQUAL, IF_GREATER, Instruction, NUMBER, branch, compare, give, load, skip,
};
use super::policy::{Condition, Decision, FOREIGN, Policy, UNHEARD_OF};
use super::tables::{Abi, X32_BIT};

/// One program for all policies. Every path ends in a return.
pub(super) fn program(policies: &[Policy]) -> Vec<Instruction> {
    let mut program = vec![load(ARCH)];
    let main = policies.iter().filter(|policy| policy.abi != Abi::X32);
    for policy in main {
        let x32 = policies.iter().find(|other| other.abi == Abi::X32 && policy.abi == Abi::X86_64);
        let block = architecture(policy, x32);
        program.push(branch(IF_EQUAL, policy.abi.audit(), 1, 0));
        program.push(skip(block.len() as u32));
        program.extend(block);
    }
    program.push(give(FOREIGN));
    program
}

fn architecture(policy: &Policy, x32: Option<&Policy>) -> Vec<Instruction> {
    let mut code = vec![load(NUMBER)];
    let own = numbers(policy);
    if policy.abi == Abi::X86_64 {
        let other = x32.map_or_else(|| vec![give(FOREIGN)], numbers);
        code.push(branch(IF_AT_LEAST, X32_BIT, 0, 1));
        code.push(skip(own.len() as u32));
        code.extend(own);
        code.extend(other);
    } else {
        code.extend(own);
    }
    code
}

/// Decides on the number in the accumulator.
fn numbers(policy: &Policy) -> Vec<Instruction> {
    let mut code = Vec::new();
    if let Some(newest) = policy.newest {
        code.push(branch(IF_GREATER, newest, 0, 1));
        code.push(give(UNHEARD_OF));
    }
    code.extend(search(&ranges(policy), policy));
    code
}

/// Consecutive numbers with one decision; `first` up to the next range's.
struct Range<'a> {
    first: u32,
    decision: Leaf<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf<'a> {
    Always(u32),
    Rules(&'a [(Vec<Condition>, u32)]),
}

fn ranges(policy: &Policy) -> Vec<Range<'_>> {
    let default = Leaf::Always(policy.default);
    let mut ranges = vec![Range { first: 0, decision: default }];
    for (number, decision) in &policy.calls {
        let leaf = match decision {
            Decision::Always(action) => Leaf::Always(*action),
            Decision::Rules(rules) => Leaf::Rules(rules),
        };
        put(&mut ranges, *number, leaf);
        put(&mut ranges, number + 1, default);
    }
    ranges
}

/// Starts a range at `first`, unless it only goes on with the decision of the last one.
fn put<'a>(ranges: &mut Vec<Range<'a>>, first: u32, decision: Leaf<'a>) {
    if ranges.last().is_some_and(|last| last.first == first) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|last| last.decision != decision) {
        ranges.push(Range { first, decision });
    }
}

/// Binary search; the accumulator holds the number until a leaf loads an argument.
fn search(ranges: &[Range<'_>], policy: &Policy) -> Vec<Instruction> {
    match ranges {
        [] => vec![give(policy.default)],
        [one] => leaf(one.decision, policy),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let below = search(left, policy);
            let mut code = match u8::try_from(below.len()) {
                Ok(distance) => vec![branch(IF_AT_LEAST, right[0].first, distance, 0)],
                // Branches reach 255 instructions, a plain jump any number.
                Err(_) => vec![branch(IF_AT_LEAST, right[0].first, 0, 1), skip(below.len() as u32)],
            };
            code.extend(below);
            code.extend(search(right, policy));
            code
        }
    }
}

fn leaf(decision: Leaf<'_>, policy: &Policy) -> Vec<Instruction> {
    let rules = match decision {
        Leaf::Always(action) => return vec![give(action)],
        Leaf::Rules(rules) => rules,
    };
    let mut code = Vec::new();
    for (conditions, action) in rules {
        // From the last condition backwards: each must know how much code follows it in this rule.
        let mut rule = vec![give(*action)];
        for condition in conditions.iter().rev() {
            // Six conditions of at most 8 instructions: no distance is near 255.
            let mut longer = compare(condition, policy.abi.narrow(), rule.len() as u8);
            longer.extend(rule);
            rule = longer;
        }
        code.extend(rule);
    }
    code.push(give(policy.default));
    code
}
