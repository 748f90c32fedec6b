//! `cor try`: one command in its own virtual machine, without engine and bundle.

mod name_servers;

use crate::context::Context;
use anyhow::{Context as _, bail};
use sandbox::bundle;
use sandbox::configuration::{Configuration, NetworkModel};
use sandbox::lifecycle::Create;
use sandbox::run::foreground;
use serde_json::{Value, json};
use std::fs;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

/// Run one command in its own virtual machine; no engine, no bundle
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --rootfs the command finds this host's programs (/usr, read-only) and none of its data; /tmp, /run, /root and
/home are empty and in memory.

The command reaches by TCP, UDP and ping what this host reaches, but not this host's loopback; nothing reaches the command.
That takes the program pasta (Debian: apt-get install passt).

Examples:
  cor try -- uname -a
  cor try -it --rootfs ./debian -- bash
  cor try --cpus 2 --memory 1g --volume $PWD:/src -- make -C /src")]
pub struct Args {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Root directory of the container
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Make a host directory or file visible, HOST:GUEST[:ro]
    #[arg(short, long, value_name = "H:G[:ro]")]
    pub volume: Vec<String>,
    /// Number of CPUs
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Memory of the container (with k, m, g)
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Environment variable, K=V, or K to take this shell's
    #[arg(short, long, value_name = "K=V")]
    pub env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR", default_value = "/")]
    pub workdir: String,
    /// Network: `user` (the default, if pasta is there) or `none`
    #[arg(long, value_name = "MODE", value_enum)]
    pub network: Option<Mode>,
    /// Address of a name server, instead of those that this host asks; can be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// User, UID[:GID]
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Make the root read-only
    #[arg(long)]
    pub read_only: bool,
    /// Show the timeline on standard error when it has ended
    #[arg(long)]
    pub trace: bool,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What `--network` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Loopback only
    None,
    /// Connections of this host's, by pasta
    User,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    if args.tty && !std::io::stdin().is_terminal() {
        bail!("-t: standard input is no terminal: leave out -t");
    }
    let id = format!("try-{}", std::process::id());
    let bundle = Bundle::make(&context.root()?.join(".try").join(&id))?;
    let mut configuration = context.configuration()?;
    let network = has_network(&args, &configuration, context);
    let resolv_conf = network.then(|| name_servers::resolv_conf(&args.dns, &context.log));
    let spec = spec(&args, bundle.path(), resolv_conf.as_deref())?;
    bundle.write(&spec)?;
    let loaded = bundle::load(bundle.path())?;
    configuration.network.user = network;
    configuration.network.model = if network { NetworkModel::Tc } else { NetworkModel::None };
    configuration.container.sealed_root = args.rootfs.is_none();
    let plan = context.plan_bundle(&id, &loaded, configuration)?;
    let create = Create { dir: context.dir(&id)?, plan, console: None, pid_file: None, start_us: context.start_us };
    let null = (!args.interactive).then(|| fs::File::open("/dev/null")).transpose()?;
    if let Some(null) = &null {
        rustix::stdio::dup2_stdin(null)?;
    }
    let result = foreground(create, false);
    drop(bundle);
    let (code, warnings) = result?;
    warnings.iter().for_each(|warning| context.log.warn(warning));
    if args.trace {
        print_trace(context, &id)?;
    }
    Ok(code)
}

/// Who asks for a network is refused by the plan where there can be none; who did not ask gets a warning.
fn has_network(args: &Args, configuration: &Configuration, context: &Context) -> bool {
    let facts = context.facts();
    let missing = match args.network {
        Some(mode) => return mode == Mode::User,
        None if configuration.network.model == NetworkModel::None => return false,
        None if facts.pasta.is_none() => {
            "the program pasta is not installed; install it (Debian: apt-get install passt)"
        }
        None if !facts.default_route => "this host has no default route; connect it",
        None => return true,
    };
    context.log.warn(&format!("the command has no network: {missing}, or say --network none"));
    false
}

