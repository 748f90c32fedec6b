//! `process.rlimits`, `process.oomScoreAdj`.

use crate::case::{cases, same};
use crate::lab::Lab;
use anyhow::Result;
use serde_json::{Value, json};

cases! {
    "rlimits.soft-and-hard" => soft_and_hard, "config.md#posix-process",
        "soft is the value of the limit enforced for the resource, hard the ceiling for the soft limit";
    "rlimits.several" => several, "config.md#posix-process",
        "For each entry in rlimits, a getrlimit(3) on type MUST succeed; the values MUST be those of the entry";
    "rlimits.enforced" => enforced, "config.md#posix-process", "soft is the value of the limit enforced";
    "rlimits.unknown-type" => unknown_type, "config.md#posix-process",
        "The runtime MUST generate an error for any values which cannot be mapped to a relevant kernel interface";
    "rlimits.duplicate-type" => duplicate_type, "config.md#posix-process",
        "If rlimits contains duplicated entries with same type, the runtime MUST generate an error";
    "rlimits.soft-above-hard" => soft_above_hard, "config.md#posix-process",
        "hard is the ceiling: a soft limit above it cannot be applied";
    "oom-score-adj.set" => oom_score_adj, "config.md#linux-process",
        "If oomScoreAdj is set, the runtime MUST set oom_score_adj to the given value";
    "oom-score-adj.unset" => oom_score_adj_unset, "config.md#linux-process",
        "If oomScoreAdj is not set, the runtime MUST NOT change the value of oom_score_adj";
}

fn with_limits(lab: &Lab, limits: Value, script: &str) -> Result<String> {
    lab.script(script, |bundle| {
        bundle.set("/process/rlimits", limits);
        Ok(())
    })
}

fn soft_and_hard(lab: &Lab) -> Result<()> {
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 300, "hard": 400}]);
    same("limits", "300 400", &with_limits(lab, limits, "echo $(ulimit -Sn) $(ulimit -Hn)")?)
}

fn several(lab: &Lab) -> Result<()> {
    // Below what hosts allow: a runtime that shares the host's kernel may be unable to raise limits.
    let limits = json!([
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_FSIZE", "soft": 1_048_576, "hard": 2_097_152},
        {"type": "RLIMIT_NPROC", "soft": 100, "hard": 200},
        {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 4_194_304},
        {"type": "RLIMIT_MEMLOCK", "soft": 4096, "hard": 8192},
        {"type": "RLIMIT_CPU", "soft": 1000, "hard": 2000},
    ]);
    let script = "grep -E 'core file|file size|processes|stack|locked memory|cpu time' /proc/self/limits | sed 's/  */ /g'";
    let expected = "Max cpu time 1000 2000 seconds\nMax file size 1048576 2097152 bytes\nMax stack size 1048576 4194304 bytes\n\
        Max core file size 0 0 bytes\nMax processes 100 200 processes\nMax locked memory 4096 8192 bytes";
    let came = with_limits(lab, limits, script)?;
    same("limits", expected, &came.lines().map(str::trim).collect::<Vec<_>>().join("\n"))
}

fn enforced(lab: &Lab) -> Result<()> {
    let limits = json!([{"type": "RLIMIT_FSIZE", "soft": 1024, "hard": 1024}]);
    let script = "trap '' XFSZ; head -c 4096 /dev/zero >/tmp/file 2>/dev/null; stat -c %s /tmp/file";
    same("bytes of a file that would be larger", "1024", &with_limits(lab, limits, script)?)
}

fn refused(lab: &Lab, limits: Value) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.set("/process/rlimits", limits)).map(drop)
}

fn unknown_type(lab: &Lab) -> Result<()> {
    refused(lab, json!([{"type": "RLIMIT_NO_SUCH", "soft": 1, "hard": 1}]))
}

fn duplicate_type(lab: &Lab) -> Result<()> {
    let limit = json!({"type": "RLIMIT_NOFILE", "soft": 300, "hard": 400});
    refused(lab, json!([limit, limit]))
}

fn soft_above_hard(lab: &Lab) -> Result<()> {
    refused(lab, json!([{"type": "RLIMIT_NOFILE", "soft": 400, "hard": 300}]))
}

fn oom_score_adj(lab: &Lab) -> Result<()> {
    let output = lab.script("cat /proc/self/oom_score_adj", |bundle| {
        bundle.set("/process/oomScoreAdj", json!(321));
        Ok(())
    })?;
    same("oom_score_adj", "321", &output)
}

fn oom_score_adj_unset(lab: &Lab) -> Result<()> {
    let host = std::fs::read_to_string("/proc/self/oom_score_adj")?;
    same("oom_score_adj", host.trim(), &lab.script("cat /proc/self/oom_score_adj", |_| Ok(()))?)
}
