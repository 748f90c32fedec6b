//! `build`: makes a mini-OS, or finds the one that was made from the same inputs.

use super::StoreArguments;
use crate::digest::{self, Key};
use crate::elf::Elf;
use crate::image;
use crate::kernel::source::Profile;
use crate::kernel::{Kernel, debian, source};
use crate::manifest::{KernelSource, Manifest};
use crate::progress::Progress;
use crate::store::{self, Draft, Store, StoreError};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use machine_spec::mini_os::{DEFAULT_NAME, MANIFEST, MiniOs, VERSION};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Build a kernel and an image with the agent, and give them a name
///
/// Prints the directory of the result. The first mini-OS is also named `default`.
/// What was built before from the same inputs is found again, not built.
///
/// A manifest adds to it:
///
///     [kernel]
///     source = "source"            # or "debian"
///     profile = "container"        # with "source": core, container, devices or lab-host
///     options = ["CONFIG_CAN=y"]   # with "source"
///     modules = ["xfs"]            # with "debian": loaded at boot, besides ours
///     [[files]]
///     source = "motd"              # relative to the manifest
///     target = "/etc/motd"
///     mode = "0644"
///     [packages]
///     debian = ["socat"]           # unpacked with all they depend on; their scripts are not run
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n    clear-mini-os build                                   # Debian's kernel, about a minute\n    \
clear-mini-os build --kernel source --default         # our kernel, some minutes of compiling\n    \
clear-mini-os build --manifest mini.toml --name mine  # with files, packages and options of yours"
)]
pub struct Arguments {
    /// Where the kernel comes from [default: debian]
    #[arg(long, value_enum)]
    kernel: Option<KernelSource>,
    /// What the kernel is configured for, with `--kernel source` [default: container]
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Name of the result [default: `debian`, or the profile]
    #[arg(long)]
    name: Option<String>,
    /// Make the result the one that is used when none is named
    #[arg(long)]
    default: bool,
    /// The agent, a static program [default: clear-agent beside this program]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Files, packages and kernel options to add (TOML)
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Compilers that run at the same time [default: number of CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// What to make [default: initramfs for Debian's kernel, both for ours]
    #[arg(long, value_enum, value_delimiter = ',')]
    form: Vec<Form>,
    /// Say nothing but the result and errors
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    store: StoreArguments,
}

/// How the guest's files are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Form {
    /// Unpacked into memory at boot
    Initramfs,
    /// EROFS, read where it is (disk or pmem)
    Image,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let manifest = arguments.manifest.as_deref().map(Manifest::load).transpose()?.unwrap_or_default();
    let order = Order::new(arguments, &manifest)?;
    let agent = Agent::find(arguments.agent.as_deref())?;
    let store = Store::new(absolute(&arguments.store.path())?);
    let mut progress = Progress::new(arguments.quiet);
    let kernel = match order.source {
        KernelSource::Debian => debian::kernel(&store, &manifest.kernel.modules, &mut progress)?,
        KernelSource::Source => {
            source::kernel(&store, order.profile, &manifest.kernel.options, order.jobs, &mut progress)?
        }
    };
    let forms = order.forms(&kernel)?;
    let key = key(&kernel, &agent, &manifest, &forms)?;
    let waiting = || progress.phase("waiting for another build of the same mini-OS");
    let held = store.lock("object", &key, waiting)?;
    let object = store.object(&key);
    if store.check(&object).is_empty() {
        progress.phase("this mini-OS was built before");
    } else {
        let draft = store.draft("object", &key, &held)?;
        make(&draft, &kernel, &agent, &manifest, &forms, &mut progress)?;
        draft.publish("result", &object)?;
    }
    name(&store, &order.name, &key, arguments.default)?;
    progress.note(&format!("{} is ready: kernel {}", order.name, kernel.description.release));
    drop(progress);
    println!("{}", object.display());
    Ok(ExitCode::SUCCESS)
}

/// Names an object. The default follows when it is asked for, when there is none, and when it was what the name was.
fn name(store: &Store, name: &str, key: &str, default: bool) -> Result<(), StoreError> {
    let current = |name: &str| store.resolve(name).ok();
    let follows = current(DEFAULT_NAME).is_none_or(|object| current(name) == Some(object));
    store.set_name(name, key)?;
    if default || follows { store.set_name(DEFAULT_NAME, key) } else { Ok(()) }
}

/// What was asked for, on the command line or else in the manifest.
struct Order {
    source: KernelSource,
    profile: Profile,
    name: String,
    jobs: usize,
    forms: Vec<Form>,
}

impl Order {
    fn new(arguments: &Arguments, manifest: &Manifest) -> Result<Order> {
        let choice = &manifest.kernel;
        let source = arguments.kernel.or(choice.source).unwrap_or(KernelSource::Debian);
        let profile = arguments.profile.or(choice.profile);
        if source == KernelSource::Debian {
            ensure!(profile.is_none(), "Debian's kernel has no profiles (add --kernel source)");
            ensure!(choice.options.is_empty(), "Debian's kernel takes no options (set source = \"source\")");
        } else {
            ensure!(
                choice.modules.is_empty(),
                "our kernel has no modules (use options, or source = \"debian\")"
            );
        }
        let name = match (&arguments.name, source) {
            (Some(name), _) => name.clone(),
            (None, KernelSource::Debian) => "debian".into(),
            (None, KernelSource::Source) => profile.unwrap_or(Profile::Container).name().into(),
        };
        store::check_name(&name)?;
        let cpus = || std::thread::available_parallelism().map_or(1, Into::into);
        let jobs = arguments.jobs.map_or_else(cpus, usize::from);
        let mut forms = arguments.form.clone();
        forms.sort();
        forms.dedup();
        Ok(Order { source, profile: profile.unwrap_or(Profile::Container), name, jobs, forms })
    }

