//! The network that `cor try` has by default. What is the host's network for it is a namespace of the test.

use crate::GUEST_HALF;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vm_tests::{Command, Network, OURS, PEER, Sandbox, processes_with, send_signal, until};

const PORT: u16 = 7000;

/// Datagrams and connections to one address and [`PORT`].
struct Ear {
    name: String,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Ear {
    /// Opened where the calling thread is.
    fn open(address: &str) -> Self {
        let here = (address, PORT);
        let (udp, tcp) = (UdpSocket::bind(here).unwrap(), TcpListener::bind(here).unwrap());
        udp.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        Ear { name: address.to_string(), udp, tcp }
    }

    /// Whether a datagram and a connection have come.
    fn heard(&self) -> (bool, bool) {
        let seen = |error: Option<ErrorKind>| match error {
            None => true,
            Some(ErrorKind::WouldBlock) => false,
            Some(other) => panic!("{}: {other}", self.name),
        };
        let udp = self.udp.peek_from(&mut [0; 9]).err().map(|e| e.kind());
        (seen(udp), seen(self.tcp.accept().err().map(|e| e.kind())))
    }
}

/// Serves until it is told to stop: says a word to who connects, and answers names.
fn serve(ears: &[Ear], names: &UdpSocket, stop: &AtomicBool) {
    names.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    while !stop.load(Ordering::Relaxed) {
        for ear in ears {
            if let Ok((mut stream, _)) = ear.tcp.accept() {
                let _ = stream.write_all(format!("tcp {}\n", ear.name).as_bytes());
            }
            let mut word = [0; 64];
            if let Ok((_, from)) = ear.udp.recv_from(&mut word) {
                let _ = ear.udp.send_to(format!("udp {}\n", ear.name).as_bytes(), from);
            }
        }
        let mut question = [0; 512];
        if let Ok((length, from)) = names.recv_from(&mut question) {
            let _ = names.send_to(&answer(&question[..length]), from);
        }
    }
}

/// Tells [`serve`] to stop when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// 192.0.2.99 to who asks for an IPv4 address, nothing to others (RFC 1035, section 4).
fn answer(question: &[u8]) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).unwrap_or(0) + 12;
    let end = name + 5;
    let is_a = question[name + 1..name + 3] == [0, 1];
    let mut text = [&question[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]].concat();
    text.extend(&question[12..end]);
    if is_a {
        text.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 99]);
    }
    text
}

/// `cor try` of a shell script, with another `resolv.conf` of the host.
fn try_with_names(
    sandbox: &Sandbox,
    network: &Network,
    flags: &[&str],
    resolv_conf: &str,
    script: &str,
) -> Command {
    let file = sandbox.path().join("resolv.conf");
    fs::write(&file, resolv_conf).unwrap();
    let with_file = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", file.display());
    let command = sandbox.cor(&[&["try"], flags, &["--", "bash", "-c", script]].concat());
    network.as_host(command).under(&["unshare", "--mount", "sh", "-c", &with_file, "sh"])
}

#[test]
fn connections_datagrams_and_names_go_out_with_nothing_configured() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox);
    let ears = network.open(true, || PEER.map(Ear::open));
    let own = network.open(false, || [Ear::open(OURS[0])]);
    let names = network.open(true, || UdpSocket::bind((PEER[0], 53)).unwrap());
    let ask = |address: &str| {
        // bash reads byte by byte, and a datagram is read once.
        let udp = format!(
            "exec 3<>/dev/udp/{address}/{PORT}; echo word >&3; timeout 30 dd bs=99 count=1 <&3 2>/dev/null;"
        );
        format!("exec 3<>/dev/tcp/{address}/{PORT}; read -t 30 line <&3; echo $line; {udp}")
    };
    let script =
        [ask(PEER[0]), ask(PEER[1]), ask(OURS[0]), "cat /etc/resolv.conf; getent ahostsv4 name.test".into()]
            .concat();
    let resolv_conf = format!("nameserver 127.0.0.53\nnameserver {}\nsearch test\n", PEER[0]);
    let stop = AtomicBool::new(false);
    let all: Vec<Ear> = ears.into_iter().chain(own).collect();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| serve(&all, &names, &stop));
        // Also when it does not end in time, or this would wait for the server.
        let _stop = Stop(&stop);
        try_with_names(&sandbox, &network, &[], &resolv_conf, &script).patience(150).run().expect(0)
    });
    let lines = output.lines();
    let mut wanted: Vec<String> = Vec::new();
    for address in [PEER[0], PEER[1], OURS[0]] {
        wanted.extend([format!("tcp {address}"), format!("udp {address}")]);
    }
    wanted.extend([format!("nameserver {}", PEER[0]), "search test".into()]);
    assert_eq!(lines[..wanted.len()], wanted, "{output}");
    assert!(
        lines[wanted.len()].starts_with("192.0.2.99 ") && output.text().contains("name.test"),
        "{output}"
    );
    sandbox.assert_nothing_left_but(&network.names());
}

