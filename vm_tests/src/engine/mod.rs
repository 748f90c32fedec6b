//! Container engines, as Debian packages them, with a runtime of this run: `CLEAR_TEST_RUNTIME` (`cor`, `crun` or `runc`; `cor` unless said),
//! so that the same tests show what every runtime does.
//!
//! ```text
//!   Engine     docker or podman: the same command line; containerd; set up when it is first used
//!   Container  one of an engine, removed when dropped
//!   arena.rs   a part of the host for engines alone: network, processes, /etc, /run, /var/lib, /usr/local
//!   image.rs   an image that needs no registry
//!   daemon.rs  dockerd, containerd
//! ```

pub mod arena;
mod container;
mod daemon;
pub mod image;

pub use container::Container;
pub use daemon::Daemon;

use crate::command::{Command, Output};
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

/// The runtime that the engines call.
pub fn runtime() -> String {
    std::env::var("CLEAR_TEST_RUNTIME").unwrap_or_else(|_| "cor".into())
}

/// Whether it is ours, for what a virtual machine does in another way.
pub fn is_ours() -> bool {
    runtime() == "cor"
}

/// An engine with the command line that Docker's users know.
#[derive(Debug)]
pub struct Engine {
    name: &'static str,
    program: &'static str,
    set_up: fn(),
    ready: OnceLock<()>,
}

/// Podman.
pub static PODMAN: Engine = Engine::of("podman", "podman", set_up_podman);

/// Docker.
pub static DOCKER: Engine = Engine::of("docker", "docker", set_up_docker);

/// containerd: with the command line of ctr, which is not the others'.
pub static CONTAINERD: Engine = Engine::of("containerd", "ctr", set_up_containerd);

/// The daemons that run.
static DAEMONS: Mutex<Vec<Daemon>> = Mutex::new(Vec::new());

impl Engine {
    const fn of(name: &'static str, program: &'static str, set_up: fn()) -> Self {
        Engine { name, program, set_up, ready: OnceLock::new() }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether this is Docker.
    pub fn is_docker(&self) -> bool {
        self.name == "docker"
    }

    /// A command of it.
    pub fn command(&self, args: &[&str]) -> Command {
        self.ready.get_or_init(self.set_up);
        Command::new(self.program).args(args)
    }

    /// `run --rm` of a program of the image, without a network unless `options` have one.
    pub fn run(&self, options: &[&str], program: &[&str]) -> Command {
        let network: &[&str] =
            if options.iter().any(|option| option.starts_with("--net")) { &[] } else { &["--network=none"] };
        self.command(&["run", "--rm"]).args(network).args(options).arg(image::NAME).args(program)
    }

    /// [`Self::run`] of a shell's script to its end.
    pub fn script(&self, options: &[&str], script: &str) -> Output {
        self.run(options, &["sh", "-c", script]).run()
    }

    /// `run --detach` of a program of the image, in a container with a new name.
    pub fn start(&self, options: &[&str], program: &[&str]) -> Container<'_> {
        Container::start(self, options, program)
    }

    /// A container that runs `sleep` without a network.
    pub fn sleeping(&self, options: &[&str]) -> Container<'_> {
        self.start(options, &["sleep", "1000"])
    }

    /// A name that nothing has yet.
    pub fn new_name(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Ends the daemons that were started.
    pub fn stop_all() {
        for daemon in DAEMONS.lock().expect("no holder panics").drain(..) {
            daemon.stop(libc::SIGTERM);
        }
    }

    /// Loads the image with `command`, which takes its file.
    pub fn load(command: Command) {
        let directory = tempfile::tempdir().expect("a directory");
        command.arg(image::archive(directory.path())).ok();
    }
}

/// What `docs/engines.md` tells users to write, and what a host without a service manager needs.
fn set_up_podman() {
    let runtime = runtime();
    let text = format!(
        "[containers]\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=32768:32768\"]\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = {runtime:?}\n\
         [engine.runtimes]\ncor = [\"/usr/local/bin/cor\"]\n"
    );
    fs::create_dir_all("/etc/containers").expect("a directory");
    fs::write("/etc/containers/containers.conf", text).expect("the configuration");
    Engine::load(Command::new("podman").args(["load", "--input"]));
}

fn set_up_docker() {
    let runtimes = "{\"cor\": {\"path\": \"/usr/local/bin/cor\"}, \"crun\": {\"path\": \"/usr/bin/crun\"}}";
    let text = format!("{{\"runtimes\": {runtimes}, \"default-runtime\": {:?}}}", runtime());
    fs::create_dir_all("/etc/docker").expect("a directory");
    fs::write("/etc/docker/daemon.json", text).expect("the configuration");
    let ready = Command::new("docker").arg("version");
    let daemon = Daemon::start(Command::new("dockerd"), "/run/docker.sock", "/run/dockerd.log", &ready);
    DAEMONS.lock().expect("no holder panics").push(daemon);
    Engine::load(Command::new("docker").args(["load", "--input"]));
}

fn set_up_containerd() {
    let ready = Command::new("ctr").arg("version");
    let command = Command::new("containerd");
    let daemon = Daemon::start(command, "/run/containerd/containerd.sock", "/run/containerd.log", &ready);
    DAEMONS.lock().expect("no holder panics").push(daemon);
    Engine::load(Command::new("ctr").args(["images", "import"]));
}
