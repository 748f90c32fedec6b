//! Limits and what is told of their use.

use crate::tests;
use serde_json::json;
use vm_tests::engine::{Engine, is_ours};
use vm_tests::until;

tests![
    memory_is_limited_and_its_end_is_told,
    processes_are_limited,
    processors_are_limited,
    limits_are_updated,
    use_is_told,
];

/// Reads a file of the container's own control group, whichever version there is.
const READ: &str = "read_group() { cat /sys/fs/cgroup/$1 2>/dev/null || cat /sys/fs/cgroup/$2; }; ";

fn memory_is_limited_and_its_end_is_told(engine: &Engine) {
    let options = ["--memory=64m", "--memory-swap=64m"];
    let script = format!("{READ} read_group memory.max memory/memory.limit_in_bytes");
    assert_eq!(engine.script(&options, &script).expect(0).text(), "67108864");
    let hungry = engine.start(&options, &["sh", "-c", "exec tail -c 200000000 /dev/zero"]);
    assert_eq!(hungry.wait(), 137);
    until("the reason", || (hungry.inspect("/State/OOMKilled") == json!(true)).then_some(()));
}

fn processes_are_limited(engine: &Engine) {
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 10 & done; echo all";
    let output = engine.script(&["--pids-limit=8"], script).run_failed();
    assert!(!output.contains("all"), "{output}");
}

fn processors_are_limited(engine: &Engine) {
    let script = format!(
        "{READ} read_group cpu.max cpu/cpu.cfs_quota_us | cut -d ' ' -f 1; grep -c ^processor /proc/cpuinfo"
    );
    let output = engine.script(&["--cpus=0.5"], &script).expect(0);
    assert_eq!(output.lines()[0], "50000");
    if is_ours() {
        assert_eq!(output.lines()[1], "1", "processors of the machine: {output}");
    }
}

fn limits_are_updated(engine: &Engine) {
    let container = engine.sleeping(&["--memory=128m", "--memory-swap=128m"]);
    container.command(&["update", "--memory=96m", "--memory-swap=96m", "--cpus=0.25"]).ok();
    let read = |new: &str, old: &str| container.sh(&format!("{READ} read_group {new} {old}"));
    assert_eq!(read("memory.max", "memory/memory.limit_in_bytes"), (96 << 20).to_string());
    assert!(read("cpu.max", "cpu/cpu.cfs_quota_us").starts_with("25000"));
}

fn use_is_told(engine: &Engine) {
    if engine.is_docker() && !vm_tests::on_readable_groups() {
        return;
    }
    let container = engine.start(&["--memory=128m"], &["sh", "-c", "while :; do :; done"]);
    let format = "--format={{.CPUPerc}} {{.MemUsage}} {{.PIDs}}";
    let stats = || container.command(&["stats", "--no-stream", format]).ok();
    until("a use of the processor", || {
        let line = stats();
        let percent = line.split('%').next().and_then(|text| text.parse::<f64>().ok());
        (percent.is_some_and(|percent| percent > 5.0) && !line.contains(" 0B /")).then_some(())
    });
}

/// For scripts that must not succeed, with whatever code.
trait Failed {
    fn run_failed(self) -> String;
}

impl Failed for vm_tests::Output {
    fn run_failed(self) -> String {
        assert_ne!(self.code, 0, "{self}");
        self.text()
    }
}
