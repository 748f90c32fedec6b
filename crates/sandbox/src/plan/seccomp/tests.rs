//! The compiled program is run by a small interpreter and must do what the policy says, read directly.

use super::bpf::{AND, IF_AT_LEAST, IF_EQUAL, IF_GREATER, Instruction, JUMP, LOAD, RETURN};
use super::tables::{Abi, X32_BIT};
use super::{MAX_INSTRUCTIONS, compile, flags};
use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use serde_json::{Value, json};

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ENOSYS: u32 = 0x0005_0000 | 38;
const EPERM: u32 = 0x0005_0000 | 1;

/// What the kernel shows to a filter.
#[derive(Debug, Clone, Copy)]
struct Call {
    arch: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Call {
    fn bytes(&self) -> Vec<u8> {
        let mut data = [self.number.to_le_bytes(), self.arch.to_le_bytes()].concat();
        data.extend(0u64.to_le_bytes()); // instruction pointer
        data.extend(self.arguments.iter().flat_map(|a| a.to_le_bytes()));
        data
    }
}

/// Runs a filter as the kernel does. Panics on what its verifier would refuse.
fn run(program: &[Instruction], call: &Call) -> u32 {
    let data = call.bytes();
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let (code, yes, no, k) = program[at];
        at += 1;
        let mut test = |holds: bool| at += usize::from(if holds { yes } else { no });
        match code {
            LOAD => accumulator = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            AND => accumulator &= k,
            JUMP => at += k as usize,
            IF_EQUAL => test(accumulator == k),
            IF_GREATER => test(accumulator > k),
            IF_AT_LEAST => test(accumulator >= k),
            RETURN => return k,
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}

fn policy(value: Value) -> LinuxSeccomp {
    serde_json::from_value(value).unwrap()
}

fn program(value: Value) -> Vec<Instruction> {
    compile(&policy(value), "x86_64").unwrap().program
}

fn call(abi: Abi, name: &str, arguments: &[u64]) -> Call {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    Call { arch: abi.audit(), number: abi.number(name).unwrap(), arguments: all }
}

/// The meaning of a policy for x86-64 and x86, without tables, ranges or jumps: what the module documentation says.
fn meaning(value: &Value, call: &Call) -> u32 {
    let lists =
        |arch: &str| value["architectures"].as_array().is_some_and(|list| list.iter().any(|a| a == arch));
    let abi = match call.arch {
        0xc000_003e if call.number & X32_BIT == 0 && call.number < X32_BIT => Abi::X86_64,
        0xc000_003e if lists("SCMP_ARCH_X32") => Abi::X32,
        0x4000_0003 if lists("SCMP_ARCH_X86") => Abi::X86,
        _ => return KILL,
    };
    let default = action(&value["defaultAction"], &value["defaultErrnoRet"]);
    let rules: Vec<_> = value["syscalls"].as_array().unwrap().iter().collect();
    let numbers = |rule: &Value| -> Vec<u32> {
        rule["names"].as_array().unwrap().iter().filter_map(|n| abi.number(n.as_str().unwrap())).collect()
    };
    let newest = rules.iter().flat_map(|rule| numbers(rule)).max();
    if default & 0xffff_0000 != ALLOW
        && default != 0x7ffc_0000
        && newest.is_some_and(|newest| call.number > newest)
    {
        return ENOSYS;
    }
    let concerns = |rule: &&&Value| {
        numbers(rule).contains(&call.number) && action(&rule["action"], &rule["errnoRet"]) != default
    };
    let mine: Vec<_> = rules.iter().filter(concerns).collect();
    let none = Vec::new();
    let arguments = |rule: &Value| rule["args"].as_array().unwrap_or(&none).clone();
    if let Some(rule) = mine.iter().find(|rule| arguments(rule).is_empty()) {
        return action(&rule["action"], &rule["errnoRet"]);
    }
    for rule in mine {
        let all = arguments(rule);
        let twice = all.iter().any(|a| all.iter().filter(|b| a["index"] == b["index"]).count() > 1);
        let holds = |a: &Value| condition(a, call, abi == Abi::X86);
        if if twice { all.iter().any(holds) } else { all.iter().all(holds) } {
            return action(&rule["action"], &rule["errnoRet"]);
        }
    }
    default
}

fn condition(argument: &Value, call: &Call, narrow: bool) -> bool {
    let cut = |n: u64| if narrow { n & 0xffff_ffff } else { n };
    let is = cut(call.arguments[argument["index"].as_u64().unwrap() as usize]);
    let value = cut(argument["value"].as_u64().unwrap());
    match argument["op"].as_str().unwrap() {
        "SCMP_CMP_NE" => is != value,
        "SCMP_CMP_LT" => is < value,
        "SCMP_CMP_LE" => is <= value,
        "SCMP_CMP_EQ" => is == value,
        "SCMP_CMP_GE" => is >= value,
        "SCMP_CMP_GT" => is > value,
        _ => is & value == cut(argument["valueTwo"].as_u64().unwrap_or(0)),
    }
}

fn action(name: &Value, errno: &Value) -> u32 {
    let data = errno.as_u64().unwrap_or(1) as u32;
    match name.as_str().unwrap() {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => KILL,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | data,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        _ => ALLOW,
    }
}

fn any_action() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_LOG",
        "SCMP_ACT_ALLOW",
    ])
}