/// A directory for config.json that is gone when this process is through with it.
struct Bundle {
    path: PathBuf,
}

impl Bundle {
    fn make(path: &Path) -> anyhow::Result<Self> {
        sweep(path.parent().unwrap_or(path));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("creating {}: cor needs to be run as root", path.display()))?;
        Ok(Bundle { path: path.to_path_buf() })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self, spec: &Value) -> anyhow::Result<()> {
        fs::write(self.path.join("config.json"), serde_json::to_vec(spec)?).context("writing config.json")
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        if let Some(parent) = self.path.parent() {
            // Only succeeds when it is empty.
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Removes what a `try` that was killed has left.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.strip_prefix("try-")?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The default configuration with what the flags say.
fn spec(args: &Args, bundle: &Path, resolv_conf: Option<&str>) -> anyhow::Result<Value> {
    let mut spec = bundle::spec();
    let own_root = args.rootfs.is_none();
    let (root, mut more) = match &args.rootfs {
        Some(root) => (fs::canonicalize(root).with_context(|| format!("--rootfs {}", root.display()))?, Vec::new()),
        None => host_programs(bundle)?,
    };
    spec["root"] = json!({ "path": root, "readonly": args.read_only || own_root });
    spec["hostname"] = json!("try");
    let process = &mut spec["process"];
    process["args"] = json!(args.command);
    process["cwd"] = json!(args.workdir);
    process["terminal"] = json!(args.tty);
    for set in ["bounding", "effective", "permitted"] {
        process["capabilities"][set] = json!(CAPABILITIES);
    }
    process["noNewPrivileges"] = json!(false);
    process["rlimits"] = json!([]);
    let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_string()];
    if args.tty {
        env.push(format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "xterm".into())));
    }
    for variable in &args.env {
        match (variable.contains('='), std::env::var(variable)) {
            (true, _) => env.push(variable.clone()),
            (false, Ok(value)) => env.push(format!("{variable}={value}")),
            (false, Err(_)) => {}
        }
    }
    process["env"] = json!(env);
    if let Some(user) = &args.user {
        let (uid, gid) = user.split_once(':').unwrap_or((user, user));
        let number = |text: &str| text.parse::<u32>().with_context(|| format!("--user {user:?}: give UID[:GID] as numbers"));
        process["user"] = json!({ "uid": number(uid)?, "gid": number(gid)? });
    }
    if let Some(text) = resolv_conf {
        more.extend(mount_resolv_conf(bundle, &root_of(&spec), own_root, text)?);
    }
    mounts(args, more, own_root, &mut spec)?;
    resources(args, &mut spec)?;
    Ok(spec)
}

/// What package managers, `su` and servers need as root; the same set that Docker gives. It holds in the machine only.
const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
];

/// Directories of a root that holds this host's programs but none of its data.
const SKELETON: &[&str] = &["dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var/tmp"];

/// Top-level directories that are links into /usr on a merged system, and directories of their own elsewhere.
const TOP_LEVEL: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// What programs need of /etc, nothing secret among it.
const FROM_ETC: &[&str] = &[
    "/etc/alternatives", "/etc/group", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/nsswitch.conf", "/etc/passwd", "/etc/ssl/certs",
];

/// Makes that root in the bundle; returns it with what is to be mounted on it.
fn host_programs(bundle: &Path) -> anyhow::Result<(PathBuf, Vec<Value>)> {
    let root = bundle.join("rootfs");
    let mut visible = vec![PathBuf::from("/usr")];
    for directory in SKELETON {
        fs::create_dir_all(root.join(directory))?;
    }
    for name in TOP_LEVEL {
        let host = Path::new("/").join(name);
        match fs::read_link(&host) {
            Ok(target) => symlink(target, root.join(name))?,
            Err(_) if host.is_dir() => visible.push(host),
            Err(_) => {}
        }
    }
    visible.extend(FROM_ETC.iter().map(PathBuf::from).filter(|path| path.exists()));
    let mount = |path: &PathBuf| {
        let source = fs::canonicalize(path)?;
        let place = root.join(path.strip_prefix("/").unwrap_or(path));
        if source.is_dir() {
            fs::create_dir_all(place)?;
        } else {
            fs::write(place, "")?;
        }
        Ok(json!({ "destination": path, "type": "bind", "source": source, "options": ["bind", "ro"] }))
    };
    let mounts = visible.iter().map(mount).collect::<std::io::Result<Vec<Value>>>();
    Ok((root, mounts.context("preparing a root file system")?))
}

