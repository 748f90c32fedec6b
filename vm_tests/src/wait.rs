//! Waiting with a deadline. Nothing here measures time: a deadline only bounds how long a failed test lasts.

use std::time::{Duration, Instant};

/// How long anything may take that is expected to happen. A boot by emulation takes 1 to 4 s on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` gives something.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s for: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}
