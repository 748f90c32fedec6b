//! What is said over a control socket, as types; `docs/control.md` is the description for people.
//!
//! ```text
//!   {"version":1,"command":"add-disk","arguments":{"id":"data","readonly":true}}      with the file as SCM_RIGHTS
//!   {"version":1,"ok":{"id":"data","pci":"0000:00:05.0"}}     or     {"version":1,"error":"..."}
//! ```

use crate::plain_text::plain;
use crate::virtio::net::MAX_PAIRS;
use crate::virtio::rate_limit::PerSecond;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version that is spoken. A field or a command that is added does not change it, one that changes its meaning does.
pub const VERSION: u64 = 1;

/// Longest line in bytes, its end included.
pub const MAX_LINE: usize = 16 << 10;

/// Longest id in bytes.
pub const MAX_ID: usize = 64;

/// Most descriptors of a line: a tap's.
pub const MAX_FILES: usize = MAX_PAIRS;

/// Names of all commands, as in a line.
const COMMANDS: &str =
    "state, stats, pause, resume, shutdown, memory, add-disk, add-pmem, add-share, add-net, remove";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// What the machine is and does.
    State,
    /// What it has done and uses.
    Stats,
    /// Stop all vCPUs and devices.
    Pause,
    /// Let them go on.
    Resume,
    /// End the machine at once, as if its power was cut.
    Shutdown,
    /// More memory for the guest, or less.
    Memory(Memory),
    /// A disk; with its file or block device.
    AddDisk(AddDisk),
    /// An image in guest memory; with its file.
    AddPmem(AddPmem),
    /// A directory; with it, opened with O_PATH.
    AddShare(AddShare),
    /// A network interface; with its tap, attached, once for each pair of queues.
    AddNet(AddNet),
    /// Take a device away.
    Remove(Remove),
}

/// Arguments of `memory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Bytes that the guest is to have in all; what it started with and whole blocks (2 MiB) count.
    pub size: u64,
}

/// Arguments of `add-disk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddDisk {
    /// Name of the device, and the disk's serial: at most 20 bytes.
    pub id: String,
    /// The guest cannot write it.
    #[serde(default)]
    pub readonly: bool,
    /// What it may be asked for, per second: `bytes`, and requests as `ops`.
    #[serde(default, skip_serializing_if = "PerSecond::is_unlimited")]
    pub limits: PerSecond,
}

/// Who sees writes to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Everybody who has the file.
    #[default]
    Shared,
    /// There are none.
    Ro,
    /// Only the guest; they end with it.
    Cow,
}

/// Arguments of `add-pmem`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddPmem {
    /// Name of the device.
    pub id: String,
    /// Who sees writes.
    #[serde(default)]
    pub access: Access,
}

/// Arguments of `add-share`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddShare {
    /// Name of the device, and the tag by which the guest mounts it: at most 36 bytes.
    pub id: String,
    /// The guest changes nothing.
    #[serde(default)]
    pub readonly: bool,
    /// Bytes of the DAX window, a multiple of 2 MiB; 0 for none.
    #[serde(default)]
    pub dax: u64,
}

/// Arguments of `add-net`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddNet {
    /// Name of the device.
    pub id: String,
    /// The guest's address, six bytes.
    pub mac: [u8; 6],
    /// Pairs of queues, 1 to 8, and so many descriptors of the tap.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub queues: usize,
    /// What may come to the guest, per second: `bytes`, and packets as `ops`.
    #[serde(default, skip_serializing_if = "PerSecond::is_unlimited")]
    pub rx: PerSecond,
    /// What may come from the guest.
    #[serde(default, skip_serializing_if = "PerSecond::is_unlimited")]
    pub tx: PerSecond,
}

fn one() -> usize {
    1
}

fn is_one(number: &usize) -> bool {
    *number == 1
}

/// Arguments of `remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Which one.
    pub id: String,
    /// Even if the guest's driver still uses it.
    #[serde(default)]
    pub force: bool,
}

/// A line that is no request.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// No JSON object.
    #[error("the line is no request: {0}; one looks like {{\"version\":1,\"command\":\"state\"}}")]
    Syntax(String),
    /// Another version.
    #[error("version {0} is not supported; this program speaks version {VERSION}")]
    Version(u64),
    /// No such command.
    #[error("unknown command {0:?}; there are {COMMANDS}")]
    Command(String),
    /// Arguments that the command does not have, or of a wrong type.
    #[error("arguments of {command}: {reason}")]
    Arguments {
        /// Which command.
        command: String,
        /// Why.
        reason: String,
    },
    /// An id that cannot be one.
    #[error("an id has 1 to {MAX_ID} bytes without spaces and control characters, not {0:?}")]
    Id(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    version: u64,
    command: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    arguments: Map<String, Value>,
}

