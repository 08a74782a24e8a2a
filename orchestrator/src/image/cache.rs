//! The user's cache directory: what is in it is complete, whoever writes and however they end.
//!
//! An entry is written under `scratch/`, synced, and renamed to its name, so a reader that finds an entry
//! finds all of it and needs no lock. Writers hold the cache's lock, which the kernel releases when its
//! holder dies: whoever holds it may therefore delete everything under `scratch/`, and does, first thing.
//!
//! An entry is never changed. The directory as a whole can be deleted at any time when nothing runs.

use super::Error;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tempfile::{NamedTempFile, TempDir};

/// How long an entry of which there can be many is kept after its last use.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// A directory of finished entries.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's own: `$XDG_CACHE_HOME/testbed`, or `~/.cache/testbed`.
    ///
    /// # Errors
    /// When the environment names neither.
    pub fn user() -> Result<Self, Error> {
        let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        Ok(Self { root: base.ok_or(Error::NoCacheHome)?.join("testbed") })
    }

    /// One in this directory, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an entry is, or would be.
    pub fn path(&self, entry: impl AsRef<Path>) -> PathBuf {
        self.root.join(entry)
    }

    /// An entry that is there, marked as used today.
    pub fn find(&self, entry: impl AsRef<Path>) -> Option<PathBuf> {
        let path = self.path(entry);
        let metadata = fs::metadata(&path).ok()?;
        let a_day = Duration::from_secs(24 * 3600);
        if metadata.modified().ok()?.elapsed().is_ok_and(|age| age > a_day) {
            // Only pruning looks at the time, and a cache that cannot be written to is not pruned.
            let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        }
        Some(path)
    }

    /// The right to write, waited for, until the returned value is dropped.
    ///
    /// # Errors
    /// When the directory or its lock cannot be made.
    pub fn lock(&self) -> Result<Writer<'_>, Error> {
        let writer = Writer { cache: self, _lock: self.exclusive("lock", || {})? };
        writer.clear_scratch()?;
        Ok(writer)
    }

    /// A lock of this name, waited for and held until the returned value is dropped, or the process ends.
    /// `waiting` is called first if somebody else holds it.
    ///
    /// # Errors
    /// When the directory or the lock cannot be made.
    pub fn exclusive(&self, name: &str, waiting: impl FnOnce()) -> Result<Exclusive, Error> {
        fs::create_dir_all(&self.root).map_err(Error::io("create the cache directory", self.root()))?;
        let path = self.path(name);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io("open the lock file", path.as_path()))?;
        if file.try_lock().is_err() {
            waiting();
            file.lock().map_err(Error::io("lock", path.as_path()))?;
        }
        Ok(Exclusive { _file: file })
    }
}

/// A lock that is held.
#[derive(Debug)]
pub struct Exclusive {
    _file: File,
}

/// The one writer of a [`Cache`].
#[derive(Debug)]
pub struct Writer<'a> {
    cache: &'a Cache,
    _lock: Exclusive,
}

impl Writer<'_> {
    /// The cache this writes to.
    pub fn cache(&self) -> &Cache {
        self.cache
    }

    /// Removes what writers left that did not live to finish it.
    fn clear_scratch(&self) -> Result<(), Error> {
        let scratch = self.scratch();
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("clear", scratch.as_path())(error));
            }
            _ => {}
        }
        fs::create_dir(&scratch).map_err(Error::io("create", scratch.as_path()))
    }

    fn scratch(&self) -> PathBuf {
        self.cache.path("scratch")
    }

    /// Makes a file an entry, replacing one of that name.
    ///
    /// # Errors
    /// When it cannot be written; then the entry is as it was.
    pub fn store_file(&self, entry: impl AsRef<Path>, content: &[u8]) -> Result<PathBuf, Error> {
        let path = self.place(entry)?;
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

    /// A directory to prepare an entry in, or to download to; gone when it is dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch_directory(&self) -> Result<TempDir, Error> {
        TempDir::new_in(self.scratch()).map_err(Error::io("create a directory in", self.scratch().as_path()))
    }

    /// Makes a prepared directory of plain files an entry. An entry of that name stays as it is: names are
    /// made from contents, so it holds the same.
    ///
    /// # Errors
    /// When it cannot be synced or renamed; then there is no such entry.
    pub fn store_directory(&self, entry: impl AsRef<Path>, prepared: TempDir) -> Result<PathBuf, Error> {
        let path = self.place(entry)?;
        if path.exists() {
            return Ok(path);
        }
        let publish = || {
            sync_tree(prepared.path())?;
            fs::rename(prepared.path(), &path)?;
            sync_directory_of(&path)
        };
        publish().map_err(Error::io("write", path.as_path()))?;
        // Renamed away: there is nothing left for it to delete.
        let _ = prepared.keep();
        Ok(path)
    }

    /// Makes an entry a name for another one, atomically.
    ///
    /// # Errors
    /// When the link cannot be made.
    pub fn point(&self, entry: impl AsRef<Path>, target: &Path) -> Result<(), Error> {
        let path = self.place(entry)?;
        let link = || {
            let new = self.scratch().join("link");
            std::os::unix::fs::symlink(target, &new)?;
            fs::rename(&new, &path)?;
            sync_directory_of(&path)
        };
        link().map_err(Error::io("write the link", path.as_path()))
    }

    /// Deletes the files of a directory that nobody used for a month.
    pub fn prune(&self, directory: impl AsRef<Path>) {
        let Ok(entries) = fs::read_dir(self.cache.path(directory)) else { return };
        for entry in entries.flatten() {
            let old = entry.metadata().and_then(|metadata| metadata.modified());
            if old.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > KEEP)) {
                // A file that cannot be deleted costs its space and nothing else.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The path of an entry, the directory above it made.
    fn place(&self, entry: impl AsRef<Path>) -> Result<PathBuf, Error> {
        let path = self.cache.path(entry);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        Ok(path)
    }
}

fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn sync_tree(directory: &Path) -> std::io::Result<()> {
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
    fn a_writer_clears_what_a_dead_one_left() {
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
    fn a_file_is_replaced_and_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let writer = cache.lock().unwrap();
        let path = writer.store_file("name", b"the first").unwrap();
        let mut opened_before = File::open(&path).unwrap();
        writer.store_file("name", b"2nd").unwrap();
        let mut seen = String::new();
        std::io::Read::read_to_string(&mut opened_before, &mut seen).unwrap();
        assert_eq!(seen, "the first");
        assert_eq!(fs::read(&path).unwrap(), b"2nd");
    }

    #[test]
    fn a_directory_appears_whole_and_a_link_moves() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let writer = cache.lock().unwrap();
        for name in ["a", "b"] {
            let prepared = writer.scratch_directory().unwrap();
            fs::create_dir(prepared.path().join("sub")).unwrap();
            fs::write(prepared.path().join("sub/file"), name).unwrap();
            writer.store_directory(format!("trees/{name}"), prepared).unwrap();
            writer.point("trees/current", Path::new(name)).unwrap();
            assert_eq!(fs::read_to_string(cache.path("trees/current/sub/file")).unwrap(), name);
        }
        assert_eq!(fs::read_dir(cache.path("scratch")).unwrap().count(), 0);
    }

    #[test]
    fn pruning_spares_what_is_in_use() {
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