#[test]
fn the_hosts_loopback_cannot_be_reached_whatever_the_guest_sends() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox);
    let far = network.open(true, || PEER.map(Ear::open));
    let loopback = network.open(false, || ["127.0.0.1", "127.1.2.3", "::1"].map(Ear::open));
    // The last two show that such frames arrive, and that all before them have been looked at.
    let targets = [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "10.0.2.2",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "fe80::2",
    ];
    let script = format!("/half frames eth0 {PORT} {} {} {}; cat", targets.join(" "), PEER[0], PEER[1]);
    let volume = format!("{GUEST_HALF}:/half:ro");
    let command = sandbox.cor(&["try", "-i", "--volume", &volume, "--", "sh", "-c", &script]);
    let (running, input) = network.as_host(command).start_with_pipe();
    for ear in &far {
        let (mut udp, mut tcp) = (false, false);
        until(&format!("frames for {}: {}", ear.name, running.output_so_far()), || {
            let (now_udp, now_tcp) = ear.heard();
            (udp, tcp) = (udp || now_udp, tcp || now_tcp);
            (udp && tcp).then_some(())
        });
    }
    drop(input);
    running.wait().expect(0);
    for ear in &loopback {
        assert_eq!(ear.heard(), (false, false), "{}", ear.name);
    }
    // Neither by its kernel, which is not hostile: the router is nobody.
    let ask = format!(
        "for a in 127.0.0.1 10.0.2.2; do timeout 5 bash -c \"exec 3<>/dev/tcp/$a/{PORT}\" && echo reached $a; done; true"
    );
    let output = network.as_host(sandbox.cor(&["try", "--", "sh", "-c", &ask])).run().expect(0);
    assert!(!output.text().contains("reached"), "{output}");
}

#[test]
fn without_a_network_there_is_loopback_alone() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox);
    let list = ["--", "ls", "/sys/class/net"];
    let output =
        network.as_host(sandbox.cor(&[&["try", "--network", "none"], &list[..]].concat())).run().expect(0);
    assert_eq!(output.lines(), ["lo"], "{output}");
    assert!(!output.errors().contains("network"), "{output}");
    // A host that is connected to nothing.
    let alone = Network::empty(&sandbox);
    let output = alone.as_host(sandbox.cor(&[&["try"], &list[..]].concat())).run().expect(0);
    assert_eq!(output.lines(), ["lo"], "{output}");
    assert!(output.errors().contains("no default route; connect it, or say --network none"), "{output}");
    let explicit = sandbox.cor(&[&["try", "--network", "user"], &list[..]].concat());
    alone.as_host(explicit).run().refused("no default route");
}

#[test]
fn without_pasta_there_is_a_warning_or_an_error_when_it_was_asked_for() {
    let sandbox = Sandbox::new();
    // QEMU alone is in the search path.
    let programs = sandbox.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let qemu = Command::new("sh").args(["-c", "command -v qemu-system-$(uname -m)"]).ok();
    let qemu = std::path::Path::new(qemu.trim());
    std::os::unix::fs::symlink(qemu, programs.join(qemu.file_name().unwrap())).unwrap();
    let run = |flags: &[&str]| {
        sandbox.cor(&[&["try"], flags, &["--", "ls", "/sys/class/net"]].concat()).env("PATH", &programs).run()
    };
    let output = run(&[]).expect(0);
    assert_eq!(output.lines(), ["lo"], "{output}");
    let about =
        output.errors().lines().filter(|line| line.contains("pasta")).map(String::from).collect::<Vec<_>>();
    assert!(matches!(&about[..], [line] if line.contains("apt-get install passt")), "{output}");
    run(&["--network", "user"]).refused("apt-get install passt");
    let output = run(&["--network", "none"]).expect(0);
    assert!(!output.errors().contains("pasta"), "{output}");
}

