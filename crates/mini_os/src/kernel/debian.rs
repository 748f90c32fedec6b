//! Debian's packaged kernel: a mini-OS without compiling anything.

use super::bzimage;
use super::modules::{self, Dependencies, ModuleError, Modules};
use super::{FORMAT, Kernel, check_space, obtain};
use crate::apt::{self, AptError, Package};
use crate::digest::Key;
use crate::process;
use crate::progress::Progress;
use crate::store::{Draft, Store};
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Follows the newest 6.12 kernel of the distribution. The cloud flavour has no 9p.
const PACKAGE: &str = "linux-image-6.12-amd64";

/// What unpacks the kernel and its modules.
const TOOLS: &[&str] = &["binutils", "xz-utils", "zstd"];

/// Space for the package and its unpacked files, in bytes; Debian's has 0.1 + 0.5 GiB.
const SPACE: u64 = 800 << 20;

/// Longest `vmlinux` that is unpacked, in bytes; Debian's has 55 MiB.
const MAX_KERNEL: u32 = 512 << 20;

/// Returns Debian's kernel with its modules, those that we load and the `extra` ones of the user.
///
/// # Errors
/// apt's, and those of unpacking the kernel.
pub fn kernel(store: &Store, extra: &[String], progress: &mut Progress) -> Result<Kernel> {
    apt::install(TOOLS, |missing| progress.phase(&format!("installing {missing}")))?;
    let error = match try_kernel(store, extra, progress) {
        Err(error) if matches!(error.downcast_ref(), Some(AptError::Download(..))) => error,
        done => return done,
    };
    // Old package lists name versions that are gone. If that is not it, the first error says more.
    progress.phase("fetching the package lists");
    if apt::update().is_err() {
        return Err(error);
    }
    try_kernel(store, extra, progress)
}

fn try_kernel(store: &Store, extra: &[String], progress: &mut Progress) -> Result<Kernel> {
    progress.phase("looking for Debian's kernel package");
    let meta = Package::find(PACKAGE, || progress.phase("fetching the package lists"))
        .context("looking for Debian's kernel package")?;
    let package = meta.dependency("linux-image-")?;
    let wanted: Vec<&str> = modules::WANTED.iter().copied().chain(extra.iter().map(String::as_str)).collect();
    let key = Key::new("kernel debian", FORMAT)
        .field("package", &package.name)
        .field("version", &package.version)
        .field("sha256", &package.sha256)
        .field("modules", &wanted.join(" "))
        .field("stripped", "BTF, signature")
        .finish();
    obtain(store, &key, progress, &mut |draft, progress| make(&package, &wanted, draft, progress))
}

fn make(
    package: &Package,
    wanted: &[&str],
    draft: &Draft,
    progress: &mut Progress,
) -> Result<(String, String, Vec<String>)> {
    check_space(draft.path(), SPACE)?;
    progress.phase(&format!("downloading {} ({} MiB)", package.name, package.size.div_ceil(1 << 20)));
    let file = package.download(draft.path(), &mut |line| progress.step(line))?;
    progress.phase("unpacking the kernel package");
    let tree = draft.path().join("tree");
    apt::unpack(&file, &tree).context("unpacking the kernel package")?;
    let release = release(&tree)?;
    let result = draft.path().join("result");
    let config = tree.join("boot").join(format!("config-{release}"));
    fs::copy(&config, result.join("config")).with_context(|| format!("copying {}", config.display()))?;
    unpack_kernel(
        &tree.join("boot").join(format!("vmlinuz-{release}")),
        draft.path(),
        &result.join("vmlinux"),
    )?;
    progress.phase("choosing modules");
    let mut packed = PackedModules::open(&tree.join("lib/modules").join(&release), &result.join("modules"))?;
    let order = modules::load_order(wanted, &mut packed)?;
    for name in &order {
        strip(&result.join("modules").join(format!("{name}.ko")))?;
    }
    let files: Vec<String> = order.iter().map(|name| format!("{name}.ko")).collect();
    Ok(("debian".into(), release, files))
}

