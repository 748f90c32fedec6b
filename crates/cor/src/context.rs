//! What every command has at hand, and the way from a bundle to a plan.

use crate::cli::Global;
use crate::log::Log;
use anyhow::Context as _;
use host_check::{HostFacts, Root};
use oci_spec::runtime::LinuxNamespace;
use sandbox::bundle::{self, Bundle};
use sandbox::configuration::Configuration;
use sandbox::plan::{self, Neighbour, PlanOptions, SandboxPlan};
use sandbox::state::{Container, StateDir};
use std::path::{Path, PathBuf};

/// Global flags, log, and when the command began.
#[derive(Debug)]
pub struct Context {
    pub global: Global,
    pub log: Log,
    pub start_us: u64,
}

impl Context {
    /// The configuration file with built-in defaults.
    pub fn configuration(&self) -> anyhow::Result<Configuration> {
        let configuration = Configuration::load(self.global.config.as_deref())?;
        self.log.configure(configuration.runtime.log_level);
        Ok(configuration)
    }

    /// The runtime root.
    pub fn root(&self) -> anyhow::Result<PathBuf> {
        let root = match &self.global.root {
            Some(root) => root.clone(),
            None => self.configuration()?.runtime.root,
        };
        std::path::absolute(&root).with_context(|| format!("runtime root {}", root.display()))
    }

    /// The directory of a container, whether it exists or not.
    pub fn dir(&self, id: &str) -> anyhow::Result<StateDir> {
        // An id that is bad is the user's first concern.
        sandbox::state::check_id(id)?;
        Ok(StateDir::new(&self.root()?, id)?)
    }

    /// A container that exists.
    pub fn container(&self, id: &str) -> anyhow::Result<Container> {
        Ok(self.dir(id)?.load()?)
    }

    /// Plans a container and makes sure that what it boots is intact.
    pub fn plan(&self, id: &str, bundle: &Path) -> anyhow::Result<SandboxPlan> {
        self.plan_bundle(id, &bundle::load(bundle)?, self.configuration()?)
    }

    /// Plans a container from a bundle that was loaded.
    pub fn plan_bundle(
        &self,
        id: &str,
        bundle: &Bundle,
        configuration: Configuration,
    ) -> anyhow::Result<SandboxPlan> {
        let dir = self.dir(id)?;
        let configuration = configuration.for_bundle(bundle)?;
        let facts = self.facts();
        let mini_os = sandbox::mini_os::load(&configuration, &sandbox::mini_os::store())?;
        let options = PlanOptions {
            systemd_cgroup: self.global.systemd_cgroup,
            require_kvm: self.global.require_kvm,
            stage: dir.stage(),
            neighbours: self.neighbours(bundle)?,
        };
        let inputs = plan::Inputs {
            id,
            bundle,
            configuration: &configuration,
            facts: &facts,
            mini_os: &mini_os,
            options: &options,
        };
        let plan = plan::plan(&inputs)?;
        sandbox::mini_os::verify(&mini_os, &plan.machine)?;
        for warning in &plan.warnings {
            self.log.warn(warning);
        }
        Ok(plan)
    }

    /// The containers that run here, for a bundle that names namespaces of other processes.
    fn neighbours(&self, bundle: &Bundle) -> anyhow::Result<Vec<Neighbour>> {
        let linux = bundle.spec.linux().as_ref();
        let list = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        let path = |namespace: &LinuxNamespace| {
            namespace.path().as_ref().is_some_and(|path| path.starts_with("/proc"))
        };
        if !list.iter().any(path) {
            return Ok(Vec::new());
        }
        let running = sandbox::state::list(&self.root()?).into_iter().filter(|one| one.pid() != 0);
        let neighbour = |one: Container| Neighbour {
            pid: one.file.pid,
            hostname: sandbox::lifecycle::read_plan(&one.dir)
                .ok()
                .and_then(|plan| plan.hostname().map(String::from)),
            sandbox: plan::sandbox_of(|name| one.file.annotations.get(name)).map(String::from),
            id: one.file.id,
        };
        Ok(running.map(neighbour).collect())
    }

    /// What the host can do.
    pub fn facts(&self) -> HostFacts {
        host_check::survey(&Root::host())
    }
}
