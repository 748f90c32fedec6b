//! What a test has left on the host. Everything of a test carries its tag: in its directory's name, in the environment of
//! its processes, and in its containers' ids.

use rustix::mount::{UnmountFlags, unmount};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How every tag begins.
pub const TAG: &str = "cct";

/// State of the host that no test may change.
#[derive(Debug)]
pub struct Leaks {
    tag: String,
    root: PathBuf,
    interfaces: BTreeSet<String>,
    named_namespaces: BTreeSet<String>,
}

impl Leaks {
    /// Remembers the host as it is. `root` is the runtime root of the test.
    pub fn watch(tag: &str, root: &Path) -> Self {
        Leaks {
            tag: tag.to_string(),
            root: root.to_path_buf(),
            interfaces: names("/sys/class/net"),
            named_namespaces: names("/run/netns"),
        }
    }

    /// Everything that is left, one line each, and removes it so that other tests are not disturbed.
    pub fn found(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (pid, line) in processes_with(&self.tag) {
            found.push(format!("process {pid}: {line}"));
            crate::terminal::send_signal(pid, libc::SIGKILL);
        }
        for place in self.mounts() {
            found.push(format!("mount {}", place.display()));
            let _ = unmount(&place, UnmountFlags::DETACH);
        }
        for group in self.cgroups() {
            found.push(format!("control group {}", group.display()));
            let _ = fs::remove_dir(&group);
        }
        found.extend(self.files());
        // Taps and namespaces of other tests, which run meanwhile, have their tags.
        let ours = |name: &&String| !name.starts_with(TAG) || **name == self.tag;
        let interfaces = names("/sys/class/net");
        found.extend(interfaces.difference(&self.interfaces).filter(ours).map(|i| format!("interface {i}")));
        let ours = |name: &&String| !name.starts_with(TAG) || name.starts_with(&self.tag);
        let namespaces = names("/run/netns");
        let new = namespaces.difference(&self.named_namespaces).filter(ours);
        found.extend(new.map(|n| format!("network namespace {n}")));
        found
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let places = table.lines().filter_map(|line| line.split(' ').nth(4));
        // Named network namespaces are mounts too, and looked for by their names.
        let ours = |place: &&str| place.contains(&self.tag) && !place.starts_with("/run/netns/");
        places.filter(ours).map(PathBuf::from).rev().collect()
    }

    /// Control groups whose path has our tag, the deepest first. Tests put it into the names of groups they choose.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in hierarchies() {
            walk(&hierarchy, 5, &mut |path| {
                if path.to_string_lossy().contains(&self.tag) {
                    found.push(path.to_path_buf());
                }
            });
        }
        found.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
        found
    }

    /// What is below the runtime root other than the history, which is kept on purpose.
    fn files(&self) -> Vec<String> {
        let left = names(&self.root.to_string_lossy());
        left.iter()
            .filter(|name| *name != ".history")
            .map(|name| format!("file {}", self.root.join(name).display()))
            .collect()
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut fields = Vec::new();
    for line in table.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(place), Some("cgroup" | "cgroup2")) = (words.next(), words.next()) {
            fields.push(PathBuf::from(place));
        }
    }
    fields
}

fn walk(directory: &Path, depth: usize, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path());
            if depth > 0 {
                walk(&entry.path(), depth - 1, visit);
            }
        }
    }
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Processes other than this one with `tag` on their command line or in their environment: pid and command line.
pub fn processes_with(tag: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for pid in names("/proc").iter().filter_map(|name| name.parse::<u32>().ok()) {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        // A zombie has neither; it is its parent's to reap.
        let known = line.contains(tag) || String::from_utf8_lossy(&read("environ")).contains(tag);
        if known && pid != std::process::id() {
            found.push((pid, line));
        }
    }
    found
}
