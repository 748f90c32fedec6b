//! Container engines as Debian has them, with `cor` as their runtime: what their users type, and what comes of it.
//!
//! `users/` has what users of Docker and of Podman type alike, run under both; then one file for what each engine has alone. The tests run
//! in an arena (`vm_tests/src/engine/arena.rs`); engines have the system's own paths in there. `CLEAR_TEST_RUNTIME=runc` runs the same tests
//! with another runtime, which shows that they expect what everybody does.

mod containerd;
mod docker;
mod guide;
mod podman;
mod users;

use libtest_mimic::{Arguments, Trial};
use vm_tests::engine::{CONTAINERD, DOCKER, Engine, PODMAN, arena};

/// A test under an engine.
type Test = fn(&Engine);

/// Names tests by their functions.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this file.
        pub const TESTS: &[(&str, crate::Test)] = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use tests;

/// Options of the harness whose value is the next word.
const WITH_VALUE: [&str; 5] = ["--color", "--format", "--logfile", "--skip", "--test-threads"];

/// The harness takes one name; as the standard one does, this takes several, and gives them back.
fn arguments() -> (Arguments, Vec<String>) {
    let (mut names, mut others, mut value) = (Vec::new(), Vec::new(), true);
    for word in std::env::args() {
        let is_name = !value && !word.starts_with('-');
        value = !value && WITH_VALUE.contains(&word.as_str());
        if is_name { &mut names } else { &mut others }.push(word);
    }
    (Arguments::from_iter(others), names)
}

fn main() {
    let (arguments, names) = arguments();
    let mut trials = Vec::new();
    let mut add = |engine: &'static Engine, tests: &[(&str, Test)]| {
        trials.extend(tests.iter().map(|&(name, test)| {
            Trial::test(format!("{}::{name}", engine.name()), move || {
                test(engine);
                Ok(())
            })
        }));
    };
    for engine in [&PODMAN, &DOCKER] {
        users::ALL.iter().for_each(|tests| add(engine, tests));
    }
    add(&PODMAN, guide::TESTS);
    add(&PODMAN, podman::TESTS);
    add(&DOCKER, docker::TESTS);
    add(&CONTAINERD, containerd::TESTS);
    let wanted = |trial: &Trial| names.is_empty() || names.iter().any(|name| trial.name().contains(name));
    trials.retain(wanted);
    if arguments.list {
        libtest_mimic::run(&arguments, trials).exit();
    }
    let arena = arena::enter();
    let conclusion = libtest_mimic::run(&arguments, trials);
    Engine::stop_all();
    let left = arena.left();
    left.iter().for_each(|line| eprintln!("left on the host: {line}"));
    arena::clear();
    if !left.is_empty() && !conclusion.has_failed() {
        std::process::exit(1);
    }
    conclusion.exit();
}