impl Request {
    /// Reads a line, without its end.
    ///
    /// # Errors
    /// [`ProtocolError`], in words for who wrote it.
    pub fn parse(line: &[u8]) -> Result<Self, ProtocolError> {
        let syntax = |e: serde_json::Error| ProtocolError::Syntax(brief(&e));
        let value: Value = serde_json::from_slice(line).map_err(syntax)?;
        // First, because a newer request may have fields that we do not know.
        if let Some(version) = value["version"].as_u64().filter(|version| *version != VERSION) {
            return Err(ProtocolError::Version(version));
        }
        let Envelope { command, arguments, .. } = serde_json::from_value(value).map_err(syntax)?;
        let name = command.as_str();
        let request = match name {
            "state" => none(name, arguments, Request::State)?,
            "stats" => none(name, arguments, Request::Stats)?,
            "pause" => none(name, arguments, Request::Pause)?,
            "resume" => none(name, arguments, Request::Resume)?,
            "shutdown" => none(name, arguments, Request::Shutdown)?,
            "memory" => Request::Memory(typed(name, arguments)?),
            "add-disk" => Request::AddDisk(typed(name, arguments)?),
            "add-pmem" => Request::AddPmem(typed(name, arguments)?),
            "add-share" => Request::AddShare(typed(name, arguments)?),
            "add-net" => Request::AddNet(typed(name, arguments)?),
            "remove" => Request::Remove(typed(name, arguments)?),
            _ => return Err(ProtocolError::Command(short(name))),
        };
        if let Request::AddNet(AddNet { queues, .. }) = &request
            && !(1..=MAX_PAIRS).contains(queues)
        {
            return Err(wrong(name, format!("1 to {MAX_PAIRS} pairs of queues are possible, not {queues}")));
        }
        match request.id().filter(|id| !is_id(id)) {
            Some(id) => Err(ProtocolError::Id(short(id))),
            None => Ok(request),
        }
    }

    /// The line for it, with its end.
    pub fn to_line(&self) -> Vec<u8> {
        fn map(arguments: &impl Serialize) -> Map<String, Value> {
            match serde_json::to_value(arguments) {
                Ok(Value::Object(map)) => map,
                _ => Map::new(),
            }
        }
        let arguments = match self {
            Request::State | Request::Stats | Request::Pause | Request::Resume | Request::Shutdown => {
                Map::new()
            }
            Request::Memory(arguments) => map(arguments),
            Request::AddDisk(arguments) => map(arguments),
            Request::AddPmem(arguments) => map(arguments),
            Request::AddShare(arguments) => map(arguments),
            Request::AddNet(arguments) => map(arguments),
            Request::Remove(arguments) => map(arguments),
        };
        line(&Envelope { version: VERSION, command: self.name().to_string(), arguments })
    }

    /// The command's name.
    pub fn name(&self) -> &'static str {
        match self {
            Request::State => "state",
            Request::Stats => "stats",
            Request::Pause => "pause",
            Request::Resume => "resume",
            Request::Shutdown => "shutdown",
            Request::Memory(_) => "memory",
            Request::AddDisk(_) => "add-disk",
            Request::AddPmem(_) => "add-pmem",
            Request::AddShare(_) => "add-share",
            Request::AddNet(_) => "add-net",
            Request::Remove(_) => "remove",
        }
    }

    /// How many descriptors belong to it.
    pub fn files(&self) -> usize {
        match self {
            Request::AddDisk(_) | Request::AddPmem(_) | Request::AddShare(_) => 1,
            Request::AddNet(net) => net.queues,
            _ => 0,
        }
    }

    /// The device that it is about.
    pub fn id(&self) -> Option<&str> {
        match self {
            Request::State
            | Request::Stats
            | Request::Pause
            | Request::Resume
            | Request::Shutdown
            | Request::Memory(_) => None,
            Request::AddDisk(AddDisk { id, .. })
            | Request::AddPmem(AddPmem { id, .. })
            | Request::AddShare(AddShare { id, .. })
            | Request::AddNet(AddNet { id, .. })
            | Request::Remove(Remove { id, .. }) => Some(id),
        }
    }
}

fn is_id(id: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    !id.is_empty() && id.len() <= MAX_ID && id.chars().all(plain)
}

/// So that an answer stays short whatever was sent.
fn short(text: &str) -> String {
    text.chars().take(MAX_ID).collect()
}

/// The reason may repeat what was sent.
fn brief(error: &serde_json::Error) -> String {
    plain(error, 200)
}

fn none(command: &str, arguments: Map<String, Value>, request: Request) -> Result<Request, ProtocolError> {
    match arguments.keys().next() {
        None => Ok(request),
        Some(key) => Err(wrong(command, format!("it has none, and got {:?}", short(key)))),
    }
}

fn typed<T: DeserializeOwned>(command: &str, arguments: Map<String, Value>) -> Result<T, ProtocolError> {
    serde_json::from_value(Value::Object(arguments)).map_err(|e| wrong(command, brief(&e)))
}

fn wrong(command: &str, reason: String) -> ProtocolError {
    ProtocolError::Arguments { command: command.to_string(), reason }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done; with what was asked for.
    Ok(Value),
    /// It was not done: why.
    Error(String),
}

impl Outcome {
    /// Done, with `answer`.
    pub fn ok(answer: &impl Serialize) -> Self {
        match serde_json::to_value(answer) {
            Ok(value) => Outcome::Ok(value),
            Err(error) => Outcome::Error(format!("writing the answer: {error}")),
        }
    }

    /// Done, and there is nothing to say.
    pub fn done() -> Self {
        Outcome::Ok(Value::Object(Map::new()))
    }

    /// The line for it, with its end.
    pub fn to_line(&self) -> Vec<u8> {
        line(&Reply { version: VERSION, outcome: self.clone() })
    }

    /// Reads a line, without its end.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let reply: Reply =
            serde_json::from_slice(line).map_err(|e| format!("the answer makes no sense: {e}"))?;
        match reply.version {
            VERSION => Ok(reply.outcome),
            other => Err(format!("the machine answers in version {other}, this program speaks {VERSION}")),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Reply {
    version: u64,
    #[serde(flatten)]
    outcome: Outcome,
}

/// JSON has no line ends inside: those of strings are escaped.
fn line(value: &impl Serialize) -> Vec<u8> {
    // The types here have string keys only, so it does not fail.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
