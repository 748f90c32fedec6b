//! Standard input, output and error: separate, binary-safe, closed as the program closes them, any amount.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use vm_tests::{Bundle, Container, Sandbox, until};

/// Bytes with no pattern that a lost or doubled piece could hide in.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            piece.copy_from_slice(&self.0.to_le_bytes()[..piece.len()]);
        }
    }
}

/// `cor run` with pipes on all three.
fn piped(sandbox: &Sandbox, bundle: &Bundle) -> Child {
    let mut command = sandbox.run_command(bundle).std();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn standard_output_and_error_are_separate_and_in_order() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("for i in 1 2 3; do echo out $i; echo err $i >&2; done");
    let output = sandbox.run(&bundle).expect(0);
    assert_eq!(output.text(), "out 1\nout 2\nout 3");
    assert_eq!(output.errors_without_warnings(), "err 1\nerr 2\nerr 3\n");
}

#[test]
fn every_byte_passes_both_ways_and_end_of_input_arrives() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("cat; echo after the end >&2; cat");
    let bytes: Vec<u8> = (0..=255).cycle().take(256 * 300 + 17).collect();
    let output = sandbox.run_command(&bundle).input(&bytes).run().expect(0);
    assert_eq!(output.stdout, bytes);
    assert_eq!(output.errors_without_warnings(), "after the end\n");
}

#[test]
fn empty_input_is_at_its_end_at_once() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("cat; echo done");
    assert_eq!(sandbox.run(&bundle).expect(0).text(), "done");
}

#[test]
fn output_that_the_program_closes_is_closed_while_it_runs_on() {
    let sandbox = Sandbox::new();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let bundle = sandbox.bundle();
    bundle.script("echo last words; exec >&-; cat; exit 5");
    let id = sandbox.id();
    // `create`, as engines do it: afterwards only the keeper holds the other ends.
    let mut command = sandbox.cor(&["create", "--bundle"]).arg(bundle.path()).arg(&id).std();
    let mut creator =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (input, mut output) = (creator.stdin.take().unwrap(), creator.stdout.take().unwrap());
    drop(command);
    assert!(creator.wait().unwrap().success());
    let state = || -> serde_json::Value { serde_json::from_str(&sandbox.cor(&["state", &id]).ok()).unwrap() };
    let pid = state()["pid"].as_u64().unwrap() as u32;
    sandbox.cor(&["start", &id]).run().expect(0);
    let mut words = String::new();
    output.read_to_string(&mut words).unwrap();
    assert_eq!(words, "last words\n");
    assert_eq!(state()["status"], "running");
    drop(input);
    assert_eq!(Container::reap(pid), 5);
}

#[test]
fn a_quarter_of_a_gigabyte_goes_through_and_back_without_loss() {
    const SIZE: usize = 256 << 20;
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.program(&["cat"]);
    let mut child = piped(&sandbox, &bundle);
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let (mut noise, mut hash, mut piece) = (Noise(42), DefaultHasher::new(), vec![0; 1 << 20]);
        for _ in 0..SIZE >> 20 {
            noise.fill(&mut piece);
            hash.write(&piece);
            input.write_all(&piece).unwrap();
        }
        hash.finish()
    });
    let (mut output, mut hash, mut count) = (child.stdout.take().unwrap(), DefaultHasher::new(), 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        // Whole pieces: the hash depends on how its input is cut.
        let mut filled = 0;
        while let Ok(more @ 1..) = output.read(&mut piece[filled..]) {
            filled += more;
        }
        if filled == 0 {
            break;
        }
        hash.write(&piece[..filled]);
        count += filled;
    }
    assert_eq!(count, SIZE);
    assert_eq!(hash.finish(), writer.join().unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Private memory of a process in KiB.
fn private_memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    text.lines().filter(|line| line.starts_with("Private_")).map(field).sum()
}

#[test]
fn a_slow_reader_stops_the_writer_and_costs_no_memory_and_disturbs_nobody() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("head -c 200000000 /dev/zero; echo end");
    let id = sandbox.id();
    let mut command = sandbox.cor(&["run", "--bundle"]).arg(bundle.path()).arg(&id).std();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 1]).unwrap();
    let written = || {
        let io = sandbox.cor(&["exec", &id, "sh", "-c", "cat /proc/$(pidof head)/io"]).ok();
        io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok()).unwrap_or(0)
    };
    let mut before = 0;
    until("the writer to stand still", || {
        let now = written();
        let still = now > 0 && now == before;
        before = now;
        still.then_some(())
    });
    assert!(before < 50_000_000, "{before} bytes were taken though nobody reads");
    let state: serde_json::Value = serde_json::from_str(&sandbox.cor(&["state", &id]).ok()).unwrap();
    let private = private_memory(state["pid"].as_u64().unwrap() as u32);
    assert!(private < 8 << 10, "the keeper has {private} KiB");
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 200_000_000 - 1 + 4);
    assert!(rest.ends_with(b"\0end\n"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_that_has_gone_ends_the_writer() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("yes; exit 8");
    let mut child = piped(&sandbox, &bundle);
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 100]).unwrap();
    drop(output);
    assert_eq!(until("its end", || child.try_wait().unwrap()).code(), Some(8));
}

#[test]
fn output_that_nobody_reads_does_not_keep_a_killed_container_alive() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.program(&["yes"]);
    let id = sandbox.id();
    let mut command = sandbox.cor(&["run", "--bundle"]).arg(bundle.path()).arg(&id).std();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 1]).unwrap();
    sandbox.cor(&["kill", &id, "KILL"]).run().expect(0);
    let status = until("its end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(137));
    drop(output);
}
