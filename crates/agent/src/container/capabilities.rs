//! The five capability sets of a process: what each has to be at which moment.
//!
//! ```text
//!   root of the namespace, all capabilities
//!     1 drop from the bounding set           needs CAP_SETPCAP
//!     2 keep capabilities over the next step
//!     3 groups, gid, uid                     needs CAP_SETGID, CAP_SETUID
//!     4 permitted, effective, inheritable    [held]: those of the program, and what seccomp(2) still needs
//!     5 ambient                              only what is permitted and inheritable
//!     6 seccomp, then [last]: those of the program alone
//! ```

use crate::error::{Doing, Result};
use crate::sys;
use guest_protocol::message::{Capabilities, Process};

/// CAP_SYS_ADMIN of `include/uapi/linux/capability.h`: seccomp(2) needs it without no_new_privs.
const SYS_ADMIN: u64 = 1 << 21;

const PR_CAP_AMBIENT_RAISE: u64 = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;

/// What capset(2) gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sets {
    effective: u64,
    permitted: u64,
    inheritable: u64,
}

/// The sets of a process in the order in which they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    bounding: u64,
    held: Sets,
    ambient: u64,
    last: Sets,
}

/// Plans the sets of `process` for a kernel that knows the capabilities in `known`.
pub fn plan(process: &Process, known: u64) -> Plan {
    let all = Capabilities { bounding: known, effective: known, permitted: known, ..Capabilities::default() };
    let none = Capabilities { bounding: known, ..Capabilities::default() };
    let wanted = process.capabilities.unwrap_or(if process.uid == 0 { all } else { none });
    let last = Sets {
        // capset(2) refuses effective capabilities that are not permitted.
        effective: wanted.effective & wanted.permitted & known,
        permitted: wanted.permitted & known,
        inheritable: wanted.inheritable & known,
    };
    let extra = if process.seccomp.is_some() && !process.no_new_privileges { SYS_ADMIN } else { 0 };
    Plan {
        bounding: wanted.bounding & known,
        held: Sets { effective: last.effective | extra, permitted: last.permitted | extra, ..last },
        ambient: wanted.ambient & last.permitted & last.inheritable,
        last,
    }
}

/// The capabilities that this kernel knows: asked of the kernel, not of a /proc that may be the container's.
pub fn known() -> u64 {
    let exists = |n: &u64| sys::prctl(libc::PR_CAPBSET_READ, [*n, 0, 0, 0]).is_ok();
    (0..64u64).take_while(exists).fold(0, |set, n| set | 1 << n)
}

fn apply(sets: Sets) -> Result<()> {
    sys::set_capabilities(sets.effective, sets.permitted, sets.inheritable)
        .doing(|| "set capabilities".into())
}

impl Plan {
    /// Step 1 and 2.
    ///
    /// # Errors
    /// When one cannot be dropped.
    pub fn drop_bounding(&self, known: u64) -> Result<()> {
        for capability in (0..64u64).filter(|n| known & !self.bounding & (1 << n) != 0) {
            sys::prctl(libc::PR_CAPBSET_DROP, [capability, 0, 0, 0])
                .doing(|| format!("drop capability {capability} from the bounding set"))?;
        }
        sys::prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]).doing(|| "keep capabilities".into()).map(drop)
    }

    /// Step 4 and 5, after the user has changed.
    ///
    /// # Errors
    /// When the kernel refuses a set.
    pub fn apply_held(&self) -> Result<()> {
        sys::prctl(libc::PR_SET_KEEPCAPS, [0; 4]).doing(|| "keep capabilities no longer".into())?;
        apply(self.held)?;
        let what = || "set ambient capabilities".to_owned();
        sys::prctl(libc::PR_CAP_AMBIENT, [PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0]).doing(what)?;
        for capability in (0..64u64).filter(|n| self.ambient & (1 << n) != 0) {
            sys::prctl(libc::PR_CAP_AMBIENT, [PR_CAP_AMBIENT_RAISE, capability, 0, 0]).doing(what)?;
        }
        Ok(())
    }

    /// The last step, after the system call filter is in place.
    ///
    /// # Errors
    /// When the filter forbids it.
    pub fn apply_last(&self) -> Result<()> {
        if self.held == self.last { Ok(()) } else { apply(self.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_protocol::message::Seccomp;

    const KNOWN: u64 = (1 << 41) - 1;

    #[test]
    fn the_kernel_says_what_it_knows() {
        // CAP_CHECKPOINT_RESTORE, the last of Linux 5.9, and nothing beyond what the structure holds.
        assert_eq!(known() & KNOWN, KNOWN);
        assert_eq!(known() & (known() + 1), 0);
    }

    #[test]
    fn without_sets_root_keeps_all_and_others_nothing() {
        let root = plan(&Process::default(), KNOWN);
        assert_eq!(root.last, Sets { effective: KNOWN, permitted: KNOWN, inheritable: 0 });
        let user = plan(&Process { uid: 1, ..Process::default() }, KNOWN);
        assert_eq!(user.last, Sets { effective: 0, permitted: 0, inheritable: 0 });
        assert_eq!((root.bounding, user.bounding), (KNOWN, KNOWN));
    }

    #[test]
    fn sets_are_cut_to_what_the_kernel_accepts() {
        let sets = Capabilities {
            bounding: u64::MAX,
            effective: 0b111,
            permitted: 0b011,
            inheritable: 0b110,
            ambient: 0b111,
        };
        let plan = plan(&Process { capabilities: Some(sets), ..Process::default() }, KNOWN);
        assert_eq!(plan.last, Sets { effective: 0b011, permitted: 0b011, inheritable: 0b110 });
        assert_eq!((plan.ambient, plan.bounding), (0b010, KNOWN));
        assert_eq!(plan.held, plan.last);
    }

    #[test]
    fn a_filter_without_no_new_privs_needs_sys_admin_for_a_while() {
        let seccomp = Some(Seccomp { flags: 0, program: vec![] });
        let mut process =
            Process { uid: 1, seccomp, capabilities: Some(Capabilities::default()), ..Process::default() };
        assert_eq!(plan(&process, KNOWN).held.effective, SYS_ADMIN);
        assert_eq!(plan(&process, KNOWN).last.permitted, 0);
        process.no_new_privileges = true;
        assert_eq!(plan(&process, KNOWN).held.effective, 0);
    }
}
