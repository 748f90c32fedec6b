//! The keeper's start: host steps, then the VMM. Returns a [`Keeper`] whose guest is booting.

use super::agent_client::AgentClient;
use super::control::Control;
use super::face::Face;
use super::network::Network;
use super::protocol::Progress;
use super::pump::Direction;
use super::running::{Keeper, Phase, Port};
use super::timeline::Timeline;
use super::{Failed, Reporter, new_state, write_state};
use crate::configuration::Passthrough;
use crate::host::network::user::UserNetwork;
use crate::host::{HostError, cgroup, namespaces, stage};
use crate::plan::{self, HostStep, SandboxPlan};
use crate::signals::SignalFd;
use crate::state::StateDir;
use crate::terminal;
use guest_protocol::message::{INIT_PROCESS, TerminalSize};
use host_check::facts::Cgroups;
use machine::builtin::ClearVmm;
use machine::qemu::Qemu;
use machine::{DonatedFds, LinkEndpoint, Vmm};
use machine_spec::Chassis;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The container's standard files, taken away from fds 0-2 so that closing one really closes it.
struct Stdio {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Does everything up to a running VMM. On failure nothing is left but what the undo list names.
pub(super) fn boot(
    dir: &StateDir,
    plan: SandboxPlan,
    console: Option<OwnedFd>,
    signals: io::Result<SignalFd>,
    face: Face,
    mut timeline: Timeline,
    reporter: &mut Reporter,
) -> Result<Keeper, (Failed, Timeline, String)> {
    match try_boot(dir, plan, console, signals, face, &mut timeline, reporter) {
        Ok(keeper) => Ok(Keeper { timeline, ..keeper }),
        Err((failed, log)) => Err((failed, timeline, log)),
    }
}

fn try_boot(
    dir: &StateDir,
    mut plan: SandboxPlan,
    console: Option<OwnedFd>,
    signals: io::Result<SignalFd>,
    face: Face,
    timeline: &mut Timeline,
    reporter: &mut Reporter,
) -> Result<Keeper, (Failed, String)> {
    let plain = |failed: Failed| (failed, String::new());
    let signals = signals.map_err(Failed::while_("setting up signals")).map_err(plain)?;
    let stdio = take_stdio().map_err(Failed::while_("taking over the standard files")).map_err(plain)?;
    let slave = match console {
        Some(socket) => Some(open_terminal(socket.as_fd(), &plan).map_err(plain)?),
        None => {
            // A session of its own: no terminal's Ctrl-C reaches the keeper but through `cor`.
            let _ = rustix::process::setsid();
            None
        }
    };
    let cgroups = host_check::cgroups(&host_check::Root::host());
    let vmm = vmm(&plan);
    let mut state = new_state(&plan, vmm.name());
    write_state(dir, &state).map_err(plain)?;
    let (network, taps) = host_steps(dir, &mut plan, &cgroups).map_err(plain)?;
    face.show_network().map_err(Failed::while_("showing the network namespace")).map_err(plain)?;
    timeline.stamp("host steps");
    let (console_ours, console_vmm) =
        UnixStream::pair().map_err(Failed::while_("preparing the console")).map_err(plain)?;
    let (log, log_vmm) = io::pipe().map_err(Failed::while_("preparing the VMM's log")).map_err(plain)?;
    let control = dir
        .short_path("keeper.sock")
        .and_then(|(_open, path)| Control::listen(&path))
        .map_err(Failed::while_("opening the keeper's socket"))
        .map_err(plain)?;
    let donated = DonatedFds { console: console_vmm.into(), log: log_vmm.into(), taps };
    let booted = vmm.boot(&plan.machine, donated);
    let mut machine = match booted {
        Ok(machine) => machine,
        Err(e) => {
            return Err((
                Failed { phase: "starting the virtual machine", message: e.to_string() },
                drain(log),
            ));
        }
    };
    timeline.stamp("VMM started");
    state.vmm_pid = Some(machine.pid());
    write_state(dir, &state).map_err(plain)?;
    let Some(LinkEndpoint::Channel(channel)) = machine.take_link() else {
        return Err(plain(Failed {
            phase: "starting the virtual machine",
            message: "it has no agent channel".into(),
        }));
    };
    let channel = UnixStream::from(channel);
    for socket in [&channel, &console_ours] {
        socket.set_nonblocking(true).map_err(Failed::while_("preparing the channels")).map_err(plain)?;
    }
    reporter.tell(&Progress::Namespaces);
    let deadline = Instant::now() + Duration::from_secs(u64::from(plan.boot_timeout_s));
    let ports = init_ports(stdio, slave.as_ref()).map_err(plain)?;
    Ok(Keeper {
        dir: dir.clone(),
        face,
        ports,
        terminal: slave,
        plan,
        state,
        cgroups,
        network,
        names: Default::default(),
        machine,
        channel,
        agent: AgentClient::default(),
        pumps: Vec::new(),
        errors: None,
        console: Some(console_ours),
        console_tail: Default::default(),
        log: Some(log),
        log_tail: Default::default(),
        control,
        signals,
        phase: Phase::Booting { hooks_done: false, hello: false, deadline },
        next_process: INIT_PROCESS + 1,
        next_port: plan::INIT_STDERR_PORT + 1,
        exec_ends: BTreeMap::new(),
        exit: None,
        failure: None,
        timeline: Timeline::new(0),
        paused: false,
        patience: None,
    })
}

fn vmm(plan: &SandboxPlan) -> Box<dyn Vmm> {
    match plan.machine.chassis {
        Chassis::Clear => Box::new(ClearVmm::new(&plan.vmm_program)),
        Chassis::Microvm | Chassis::Q35 => Box::new(Qemu::new(&plan.vmm_program)),
    }
}

/// Taps by the names of their devices, with a descriptor for each pair of queues.
type Taps = BTreeMap<String, Vec<OwnedFd>>;

/// Namespaces, control group, taps and stage, in the plan's order. The devices for the taps come to the machine's.
fn host_steps(
    dir: &StateDir,
    plan: &mut SandboxPlan,
    cgroups: &Cgroups,
) -> Result<(Option<Network>, Taps), Failed> {
    let failed = Failed::while_::<HostError>;
    namespaces::own_mounts().map_err(failed("preparing the host"))?;
    let stage_dir = dir.stage();
    stage::open(&stage_dir).map_err(failed("preparing the host"))?;
    let outside =
        File::open("/proc/thread-self/ns/net").map_err(HostError::call("keeping the host's network"));
    let outside = outside.map_err(failed("preparing the host"))?;
    let (mut network, mut taps, mut namespace, mut user) = (None, Taps::new(), None, None);
    for step in &plan.host {
        match step {
            HostStep::Taps { model, least, queues, take_over, passthrough, insist } => {
                // By default where it works: that board has no PCI.
                let which = match plan.machine.chassis {
                    Chassis::Microvm => Passthrough::None,
                    Chassis::Clear | Chassis::Q35 => *passthrough,
                };
                let (how, which) = ((*model, *take_over), (which, *insist));
                Network::prepare(dir, namespace.take(), *least, *queues, how, which).map(|prepared| {
                    plan.machine.devices.extend(prepared.devices);
                    network = Some(prepared.network.served_by(user.take()));
                    taps = prepared.taps;
                })
            }
            HostStep::Cgroup { path, limits } => cgroup::enter(dir, cgroups, path, limits),
            HostStep::NetworkNamespace { path } => {
                namespace.clone_from(path);
                namespaces::network(path.as_deref())
            }
            HostStep::UserNetwork { program } => {
                UserNetwork::start(dir, program, &outside).map(|started| user = Some(started))
            }
            HostStep::Stage { .. } => stage::add(&stage_dir, step),
        }
        .map_err(failed("preparing the host"))?;
    }
    Ok((network, taps))
}

/// Moves fds 0-2 away and leaves /dev/null there.
fn take_stdio() -> io::Result<Stdio> {
    use rustix::io::fcntl_dupfd_cloexec;
    use rustix::stdio::{stderr, stdin, stdout};
    let stdio = Stdio {
        stdin: fcntl_dupfd_cloexec(stdin(), 3)?,
        stdout: fcntl_dupfd_cloexec(stdout(), 3)?,
        stderr: fcntl_dupfd_cloexec(stderr(), 3)?,
    };
    terminal::leave_stdio()?;
    Ok(stdio)
}

/// The slave of a new terminal, controlling this process, with the size that the configuration names.
fn open_terminal(socket: std::os::fd::BorrowedFd<'_>, plan: &SandboxPlan) -> Result<OwnedFd, Failed> {
    let failed = Failed::while_::<io::Error>;
    let slave = terminal::open_for(socket).map_err(failed("sending the terminal to the console socket"))?;
    let size = plan.init_process().and_then(|p| p.terminal);
    if let Some(size @ TerminalSize { rows: 1.., columns: 1.. }) = size {
        terminal::set_size(slave.as_fd(), size);
    }
    terminal::control(slave.as_fd()).map_err(failed("taking control of the terminal"))?;
    Ok(slave)
}

/// Where the agent's streams for the container's own process lead.
fn init_ports(stdio: Stdio, slave: Option<&OwnedFd>) -> Result<BTreeMap<u32, Port>, Failed> {
    let port = |direction, fd| Port { process_id: INIT_PROCESS, direction, fd };
    let mut ports = BTreeMap::new();
    match slave {
        Some(slave) => {
            let copy = || slave.try_clone().map_err(Failed::while_("preparing the terminal"));
            ports.insert(plan::INIT_STDIN_PORT, port(Direction::ToGuest, copy()?));
            ports.insert(plan::INIT_STDOUT_PORT, port(Direction::FromGuest, copy()?));
        }
        None => {
            ports.insert(plan::INIT_STDIN_PORT, port(Direction::ToGuest, stdio.stdin));
            ports.insert(plan::INIT_STDOUT_PORT, port(Direction::FromGuest, stdio.stdout));
            ports.insert(plan::INIT_STDERR_PORT, port(Direction::FromGuest, stdio.stderr));
        }
    }
    Ok(ports)
}

/// What the VMM has said before it could not be started.
fn drain(mut log: io::PipeReader) -> String {
    let mut text = Vec::new();
    let _ = log.by_ref().take(16 << 10).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}
