//! The user's cache directory. Its entries are always complete, even if a writer is killed.
//!
//! An entry is written under `scratch/`, synced, and renamed to its name, so a reader that finds an entry
//! finds all of it and needs no lock. Writers hold the cache's lock, which the kernel releases if the holder
//! dies. The holder may therefore delete everything under `scratch/`, and does so before it writes.
//!
//! The content of an entry is never changed. The whole directory may be deleted whenever no `testbed` is
//! running.
//!
//! Guests boot from the cache, so it is used only if no one but its user and root can have written to it, or
//! can exchange it.

use super::{Error, private};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tempfile::{NamedTempFile, TempDir};

/// How long [`CacheWriter::prune`] keeps an entry after its last use: 30 days.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// A directory of complete entries.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Returns the user's cache: `$XDG_CACHE_HOME/testbed`, else `~/.cache/testbed`.
    ///
    /// # Errors
    /// If neither `XDG_CACHE_HOME` nor `HOME` is set to an absolute path, or if others may have written to
    /// the cache or can exchange it.
    pub fn user() -> Result<Self, Error> {
        let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        let root = private::check(&base.ok_or(Error::NoCacheHome)?.join("testbed"))?;
        Ok(Self { root })
    }

    /// Returns the cache in this directory, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the cache's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path that an entry has or would have.
    pub fn path(&self, entry: impl AsRef<Path>) -> PathBuf {
        self.root.join(entry)
    }

    /// Finds an entry and marks it as used. Returns its path, or `None` if the entry does not exist.
    pub fn find(&self, entry: impl AsRef<Path>) -> Option<PathBuf> {
        let path = self.path(entry);
        let metadata = fs::metadata(&path).ok()?;
        let a_day = Duration::from_secs(24 * 3600);
        if metadata.modified().ok()?.elapsed().is_ok_and(|age| age > a_day) {
            // A failure is harmless: only pruning uses the time, and an unwritable cache is not pruned.
            let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        }
        Some(path)
    }

    /// Waits for the cache's lock. Returns a writer that holds the lock until it is dropped.
    ///
    /// # Errors
    /// If the directory or the lock file cannot be created.
    pub fn lock(&self) -> Result<CacheWriter<'_>, Error> {
        let writer = CacheWriter { cache: self, _lock: self.acquire("lock", || {})? };
        writer.clear_scratch()?;
        Ok(writer)
    }

    /// Waits for the lock of this name; calls `on_wait` first if another process holds it. Returns a guard
    /// that holds the lock until it is dropped or the process ends.
    ///
    /// # Errors
    /// If the directory or the lock file cannot be created.
    pub fn acquire(&self, name: &str, on_wait: impl FnOnce()) -> Result<LockGuard, Error> {
        fs::create_dir_all(&self.root).map_err(Error::io("create the cache directory", self.root()))?;
        let path = self.path(name);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io("open the lock file", path.as_path()))?;
        if file.try_lock().is_err() {
            on_wait();
            file.lock().map_err(Error::io("lock", path.as_path()))?;
        }
        Ok(LockGuard { _file: file })
    }
}

/// A held lock. The kernel releases it when the file is closed.
#[derive(Debug)]
pub struct LockGuard {
    _file: File,
}

/// The writer of a [`Cache`]. There is at most one at a time, because it holds the cache's lock.
#[derive(Debug)]
pub struct CacheWriter<'a> {
    cache: &'a Cache,
    _lock: LockGuard,
}