/// Numbers near each other and near the edges of their halves, so that equal ones and carries are met.
fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..4,
        prop::sample::select(vec![
            0xffff_ffff,
            0x1_0000_0000,
            0x1_0000_0001,
            u64::MAX,
            u64::MAX - 1,
            1 << 63
        ]),
        any::<u64>(),
    ]
}

fn any_argument() -> impl Strategy<Value = Value> {
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let operator = prop::sample::select(operators.to_vec());
    (0u64..6, any_number(), any_number(), operator).prop_map(|(index, value, two, op)| {
        json!({"index": index, "value": value, "valueTwo": value & two, "op": format!("SCMP_CMP_{op}")})
    })
}

/// Calls without a second way in on x86, whose meaning the direct reading does not know.
fn any_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "read",
        "write",
        "open",
        "close",
        "clone",
        "clone3",
        "personality",
        "execve",
        "ioctl",
        "mount",
        "futex",
        "bpf",
        "openat2",
        "no_such_call",
        "arch_prctl",
        "waitpid",
    ])
}

fn any_rule() -> impl Strategy<Value = Value> {
    let names = prop::collection::vec(any_name(), 1..4);
    (names, any_action(), prop::collection::vec(any_argument(), 0..4), prop::option::of(1u32..100)).prop_map(
        |(names, action, args, errno)| json!({"names": names, "action": action, "args": args, "errnoRet": errno}),
    )
}

fn any_policy() -> impl Strategy<Value = Value> {
    let archs = prop::sample::subsequence(vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], 0..=3);
    (any_action(), archs, prop::collection::vec(any_rule(), 0..12)).prop_map(
        |(default, archs, rules)| json!({"defaultAction": default, "architectures": archs, "syscalls": rules}),
    )
}

