//! The folders of uploaded files on a host, and which of these files are kept.
//!
//! A file is kept while a node runs from it ([`crate::node::server::outside`] locks it), and for an hour
//! after each use, because a lab may be starting. Of the rest, the eight that were used last are kept for 30
//! days.

use crate::bounded;
use libc::{O_NOFOLLOW, O_NONBLOCK};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, Metadata, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
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
    let mut uploads: Vec<(SystemTime, PathBuf, Metadata)> = entries
        .flatten()
        .filter(|entry| is_upload(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .filter(|(_, found)| found.is_file())
        .filter_map(|(path, found)| Some((found.modified().ok()?, path, found)))
        .collect();
    uploads.sort_by_key(|(used, ..)| *used);
    for (rank, (used, path, found)) in uploads.iter().rev().enumerate() {
        let age = used.elapsed().unwrap_or_default();
        let kept = age < STARTING || (rank < KEPT && age < KEEP);
        if !kept && !is_in_use(path, found, age) {
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

/// Returns whether a node runs from the file that was found at this path. If it cannot be locked, its age
/// decides. Whoever may write to the folder may have put something else there since.
fn is_in_use(path: &Path, found: &Metadata, age: Duration) -> bool {
    let open = |write| {
        let mut options = File::options();
        options.read(true).write(write).custom_flags(O_NOFOLLOW | O_NONBLOCK);
        let file = bounded::regular(options.open(path)?)?;
        let opened = file.metadata()?;
        let is_same = (opened.dev(), opened.ino()) == (found.dev(), found.ino());
        if is_same { Ok(file) } else { Err(io::Error::other("it is another file")) }
    };
    // NFS locks only files that are open for writing, and a running program cannot be opened for writing.
    match open(true).or_else(|_| open(false)).map(|file| file.try_lock()) {
        Ok(Ok(())) => false,
        Ok(Err(TryLockError::WouldBlock)) => true,
        _ => age < KEEP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{sys::stat::Mode, unistd::mkfifo};
    use std::os::unix::fs::symlink;

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

    #[test]
    fn only_the_file_that_was_found_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (put(dir.path(), "found", 2), put(dir.path(), "other", 2));
        let found = fs::metadata(&path).unwrap();
        let is_in_use = || is_in_use(&path, &found, STARTING);
        assert!(!is_in_use());

        // Its inode must not be given to another file.
        fs::rename(&path, dir.path().join("moved")).unwrap();
        symlink(&other, &path).unwrap();
        assert!(is_in_use(), "a link was followed");
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::S_IRUSR).unwrap();
        assert!(is_in_use(), "a pipe was locked");
        fs::rename(&other, &path).unwrap();
        assert!(is_in_use(), "another file was locked");
    }
}
