//! The check that a cache is its user's own: guests boot from it, and root writes to it.
//!
//! Whoever can write to a folder above the cache can put another cache in its place. So these folders are
//! checked too, and so are symbolic links and their targets.

use super::Error;
use crate::layout::shell_word;
use nix::unistd::{Gid, Group, Uid, User, geteuid};
use std::{
    fs::{self, Metadata, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// How far below the cache's directory its content is checked.
const DEPTH: usize = 2;

/// The sticky bit: only owners of files, and of the folder, may rename or remove them.
const STICKY: u32 = 0o1000;

/// What to do if the cache is where others can exchange it.
const ANOTHER_CACHE: &str = "set XDG_CACHE_HOME to a directory that only you can change";

/// Checks that no one but this user and root can write to a cache or exchange it. It need not exist. Returns
/// its path without symbolic links.
///
/// # Errors
/// If others can, or if it cannot be found out. Then nothing has been created.
pub(super) fn check(cache: &Path) -> Result<PathBuf, Error> {
    let resolved = resolve(cache).map_err(Error::io("read", cache))?;
    // As given, the path may have links that others can exchange.
    check_parents(cache)?;
    check_parents(&resolved)?;
    keep_private(cache, DEPTH)?;
    Ok(resolved)
}

/// Returns a path without symbolic links. The end of it need not exist.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match (fs::symlink_metadata(path), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(resolve(parent)?.join(name))
        }
        _ => fs::canonicalize(path),
    }
}

/// Returns the metadata of a path, if it exists.
fn metadata_of(path: &Path) -> Result<Option<Metadata>, Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Checks that no one but this user and root can exchange a path by way of a folder above it, or of a link in
/// the place of one.
fn check_parents(path: &Path) -> Result<(), Error> {
    // In a user namespace, root may have another number. It owns the top folder.
    let trusted =
        [geteuid().as_raw(), 0, fs::metadata("/").map_err(Error::io("read", Path::new("/")))?.uid()];
    for (entry, folder) in path.ancestors().zip(path.ancestors().skip(1)) {
        let Some(link) = metadata_of(folder)? else { continue };
        let metadata = fs::metadata(folder).map_err(Error::io("read", folder))?;
        let (mode, shown) = (metadata.mode(), folder.display());
        let by_group = mode & 0o020 != 0 && !is_group_of(metadata.gid(), metadata.uid());
        let stranger = [link.uid(), metadata.uid()].into_iter().find(|owner| !trusted.contains(owner));
        let (why, remedy) = if let Some(owner) = stranger {
            (format!("{shown} belongs to the user with the ID {owner}"), ANOTHER_CACHE.into())
        } else if mode & 0o002 == 0 && !by_group {
            continue;
        } else if mode & STICKY == 0 {
            let command = format!("chmod go-w {}", shell_word(&folder.to_string_lossy()));
            (format!("others can write to {shown}"), format!("run `{command}`, or {ANOTHER_CACHE}"))
        } else if metadata_of(entry)?.is_none() {
            let why = format!("others can write to {shown}, and {} does not exist", entry.display());
            (why, format!("create it, or {ANOTHER_CACHE}"))
        } else {
            // The owner of the entry is checked too, and only that user and root can exchange it.
            continue;
        };
        return Err(Error::Exposed { cache: path.to_path_buf(), why, remedy });
    }
    Ok(())
}

/// Returns whether a group is a user's own: it has the user's name and no other members. Distributions with
/// such groups let them write to home directories.
fn is_group_of(group: u32, user: u32) -> bool {
    match (Group::from_gid(Gid::from_raw(group)), User::from_uid(Uid::from_raw(user))) {
        (Ok(Some(group)), Ok(Some(user))) => {
            group.name == user.name && group.mem.iter().all(|member| *member == user.name)
        }
        _ => false,
    }
}

