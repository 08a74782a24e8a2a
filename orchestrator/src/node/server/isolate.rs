//! A node's namespaces: created by the node process itself, without names, and gone when it ends.
//!
//! A node process has its own network, mount and PID namespaces. It is the first process of the PID
//! namespace, so the kernel kills everything it started when it ends, for whatever reason. Its `/run` is a
//! private tmpfs: sockets and files there cannot collide with others and vanish with the namespace.
//!
//! For root that is all. An ordinary user first gets a user namespace, which the nodes of one lab share, so
//! that one node can put the end of a link into another.
//!
//! A node on another host, started over SSH, does not use the host's network namespace either: it has its
//! own, with interfaces on top of the host's. All changes to them, traffic shaping in particular, vanish with
//! the namespace.
//!
//! A process does not enter a PID namespace that it creates; only its children do. So [`enter`] is called by
//! an outer process, which creates the namespaces, starts the serving process and waits for it.

use super::process::Namespaces;
use crate::node::protocol::{NODE_FOLDER, Privilege};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::signal::Signal,
    unistd::{Gid, Uid, getegid, geteuid, setgid, setgroups, setuid},
};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{Component, Path, PathBuf},
};

/// The node's private directory, a tmpfs.
pub const RUN_DIR: &str = "/run";

/// Returns the path of [`NODE_FOLDER`].
pub(super) fn node_dir() -> PathBuf {
    Path::new(RUN_DIR).join(NODE_FOLDER)
}

/// An error creating or entering a node's namespaces.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused to create namespaces.
    #[error(
        "cannot create {what}: {source}; run as root, or allow unprivileged user namespaces \
         (`testbed doctor` shows how)"
    )]
    Namespaces {
        /// The kinds of namespaces, as a noun phrase that completes "cannot create".
        what: &'static str,
        /// The kernel's error.
        source: Errno,
    },
    /// A namespace of a running node could not be entered.
    #[error(
        "cannot enter the {what} namespace of the node (process {pid}): {source}; its run may have ended"
    )]
    Join {
        /// The PID of the node's serving process.
        pid: u32,
        /// The kind of namespace: `user`, `net`, `pid` or `mnt`.
        what: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// A newly created namespace could not be set up.
    #[error("cannot set up the node's namespaces: {what}: {source}")]
    SetUp {
        /// The step that failed, in the imperative.
        what: String,
        /// The operating system's error.
        source: io::Error,
    },
}

/// Creates the node's namespaces. If they need a user namespace, joins that of the process `join`, or creates
/// one if `join` is `None`. Returns whether root or a user namespace gave the privileges.
///
/// Must be called while the process has a single thread.
pub fn enter(join: Option<u32>) -> Result<Privilege, Error> {
    let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    if geteuid().is_root() && unshare(namespaces).is_ok() {
        return Ok(Privilege::Root);
    }
    match join {
        Some(pid) => join_user_namespace(pid)?,
        None => new_user_namespace()?,
    }
    unshare(namespaces)
        .map_err(|source| Error::Namespaces { what: "network, mount and PID namespaces", source })?;
    Ok(Privilege::UserNamespace)
}

fn new_user_namespace() -> Result<(), Error> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(|source| Error::Namespaces { what: "a user namespace", source })?;
    for (path, text) in [
        ("/proc/self/setgroups", "deny".to_string()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(path, text).map_err(|source| Error::SetUp { what: format!("write {path}"), source })?;
    }
    Ok(())
}

fn join_user_namespace(pid: u32) -> Result<(), Error> {
    let path = format!("/proc/{pid}/ns/user");
    let file = File::open(&path).map_err(|source| Error::SetUp { what: format!("open {path}"), source })?;
    setns(file, CloneFlags::CLONE_NEWUSER)
        .map_err(|source| Error::Namespaces { what: "a shared user namespace", source })
}

/// Enters all namespaces of a node. After joining a PID namespace, only children of this process are members
/// of it. Must be called while the process has a single thread.
pub fn join(namespaces: Namespaces) -> Result<(), Error> {
    let Namespaces { pid, user, net, pids, mnt } = namespaces;
    if let Some(user) = user {
        join_user(user).map_err(|source| Error::Join { pid, what: "user", source })?;
    }
    for (what, file, kind) in [
        ("net", net, CloneFlags::CLONE_NEWNET),
        ("pid", pids, CloneFlags::CLONE_NEWPID),
        ("mnt", mnt, CloneFlags::CLONE_NEWNS),
    ] {
        setns(file, kind).map_err(|errno| Error::Join { pid, what, source: errno.into() })?;
    }
    Ok(())
}

/// Enters a user namespace of this user and becomes its root. Must be called while the process has a single
/// thread.
pub fn join_user(namespace: impl AsFd) -> io::Result<()> {
    if geteuid().is_root() {
        setgroups(&[])?;
    }
    setns(namespace, CloneFlags::CLONE_NEWUSER)?;
    setgid(Gid::from_raw(0))?;
    Ok(setuid(Uid::from_raw(0))?)
}

/// Mounts the node's private `/run`, and creates [`NODE_FOLDER`]. Like `/tmp`, `/run` is world-writable: QEMU
/// saves a guest there as an unprivileged user, and no one else can reach it. Must be called in the mount
/// namespace created by [`enter`].
pub fn private_run_dir() -> Result<(), Error> {
    let none: Option<&str> = None;
    // Keep mounts in this namespace from propagating to the host.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| Error::SetUp { what: "make mounts private".into(), source: e.into() })?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("testbed"), Path::new(RUN_DIR), Some("tmpfs"), flags, Some("mode=1777"))
        .map_err(|e| Error::SetUp { what: format!("mount a tmpfs on {RUN_DIR}"), source: e.into() })?;
    let folder = node_dir();
    fs::create_dir(&folder)
        // QEMU enters it whatever the umask.
        .and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(0o755)))
        .map_err(|source| Error::SetUp { what: format!("create {}", folder.display()), source })
}

/// Writes a file in [`NODE_FOLDER`], creating folders as needed. Only its owner can read it: the user of this
/// number, or this process's user. Replaces a file of that name.
pub(super) fn write_private(path: &Path, text: &str, user: Option<u32>) -> io::Result<()> {
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path leaves the node's folder"));
    }
    let path = node_dir().join(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(text.as_bytes())?;
    fchown(&file, user, user)
}

/// Asks the kernel to kill this process when its parent ends.
pub fn die_with_parent() -> Result<(), Error> {
    end_with_parent(Signal::SIGKILL)
}

/// Asks the kernel to send this process a signal when its parent ends.
pub fn end_with_parent(signal: Signal) -> Result<(), Error> {
    nix::sys::prctl::set_pdeathsig(signal)
        .map_err(|e| Error::SetUp { what: "set the parent-death signal".into(), source: e.into() })
}