#[test]
fn a_name_server_on_the_hosts_loopback_is_said_to_be_out_of_reach() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox);
    let look = |flags: &[&str]| {
        try_with_names(&sandbox, &network, flags, "nameserver 127.0.0.1\n", "cat /etc/resolv.conf")
    };
    let output = look(&[]).run().expect(0);
    assert!(
        output.errors().contains("names cannot be looked up") && output.errors().contains("--dns ADDRESS"),
        "{output}"
    );
    let output = look(&["--dns", "192.0.2.9", "--dns", "2001:db8::9"]).run().expect(0);
    assert_eq!(output.lines(), ["nameserver 192.0.2.9", "nameserver 2001:db8::9"], "{output}");
}

/// Guard and pasta of a test's container, which the namespace's file on their command lines belongs to.
fn network_processes(sandbox: &Sandbox) -> Option<(u32, u32)> {
    let all = processes_with(sandbox.tag());
    let pid = |words: &str| all.iter().find(|(_, line)| line.contains(words)).map(|(pid, _)| *pid);
    Some((pid("user-network --namespace")?, pid("--config-net")?))
}

/// A container with `network.user`, which sleeps; with the pids of its keeper, guard and pasta.
fn sleeping(sandbox: &Sandbox, network: &Network) -> (String, [u32; 3]) {
    let (id, bundle) = (sandbox.id(), sandbox.bundle());
    let run = sandbox.cor(&["run", "--detach", "--bundle"]).arg(bundle.path()).arg(&id);
    network.as_host(run).run().expect(0);
    let state: serde_json::Value = serde_json::from_str(&sandbox.cor(&["state", &id]).ok()).unwrap();
    let (guard, pasta) = network_processes(sandbox).expect("guard and pasta");
    (id, [state["pid"].as_u64().unwrap() as u32, guard, pasta])
}

#[test]
fn whoever_is_killed_delete_leaves_nothing() {
    let sandbox = Sandbox::new();
    sandbox.configure_more("[network]\nuser = true\n");
    let network = Network::new(&sandbox);
    let interfaces = |id: &str| sandbox.cor(&["exec", id, "ls", "/sys/class/net"]).ok();
    for victim in 0..3 {
        let (id, pids) = sleeping(&sandbox, &network);
        assert_eq!(interfaces(&id).lines().collect::<Vec<_>>(), ["eth0", "lo"]);
        send_signal(pids[victim], libc::SIGKILL);
        if victim > 0 {
            until("the machine to lose its network", || (interfaces(&id).trim() == "lo").then_some(()));
            until("both to end", || network_processes(&sandbox).is_none().then_some(()));
        }
        sandbox.cor(&["delete", "--force", &id]).run().expect(0);
        sandbox.assert_nothing_left_but(&network.names());
    }
    // One that stands still does not stay behind either.
    let (id, [keeper, guard, pasta]) = sleeping(&sandbox, &network);
    send_signal(guard, libc::SIGSTOP);
    send_signal(pasta, libc::SIGSTOP);
    send_signal(keeper, libc::SIGKILL);
    sandbox.cor(&["delete", "--force", &id]).run().expect(0);
    sandbox.assert_nothing_left_but(&network.names());
}

#[test]
fn kill_9_of_the_keeper_while_pasta_starts_leaves_nothing() {
    let sandbox = Sandbox::new();
    sandbox.configure_more("[network]\nuser = true\n");
    let network = Network::new(&sandbox);
    let (id, bundle) = (sandbox.id(), sandbox.bundle());
    for words in ["cor-keeper", "user-network --namespace", "--config-net"] {
        let create = sandbox.cor(&["create", "--bundle"]).arg(bundle.path()).arg(&id);
        let running = network.as_host(create).start();
        let keeper = until(words, || {
            let all = processes_with(sandbox.tag());
            all.iter().find(|(_, line)| line.contains(words))?;
            all.iter().find(|(_, line)| line.starts_with("cor-keeper")).map(|(pid, _)| *pid)
        });
        send_signal(keeper, libc::SIGKILL);
        running.wait().refused("keeper");
        sandbox.cor(&["delete", "--force", &id]).run().expect(0);
        sandbox.assert_nothing_left_but(&network.names());
    }
}