/// Checks that no one but this user and root can write to a path and, down to this depth, to what is below
/// it. Revokes the right of the user's group, which has it if the umask is 002.
fn keep_private(path: &Path, depth: usize) -> Result<(), Error> {
    let Some(metadata) = metadata_of(path)? else { return Ok(()) };
    let untrusted = |why| Err(Error::Untrusted { path: path.to_path_buf(), why });
    let (owner, user, mode) = (metadata.uid(), geteuid().as_raw(), metadata.mode());
    if owner != user && owner != 0 {
        return untrusted(format!("it belongs to the user with the ID {owner}"));
    }
    if metadata.is_symlink() {
        return match fs::canonicalize(path) {
            Ok(target) => check_parents(&target).and_then(|()| keep_private(&target, depth)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("read", path)(error)),
        };
    }
    if mode & 0o002 != 0 || (mode & 0o020 != 0 && owner != user) {
        return untrusted("others can write to it".into());
    }
    if mode & 0o020 != 0 {
        let private = Permissions::from_mode(mode & 0o7755);
        fs::set_permissions(path, private).map_err(Error::io("change the mode of", path))?;
    }
    if metadata.is_dir() && depth > 0 {
        for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
            keep_private(&entry.map_err(Error::io("read", path))?.path(), depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, lchown, symlink};

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn refused(cache: &Path) -> String {
        check(cache).unwrap_err().to_string()
    }

    #[test]
    fn a_cache_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (root, vmlinux) = (dir.path().join("testbed"), dir.path().join("testbed/vmlinux"));
        let kernel = vmlinux.join("kernel");
        check(&root).unwrap();
        fs::create_dir_all(&vmlinux).unwrap();
        fs::write(&kernel, "kernel").unwrap();
        for path in [&root, &vmlinux, &kernel] {
            set(path, 0o775);
            check(&root).unwrap();
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o755, "without the group's right");
            set(path, 0o777);
            let error = refused(&root);
            assert!(error.contains(&format!("cannot trust {}, from", path.display())), "{error}");
            assert!(error.contains("others can write to it"), "{error}");
            set(path, 0o755);
            if geteuid().is_root() {
                chown(path, Some(4711), None).unwrap();
                let error = refused(&root);
                assert!(error.contains("it belongs to the user with the ID 4711"), "{error}");
                chown(path, Some(0), None).unwrap();
            }
        }
    }

    #[test]
    fn a_cache_that_others_can_exchange_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let [home, cache] = [top.join("home"), top.join("home/cache/testbed")];
        let says = |why: &str, remedy: &str| {
            let expected = format!("cannot trust the cache {}: {why}; {remedy}", cache.display());
            assert_eq!(refused(&cache), expected + ANOTHER_CACHE);
        };
        fs::create_dir(&home).unwrap();
        for exists in [false, true] {
            if exists {
                fs::create_dir_all(&cache).unwrap();
            }
            set(&home, 0o777);
            let folder = home.display();
            says(&format!("others can write to {folder}"), &format!("run `chmod go-w {folder}`, or "));
            assert_eq!(cache.exists(), exists);
            // With the sticky bit, others can only add what is not there yet.
            set(&home, 0o1777);
            if exists {
                check(&cache).unwrap();
            } else {
                let why = format!("others can write to {folder}, and {folder}/cache does not exist");
                says(&why, "create it, or ");
            }
            set(&home, 0o755);
            assert_eq!(check(&cache).unwrap(), cache);
            if geteuid().is_root() {
                chown(&home, Some(4711), None).unwrap();
                says(&format!("{folder} belongs to the user with the ID 4711"), "");
                chown(&home, Some(0), None).unwrap();
            }
        }
        if !geteuid().is_root() {
            println!("skipped: folders of other users, which need root");
        }
    }

    #[test]
    fn a_group_may_write_above_the_cache_if_it_is_the_users_own() {
        if !geteuid().is_root() || !is_group_of(0, 0) {
            return println!("skipped: needs root, and that no other user is in its group");
        }
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("home/testbed");
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        set(&home, 0o775);
        check(&cache).unwrap();
        chown(&home, None, Some(4711)).unwrap();
        assert!(refused(&cache).contains("others can write to"));
        assert_eq!(fs::metadata(&home).unwrap().mode() & 0o777, 0o775, "it is not the cache's");
    }

    #[test]
    fn links_are_resolved_and_their_targets_checked() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let [open, target, link] = [top.join("open"), top.join("open/target"), top.join("testbed")];
        fs::create_dir_all(target.join("images")).unwrap();
        symlink(&target, &link).unwrap();
        assert_eq!(check(&link).unwrap(), target);
        assert_eq!(check(&link.join("new")).unwrap(), target.join("new"));
        // Of the cache itself, and of an entry.
        let cache = top.join("cache");
        fs::create_dir(&cache).unwrap();
        symlink(&target, cache.join("images")).unwrap();
        symlink("nowhere", cache.join("current")).unwrap();
        check(&cache).unwrap();
        for exposed in [&open, &target, &target.join("images")] {
            set(exposed, 0o777);
            for cache in [&link, &cache] {
                let error = refused(cache);
                let parts = ["others can write to", &exposed.display().to_string()];
                assert!(parts.iter().all(|part| error.contains(part)), "{error}");
            }
            set(exposed, 0o755);
        }
        if !geteuid().is_root() {
            return println!("skipped: links of other users, which need root");
        }
        set(&top, 0o1777);
        lchown(&link, Some(4711), None).unwrap();
        for cache in [link.clone(), link.join("images"), link.join("new")] {
            assert!(refused(&cache).contains("belongs to the user with the ID 4711"), "{}", cache.display());
        }
    }
}
