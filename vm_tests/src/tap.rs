//! A tap of this host, for a machine's network.

use crate::command::Command;
use crate::sandbox::Sandbox;
use std::sync::atomic::{AtomicU32, Ordering};

/// A tap with an address. It goes when this is dropped.
#[derive(Debug)]
pub struct Tap {
    name: String,
    number: u32,
}

impl Tap {
    /// Makes one, named by the test's tag; a test has one at most.
    ///
    /// # Panics
    /// When `ip` cannot.
    pub fn new(sandbox: &Sandbox) -> Self {
        Self::with(sandbox, &[])
    }

    /// One that may have several queues.
    ///
    /// # Panics
    /// When `ip` cannot.
    pub fn of_queues(sandbox: &Sandbox) -> Self {
        Self::with(sandbox, &["multi_queue"])
    }

    fn with(sandbox: &Sandbox, flags: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tap = Tap { name: sandbox.tag().to_string(), number };
        let ip = |words: &[&str]| Command::new("ip").args(words).ok();
        ip(&[&["tuntap", "add", "dev", &tap.name, "mode", "tap", "vnet_hdr"], flags].concat());
        ip(&["address", "add", &format!("{}/24", tap.host()), "dev", &tap.name]);
        ip(&["link", "set", &tap.name, "up"]);
        tap
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's address on it.
    pub fn host(&self) -> String {
        format!("10.254.{}.1", self.number)
    }

    /// Has a guest set up its end, `eth0`.
    pub fn join(&self) -> String {
        format!(
            "until_ 'test -e /sys/class/net/eth0'; ip address add 10.254.{}.2/24 dev eth0; ip link set eth0 up",
            self.number
        )
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.name]).run();
    }
}
