//! The keeper's side of the agent channel: the multiplexer, the control stream on it, and the requests that wait for
//! an answer. No byte of the guest is trusted: every error here ends the machine.

use guest_protocol::frame::{self, Decoder, FrameError};
use guest_protocol::message::{AgentError, Event, FromAgent, Hello, Reply, Request, RequestBody};
use guest_protocol::mux::{self, Mux, MuxError, Side, StreamId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the agent may take for a request, unless the request says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Requests that may wait at a time; more are refused, so that a guest that never answers fills no memory.
const MAX_WAITING: usize = 2048;

/// The guest broke the protocol. Its machine must be ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentFault {
    /// On the multiplexer.
    #[error("the guest broke the channel's rules: {0}")]
    Mux(#[from] MuxError),
    /// On the control stream.
    #[error("the guest broke the control stream's rules: {0}")]
    Frame(#[from] FrameError),
    /// Another version.
    #[error("the guest's agent speaks protocol version {0}, not {version}: rebuild the mini-OS with `clear-mini-os build`", version = guest_protocol::VERSION)]
    Version(u32),
    /// A message at a wrong time.
    #[error("the guest's agent sent {0}")]
    Unexpected(&'static str),
}

/// Something for the keeper to act on.
#[derive(Debug)]
pub enum FromGuest<W> {
    /// The agent is ready.
    Hello(Hello),
    /// The answer to a request, with what was said when it was sent.
    Answer(W, Result<Reply, AgentError>),
    /// Something happened in the guest.
    Event(Event),
    /// A stream was opened to one of the keeper's ports.
    Opened(StreamId, u32),
    /// The agent has closed the control stream: it has shut down.
    ControlClosed,
}

/// The channel to the agent. `W` is what the keeper wants to find again with an answer.
#[derive(Debug)]
pub struct AgentClient<W> {
    /// The streams. Pumps use it directly.
    pub mux: Mux,
    control: Option<StreamId>,
    decoder: Decoder,
    greeted: bool,
    unsent: Vec<u8>,
    next_id: u32,
    waiting: BTreeMap<u32, (W, Instant)>,
}

impl<W> Default for AgentClient<W> {
    fn default() -> Self {
        AgentClient {
            mux: Mux::new(Side::Host),
            control: None,
            decoder: Decoder::new(frame::MAX_TO_HOST),
            greeted: false,
            unsent: Vec::new(),
            next_id: 1,
            waiting: BTreeMap::new(),
        }
    }
}

impl<W> AgentClient<W> {
    /// Sends a request and remembers `who` until it is answered. Gives `who` back when it cannot be sent.
    ///
    /// # Errors
    /// When the guest has too many unanswered requests, or the request is longer than a frame may be.
    pub fn request(&mut self, body: RequestBody, who: W, deadline: Duration) -> Result<(), (W, String)> {
        if self.waiting.len() >= MAX_WAITING {
            return Err((who, format!("the guest's agent leaves {MAX_WAITING} requests unanswered")));
        }
        let id = self.next_id;
        match frame::encode(&Request { id, body }, frame::MAX_TO_GUEST) {
            Ok(bytes) => {
                self.next_id += 1;
                self.unsent.extend_from_slice(&bytes);
                self.waiting.insert(id, (who, Instant::now() + deadline));
                self.flush();
                Ok(())
            }
            Err(e) => Err((who, e.to_string())),
        }
    }

    /// Puts unsent requests on the control stream as far as the guest gives credit.
    fn flush(&mut self) {
        if let Some(control) = self.control {
            let taken = self.mux.send(control, &self.unsent);
            self.unsent.drain(..taken);
            if self.unsent.is_empty() {
                self.unsent.shrink_to(4096);
            }
        }
    }

    /// Takes bytes of the channel; returns what follows from them.
    ///
    /// # Errors
    /// When the guest broke a rule.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<FromGuest<W>>, AgentFault> {
        self.mux.receive(bytes)?;
        let mut news = Vec::new();
        while let Some(event) = self.mux.next_event() {
            match event {
                mux::Event::Opened { port: guest_protocol::CONTROL_PORT, .. } if self.control.is_some() => {
                    return Err(AgentFault::Unexpected("a second control stream"));
                }
                mux::Event::Opened { stream, port: guest_protocol::CONTROL_PORT } => {
                    self.control = Some(stream)
                }
                mux::Event::Opened { stream, port } => news.push(FromGuest::Opened(stream, port)),
                mux::Event::Readable(stream) if Some(stream) == self.control => {
                    self.read_control(stream, &mut news)?
                }
                mux::Event::Finished(stream) | mux::Event::Reset(stream) if Some(stream) == self.control => {
                    news.push(FromGuest::ControlClosed);
                }
                _ => {}
            }
        }
        self.flush();
        Ok(news)
    }

    fn read_control(&mut self, stream: StreamId, news: &mut Vec<FromGuest<W>>) -> Result<(), AgentFault> {
        loop {
            let bytes = self.mux.pending(stream);
            if bytes.is_empty() {
                return Ok(());
            }
            let count = bytes.len();
            self.decoder.push(bytes);
            self.mux.consume(stream, count);
            while let Some(message) = self.decoder.next::<FromAgent>()? {
                news.extend(self.message(message)?);
            }
        }
    }

    fn message(&mut self, message: FromAgent) -> Result<Option<FromGuest<W>>, AgentFault> {
        match message {
            FromAgent::Hello(hello) if hello.version != guest_protocol::VERSION => {
                Err(AgentFault::Version(hello.version))
            }
            FromAgent::Hello(hello) => {
                if std::mem::replace(&mut self.greeted, true) {
                    return Err(AgentFault::Unexpected("a second hello"));
                }
                Ok(Some(FromGuest::Hello(hello)))
            }
            _ if !self.greeted => Err(AgentFault::Unexpected("a message before its hello")),
            // An answer to a request that was given up is no fault.
            FromAgent::Reply { id, result } => {
                Ok(self.waiting.remove(&id).map(|(who, _)| FromGuest::Answer(who, result.map_err(bounded))))
            }
            FromAgent::Event(event) => Ok(Some(FromGuest::Event(event))),
        }
    }

    /// Takes out the requests whose time is over.
    pub fn overdue(&mut self, now: Instant) -> Vec<W> {
        let late: Vec<u32> =
            self.waiting.iter().filter(|(_, (_, at))| *at <= now).map(|(id, _)| *id).collect();
        late.iter().filter_map(|id| self.waiting.remove(id)).map(|(who, _)| who).collect()
    }

    /// Takes out all requests: nobody will answer them.
    pub fn abandon(&mut self) -> Vec<W> {
        std::mem::take(&mut self.waiting).into_values().map(|(who, _)| who).collect()
    }

    /// When the first waiting request is overdue.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|(_, at)| *at).min()
    }
}

/// An error text of the guest as one printable line.
fn bounded(error: AgentError) -> AgentError {
    let message = error.message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(4096).collect();
    AgentError { kind: error.kind, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_protocol::message::ErrorKind;
    use proptest::prelude::*;

    fn hello(version: u32) -> FromAgent {
        FromAgent::Hello(Hello { version, agent: "t".into(), kernel: "6".into(), stamps: vec![] })
    }

    struct Guest {
        mux: Mux,
        control: StreamId,
    }

    fn guest() -> Guest {
        let mut mux = Mux::new(Side::Guest);
        let control = mux.open(guest_protocol::CONTROL_PORT);
        Guest { mux, control }
    }

    impl Guest {
        fn say(&mut self, message: &FromAgent) {
            self.mux.send(self.control, &frame::encode(message, frame::MAX_TO_HOST).unwrap());
        }

        fn deliver(
            &mut self,
            to: &mut AgentClient<&'static str>,
        ) -> Result<Vec<FromGuest<&'static str>>, AgentFault> {
            let bytes = self.mux.output().to_vec();
            self.mux.sent(bytes.len());
            to.receive(&bytes)
        }
    }

    #[test]
    fn answers_find_who_asked() {
        let (mut guest, mut client) = (guest(), AgentClient::default());
        client.request(RequestBody::Shutdown, "first", DEADLINE).unwrap();
        client.request(RequestBody::Shutdown, "second", DEADLINE).unwrap();
        guest.say(&hello(guest_protocol::VERSION));
        guest.say(&FromAgent::Reply { id: 2, result: Err(AgentError::new(ErrorKind::Failed, "a\nb")) });
        guest.say(&FromAgent::Reply { id: 77, result: Ok(Reply::Done) });
        let news = guest.deliver(&mut client).unwrap();
        assert!(matches!(news[0], FromGuest::Hello(_)));
        assert!(matches!(&news[1], FromGuest::Answer("second", Err(e)) if e.message == "a b"));
        assert_eq!(news.len(), 2);
        assert_eq!(client.overdue(Instant::now() + DEADLINE * 2), ["first"]);
    }

    #[test]
    fn a_wrong_version_and_a_message_before_hello_are_faults() {
        for (message, words) in [
            (hello(999), "version 999"),
            (FromAgent::Reply { id: 1, result: Ok(Reply::Done) }, "before its hello"),
        ] {
            let (mut guest, mut client) = (guest(), AgentClient::default());
            guest.say(&message);
            assert!(guest.deliver(&mut client).unwrap_err().to_string().contains(words));
        }
    }

    #[test]
    fn a_guest_that_never_answers_fills_no_memory() {
        let mut client = AgentClient::default();
        let refused = (0..MAX_WAITING + 1)
            .filter(|_| client.request(RequestBody::Shutdown, "x", DEADLINE).is_err())
            .count();
        assert_eq!(refused, 1);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_faults_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut guest = guest();
            let mut client = AgentClient::default();
            guest.mux.send(guest.control, &bytes);
            let _ = guest.deliver(&mut client);
            let _ = AgentClient::<()>::default().receive(&bytes);
        }
    }
}