/// The release of the one kernel in an unpacked package.
fn release(tree: &Path) -> Result<String> {
    let boot = tree.join("boot");
    let list = fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))?;
    let mut names = list.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let found = names.find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_string));
    found.context("the kernel package holds no boot/vmlinuz-*")
}

/// Unpacks the ELF kernel of a bzImage.
fn unpack_kernel(image: &Path, work: &Path, to: &Path) -> Result<()> {
    let doing = || format!("unpacking {}", image.display());
    let bytes = fs::read(image).with_context(doing)?;
    let payload = bzimage::payload(&bytes).with_context(doing)?;
    ensure!(payload.size <= MAX_KERNEL, "{}: a kernel of {} bytes is not believable", doing(), payload.size);
    let packed = work.join("payload");
    fs::write(&packed, payload.stream).with_context(doing)?;
    decompress(payload.compression.program(), &packed, to)?;
    let length = fs::metadata(to).with_context(doing)?.len();
    ensure!(length == u64::from(payload.size), "{}: got {length} bytes instead of {}", doing(), payload.size);
    Ok(())
}

fn decompress(program: &str, from: &Path, to: &Path) -> Result<()> {
    let fix = "install it: apt-get install zstd xz-utils gzip";
    let input = File::open(from).with_context(|| format!("reading {}", from.display()))?;
    let output = File::create(to).with_context(|| format!("writing {}", to.display()))?;
    process::filter(Command::new(program).arg("-dc"), fix, input, output)
        .with_context(|| format!("decompressing {}", from.display()))
}

/// Removes a module's type information and signature: the kernel would parse and check them at every boot, which takes
/// two thirds of the time of loading it. The kernel marks itself as tainted by unsigned modules (`E`); that they are
/// the packaged ones is what our hashes say.
fn strip(module: &Path) -> Result<()> {
    let fix = "install it: apt-get install binutils";
    process::run(
        Command::new("objcopy").args(["--strip-debug", "--remove-section=.BTF"]).arg(module),
        fix,
        &mut |_| {},
    )
    .with_context(|| format!("stripping {}", module.display()))
}

/// The modules of an unpacked package. Those that are looked at are decompressed into `to`.
struct PackedModules {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    to: PathBuf,
}

impl PackedModules {
    fn open(directory: &Path, to: &Path) -> Result<PackedModules> {
        let mut files = BTreeMap::new();
        find_modules(&directory.join("kernel"), &mut files)?;
        let list = directory.join("modules.builtin");
        let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
        Ok(PackedModules { files, built_in: modules::built_in(&text), to: to.into() })
    }
}

fn find_modules(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let doing = || format!("reading {}", directory.display());
    for entry in fs::read_dir(directory).with_context(doing)? {
        let entry = entry.with_context(doing)?;
        if entry.file_type().with_context(doing)?.is_dir() {
            find_modules(&entry.path(), files)?;
        } else if let Some(name) = modules::name_of_file(&entry.file_name().to_string_lossy()) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

impl Modules for PackedModules {
    fn is_built_in(&self, name: &str) -> bool {
        self.built_in.contains(name)
    }

    fn dependencies(&mut self, name: &str) -> Result<Option<Dependencies>> {
        let Some(packed) = self.files.get(name) else { return Ok(None) };
        let plain = self.to.join(format!("{name}.ko"));
        match packed.extension().and_then(|e| e.to_str()) {
            Some("ko") => {
                fs::copy(packed, &plain).map(drop).with_context(|| format!("copying {}", packed.display()))?
            }
            Some("xz") => decompress("xz", packed, &plain)?,
            Some("zst") => decompress("zstd", packed, &plain)?,
            Some("gz") => decompress("gzip", packed, &plain)?,
            _ => bail!("kernel module {} has an unknown form", packed.display()),
        }
        let bytes = fs::read(&plain).with_context(|| format!("reading {}", plain.display()))?;
        Ok(Some(modules::dependencies(&bytes).map_err(|error| ModuleError::Elf(name.into(), error))?))
    }
}
