//! What the keeper reads from commands on its socket, and commands from the keeper.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox::keeper::protocol::{MAX_FRAME, Reply, Request};

fuzz_target!(|bytes: &[u8]| {
    fuzz::check_frames::<Request>(bytes, MAX_FRAME);
    fuzz::check_frames::<Reply>(bytes, MAX_FRAME);
});
