//! A kernel of our own, from Debian's source package and the fragments in `crates/mini_os/kernel/`.

use super::config::{ConfigError, Fragment};
use super::{FORMAT, Kernel, check_space, obtain};
use crate::apt;
use crate::digest::Key;
use crate::process;
use crate::progress::Progress;
use crate::store::{Draft, Store};
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Deserialize;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Debian's source of the kernel series.
const PACKAGE: &str = "linux-source-6.12";

/// Where that package puts the source.
const ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// What compiling a kernel takes.
const TOOLS: &[&str] =
    &["bc", "binutils", "bison", "cpio", "flex", "gcc", "libelf-dev", "libssl-dev", "make", "xz-utils"];

/// Space that a build needs besides its result, in bytes: 1.6 GiB of source and the object files.
const SPACE: u64 = 3 << 30;

/// What helps when a build fails.
const FIX: &str = "see the lines below, and try again";

/// What a kernel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Boot, the agent, one container
    Core,
    /// Everything that Docker and Kubernetes workloads use in their machine
    Container,
    /// `container`, and drivers for hardware that is passed through
    Devices,
    /// `core`, and what a host of such machines needs: the kernel of `cargo xtask lab`
    LabHost,
}

impl Profile {
    /// Name on the command line and in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Core => "core",
            Profile::Container => "container",
            Profile::Devices => "devices",
            Profile::LabHost => "lab-host",
        }
    }

    /// Files that such a kernel is compiled from, about; for the progress line only.
    fn steps(self) -> usize {
        match self {
            Profile::Core => 1900,
            Profile::Container => 3350,
            Profile::Devices => 4300,
            Profile::LabHost => 2500,
        }
    }
}

/// The options of a profile and of the user, who has the last word.
///
/// # Errors
/// An option of the user that is none.
pub fn fragment(profile: Profile, options: &[String]) -> Result<Fragment, ConfigError> {
    let mut fragment = Fragment::default();
    fragment.add("core.config", include_str!("../../kernel/core.config"))?;
    if matches!(profile, Profile::Container | Profile::Devices) {
        fragment.add("container.config", include_str!("../../kernel/container.config"))?;
    }
    if profile == Profile::Devices {
        fragment.add("devices.config", include_str!("../../kernel/devices.config"))?;
    }
    if profile == Profile::LabHost {
        fragment.add("lab-host.config", include_str!("../../kernel/lab-host.config"))?;
    }
    fragment.add("kernel options of the manifest", &options.join("\n"))?;
    Ok(fragment)
}

/// Returns a compiled kernel.
///
/// # Errors
/// A package that cannot be installed, an option that does not take effect, or the compiler's error.
pub fn kernel(
    store: &Store,
    profile: Profile,
    options: &[String],
    jobs: usize,
    progress: &mut Progress,
) -> Result<Kernel> {
    let fragment = fragment(profile, options)?;
    let packages: Vec<&str> = TOOLS.iter().copied().chain([PACKAGE]).collect();
    apt::install(&packages, |missing| progress.phase(&format!("installing {missing}")))?;
    let version = apt::installed_version(PACKAGE).with_context(|| format!("{PACKAGE} was not installed"))?;
    let compiler = process::output(Command::new("gcc").arg("--version"), FIX)?;
    let linker = process::output(Command::new("ld").arg("--version"), FIX)?;
    let first = |text: &str| text.lines().next().unwrap_or_default().to_string();
    let key = Key::new("kernel source", FORMAT)
        .field("source", &version)
        .field("options", &fragment.text())
        .field("compiler", &first(&compiler))
        .field("linker", &first(&linker))
        .finish();
    obtain(store, &key, progress, &mut |draft, progress| {
        let release = make(&fragment, profile, jobs, draft, progress)?;
        Ok((format!("source:{}", profile.name()), release, Vec::new()))
    })
}

fn make(
    fragment: &Fragment,
    profile: Profile,
    jobs: usize,
    draft: &Draft,
    progress: &mut Progress,
) -> Result<String> {
    check_space(draft.path(), SPACE)?;
    progress.phase("unpacking the kernel source");
    let source = draft.path().join("source");
    let build = draft.path().join("build");
    for directory in [&source, &build] {
        fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let mut tar = Command::new("tar");
    tar.args(["-xf", ARCHIVE, "--strip-components=1", "-C"]).arg(&source);
    process::run(&mut tar, FIX, &mut |_| {})?;

    progress.phase("configuring the kernel");
    let options = build.join("options");
    fs::write(&options, fragment.text()).with_context(|| format!("writing {}", options.display()))?;
    // Kconfig reads the file that this variable names before it turns everything else off.
    let mut configure = compiler(&source, &build);
    process::run(configure.arg("allnoconfig").env("KCONFIG_ALLCONFIG", &options), FIX, &mut |_| {})?;
    let config = build.join(".config");
    let text = fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
    fragment.verify(&text)?;

    compile(&source, &build, profile, jobs, progress)?;
    let result = draft.path().join("result");
    let mut strip = Command::new("strip");
    strip.arg("--strip-all").arg("-o").arg(result.join("vmlinux")).arg(build.join("vmlinux"));
    process::run(&mut strip, FIX, &mut |_| {})?;
    fs::write(result.join("config"), text).context("writing the kernel's configuration")?;
    let release = process::output(compiler(&source, &build).args(["-s", "kernelrelease"]), FIX)?;
    Ok(release.trim().to_string())
}

fn compile(
    source: &Path,
    build: &Path,
    profile: Profile,
    jobs: usize,
    progress: &mut Progress,
) -> Result<()> {
    progress.phase(&format!("compiling the {} kernel with {jobs} jobs (some minutes)", profile.name()));
    let (mut done, total) = (0, profile.steps());
    let mut make = compiler(source, build);
    process::run(make.arg(format!("-j{jobs}")).arg("vmlinux"), FIX, &mut |line| {
        if is_step(line) {
            done += 1;
            progress.step(&format!("{done} of about {total}"));
        }
        if done % 500 == 0 && is_step(line) {
            progress.milestone(&format!("compiled {done} of about {total}"));
        }
    })
    .context("compiling the kernel")
}

/// `make` for the kernel, made reproducible: the image carries neither this machine's name nor the time.
fn compiler(source: &Path, build: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-C").arg(source).arg(format!("O={}", build.display())).arg("ARCH=x86_64");
    make.args(["KBUILD_BUILD_USER=clear", "KBUILD_BUILD_HOST=clear", "KBUILD_BUILD_VERSION=1"]);
    make.arg("KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970");
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    make
}

/// Whether a line of `make` says that a file was made, for example `  CC      fs/open.o`.
fn is_step(line: &str) -> bool {
    line.strip_prefix("  ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_make_are_counted() {
        assert!(is_step("  CC      fs/open.o") && is_step("  LD      vmlinux"));
        assert!(!is_step("make[1]: Entering directory") && !is_step("  warning: x") && !is_step(""));
    }

    #[test]
    fn user_has_the_last_word() {
        let options = ["CONFIG_XFS_FS=n".to_string()];
        assert!(fragment(Profile::Container, &[]).unwrap().text().contains("CONFIG_XFS_FS=y\n"));
        assert!(fragment(Profile::Container, &options).unwrap().text().contains("CONFIG_XFS_FS=n\n"));
        assert!(fragment(Profile::Core, &["XFS".into()]).unwrap_err().to_string().contains("manifest"));
    }
}
