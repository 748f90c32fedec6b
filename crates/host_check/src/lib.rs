//! Can this host run virtual machines for containers?
//!
//! ```text
//!   Root ──► survey ──► HostFacts ──► the plan (pure)          on the path of every `cor create`: no process is started
//!    │                     │
//!    └──────► check ◄──────┘ ──► Report { Finding, .. }        `cor check`: each requirement with the fix
//! ```
//!
//! Everything is read below a [`Root`], so that tests show it any host they like.

mod cgroups;
mod checks;
pub mod facts;
#[cfg(test)]
mod fake_host;
pub mod kvm_probe;
mod mounts;
mod probe_record;
mod qemu;
mod report;
mod root;
mod survey;
mod tsc;

pub use checks::{Context, check};
pub use facts::HostFacts;
pub use report::{Finding, Level, Report};
pub use root::Root;
pub use survey::{cgroups, survey};