fn root_of(spec: &Value) -> PathBuf {
    spec["root"]["path"].as_str().map(PathBuf::from).unwrap_or_default()
}

/// Makes the file that names name servers in the bundle; returns how it comes into the root, if that has a place for it.
fn mount_resolv_conf(bundle: &Path, root: &Path, own_root: bool, text: &str) -> anyhow::Result<Option<Value>> {
    let (file, place) = (bundle.join("resolv.conf"), "/etc/resolv.conf");
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    if own_root {
        mount_point(root, place, false).context("preparing a root file system")?;
    }
    let mount = json!({ "destination": place, "type": "bind", "source": file, "options": ["bind", "ro"] });
    Ok(root.join("etc").is_dir().then_some(mount))
}

/// Makes a mount point in a root that nobody can write to later.
fn mount_point(root: &Path, guest: &str, directory: bool) -> std::io::Result<()> {
    let place = root.join(guest.trim_start_matches('/'));
    if directory {
        return fs::create_dir_all(place);
    }
    fs::create_dir_all(place.parent().unwrap_or(root))?;
    fs::File::options().append(true).create(true).open(place).map(drop)
}

fn mounts(args: &Args, programs: Vec<Value>, own_root: bool, spec: &mut Value) -> anyhow::Result<()> {
    let mut more = programs;
    if own_root {
        for place in ["/tmp", "/run", "/root", "/home", "/var/tmp"] {
            more.push(json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"] }));
        }
    }
    for volume in &args.volume {
        let parts: Vec<&str> = volume.split(':').collect();
        let (host, guest, mode) = match parts[..] {
            [host, guest] => (host, guest, "rw"),
            [host, guest, mode @ ("ro" | "rw")] => (host, guest, mode),
            _ => bail!("--volume {volume:?}: give HOST:GUEST or HOST:GUEST:ro"),
        };
        if !guest.starts_with('/') || guest.split('/').any(|part| part == "..") {
            bail!("--volume {volume:?}: the path in the guest must be absolute and without `..`");
        }
        let host = fs::canonicalize(host).with_context(|| format!("--volume {volume:?}"))?;
        if own_root {
            mount_point(&root_of(spec), guest, host.is_dir()).with_context(|| format!("--volume {volume:?}"))?;
        }
        more.push(json!({ "destination": guest, "type": "bind", "source": host, "options": ["rbind", mode] }));
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.extend(more);
    }
    Ok(())
}

fn resources(args: &Args, spec: &mut Value) -> anyhow::Result<()> {
    let resources = &mut spec["linux"]["resources"];
    match args.cpus {
        Some(0) => bail!("--cpus 0: a machine needs at least one CPU"),
        Some(cpus) => resources["cpu"] = json!({ "quota": u64::from(cpus) * 100_000, "period": 100_000 }),
        None => {}
    }
    if let Some(memory) = &args.memory {
        let bytes = super::parse_bytes(memory).with_context(|| format!("--memory {memory:?}"))?;
        if bytes <= 0 {
            bail!("--memory {memory:?}: must be more than nothing");
        }
        resources["memory"] = json!({ "limit": bytes });
    }
    Ok(())
}

fn print_trace(context: &Context, id: &str) -> anyhow::Result<()> {
    let record = sandbox::history::find(&context.root()?, Some(id), |_| true).context("no timeline was kept")?;
    for stamp in record.timeline {
        eprintln!("{:>9.1} ms  {}", stamp.at_us as f64 / 1000.0, stamp.name);
    }
    Ok(())
}