    fn forms(&self, kernel: &Kernel) -> Result<Vec<Form>> {
        let bootable = kernel.features.block_root || kernel.features.dax_root;
        if self.forms.is_empty() {
            return Ok(if bootable { vec![Form::Initramfs, Form::Image] } else { vec![Form::Initramfs] });
        }
        if self.forms.contains(&Form::Image) && !bootable {
            bail!(
                "this kernel cannot boot from an image: EROFS or its disk drivers are modules (use --form initramfs)"
            );
        }
        Ok(self.forms.clone())
    }
}

/// The program that becomes `/init`.
struct Agent {
    path: PathBuf,
    sha256: String,
}

impl Agent {
    fn find(given: Option<&Path>) -> Result<Agent> {
        let beside = || -> Result<PathBuf> {
            let own = std::env::current_exe().context("finding the directory of clear-mini-os")?;
            Ok(own.with_file_name("clear-agent"))
        };
        let path = given.map_or_else(beside, |path| Ok(path.to_owned()))?;
        let build = "RUSTFLAGS='-C target-feature=+crt-static' cargo build --release -p agent --target x86_64-unknown-linux-gnu";
        let doing =
            || format!("reading the agent {} (name it with --agent, or build it: {build})", path.display());
        let bytes = fs::read(&path).with_context(doing)?;
        let doing = || format!("the agent {}", path.display());
        if Elf::parse(&bytes).with_context(doing)?.has_interpreter().with_context(doing)? {
            bail!(
                "the agent {} is not a static program: there is no libc in the guest (build it: {build})",
                path.display()
            );
        }
        let (sha256, _) = digest::file(&path).with_context(doing)?;
        Ok(Agent { path, sha256 })
    }
}

/// The hash of everything that goes into a mini-OS.
fn key(kernel: &Kernel, agent: &Agent, manifest: &Manifest, forms: &[Form]) -> Result<String> {
    let mut key = Key::new("object", image::FORMAT)
        .field("kernel", &kernel.key)
        .field("vmlinux", &kernel.description.vmlinux.sha256)
        .field("agent", &agent.sha256)
        .field("forms", &format!("{forms:?}"));
    for file in &manifest.files {
        let (sha256, _) =
            digest::file(&file.source).with_context(|| format!("reading {}", file.source.display()))?;
        key = key
            .field("target", &file.target.to_string_lossy())
            .field("mode", &format!("{:o}", file.permissions))
            .field("content", &sha256);
    }
    if !manifest.packages.debian.is_empty() {
        let names = &manifest.packages.debian;
        let resolved = crate::apt::resolve(names)
            .with_context(|| format!("looking for packages {}", names.join(" ")))?;
        key = key.field("packages", &resolved.join(", "));
    }
    Ok(key.finish())
}

fn make(
    draft: &Draft,
    kernel: &Kernel,
    agent: &Agent,
    manifest: &Manifest,
    forms: &[Form],
    progress: &mut Progress,
) -> Result<()> {
    let part = |name: &str| -> Result<PathBuf> {
        let path = draft.path().join(name);
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    };
    let (tree, work, result) = (part("tree")?, part("work")?, part("result")?);
    image::fill(&tree, &work, &agent.path, manifest, progress)?;
    let mut mini_os = MiniOs {
        version: VERSION,
        origin: kernel.description.origin.clone(),
        arch: std::env::consts::ARCH.into(),
        release: kernel.description.release.clone(),
        kernel: kernel.description.vmlinux.clone(),
        initramfs: None,
        image: None,
        features: kernel.features,
    };
    let vmlinux = kernel.directory.join(&mini_os.kernel.path);
    fs::hard_link(&vmlinux, result.join(&mini_os.kernel.path))
        .with_context(|| format!("linking {}", vmlinux.display()))?;
    if forms.contains(&Form::Image) {
        image::erofs::write(&tree, &result.join("image.erofs"), progress)?;
        mini_os.image = Some(store::describe(&result, "image.erofs")?);
    }
    if forms.contains(&Form::Initramfs) {
        progress.phase("making the initramfs");
        image::add_modules(&tree, kernel)?;
        image::cpio::write(&tree, &result.join("initramfs.cpio"))?;
        mini_os.initramfs = Some(store::describe(&result, "initramfs.cpio")?);
    }
    Ok(draft.write(&format!("result/{MANIFEST}"), &serde_json::to_vec_pretty(&mini_os)?)?)
}

/// The path from the root, so that compilers that change directory find it.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("finding {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_the_first_and_follows_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().into());
        let default = || store.resolve(DEFAULT_NAME).unwrap();
        name(&store, "debian", "one", false).unwrap();
        name(&store, "core", "two", false).unwrap();
        assert_eq!(default(), store.object("one"));
        name(&store, "debian", "three", false).unwrap();
        assert_eq!(default(), store.object("three"));
        name(&store, "core", "two", true).unwrap();
        name(&store, "debian", "four", false).unwrap();
        assert_eq!(default(), store.object("two"));
    }
}
