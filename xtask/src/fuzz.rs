//! `cargo xtask fuzz`: runs every fuzz target for a while, on the stable toolchain.
//!
//! Coverage comes from LLVM's own pass, which rustc runs with stable options, and libFuzzer from the `libfuzzer-sys` crate;
//! so neither a nightly compiler nor another cargo command is needed. What is missing against them is AddressSanitizer: safe
//! Rust does without, and overflow and debug assertions are on.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One line for the list of tasks.
pub const ABOUT: &str = "Run every fuzz target for some seconds";

/// The task's help.
pub const HELP: &str = "\
Run every fuzz target for some seconds.

Targets are the files fuzz/fuzz_targets/*.rs, each with a [[bin]] of its name in fuzz/Cargo.toml, written with libfuzzer-sys.
They are built by the toolchain that builds everything else: no nightly compiler and no cargo-fuzz is needed, only a C++
compiler for libFuzzer itself (Debian: scripts/install-deps test).

It begins with the inputs of fuzz/seeds/TARGET (written by hand) and fuzz/corpus/TARGET (found before), which are checked in. What
is learned is kept in target/fuzz/corpus/TARGET; --keep writes fuzz/corpus/TARGET anew from all three. An input that crashes a
target is kept in fuzz/artifacts/TARGET, and the command that runs it again is printed.";

/// LLVM's coverage instrumentation as libFuzzer wants it.
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

/// An input that takes longer, seconds, or more memory, MiB, counts as a crash.
const INPUT_LIMITS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=2048"];

/// What to run, how long.
#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds for each target
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Write fuzz/corpus anew afterwards: the fewest inputs of all that reach the same code
    #[arg(long)]
    keep: bool,
    /// Only results: no line for each new input.
    #[arg(skip)]
    quiet: bool,
    /// Targets to run [default: all]
    targets: Vec<String>,
}

/// Seconds for each target in CI, after its corpus.
const CI_SECONDS: u32 = 2;

/// How inputs are chosen that are kept: few and small ones, each of which reaches an edge that the others do not, however often.
const KEPT: [&str; 4] = ["-merge=1", "-set_cover_merge=1", "-use_counters=0", "-max_len=512"];

/// Builds and runs the targets, one after the other; the first crash ends it.
///
/// # Errors
/// No targets, an unknown one, a build that failed, or a crash.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let fuzz = root.join("fuzz");
    let all = targets(&fuzz)?;
    let chosen = if arguments.targets.is_empty() { &all } else { &arguments.targets };
    if let Some(unknown) = chosen.iter().find(|name| !all.contains(name)) {
        bail!("there is no fuzz target `{unknown}`; there are: {}", all.join(", "));
    }
    let programs = build(root, &fuzz, chosen)?;
    for name in chosen {
        println!("\n== {name}: {} s", arguments.seconds);
        let target = Target::new(root, name, &programs)?;
        target.run(arguments)?;
        if arguments.keep {
            target.keep()?;
        }
    }
    println!("\nfuzz: {} targets, {} s each, no crash", chosen.len(), arguments.seconds);
    Ok(())
}

/// What CI runs: every target over all that was found before, and some seconds more.
///
/// # Errors
/// As [`run`].
pub fn in_ci(root: &Path) -> Result<()> {
    run(root, &Arguments { seconds: CI_SECONDS, keep: false, quiet: true, targets: Vec::new() })
}

/// Names of the files in fuzz/fuzz_targets, sorted.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let directory = fuzz.join("fuzz_targets");
    let entries = fs::read_dir(&directory)
        .with_context(|| format!("listing fuzz targets in {}", directory.display()))?;
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    if names.is_empty() {
        bail!(
            "no fuzz target in {}; one is a file NAME.rs there and a [[bin]] in fuzz/Cargo.toml",
            directory.display()
        );
    }
    names.sort();
    Ok(names)
}

/// Builds the chosen targets and gives the directory of their programs.
fn build(root: &Path, fuzz: &Path, names: &[String]) -> Result<PathBuf> {
    if Command::new("c++").arg("--version").output().is_err() {
        bail!("libFuzzer is C++ and there is no c++ compiler; install one: scripts/install-deps test");
    }
    let triple = host_triple()?;
    let output = root.join("target/fuzz");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // With a target named, build scripts and macros stay without instrumentation.
    command.args(["build", "--release", "--target", &triple]);
    command.arg("--manifest-path").arg(fuzz.join("Cargo.toml")).arg("--target-dir").arg(&output);
    for name in names {
        command.args(["--bin", name]);
    }
    let status = command.env("RUSTFLAGS", INSTRUMENTATION).env_remove("CARGO_ENCODED_RUSTFLAGS").status();
    if !status.context("starting cargo build for the fuzz targets")?.success() {
        bail!("building the fuzz targets failed");
    }
    Ok(output.join(triple).join("release"))
}

/// The triple of this toolchain's own machine.
fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("asking rustc for its host")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV does not name its host")?.to_owned())
}

/// A target's program and directories.
struct Target {
    name: String,
    program: PathBuf,
    /// What was learned on this machine.
    learned: PathBuf,
    /// What is checked in: written by hand, and found before. The second is made when there is something to keep.
    seeds: PathBuf,
    corpus: PathBuf,
    artifacts: PathBuf,
}

impl Target {
    fn new(root: &Path, name: &str, programs: &Path) -> Result<Self> {
        let inside = |directory: &str| root.join("fuzz").join(directory).join(name);
        let target = Self {
            name: name.to_owned(),
            program: programs.join(name),
            learned: root.join("target/fuzz/corpus").join(name),
            seeds: inside("seeds"),
            corpus: inside("corpus"),
            artifacts: inside("artifacts"),
        };
        for directory in [&target.learned, &target.artifacts] {
            fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        }
        Ok(target)
    }

    fn run(&self, arguments: &Arguments) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg(format!("-max_total_time={}", arguments.seconds)).args(INPUT_LIMITS);
        command.arg(if arguments.quiet { "-verbosity=0" } else { "-print_final_stats=1" });
        command.arg(format!("-artifact_prefix={}/", self.artifacts.display())).arg(&self.learned);
        command.args([&self.seeds, &self.corpus].into_iter().filter(|directory| directory.is_dir()));
        let status = command.status().with_context(|| format!("starting {}", self.program.display()))?;
        if !status.success() {
            let (name, again) =
                (&self.name, format!("{} {}/FILE", self.program.display(), self.artifacts.display()));
            bail!(
                "{name} found an input that breaks it ({status}); the newest file there runs it again: {again}"
            );
        }
        Ok(())
    }

    /// Replaces the corpus by the fewest inputs that reach what all of them reach.
    fn keep(&self) -> Result<()> {
        let fewer = self.corpus.with_extension("new");
        let doing = || format!("writing {}", self.corpus.display());
        fs::create_dir_all(&fewer).with_context(doing)?;
        let mut command = Command::new(&self.program);
        command.args(KEPT).args(INPUT_LIMITS).arg(&fewer);
        command.args(
            [&self.seeds, &self.corpus, &self.learned].into_iter().filter(|directory| directory.is_dir()),
        );
        let status = command.status().with_context(|| format!("starting {}", self.program.display()))?;
        if !status.success() {
            bail!("{} cannot merge its corpus ({status})", self.name);
        }
        if self.corpus.is_dir() {
            fs::remove_dir_all(&self.corpus).with_context(doing)?;
        }
        fs::rename(&fewer, &self.corpus).with_context(doing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(targets: &[&str]) -> Arguments {
        Arguments {
            seconds: 1,
            keep: false,
            quiet: true,
            targets: targets.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn targets_are_found_by_listing() {
        let root = tempfile::tempdir().unwrap();
        assert!(
            format!("{:#}", run(root.path(), &arguments(&[])).unwrap_err()).contains("listing fuzz targets")
        );
        let directory = root.path().join("fuzz/fuzz_targets");
        fs::create_dir_all(&directory).unwrap();
        assert!(run(root.path(), &arguments(&[])).unwrap_err().to_string().contains("no fuzz target"));
        for name in ["b.rs", "a.rs", "notes.md"] {
            fs::write(directory.join(name), "").unwrap();
        }
        assert_eq!(targets(&root.path().join("fuzz")).unwrap(), ["a", "b"]);
        let error = run(root.path(), &arguments(&["c"])).unwrap_err().to_string();
        assert!(error.contains("`c`") && error.contains("a, b"), "{error}");
    }
}
