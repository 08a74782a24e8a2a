//! The folders of uploaded files on a host, and which of these files are kept.
//!
//! A file is kept while a node runs from it ([`crate::node::server::outside`] locks it), and for an hour
//! after each use, because a lab may be starting. Of the rest, the eight that were used last are kept for 30
//! days.

use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How long each file is kept after its last use.
const STARTING: Duration = Duration::from_secs(3600);

/// The number of further files that are kept.
const KEPT: usize = 8;

/// How long these further files are kept after their last use.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// Removes old uploads from a folder, and leaves all other files alone. A file that cannot be removed only
/// wastes space.
pub fn prune(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut uploads: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| is_upload(&entry.file_name().to_string_lossy()))
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    uploads.sort();
    for (rank, (used, path)) in uploads.iter().rev().enumerate() {
        let age = used.elapsed().unwrap_or_default();
        let kept = age < STARTING || (rank < KEPT && age < KEEP);
        if !kept && !is_in_use(path, age) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Returns whether this is the name of an uploaded file, or of a file whose upload was cut short.
fn is_upload(name: &str) -> bool {
    let is_digest = name.len() == 2 * Sha256::output_size()
        && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_digest || name.starts_with(".new.")
}

/// Returns whether a node runs from this file. If the file cannot be locked, its age decides.
fn is_in_use(path: &Path, age: Duration) -> bool {
    // NFS locks only files that are open for writing, and a running program cannot be opened for writing.
    let opened = File::options().read(true).write(true).open(path).or_else(|_| File::open(path));
    match opened.map(|file| file.try_lock()) {
        Ok(Ok(())) => false,
        Ok(Err(TryLockError::WouldBlock)) => true,
        _ => age < KEEP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a file with this name into a folder, last used this many hours ago.
    fn put(folder: &Path, name: &str, hours: u64) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, name).unwrap();
        let used = SystemTime::now() - Duration::from_secs(hours * 3600 + 60);
        File::options().write(true).open(&path).unwrap().set_modified(used).unwrap();
        path
    }

    #[test]
    fn the_newest_and_those_in_use_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let digest = |number: u64| format!("{number:064x}");
        let of_last_month = put(dir.path(), &digest(1), 31 * 24);
        let running = put(dir.path(), &digest(2), 32 * 24);
        let cut_short = put(dir.path(), ".new.a1B2c3", 31 * 24);
        let foreign = put(dir.path(), "bzImage", 90 * 24);
        prune(dir.path());
        assert!(!of_last_month.exists() && !cut_short.exists() && foreign.exists());
        assert!(!running.exists(), "nothing runs from it yet");

        let running = put(dir.path(), &digest(2), 32 * 24);
        let node = File::open(&running).unwrap();
        node.lock_shared().unwrap();
        let builds: Vec<PathBuf> = (10..30).map(|hours| put(dir.path(), &digest(hours), hours)).collect();
        let starting: Vec<PathBuf> = (30..42).map(|number| put(dir.path(), &digest(number), 0)).collect();
        prune(dir.path());
        assert!(running.exists() && starting.iter().all(|path| path.exists()));
        assert!(builds.iter().all(|path| !path.exists()), "12 were used since");

        // A child process that another test is just starting may have the descriptor, and with it the lock.
        node.unlock().unwrap();
        for path in &starting {
            fs::remove_file(path).unwrap();
        }
        let builds: Vec<PathBuf> = (10..30).map(|hours| put(dir.path(), &digest(hours), hours)).collect();
        prune(dir.path());
        let left = builds.iter().filter(|path| path.exists()).count();
        assert_eq!((left, running.exists()), (KEPT, false));
        assert!(builds[..KEPT].iter().all(|path| path.exists()), "the newest");
    }
}
