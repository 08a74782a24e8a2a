//! The first process of a node: it makes the namespaces, starts the serving process in them, and waits for
//! it.

use super::{host, isolate};
use crate::node::protocol::Privilege;
use std::{
    io,
    os::{
        fd::AsRawFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::Command,
};

/// A node that is to be started.
#[derive(Debug)]
pub struct Outside<'a> {
    /// Its name, by which it is found in a list of processes.
    pub name: &'a str,
    /// The run that it belongs to, likewise.
    pub run: &'a str,
    /// The node process whose user namespace it shares, if it needs one.
    pub join: Option<u32>,
    /// The `SSH_CONNECTION` of the session of an orchestrator on another host.
    pub remote: Option<&'a str>,
}

/// An error starting the serving process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no namespaces.
    #[error(transparent)]
    Isolate(#[from] isolate::Error),
    /// An ordinary user cannot use a host's interfaces.
    #[error("a node on another host needs root there; set `become: sudo` in the inventory")]
    NeedsRoot,
    /// The host's network cannot be passed on.
    #[error(transparent)]
    Network(io::Error),
    /// The system does not start it.
    #[error("cannot start the process inside the namespaces: {0}")]
    Start(io::Error),
    /// It was killed.
    #[error("the process inside ended by signal {0:?}")]
    Killed(Option<i32>),
}

impl Outside<'_> {
    /// Serves the node; returns the serving process's exit code. Must be called while the process has a
    /// single thread.
    pub fn serve(&self) -> Result<u8, Error> {
        let network = self.remote.map(|_| host::inheritable_network()).transpose().map_err(Error::Network)?;
        let inside = match (isolate::enter(self.join)?, self.remote) {
            (Privilege::Root, _) => "root",
            (Privilege::UserNamespace, None) => "user-namespace",
            (Privilege::UserNamespace, Some(_)) => return Err(Error::NeedsRoot),
        };
        // Visitors find the serving process: from then on, its namespaces are as they stay.
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
