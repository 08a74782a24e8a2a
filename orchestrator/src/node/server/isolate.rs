//! Namespaces of a node: made by the node process itself, named by nothing, gone with it.
//!
//! A node process has a network, a mount and a PID namespace of its own. It is the first process of the PID
//! namespace, so that the kernel kills everything it started when it ends, however it ends. Its `/run` is a
//! tmpfs of its own: sockets and files there are out of everybody's way and vanish with the namespace.
//!
//! As root nothing more is needed. An ordinary user gets a user namespace first; the nodes of one lab share
//! it, so that one of them can put the end of a link into another.
//!
//! On another host, reached by SSH, a node is the same: its network is not the host's but a namespace, with
//! interfaces on the wires of the host's. What it does to them, shaping above all, goes with the namespace
//! too.
//!
//! A process does not enter a PID namespace that it makes, only its children do. So [`enter`] is called by
//! a first process, which makes the namespaces and then starts the serving process and waits for it.

use crate::node::protocol::Privilege;
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::signal::Signal,
    unistd::{Gid, Uid, getegid, geteuid, setgid, setgroups, setuid},
};
use std::{fs, fs::File, io, os::unix::fs::MetadataExt, path::Path};

/// The directory that is the node's own.
pub const RUN_DIR: &str = "/run";

/// Why a node's namespaces could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel said no to new namespaces.
    #[error(
        "cannot make {what}: {source}; run as root, or allow unprivileged user namespaces (`testbed doctor` says how)"
    )]
    Namespaces {
        /// Which.
        what: &'static str,
        /// The kernel's reason.
        source: Errno,
    },
    /// A node's namespaces could not be entered.
    #[error(
        "cannot enter the {what} namespace of the node (process {pid}): {source}; its run may have ended"
    )]
    Join {
        /// The node's process.
        pid: u32,
        /// Which namespace.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Setting up a namespace that was made failed.
    #[error("cannot set up the node's namespaces: {what}: {source}")]
    SetUp {
        /// What was attempted.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// Makes this process's namespaces; `join` names a node process whose user namespace is to be shared.
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

/// Brings this process into those of a node's namespaces that are named, and before that into the node's user
/// namespace, where it has one of its own. Of a PID namespace only children get to be members.
///
/// Who enters the user namespace of somebody else becomes that user. Must be called while the process has a
/// single thread.
pub fn join(pid: u32, namespaces: CloneFlags) -> Result<(), Error> {
    let failed = |what| move |source: io::Error| Error::Join { pid, what, source };
    // All are opened before one is entered: from inside, `/proc` may look different.
    let open = |name: &'static str| File::open(format!("/proc/{pid}/ns/{name}")).map_err(failed(name));
    let user = (!is_in_our_user_namespace(pid).map_err(failed("user"))?).then(|| open("user")).transpose()?;
    let kinds = [
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let wanted: Vec<_> = kinds.into_iter().filter(|(_, kind)| namespaces.contains(*kind)).collect();
    let opened = wanted.into_iter().map(|(name, kind)| Ok((name, open(name)?, kind)));
    let opened = opened.collect::<Result<Vec<_>, Error>>()?;
    if let Some(user) = user {
        let enter = || {
            if geteuid().is_root() {
                setgroups(&[])?;
            }
            setns(user, CloneFlags::CLONE_NEWUSER)?;
            setgid(Gid::from_raw(0))?;
            setuid(Uid::from_raw(0))
        };
        enter().map_err(|errno| failed("user")(errno.into()))?;
    }
    for (name, file, kind) in opened {
        setns(file, kind).map_err(|errno| failed(name)(errno.into()))?;
    }
    Ok(())
}

/// Whether a process is in the user namespace of this one.
pub fn is_in_our_user_namespace(pid: u32) -> io::Result<bool> {
    let of = |process: &str| Ok::<_, io::Error>(fs::metadata(format!("/proc/{process}/ns/user"))?.ino());
    Ok(of(&pid.to_string())? == of("self")?)
}

/// Gives the node its private `/run`, in the mount namespace of [`enter`].
pub fn private_run_dir() -> Result<(), Error> {
    let none: Option<&str> = None;
    // Nothing that is mounted here shall show outside.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| Error::SetUp { what: "make mounts private".into(), source: e.into() })?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("testbed"), Path::new(RUN_DIR), Some("tmpfs"), flags, Some("mode=700"))
        .map_err(|e| Error::SetUp { what: format!("mount a tmpfs on {RUN_DIR}"), source: e.into() })
}

/// Asks the kernel to kill this process when its parent ends.
pub fn die_with_parent() -> Result<(), Error> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|e| Error::SetUp { what: "ask to be ended with the parent".into(), source: e.into() })
}
