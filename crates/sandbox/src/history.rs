//! What happened to the last containers: their timelines and failures, kept after they are gone.
//!
//! ```text
//!   ROOT/.history/<id>.json   at most MAX_RECORDS, the oldest removed first
//! ```

use crate::state::write_atomically;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How many records are kept.
const MAX_RECORDS: usize = 32;

/// What is kept of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Container id.
    pub id: String,
    /// How it came up, in order.
    pub timeline: Vec<Stamp>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// A moment of a container's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// What happened.
    pub name: String,
    /// Microseconds since the command began.
    pub at_us: u64,
}

/// Why a container failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done.
    pub phase: String,
    /// What went wrong, one line.
    pub message: String,
    /// End of the guest's console.
    pub console: String,
    /// End of the VMM's own messages.
    pub vmm_log: String,
}

fn directory(root: &Path) -> PathBuf {
    root.join(".history")
}

/// Keeps a record, replacing an older one of the same id.
///
/// # Errors
/// When it cannot be written.
pub fn save(root: &Path, record: &Record) -> io::Result<()> {
    let directory = directory(root);
    fs::create_dir_all(&directory)?;
    write_atomically(&directory.join(format!("{}.json", record.id)), &serde_json::to_vec(record)?)?;
    let mut files = by_age(&directory);
    while files.len() > MAX_RECORDS {
        let (_, oldest) = files.remove(0);
        let _ = fs::remove_file(oldest);
    }
    Ok(())
}

/// The record of container `id`, or the newest one that `wanted` accepts.
pub fn find(root: &Path, id: Option<&str>, wanted: impl Fn(&Record) -> bool) -> Option<Record> {
    let read = |path: &Path| serde_json::from_slice::<Record>(&fs::read(path).ok()?).ok();
    match id {
        Some(id) => read(&directory(root).join(format!("{id}.json"))).filter(wanted),
        None => by_age(&directory(root)).iter().rev().find_map(|(_, path)| read(path).filter(&wanted)),
    }
}

/// Records, the oldest first.
fn by_age(directory: &Path) -> Vec<(SystemTime, PathBuf)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_found() {
        let root = tempfile::tempdir().unwrap();
        for i in 0..MAX_RECORDS + 5 {
            let failure = (i % 2 == 0).then(Failure::default);
            save(root.path(), &Record { id: format!("c{i:03}"), timeline: vec![], failure }).unwrap();
        }
        assert_eq!(fs::read_dir(directory(root.path())).unwrap().count(), MAX_RECORDS);
        assert_eq!(find(root.path(), None, |_| true).unwrap().id, "c036");
        assert_eq!(find(root.path(), None, |r| r.failure.is_none()).unwrap().id, "c035");
        assert_eq!(find(root.path(), Some("c035"), |r| r.failure.is_some()), None);
        assert_eq!(find(root.path(), Some("c000"), |_| true), None, "the oldest was removed");
    }
}