fn any_call() -> impl Strategy<Value = Call> {
    let arch = prop::sample::select(vec![0xc000_003e_u32, 0x4000_0003, 0xc000_00b7]);
    let named = (any_name(), prop::sample::select(vec![Abi::X86_64, Abi::X86, Abi::X32]))
        .prop_map(|(name, abi)| abi.number(name).unwrap_or(3));
    let number = prop_oneof![8 => named, 1 => 0u32..600, 1 => any::<u32>()];
    (arch, number, prop::array::uniform6(any_number())).prop_map(|(arch, number, arguments)| Call {
        arch,
        number,
        arguments,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_program_does_what_the_policy_says(value in any_policy(), calls in prop::collection::vec(any_call(), 20)) {
        let compiled = program(value.clone());
        for call in calls {
            // With 32-bit arguments the kernel shows zeros above.
            let call = if call.arch == 0x4000_0003 {
                Call { arguments: call.arguments.map(|a| a & 0xffff_ffff), ..call }
            } else { call };
            prop_assert_eq!(run(&compiled, &call), meaning(&value, &call), "{:?}\n{:#}", call, value);
        }
    }
}

#[test]
fn clone_is_allowed_without_new_namespaces() {
    // As Docker has it: the mask is CLONE_NEW*, and none of them may be set.
    let filter = program(json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2_114_060_288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
        ]
    }));
    assert_eq!(run(&filter, &call(Abi::X86_64, "clone", &[0x11])), ALLOW);
    assert_eq!(run(&filter, &call(Abi::X86_64, "clone", &[0x1000_0000])), EPERM);
    assert_eq!(run(&filter, &call(Abi::X86_64, "clone3", &[])), ENOSYS);
    assert_eq!(run(&filter, &call(Abi::X86_64, "read", &[])), EPERM);
    assert_eq!(run(&filter, &call(Abi::X86_64, "cachestat", &[])), ENOSYS, "newer than the policy");
    assert_eq!(run(&filter, &call(Abi::X32, "clone", &[0x11])), KILL);
    assert_eq!(run(&filter, &call(Abi::Aarch64, "clone", &[0x11])), KILL);
}

#[test]
fn socketcall_cannot_be_used_to_get_around_a_rule() {
    let filter = program(json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]},
            {"names": ["shmat"], "action": "SCMP_ACT_KILL_PROCESS"}
        ]
    }));
    assert_eq!(
        run(&filter, &call(Abi::X86, "socketcall", &[1])),
        EPERM,
        "arguments in memory: forbidden as a whole"
    );
    assert_eq!(run(&filter, &call(Abi::X86, "socketcall", &[2])), ALLOW);
    assert_eq!(run(&filter, &call(Abi::X86, "socket", &[2])), ALLOW);
    assert_eq!(run(&filter, &call(Abi::X86, "ipc", &[0x1_0015])), KILL);
    let permits = program(json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["connect"], "action": "SCMP_ACT_ALLOW"}
        ]
    }));
    assert_eq!(run(&permits, &call(Abi::X86, "socketcall", &[1])), EPERM);
    assert_eq!(run(&permits, &call(Abi::X86, "socketcall", &[3])), ALLOW);
}

#[test]
fn a_policy_that_names_every_call_stays_small() {
    let names = syscalls::x86_64::Sysno::iter().map(|s| s.name()).enumerate();
    // Every third one is left out, which is worse than any real policy.
    let names: Vec<_> = names.filter(|(at, _)| at % 3 != 0).map(|(_, name)| name).collect();
    let architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    let value = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    let compiled = program(value.clone());
    assert!(compiled.len() < MAX_INSTRUCTIONS / 2, "{}", compiled.len());
    for number in 0..600 {
        let call = Call { arch: 0xc000_003e, number, arguments: [0; 6] };
        assert_eq!(run(&compiled, &call), meaning(&value, &call), "{number}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |value: Value| compile(&policy(value), "x86_64").unwrap_err().to_string();
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    assert!(
        refused(rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"}))).contains("SCMP_ACT_NOTIFY")
    );
    assert!(refused(json!({"defaultAction": "SCMP_ACT_NOTIFY"})).contains("SCMP_ACT_NOTIFY"));
    let errno = json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000});
    assert_eq!(refused(rule(errno)), "config.json: linux.seccomp.syscalls[0].errnoRet: must be at most 4095");
    let index = json!({"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]});
    assert!(refused(rule(index)).contains("syscalls[0].args[0].index: must be 0 to 5"));
    let args: Vec<_> = (0..6).map(|i| json!({"index": i, "value": i, "op": "SCMP_CMP_GT"})).collect();
    let many: Vec<_> = (0..200)
        .map(|i| json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": i, "args": args}))
        .collect();
    assert!(
        refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": many}))
            .contains("more than the kernel's 4096")
    );
}

#[test]
fn flags_are_the_kernels() {
    let bits = |names: Value| flags(&policy(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": names})));
    assert_eq!(bits(Value::Null), 4);
    assert_eq!(bits(json!([])), 0);
    assert_eq!(bits(json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"])), 2);
    assert_eq!(bits(json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW"])), 4);
}
