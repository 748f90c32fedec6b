//! Networks of the engines.

use crate::tests;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use vm_tests::engine::Engine;
use vm_tests::until;

tests![
    none_is_loopback_alone,
    the_host_is_reached,
    ports_are_published,
    containers_reach_each_other_by_name,
    big_packets_and_streams_pass,
    a_network_can_be_connected_later,
];

fn none_is_loopback_alone(engine: &Engine) {
    let output = engine
        .script(
            &["--network=none", "--cap-add=NET_RAW"],
            "ip -o link | cut -d: -f2; ping -c 1 127.0.0.1 >/dev/null && echo loops",
        )
        .expect(0);
    assert_eq!(output.text().split_whitespace().collect::<Vec<_>>(), ["lo", "loops"]);
}

fn the_host_is_reached(engine: &Engine) {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(b"from the host\n").expect("an answer");
    });
    let script = format!("nc $(ip route | awk '/default/ {{print $3}}') {port} </dev/null");
    let output = engine.script(&["--network=bridge"], &script).expect(0);
    assert_eq!(output.text(), "from the host");
    answers.join().expect("the answer");
}

fn ports_are_published(engine: &Engine) {
    let serve = "echo page > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
    let container = engine.start(&["--network=bridge", "-p", "127.0.0.1::80"], &["sh", "-c", serve]);
    let place = container.command(&["port"]).ok();
    let place = place.rsplit(' ').next().expect("an address").to_string();
    assert!(until("an answer", || get(&place)).ends_with("page\n"));
}

/// What a web server answers.
pub fn get(place: &str) -> Option<String> {
    let mut stream = TcpStream::connect(place).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains("200 OK").then_some(answer)
}

fn containers_reach_each_other_by_name(engine: &Engine) {
    let network = Network::new(engine, &[]);
    let option = format!("--network={}", network.name);
    let server = engine.start(&[&option], &["sh", "-c", "while :; do echo hello | nc -l -p 7000; done"]);
    let script = format!("until nc {} 7000 </dev/null; do sleep 0.2; done", server.name());
    assert_eq!(engine.script(&[&option], &script).expect(0).text(), "hello");
}

fn big_packets_and_streams_pass(engine: &Engine) {
    let network = Network::new(engine, &[]);
    let option = format!("--network={}", network.name);
    // An nc whose input is at its end says so to the other one, which leaves then.
    let receive = "tail -f /dev/null | nc -l -p 7001 | sha256sum";
    let server = engine.start(&[&option], &["sh", "-c", receive]);
    let address = server.sh("ip -4 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1");
    let script = format!(
        "ping -c 2 -s 6000 {address} >/dev/null && echo pong; sleep 1; dd if=/dev/zero bs=64k count=128 2>/dev/null | nc {address} 7001"
    );
    let output = engine.script(&[&option, "--cap-add=NET_RAW"], &script).expect(0);
    assert_eq!(output.text(), "pong");
    // sha256 of 8 MiB of zeros.
    server.expect_log("2daeb1f36095b44b318410b3f4e8b5d989dcc7bb023d1426c492dab0a3053e74");
}

fn a_network_can_be_connected_later(engine: &Engine) {
    let (first, second) = (Network::new(engine, &[]), Network::new(engine, &[]));
    let container = engine.start(&[&format!("--network={}", first.name)], &["sleep", "1000"]);
    assert_eq!(container.sh("ls /sys/class/net | grep -c eth"), "1");
    engine.command(&["network", "connect", &second.name, container.name()]).ok();
    until("the second interface", || (container.sh("ip -4 -o addr | grep -c eth") == "2").then_some(()));
    engine.command(&["network", "disconnect", &second.name, container.name()]).ok();
    until("the first alone", || (container.sh("ip -4 -o addr | grep -c eth") == "1").then_some(()));
}

/// A network of the engine, removed when this is dropped: behind its containers.
pub struct Network<'engine> {
    engine: &'engine Engine,
    /// Its name.
    pub name: String,
}

impl<'engine> Network<'engine> {
    /// Makes it.
    pub fn new(engine: &'engine Engine, options: &[&str]) -> Self {
        let name = engine.new_name();
        engine.command(&["network", "create"]).args(options).arg(&name).ok();
        Network { engine, name }
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        let output = self.engine.command(&["network", "rm", &self.name]).run();
        if !std::thread::panicking() {
            output.expect(0);
        }
    }
}
