//! `linux.seccomp`.

use crate::case::{cases, holds, same};
use crate::lab::Lab;
use anyhow::Result;
use serde_json::{Value, json};

cases! {
    "seccomp.errno" => errno, "config-linux.md#seccomp", "SCMP_ACT_ERRNO: the call fails; errnoRet unset means EPERM";
    "seccomp.errno-ret" => errno_ret, "config-linux.md#seccomp", "errnoRet (uint, OPTIONAL) is the errno return code to use";
    "seccomp.default-errno-ret" => default_errno_ret, "config-linux.md#seccomp",
        "defaultErrnoRet (uint, OPTIONAL) is the errno return code of defaultAction";
    "seccomp.args" => args, "config-linux.md#seccomp",
        "args (array, OPTIONAL): index, value and op of an argument that the rule is for: SCMP_CMP_EQ";
    "seccomp.args-masked" => args_masked, "config-linux.md#seccomp", "args: SCMP_CMP_MASKED_EQ compares under the mask value";
    "seccomp.kill" => kill, "config-linux.md#seccomp", "SCMP_ACT_KILL_PROCESS: the process is killed by SIGSYS";
    "seccomp.unknown-call" => unknown_call, "config-linux.md#seccomp",
        "names of calls that this kernel does not know do no harm: profiles name calls of all versions";
    "seccomp.status" => status, "config-linux.md#seccomp", "seccomp sets a filter: the process's status shows it";
    "seccomp.with-new-privileges" => with_new_privileges, "config-linux.md#seccomp",
        "seccomp works without noNewPrivileges too";
}

/// Runs a script under a profile that allows all but these rules.
fn with_rules(lab: &Lab, rules: Value, script: &str) -> Result<String> {
    lab.script(script, |bundle| {
        bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
        Ok(())
    })
}

const MKDIR: &str = "mkdir /tmp/new 2>&1; true";

fn errno(lab: &Lab) -> Result<()> {
    let rules = json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]);
    let output = with_rules(lab, rules, MKDIR)?;
    holds("`Operation not permitted`", output.ends_with("Operation not permitted"), output)
}

fn errno_ret(lab: &Lab) -> Result<()> {
    // ENOSPC
    let rules = json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]);
    let output = with_rules(lab, rules, MKDIR)?;
    holds("`No space left on device`", output.ends_with("No space left on device"), output)
}

/// What a shell, `cat` and a runtime's last steps call, and more.
const NEEDED: &[&str] = &[
    "accept4",
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "chmod",
    "clone",
    "clone3",
    "close",
    "close_range",
    "connect",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fchmod",
    "fchown",
    "fcntl",
    "fork",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getrandom",
    "getrlimit",
    "gettid",
    "getuid",
    "ioctl",
    "kill",
    "lseek",
    "lstat",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe",
    "pipe2",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "prlimit64",
    "pwrite64",
    "read",
    "readlink",
    "readlinkat",
    "recvfrom",
    "recvmsg",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigsuspend",
    "sched_getaffinity",
    "sched_yield",
    "sendfile",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setpgid",
    "setresgid",
    "setresuid",
    "setsid",
    "setuid",
    "sigaltstack",
    "socket",
    "socketpair",
    "stat",
    "statfs",
    "statx",
    "tgkill",
    "time",
    "tkill",
    "umask",
    "uname",
    "unlink",
    "vfork",
    "wait4",
    "waitid",
    "write",
    "writev",
];

fn default_errno_ret(lab: &Lab) -> Result<()> {
    let output = lab.script(MKDIR, |bundle| {
        let allowed = json!([{"names": NEEDED, "action": "SCMP_ACT_ALLOW"}]);
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 28, "syscalls": allowed});
        bundle.set("/linux/seccomp", profile);
        Ok(())
    })?;
    holds("`No space left on device`", output.ends_with("No space left on device"), output)
}

const CHMOD: &str =
    "touch /tmp/a; for mode in 700 750 755; do chmod $mode /tmp/a 2>/dev/null && echo $mode; done; true";

fn args(lab: &Lab) -> Result<()> {
    let rule = |name: &str, index: u32| {
        let argument = json!({"index": index, "value": 0o750, "op": "SCMP_CMP_EQ"});
        json!({"names": [name], "action": "SCMP_ACT_ERRNO", "args": [argument]})
    };
    let rules = json!([rule("chmod", 1), rule("fchmodat", 2)]);
    same("modes that could be set", "700\n755", &with_rules(lab, rules, CHMOD)?)
}

fn args_masked(lab: &Lab) -> Result<()> {
    let rule = |name: &str, index: u32| {
        let argument = json!({"index": index, "value": 0o007, "valueTwo": 0o005, "op": "SCMP_CMP_MASKED_EQ"});
        json!({"names": [name], "action": "SCMP_ACT_ERRNO", "args": [argument]})
    };
    let rules = json!([rule("chmod", 1), rule("fchmodat", 2)]);
    same("modes that could be set", "700\n750", &with_rules(lab, rules, CHMOD)?)
}

fn kill(lab: &Lab) -> Result<()> {
    let rules = json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]);
    // 128 + SIGSYS
    same("exit code of mkdir", "159", &with_rules(lab, rules, "mkdir /tmp/new 2>/dev/null; echo $?")?)
}

fn unknown_call(lab: &Lab) -> Result<()> {
    let rules = json!([{"names": ["no_such_call", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]);
    let output = with_rules(lab, rules, MKDIR)?;
    holds("`Operation not permitted`", output.ends_with("Operation not permitted"), output)
}

const STATUS: &str = "echo $(grep Seccomp: /proc/self/status)";

fn status(lab: &Lab) -> Result<()> {
    let rules = json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]);
    same("the process's status", "Seccomp: 2", &with_rules(lab, rules, STATUS)?)?;
    same("the status without a profile", "Seccomp: 0", &lab.script(STATUS, |_| Ok(()))?)
}

fn with_new_privileges(lab: &Lab) -> Result<()> {
    let output = lab.script(&format!("{STATUS}; echo $(grep NoNewPrivs /proc/self/status)"), |bundle| {
        let rules = json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]);
        bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
        bundle.set("/process/noNewPrivileges", json!(false));
        Ok(())
    })?;
    same("the process's status", "Seccomp: 2\nNoNewPrivs: 0", &output)
}