impl CacheWriter<'_> {
    /// Returns the cache that this writes to.
    pub fn cache(&self) -> &Cache {
        self.cache
    }

    /// Removes the incomplete entries of writers that were killed.
    fn clear_scratch(&self) -> Result<(), Error> {
        let scratch = self.scratch();
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("clear", scratch.as_path())(error));
            }
            _ => {}
        }
        fs::create_dir(&scratch).map_err(Error::io("create", scratch.as_path()))
    }

    fn scratch(&self) -> PathBuf {
        self.cache.path("scratch")
    }

    /// Writes a file as an entry, replacing an entry of the same name. Returns its path.
    ///
    /// # Errors
    /// If it cannot be written; the previous entry, if any, is unchanged.
    pub fn store_file(&self, entry: impl AsRef<Path>, content: &[u8]) -> Result<PathBuf, Error> {
        let path = self.entry_path(entry)?;
        let write = || {
            let mut file = NamedTempFile::new_in(self.scratch())?;
            file.write_all(content)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            sync_directory_of(&path)
        };
        write().map_err(Error::io("write", path.as_path()))?;
        Ok(path)
    }

    /// Creates a directory in which to prepare an entry. It is removed when the returned value is dropped.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn scratch_directory(&self) -> Result<TempDir, Error> {
        TempDir::new_in(self.scratch()).map_err(Error::io("create a directory in", self.scratch().as_path()))
    }

    /// Moves a prepared directory of plain files into place as an entry. Returns its path. An existing entry
    /// of the same name is kept: names are derived from contents, so both hold the same.
    ///
    /// # Errors
    /// If the directory cannot be synced or renamed; then the entry does not exist.
    pub fn store_directory(&self, entry: impl AsRef<Path>, prepared: TempDir) -> Result<PathBuf, Error> {
        let path = self.entry_path(entry)?;
        if path.exists() {
            return Ok(path);
        }
        let publish = || {
            sync_tree(prepared.path())?;
            fs::rename(prepared.path(), &path)?;
            sync_directory_of(&path)
        };
        publish().map_err(Error::io("write", path.as_path()))?;
        // The directory has been renamed, so `TempDir` has nothing left to delete.
        let _ = prepared.keep();
        Ok(path)
    }

    /// Atomically makes an entry a symbolic link to another entry.
    ///
    /// # Errors
    /// If the link cannot be created.
    pub fn link(&self, entry: impl AsRef<Path>, target: &Path) -> Result<(), Error> {
        let path = self.entry_path(entry)?;
        let link = || {
            let new = self.scratch().join("link");
            std::os::unix::fs::symlink(target, &new)?;
            fs::rename(&new, &path)?;
            sync_directory_of(&path)
        };
        link().map_err(Error::io("write the link", path.as_path()))
    }

    /// Deletes the files of a directory that have not been used for 30 days.
    pub fn prune(&self, directory: impl AsRef<Path>) {
        let Ok(entries) = fs::read_dir(self.cache.path(directory)) else { return };
        for entry in entries.flatten() {
            let old = entry.metadata().and_then(|metadata| metadata.modified());
            if old.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > KEEP)) {
                // A file that cannot be deleted only wastes space.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Creates the parent directory of an entry. Returns the path of the entry.
    fn entry_path(&self, entry: impl AsRef<Path>) -> Result<PathBuf, Error> {
        let path = self.cache.path(entry);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        Ok(path)
    }
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_removes_what_a_killed_writer_left_in_scratch() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        fs::create_dir_all(cache.path("scratch/unpacked/deep")).unwrap();
        fs::write(cache.path("scratch/half"), "half").unwrap();
        let writer = cache.lock().unwrap();
        assert_eq!(fs::read_dir(cache.path("scratch")).unwrap().count(), 0);
        writer.store_file("kind/name", b"whole").unwrap();
        assert_eq!(fs::read(cache.path("kind/name")).unwrap(), b"whole");
        assert_eq!(fs::read_dir(cache.path("scratch")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_replaced_and_not_overwritten_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let writer = cache.lock().unwrap();
        let path = writer.store_file("name", b"the first").unwrap();
        let mut opened_before = File::open(&path).unwrap();
        writer.store_file("name", b"2nd").unwrap();
        let mut seen = String::new();
        io::Read::read_to_string(&mut opened_before, &mut seen).unwrap();
        assert_eq!(seen, "the first");
        assert_eq!(fs::read(&path).unwrap(), b"2nd");
    }

    #[test]
    fn a_directory_is_stored_whole_and_a_link_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let writer = cache.lock().unwrap();
        for name in ["a", "b"] {
            let prepared = writer.scratch_directory().unwrap();
            fs::create_dir(prepared.path().join("sub")).unwrap();
            fs::write(prepared.path().join("sub/file"), name).unwrap();
            writer.store_directory(format!("trees/{name}"), prepared).unwrap();
            writer.link("trees/current", Path::new(name)).unwrap();
            assert_eq!(fs::read_to_string(cache.path("trees/current/sub/file")).unwrap(), name);
        }
        assert_eq!(fs::read_dir(cache.path("scratch")).unwrap().count(), 0);
    }

    #[test]
    fn pruning_keeps_files_that_are_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let writer = cache.lock().unwrap();
        let old = SystemTime::now() - KEEP - Duration::from_secs(60);
        for name in ["unused", "used"] {
            let path = writer.store_file(format!("images/{name}"), b"").unwrap();
            File::open(path).unwrap().set_modified(old).unwrap();
        }
        cache.find("images/used").unwrap();
        writer.prune("images");
        assert!(cache.find("images/used").is_some());
        assert!(cache.find("images/unused").is_none());
    }
}
