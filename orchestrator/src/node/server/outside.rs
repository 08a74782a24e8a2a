//! The outer process of a node: it creates the namespaces, starts the serving process in them, and waits
//! until that process exits.

use super::{host, isolate};
use crate::node::protocol::Privilege;
use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::Command,
};

/// Starts a node on this host.
#[derive(Debug)]
pub struct NodeLauncher<'a> {
    /// The node's name. It is on the command line so that `testbed lab` finds it in the list of processes.
    pub name: &'a str,
    /// The run that the node belongs to; on the command line for the same reason.
    pub run: &'a str,
    /// The PID of the node process whose user namespace to join, if a user namespace is needed.
    pub join: Option<u32>,
    /// The value of `SSH_CONNECTION`, if the orchestrator is on another host.
    pub remote: Option<&'a str>,
}

/// An error starting or running the serving process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespaces could not be created.
    #[error(transparent)]
    Isolate(#[from] isolate::Error),
    /// The node is on another host and was not started by root: only root can use the host's interfaces.
    #[error("a node on another host needs root there; set `become: sudo` in the inventory")]
    NeedsRoot,
    /// The host's network namespace could not be opened for the serving process.
    #[error(transparent)]
    Network(io::Error),
    /// The serving process could not be started.
    #[error("cannot start the process inside the namespaces: {0}")]
    Start(io::Error),
    /// The serving process was killed by a signal.
    #[error("the process inside the namespaces was killed by signal {0:?}")]
    Killed(Option<i32>),
}

impl NodeLauncher<'_> {
    /// Starts the serving process in new namespaces and waits until it exits. Returns its exit code.
    ///
    /// Must be called while this process has a single thread.
    pub fn launch(&self) -> Result<u8, Error> {
        // While this process runs, its program is not pruned from the uploads.
        let program = self.remote.map(|_| File::open("/proc/self/exe"));
        let program = program.transpose().map_err(Error::Start)?;
        if let Some(program) = &program {
            // The node starts even on a file system without locks.
            let _ = program.lock_shared();
        }
        let network = self.remote.map(|_| host::inheritable_network()).transpose().map_err(Error::Network)?;
        let inside = match (isolate::enter(self.join)?, self.remote) {
            (Privilege::Root, _) => "root",
            (Privilege::UserNamespace, None) => "user-namespace",
            (Privilege::UserNamespace, Some(_)) => return Err(Error::NeedsRoot),
        };
        // This happens before the serving process starts: as soon as it is listed, others may enter its
        // namespaces, which must be final by then.
        isolate::private_run_dir()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("testbed").args(["node", "--inside", inside, "--name", self.name, "--run", self.run]);
        if let (Some(connection), Some(network)) = (self.remote, &network) {
            command.args(["--remote", connection, "--network", &network.as_raw_fd().to_string()]);
        }
        let status = command.status().map_err(Error::Start)?;
        status.code().map(|code| code as u8).ok_or(Error::Killed(status.signal()))
    }
}
