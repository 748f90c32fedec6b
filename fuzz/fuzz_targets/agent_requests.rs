//! What the agent reads from its host. The agent trusts the host, but PID 1 of a machine must not panic.
#![no_main]

use guest_protocol::frame::MAX_TO_GUEST;
use guest_protocol::message::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzz::check_frames::<Request>(bytes, MAX_TO_GUEST));
